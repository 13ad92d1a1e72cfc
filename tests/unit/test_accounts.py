"""Work as another user: with none of root's rights, and with an answer however it ends."""

import os
import pwd
from types import SimpleNamespace

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.accounts import (
    acting_as,
    as_user,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused

ME = pwd.getpwuid(os.geteuid())


def test_the_work_has_a_clean_environment_and_its_answer_comes_back(monkeypatch):
    """root's environment may hold its secrets; how to reach the network is none."""
    monkeypatch.setenv("ROOTS_SECRET", "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")

    def look():
        os.umask(mask := os.umask(0))
        return {**os.environ, "umask": mask, "folder": os.getcwd()}

    found = as_user(ME, "this", look)
    assert found == {
        "HOME": ME.pw_dir,
        "USER": ME.pw_name,
        "LOGNAME": ME.pw_name,
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HTTPS_PROXY": "http://proxy",
        "umask": 0o077,
        "folder": "/",
    }
    assert os.environ["ROOTS_SECRET"] == "x", "it was another process"


def test_all_rights_of_root_are_gone_before_something_is_done(monkeypatch):
    """The groups first, as nobody but root may change them. On a machine: scenario `client`."""
    account, done = SimpleNamespace(pw_name="ada", pw_gid=7, pw_uid=8, pw_dir="/home/ada"), []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("initgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda *given, name=name: done.append([name, *given]))
    wanted = [["initgroups", "ada", 7], ["setgid", 7], ["setuid", 8]]
    assert as_user(account, "this", lambda: done) == wanted
    assert done == [], "it is another process"


def test_a_refusal_or_an_error_of_the_work_comes_back():
    """A crash in there must not pass for success."""

    def refuse():
        raise Refused("Wanted this; found that; do so.")

    with pytest.raises(Refused, match="^Wanted this; found that; do so.$"):
        as_user(ME, "that", refuse)
    with pytest.raises(Refused, match="^Wanted that; found .*No such file.*; fix that and run"):
        as_user(ME, "that", lambda: os.listdir("/no/such"))
    with pytest.raises(Refused, match="ZeroDivisionError"):
        as_user(ME, "that", lambda: 1 / 0)
    with pytest.raises(Refused, match="^Wanted that; found that the process was killed; run"):
        as_user(ME, "that", lambda: os.kill(os.getpid(), 9))


def test_who_cannot_become_the_user_is_told_why(monkeypatch):
    """A container without that right, for example."""

    def denied(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "initgroups", denied)
    with pytest.raises(Refused, match="^Wanted that; found .*Operation not permitted; fix that"):
        as_user(ME, "that", dict)


def test_a_moment_as_another_user_ends_however_it_does(monkeypatch):
    """The group first while root may, and root first on the way back."""
    done, mine = [], (os.geteuid(), os.getegid())
    for name in ("seteuid", "setegid"):
        monkeypatch.setattr(os, name, lambda number, name=name: done.append((name, number)))
    with pytest.raises(KeyError), acting_as(7, 8):
        assert done == [("setegid", 8), ("seteuid", 7)]
        raise KeyError
    assert done[2:] == [("seteuid", mine[0]), ("setegid", mine[1])]
