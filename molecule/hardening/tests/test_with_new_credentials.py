"""The database's password and the key of S3 rotate under MLflow itself, while clients write.

What may go wrong on the way is tested in `rotation`, where a stand-in serves.
"""

import json
import os
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
import testinfra
from api import colour
from canaries import on_host
from control import Control
from fleet import GENTLE, assert_none_failed
from load import METRICS, STORED, acknowledged, lost
from logins import ADA, ADMIN
from s3 import S3
from test_users import FORMER_ADMIN, experiment_of
from vault import Vault

group = "hardening-users"

# Those that S3 knows, as the inventory has them.
KEYS = {"AKIACANARYHARDENING": "canary/s3+secret=", "AKIANEW0002": "canary/s3+new="}
OTHER = {"mlflow_a": "mlflow_b", "mlflow_b": "mlflow_a"}
# How each new password of a login begins.
NEW_PASSWORD = "canary-new-login-"


@pytest.fixture(scope="module")
def loads():
    """What each load has counted."""
    return []


@pytest.fixture(scope="module")
def vault():
    """The operator's secrets, as the inventory reads them, once they differ from the first."""
    return Vault(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "vault.json")


@pytest.fixture
def rotate(control, visitor, self_signed, loads):
    """Return a function that runs a playbook on all hosts, as a rotation must, while clients write.

    As the administrator, who may put artifacts anywhere.
    """
    login = next(each for each in (ADMIN, FORMER_ADMIN) if visitor.as_(*each).whoami())

    def function(playbook):
        options = (*GENTLE, f"--login={':'.join(login)}", f"--ca={self_signed}")
        with control.load(*options, url=f"https://{visitor.name}") as counts:
            said = Control(control.inventory, "all").converge(playbook=playbook)
        assert_none_failed(counts)
        loads.append(counts)
        return said

    return function


@pytest.fixture
def sql(host):
    """Return a function that asks the tracking database, and returns the rows."""
    psql = "runuser -u postgres -- psql --tuples-only --no-align mlflow --command=%s"
    return lambda query: host.check_output(psql, query).splitlines()


@pytest.fixture
def s3():
    return testinfra.get_host("podman://hardening-s3")


def settings(host, file):
    """Return a file of the slot that serves."""
    return host.check_output(f"cat /etc/mlflow/{colour(host)}/{file}")


def test_the_databases_password_rotates_while_clients_write(host, rotate, sql, vault):
    """The former login is closed, and nothing of MLflow still holds a session of it."""
    sessions = "SELECT DISTINCT usename FROM pg_stat_activity WHERE usename ~ '^mlflow_[ab]$'"
    (leaves,) = sql(sessions)
    comes = OTHER[leaves]
    vault.put(**{comes: NEW_PASSWORD + uuid.uuid4().hex})
    rotate("playbooks/rotate_database_password.yml")
    assert f'PGUSER="{comes}"' in settings(host, "database.env")
    assert sql(sessions) == [comes]
    assert sql(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{leaves}'") == ["f"]


@contextmanager
def refused(s3, key):
    """Have S3 refuse a key while the block runs."""
    unit = "/etc/systemd/system/s3.service"
    listens = "ss --no-header --listening --tcp 'sport = :9000' | grep -q ."
    start = f"systemctl daemon-reload; systemctl restart s3; until {listens}; do sleep 0.1; done"
    text = s3.check_output(f"cat {unit}")
    s3.check_output(f"sed --in-place 's,--auth-key {key}\\,[^ ]*,,' {unit} && {start}")
    try:
        yield
    finally:
        s3.check_output(f"printf '%%s\\n' %s > {unit} && {start}", text)


def test_the_key_of_s3_rotates_while_clients_write(host, visitor, rotate, s3, vault):
    """Once the former key is refused, artifacts old and new are still read and written."""
    (*_, old) = experiment_of(visitor, ADA)
    file = settings(host, "aws_shared_credentials_file")
    former, new = sorted(KEYS, key=lambda name: name not in file)
    vault.put(key=new)
    said = rotate("playbooks/rotate_aws_credentials.yml")
    assert f"Revoke …{former[-4:]} at your store" in said, said
    file = settings(host, "aws_shared_credentials_file")
    assert new in file and former not in file
    with refused(s3, former):
        store = S3("hardening-s3")
        answers = {name: store.answer_to(name, KEYS[name], "hardening") for name in KEYS}
        assert answers == {former: "InvalidAccessKeyId", new: ""}
        (*_, later) = experiment_of(visitor, ADA)
        for path in (old, later):
            assert visitor.as_(*ADA).ask("GET", path) == (200, b"canary-artifact")


def test_what_was_acknowledged_meanwhile_is_kept(loads, sql, s3):
    """An answer of 200 for what is nowhere is the one failure that no client sees."""
    assert len(loads) == 2, "run the tests before"
    rows = (row.split("|") for row in sql(METRICS))
    metrics = {run: json.loads(turns) for run, turns in rows}
    command = "python3 -c %s /srv/s3/hardening/artifacts/load"
    artifacts = json.loads(s3.check_output(command, STORED))
    for counts in loads:
        for written, found in zip(acknowledged(counts), (metrics, artifacts), strict=True):
            assert lost(written, found) == {}


def test_no_host_shows_a_new_secret(host):
    """As test_what_is_shown.py has it of the former ones."""
    secrets = {"password": NEW_PASSWORD, **KEYS}
    assert on_host(host.backend.name, secrets, users=("mlflow", "postgres")) == []
