"""The module that makes a person's virtualenv, without a host: venv and pip are stand-ins."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import certifi
import mlflow_client_virtualenv as module
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from kills import Killable, Killed
from mlflow_client_virtualenv import Virtualenv

ROOT = Path(__file__).resolve().parents[2]
LOCK = "mlflow==3.17.2 ; sys_platform == 'linux' \\\n    --hash=sha256:00\nidna==3.20\n"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


RUN, ANSWERS = subprocess.run, {}


def run_once(command, **more):
    """Run what asks an interpreter for its version, once for all machines: it takes 20 ms."""
    if tuple(command) not in ANSWERS:
        ANSWERS[tuple(command)] = RUN(command, **more)
    return ANSWERS[tuple(command)]


class Machine(Killable):
    """A person's machine, on which `venv` and `pip` only leave the files that tell of them.

    Attributes:
        done: What venv and pip were asked for since it was last emptied.
    """

    def __init__(self, home, monkeypatch):
        super().__init__()
        self.home, self.done = home, []
        self.path = home / "mlflow"
        self.site = self.path / f"lib/python{VERSION}/site-packages"
        monkeypatch.setattr(Virtualenv, "must", lambda *words: self.must(*words))
        put = Virtualenv.put
        monkeypatch.setattr(Virtualenv, "put", lambda *words: (self.act("step"), put(*words)))
        monkeypatch.setattr(module, "CA_BUNDLE", os.devnull)
        monkeypatch.setattr(module.subprocess, "run", run_once)

    def package(self, name):
        info = self.site / f"{name}.dist-info"
        info.mkdir(exist_ok=True)
        self.act("step")
        (info / "INSTALLER").touch()

    def must(self, virtualenv, wanted, command, env=None):
        self.act("step")
        if "venv" in command:
            self.done.append("venv")
            (self.path / "bin").mkdir(exist_ok=True)
            (self.site / "pip").mkdir(parents=True, exist_ok=True)
            (self.path / "bin/python").touch()
            # Half a pip is a whole one for `venv`, which then leaves it as it is.
            if not (self.site / "pip-1.dist-info").exists():
                self.package("pip-1")
                self.act("step")
                (self.site / "pip/__main__.py").touch()
            return
        halves = [e for e in self.site.glob("*.dist-info") if not (e / "INSTALLER").exists()]
        assert halves == [], "pip takes half a package for a whole one"
        if "--require-hashes" in command:
            self.done.append("lock")
            self.package("mlflow-3.17.2")
            return
        work = self.path / module.OURS / "tmp"
        assert "--hash" not in (work / "constraint.txt").read_text()
        self.done.append((work / "requirement.txt").read_text().split())
        self.package("extra-1")

    def virtualenv(self, **params):
        params = {
            "path": str(self.path),
            "requirements": LOCK,
            "packages": [],
            "environment": {"MLFLOW_TRACKING_URI": "http://server"},
            "directory": "",
            "ca": "",
            **params,
        }
        account = SimpleNamespace(pw_name="ada", pw_dir=str(self.home))
        return Virtualenv(params, account, sys.executable)

    def ensure(self, **params):
        """Run the module as Ansible would; return what venv and pip were asked for."""
        self.done = []
        plan = self.virtualenv(**params).plan()
        assert self.virtualenv(**params).apply() == plan
        assert self.virtualenv(**params).plan() == []
        return self.done


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def test_it_is_made_once_and_then_left_alone(machine):
    """A second run that installed again would take a minute, and what the user changed."""
    assert machine.ensure(packages=["extra"]) == ["venv", "lock", ["extra"]]
    assert machine.ensure(packages=["extra"]) == []
    assert machine.ensure(packages=["extra", "more"]) == [["extra", "more"]]


def test_check_mode_tells_and_changes_nothing(machine):
    """The same look is the preflight."""
    plan = machine.virtualenv(packages=["extra"]).plan()
    assert plan == ["make the virtualenv", "install mlflow 3.17.2", "install extra",
                    "set the environment"]  # fmt: skip
    assert list(machine.home.iterdir()) == []


def test_what_its_user_changes_stays(machine):
    """It is theirs: another version of MLflow too. Only a missing one is installed again."""
    machine.ensure()
    machine.package("own-1")
    info = machine.site / "mlflow-3.17.2.dist-info"
    info.rename(machine.site / "mlflow-3.18.0.dist-info")
    assert machine.ensure() == []
    (machine.site / "mlflow-3.18.0.dist-info").rename(machine.home / "gone")
    assert machine.ensure() == ["lock"]
    assert (machine.site / "own-1.dist-info").exists()


def test_another_list_is_installed_with_the_further_packages(machine):
    """They have to go with the new versions."""
    machine.ensure(packages=["extra"])
    assert machine.ensure(packages=["extra"], requirements=LOCK + "zipp==4\n") == [
        "lock",
        ["extra"],
    ]


def test_another_python_makes_it_anew_and_deletes_nothing(machine):
    """After an upgrade of the distribution its interpreter finds none of the packages."""
    machine.ensure()
    state = machine.path / module.OURS / "state.json"
    state.write_text(state.read_text().replace(VERSION, "3.9"))
    (machine.path / "lib/python3.9").mkdir()
    assert machine.ensure() == ["venv", "lock"]
    assert (machine.path / "lib/python3.9").exists()


@pytest.mark.parametrize("gone", [["bin/python"], ["pip", "pip-1.dist-info"]])
def test_a_virtualenv_without_its_python_or_pip_is_mended(machine, gone):
    machine.ensure()
    for name in gone:
        (machine.site if name.startswith("pip") else machine.path).joinpath(name).rename(
            machine.home / name.replace("/", "-")
        )
    assert machine.ensure() == ["venv", "lock"]


@pytest.mark.parametrize("made", [False, True])
def test_a_run_killed_anywhere_is_finished_by_the_next(tmp_path, monkeypatch, made):
    """A kill before each command, within each, and before each file; what the user had stays."""
    for step in range(100):
        home = tmp_path / str(step)
        home.mkdir()
        with monkeypatch.context() as patch:
            machine = Machine(home, patch)
            if made:
                machine.ensure()
                machine.package("own-1")
            machine.left = step
            new = {"requirements": LOCK + "zipp==4\n", "packages": ["extra"]}
            try:
                machine.virtualenv(**new).apply()
            except Killed:
                machine.left = None
            else:
                assert step > 5
                return
            machine.ensure(**new)
            assert (machine.site / "mlflow-3.17.2.dist-info/INSTALLER").exists()
            assert (machine.site / "own-1.dist-info").exists() is made


def test_a_file_is_there_as_a_whole_or_not_at_all(machine, monkeypatch):
    """Every Python that starts reads one of them, and a kill may come while it is written."""
    machine.ensure()
    settings = machine.site / module.SETTINGS
    before = settings.read_text()

    def kill(_):
        raise Killed

    monkeypatch.setattr(os, "fsync", kill)
    with pytest.raises(Killed):
        machine.virtualenv(environment={"OTHER": "1"}).apply()
    assert settings.read_text() == before and settings.stat().st_mode & 0o777 == 0o644


def test_a_folder_of_somebody_else_is_refused(machine):
    """A virtualenv of the user's own is theirs; an empty folder is nobody's."""
    machine.path.mkdir()
    machine.ensure()
    (machine.home / "own").mkdir()
    (machine.home / "own/pyvenv.cfg").touch()
    with pytest.raises(Refused, match="Wanted .*/own to be empty, or made by this role; found"):
        machine.virtualenv(path=str(machine.home / "own")).plan()


def test_programs_that_run_find_another_certificate_where_they_found_the_former(machine):
    """They know its path from when they were started, perhaps days ago. Until the server was asked
    with the new one, they need the former.
    """
    ours = machine.path / module.OURS

    def kept():
        return sorted(file.read_text() for file in ours.glob("ca-*.pem"))

    first, second = re.findall("-----BEGIN[^#]*CERTIFICATE-----\n", certifi.contents())[:2]
    machine.ensure(ca=first)
    assert kept() == [first]
    machine.ensure(ca=second, environment={})
    assert kept() == sorted([first, second])
    machine.ensure(ca=second)
    assert kept() == [second, second]
    assert machine.ensure(ca=second) == []
    machine.ensure(ca=first)
    assert kept() == [first, first]
    machine.ensure()
    assert kept() == [first, first]


@pytest.mark.parametrize("text", ["/etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\nx"])
def test_what_is_no_certificate_is_refused(machine, text):
    """A path, for instance: every program of the user's would fail with it."""
    with pytest.raises(Refused, match="Wanted certificates in PEM in mlflow_client_ca"):
        machine.virtualenv(ca=text)


