"""What modules ask of the system: root, Debian's family, its packages; and no password in a URL."""

import os
import subprocess

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import system
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused


def test_only_root_is_admitted(monkeypatch):
    monkeypatch.setattr(system.os, "geteuid", lambda: 0)
    system.require_root()
    monkeypatch.setattr(system.os, "geteuid", lambda: 1000)
    with pytest.raises(Refused, match="Wanted root; found uid 1000; set `become: true`."):
        system.require_root()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param('PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n', None, id="Debian"),
        pytest.param("ID=ubuntu\nID_LIKE=debian\n", None, id="Ubuntu"),
        pytest.param('ID=mint\nID_LIKE="ubuntu debian"\n', None, id="a child of a child"),
        pytest.param("ID='debian'\n", None, id="single quotes"),
        pytest.param('ID=x\nPRETTY_NAME="Not debian"\n', "Not debian", id="in its name alone"),
        pytest.param('ID=fedora\nPRETTY_NAME="Fedora 44"\n', "Fedora 44", id="Fedora"),
        pytest.param("ID=fedora\n", "another", id="without a name"),
        pytest.param(None, "no /etc/os-release", id="no file"),
    ],
)
def test_a_system_that_is_not_of_debians_family_is_refused(tmp_path, text, found):
    """Package names and paths are Debian's; apt would fail with a riddle, or not be there."""
    if text is not None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/os-release").write_text(text)
    if found is None:
        system.require_debian(tmp_path)
        return
    with pytest.raises(Refused, match=f"found {found}; take this host out of the inventory, or"):
        system.require_debian(tmp_path)
    with pytest.raises(Refused, match=f"found {found}; use another."):
        system.require_debian(tmp_path, "use another")


def test_the_states_of_packages_are_read(tmp_path):
    """dpkg itself says so, of packages that it knows, of others nothing."""
    database = tmp_path / "dpkg"
    (database / "info").mkdir(parents=True)
    (database / "updates").mkdir()
    (database / "status").write_text(
        "".join(
            f"Package: {name}\nStatus: install ok {state}\nVersion: 1\nArchitecture: all\n"
            "Maintainer: x <x@example.com>\nDescription: x\n\n"
            for name, state in {"nginx": "installed", "nginx-core": "unpacked"}.items()
        )
    )

    def run(command):
        done = subprocess.run(
            [command[0], f"--admindir={database}", *command[1:]],
            capture_output=True,
            text=True,
            env=os.environ | {"LANG": "C.UTF-8"},
        )
        return done.returncode, done.stdout + done.stderr

    everything = {"nginx": "installed", "nginx-core": "unpacked"}
    assert system.package_states(run) == everything
    assert system.package_states(run, "nginx*", "no-such") == everything
    assert system.package_states(run, "nginx", "no-such") == {"nginx": "installed"}
    assert "unpacked" in system.HALF


def test_urls_lose_user_and_password_and_nothing_else():
    """A token may also stand alone, and an address may hold an @ further on."""
    redact = system.redact
    assert redact("get https://token@host/simple/a@b") == "get https://****@host/simple/a@b"
    assert redact("'http://a:b%40c@host:1'") == "'http://****@host:1'"
    assert redact("https://host/simple/a@1.0 bob@host") == "https://host/simple/a@1.0 bob@host"


def test_packages_that_are_missing_are_refused():
    system.require_packages([])
    with pytest.raises(Refused, match="packages a and b; found them missing; run .apt-get install"):
        system.require_packages(["a", "b"])


@pytest.fixture
def typed():
    """Something to read on this process's input."""
    kept = os.dup(0)
    reading, writing = os.pipe()
    os.write(writing, b"typed\n")
    os.close(writing)
    os.dup2(reading, 0)
    yield
    os.dup2(kept, 0)
    os.close(kept)
    os.close(reading)


def test_a_command_is_run_with_nothing_but_what_it_is_given(tmp_path, typed):
    """No input to wait for, no shell, its own environment; a lock only if it is handed on."""
    with open(tmp_path / "lock", "w") as lock:
        number = lock.fileno()
        script = f"cat; echo $GIVEN; ls /proc/self/fd/{number}; printf '\\377' >&2"
        held = system.execute(["sh", "-c", script], {"GIVEN": "yes"}, (number,))
        other = system.execute(["sh", "-c", script])
    assert held.stdout == f"yes\n/proc/self/fd/{number}\n" and held.stderr == "\ufffd"
    assert other.stdout == "\n"
    assert system.execute(["test", "-e", tmp_path / "none"]).returncode == 1


def test_what_a_program_says_becomes_what_was_found_and_what_to_do():
    """By the first pattern that it says; the end of it is shown, without a password."""
    failures = [("disk is full", "a full disk", "free some"), ("disk", "a disk", "do")]
    said = (
        "".join(f"line {number}\n" for number in range(9)) + "https://me:canary@x: disk is full\n"
    )
    text = str(system.explain("a file", said, failures))
    assert text.startswith("Wanted a file; found a full disk; free some. The last lines:\nline 4\n")
    assert text.endswith("\nline 8\nhttps://****@x: disk is full")
    text = str(system.explain("a file", said, [], ["E: no"]))
    assert text == "Wanted a file; found an error; fix what it says. The last lines:\nE: no"
    assert str(system.explain("a file", said, [], [])).endswith("disk is full")
