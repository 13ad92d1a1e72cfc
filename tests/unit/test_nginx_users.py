"""The users of a site of nginx, and what is said of passwords on the way."""

import os
import types

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import (
    nginx_server,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_users import hashed
from kills import Killed
from nginx_host import FakeHost, given_pair, refusal


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


USERS = [{"name": "ada", "password": "p@ss:ß"}, {"name": "bob", "password": "b"}]


def test_users_are_kept_as_hashes_that_stay_the_same(host, monkeypatch):
    """A salt by chance would be a change at each run; one salt for all would tell equals."""
    user = types.SimpleNamespace(pw_name="www-data", pw_gid=os.getgid())
    monkeypatch.setattr(nginx_server.pwd, "getpwnam", lambda name: user)
    more = "auth_basic_user_file @users@;"
    host.ensure()
    assert host.ensure(users=USERS, more=more) == ["users", "site", "reload"]
    (file,) = host.file("users").iterdir()
    lines = dict(line.split(":") for line in file.read_text().splitlines())
    assert file.stat().st_mode & 0o777 == 0o640
    for entry in USERS:
        salt = lines[entry["name"]].split("$")[2]
        assert hashed(entry["password"], salt) == lines[entry["name"]]
    assert len({line.split("$")[2] for line in lines.values()}) == 2
    assert host.ensure(users=USERS, more=more) == []
    assert host.ensure(users=USERS[:1], more=more) == ["users", "site", "reload", "sweep"]
    assert len(list(host.file("users").iterdir())) == 1
    host.ensure()
    assert list(host.file("users").iterdir()) == []


def test_passwords_without_tls_are_warned_of(host):
    """Not refused: TLS may end at a load balancer."""
    assert "reads the passwords" in host.site("0.0.0.0", users=USERS).warnings[0]
    assert host.site(users=USERS).warnings == []
    assert host.site("0.0.0.0", users=USERS, **given_pair()).warnings == []


@pytest.mark.parametrize(
    "users",
    [
        [{"name": "a:b", "password": "x"}],
        [{"name": "", "password": "x"}],
        [{"name": "a", "password": ""}],
        [USERS[0], USERS[0]],
        [{"name": "a", "password": "example-change-me"}],
    ],
)
def test_users_that_nobody_could_be_are_refused(host, users):
    said = refusal(host, users=users)
    assert "nginx_users" in said and "p@ss" not in said


def test_no_hashes_of_a_killed_run_stay(host, monkeypatch):
    """Nobody would look for them in a file that no site names."""
    user = types.SimpleNamespace(pw_name="www-data", pw_gid=os.getgid())
    monkeypatch.setattr(nginx_server.pwd, "getpwnam", lambda name: user)
    more = "auth_basic_user_file @users@;"
    host.ensure()
    host.fatal = "replace .mlflow-"
    with pytest.raises(Killed):
        host.ensure(users=USERS, more=more)
    (left,) = host.file("users").iterdir()
    assert "ada:$6$" in left.read_text() and left.stat().st_mode & 0o777 == 0o640
    assert "sweep" in host.ensure(users=USERS[:1], more=more)
    assert left not in host.file("users").iterdir()