def test_the_environment_follows_its_variables(machine):
    """Without a trace of the former; a folder is made where one is asked for."""
    machine.ensure()
    settings = machine.site / module.SETTINGS
    machine.ensure(environment={"OTHER": "1"}, directory=str(machine.home / "runs"))
    assert "MLFLOW" not in settings.read_text() and (machine.home / "runs").is_dir()


@pytest.mark.parametrize(
    "value", ["http://a", 'it\'s "quoted"', "back\\slash", "ä €", "two\nlines"]
)
def test_any_value_survives_and_none_prevails_over_the_callers(value, monkeypatch):
    """Python runs the line as code, at each start."""
    text = module.settings_text({"TEST_A": value, "TEST_B": "ours"})
    assert text.count("\n") == 1 and text.startswith("import ") and text.isascii()
    monkeypatch.delenv("TEST_A", raising=False)
    monkeypatch.setenv("TEST_B", "theirs")
    exec(text)
    assert (os.environ.pop("TEST_A"), os.environ["TEST_B"]) == (value, "theirs")


def test_constraints_are_the_lists_pins_without_hashes():
    """With one hash pip would want the hashes of the further packages too."""
    text = next(ROOT.glob("roles/mlflow_venv/files/mlflow-*.txt")).read_text()
    lines = module.pins(text).splitlines()
    assert len(lines) == text.count("==", 0) - text.count("_platform ==") - text.count("version ==")
    assert all("==" in line and "\\" not in line and "hash" not in line for line in lines)


