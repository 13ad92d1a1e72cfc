"""Where the slots of an instance are, which of them serves, and what modules ask of one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import slots


@pytest.mark.parametrize(
    ("target", "colour"),
    [
        ("/run/mlflow/green/server.sock", "green"),
        ("/run/mlflow/wanted/server.sock", ""),
        ("/run/other/stand-in.sock", ""),
        (None, ""),
    ],
)
def test_what_serves_is_the_colour_that_the_link_names(tmp_path, target, colour):
    """Anything else that somebody has made of the link is nobody's slot."""
    instance = slots.Instance("mlflow", tmp_path)
    instance.config.mkdir(parents=True)
    if target:
        instance.current.symlink_to(target)
    assert instance.linked() == colour


def test_an_instance_and_its_colours_have_their_places():
    """nginx, the units and site.yml know these by name."""
    instance = slots.Instance("mlflow-team")
    assert instance.current == Path("/etc/mlflow-team/current.sock")
    assert instance.wanted == Path("/etc/mlflow-team/wanted")
    assert instance.unit_file("blue") == Path("/etc/systemd/system/mlflow-team-blue.service")
    assert instance.socket("green") == Path("/run/mlflow-team/green/server.sock")
    assert [slots.other(colour) for colour in slots.COLOURS] == ["green", "blue"]


def test_a_slot_was_changed_when_its_last_file_was(tmp_path):
    """By the clock that nobody can set back: a text that is kept has the date of its first day."""
    (tmp_path / "secrets.env").write_text("")
    time.sleep(0.05)  # the clock of file systems has ticks
    (tmp_path / "database.env").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "release").symlink_to(tmp_path)
    for name in ("secrets.env", "database.env"):
        os.utime(tmp_path / name, (0, 0))
    last = tmp_path / "secrets.env"
    time.sleep(0.05)
    last.chmod(0o600)
    assert slots.changed_at(tmp_path) == last.stat().st_ctime


def test_it_runs_without_ansible():
    """tests/support/slot.py has hosts run its text."""
    done = subprocess.run([sys.executable, "-ISc", Path(slots.__file__).read_text()], cwd="/")
    assert done.returncode == 0


def test_a_probe_has_the_slots_environment_and_a_folder_of_its_own(tmp_path):
    """The server's is emptied by each of its starts: one that was killed while it was proven took
    the probe's object along, and the operator read that the artifact store had refused it.
    """
    slot = tmp_path / "green"
    slot.mkdir()
    (slot / "mlflow.service").write_text(
        "[Service]\n"
        "EnvironmentFile=/etc/mlflow/%j/server.env\n"
        "Environment=TMPDIR=/var/lib/mlflow/tmp/%j\n"
        "Environment=PGSSLROOTCERT=/etc/mlflow/%j/pgsslrootcert\n"
    )
    command = slots.probe_command("mlflow", slot, ["artifacts"], 60, more="/run/more.env")
    properties = [word.removeprefix("--property=") for word in command if "--property=" in word]
    environment = [each for each in properties if each.startswith("Environment")]
    assert environment == [
        "EnvironmentFile=/etc/mlflow/green/server.env",
        "Environment=PGSSLROOTCERT=/etc/mlflow/green/pgsslrootcert",
        "EnvironmentFile=/run/more.env",
    ]
    assert "PrivateTmp=yes" in properties
    assert command[-3:] == [f"{slot}/release/bin/python", f"{slot}/probe.py", "artifacts"]


def test_the_settings_of_a_slot_are_all_that_say_where_its_data_is(tmp_path):
    """A database's address with a password in it is among the secrets, which take precedence."""
    assert slots.settings_of(None) == slots.settings_of(tmp_path) == ""
    (tmp_path / "secrets.env").write_text('A="secret"\n')
    assert slots.settings_of(tmp_path) == 'A="secret"\n'
    (tmp_path / "server.env").write_text('A="public"')
    assert slots.settings_of(tmp_path).splitlines() == ['A="public"', 'A="secret"']
