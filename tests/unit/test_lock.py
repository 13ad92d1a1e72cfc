"""The locks of mlflow_venv: what is in them, and that they hold where nothing is run."""

import importlib.machinery
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.pythons import (
    MACHINES,
    NEWEST,
    OLDEST,
)

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/mlflow_venv"
LOCKS = sorted((ROLE / "files").glob("*.txt"))
MLFLOW_LOCKS = [lock for lock in LOCKS if lock.name.startswith("mlflow-")]
UV = ROOT / ".cache/uv/bin/uv"

loader = importlib.machinery.SourceFileLoader("lock", str(ROOT / "tools/lock"))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("lock", loader))
loader.exec_module(tool)

each_lock = pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
each_mlflow = pytest.mark.parametrize("lock", MLFLOW_LOCKS, ids=lambda lock: lock.name)


@each_lock
def test_a_lock_is_pins_and_hashes_and_nothing_else(lock):
    """A comment or an address in it would tell where and by whom it was made."""
    block = r"[a-z0-9-]+==[\w.]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(rf"({block})+", lock.read_text())


@each_mlflow
def test_a_lock_has_what_the_server_needs(lock):
    """S3, PostgreSQL, authentication and metrics are variables of the server, not of the lock."""
    _, version, *extra = lock.stem.split("-")
    names = set(re.findall(r"^([a-z0-9-]+)==", lock.read_text(), re.MULTILINE))
    assert f"\nmlflow=={version} " in lock.read_text()
    assert names >= {"boto3", "psycopg2-binary", "flask-wtf", "prometheus-flask-exporter"}
    assert ("mlflow-oidc-auth" in names) is (extra == ["oidc"])


@pytest.mark.parametrize("extra", ["", *tool.EXTRAS])
def test_the_default_version_has_a_lock(extra):
    """Without it the role refuses the version that it comes with."""
    version = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["mlflow_venv_version"]
    assert ROLE / f"files/mlflow-{version}{extra and '-' + extra}.txt" in MLFLOW_LOCKS


def test_the_role_knows_the_extras_that_there_are_locks_of():
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]
    known = specs["main"]["options"]["mlflow_venv_extra"]["choices"]
    assert known == ["", *tool.EXTRAS]


def test_the_module_takes_the_pythons_that_the_lock_is_made_for():
    """A Python beyond would be let in and then find no wheel."""
    (low, high) = re.search(r">=3\.(\d+),<3\.(\d+)", tool.PROJECT).groups()
    assert OLDEST == (3, int(low))
    assert NEWEST == (3, int(high) - 1)
    assert all(f"'{machine}'" in tool.PROJECT for machine in MACHINES)


@pytest.mark.parametrize(
    ("words", "found"),
    [(["9.9.9"], "found"), ([], "found none;"), (["latest"], "found latest;")]
    + [(["3.17.2", "--saml"], "found 3.17.2 --saml;"), (["3.17.2", "oidc"], "3.17.2 oidc;")],
)
def test_what_cannot_be_locked_is_refused_with_the_remedy(words, found, monkeypatch):
    """`make lock` with a version that does not exist, or with none."""

    def fail(folder, *words):
        raise subprocess.CalledProcessError(1, words, stderr="no version of mlflow==9.9.9")

    monkeypatch.setattr(tool, "uv", fail)
    with pytest.raises(SystemExit) as caught:
        tool.main(words)
    assert str(caught.value).startswith("Wanted a") and found in str(caught.value)


@pytest.mark.parametrize(
    ("words", "name", "says_next"),
    [
        (["3.16.1"], "mlflow-3.16.1.txt", True),
        (["3.16.1", "--oidc"], "mlflow-3.16.1-oidc.txt", True),
        (["--uv", "0.13.9"], "uv.txt", False),
    ],
)
def test_a_lock_says_where_its_version_is_set(
    words, name, says_next, monkeypatch, tmp_path, capsys
):
    """A lock changes no host until mlflow_venv_version names it, in one place for each group."""
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "FILES", tmp_path)
    monkeypatch.setattr(tool, "UV", tmp_path)
    monkeypatch.setattr(tool, "PYTHON", tmp_path)
    monkeypatch.setattr(tool, "lock", lambda requirements: "mlflow==1\n")
    tool.main(words)
    wrote, _, following = capsys.readouterr().out.partition("\n")
    assert wrote == f"Wrote {name}" and (tmp_path / name).exists()
    assert ('mlflow_venv_version: "3.16.1"' in following) is says_next
    for file in re.findall(r"group_vars/\w+/main\.yml", following):
        assert "mlflow_venv_version" in (ROOT / file).read_text()
    assert len(set(re.findall(r"group_vars/\w+", following))) == (3 if says_next else 0)


@pytest.mark.index
@each_mlflow
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("minor", range(OLDEST[1], NEWEST[1] + 1), ids="3.{}".format)
def test_a_lock_resolves_where_nothing_is_run(lock, machine, minor, tmp_path):
    """All Pythons on both machines, against the index: the tests' hosts have two of these eight.

    With dependencies: what the lock does not name would have no hash and be refused.
    """
    command = [UV, "pip", "install", "--dry-run", "--target", tmp_path, "--python", tool.PYTHON]
    command += ["--python-version", f"3.{minor}", "--python-platform", f"{machine}-manylinux_2_36"]
    command += ["--require-hashes", "--only-binary", ":all:", "--requirement", lock]
    env = {name: value for name, value in os.environ.items() if name.lower() in tool.NETWORK}
    env |= {"HOME": str(tmp_path), "PATH": os.defpath, "UV_NO_CONFIG": "1", "UV_SYSTEM_CERTS": "1"}
    env |= {"UV_CACHE_DIR": str(ROOT / ".cache/uv-cache")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Would (download|install) \d+ packages", done.stderr)