def test_a_list_without_mlflow_is_refused(machine):
    with pytest.raises(Refused, match="Wanted requirements that name mlflow"):
        machine.virtualenv(requirements="idna==3.20\n")


def test_too_old_a_python_is_refused(machine, tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho 3 9 1\n")
    old.chmod(0o755)
    virtualenv = machine.virtualenv()
    virtualenv.python = str(old)
    with pytest.raises(Refused, match="Wanted Python 3.11 to 3.14 as .*; found 3.9; upgrade"):
        virtualenv.find_python()


def test_a_missing_home_is_refused(tmp_path):
    account = SimpleNamespace(pw_name="ada", pw_dir=str(tmp_path / "none"))
    with pytest.raises(Refused, match="Wanted a home of ada .*; found none .*mkhomedir_helper ada"):
        Virtualenv({"path": "/x", "requirements": LOCK}, account)


def test_a_missing_user_is_refused():
    with pytest.raises(Refused, match="found no user no-such-user; create it"):
        module.find_account("no-such-user")


def test_the_home_stands_for_a_tilde_at_the_beginning():
    assert module.absolute("~/mlflow", "/home/ada") == "/home/ada/mlflow"
    assert module.absolute("/srv/~x/", "/home/ada") == "/srv/~x"
    assert module.absolute("", "/home/ada") == ""
