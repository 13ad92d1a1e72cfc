"""What looks after a site of nginx comes and goes with what it looks after."""

import os

import pytest
from nginx_host import HELPERS, FakeHost, given_pair, refusal, stored


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


def test_what_looks_after_the_certificate_comes_and_goes_with_it(host):
    """A timer that is left behind would complain every day about what nobody serves."""
    timer = "nginx-certificate-mlflow.timer"
    host.ensure(**given_pair())
    assert host.timers == {timer}
    host.timers.clear()
    assert host.ensure(**given_pair()) == ["helpers"] and host.timers == {timer}
    assert host.ensure()[:-1] == ["site", "reload", "helpers", "sweep"]
    assert host.timers == set() and stored(host) == [] and host.ensure() == []
    assert not [path for path in HELPERS if (host.root / path[1:]).exists()]


def test_a_program_of_that_name_by_another_is_refused(host):
    """It is somebody's work."""
    file = host.root / "etc/systemd/system/nginx-certificate-mlflow.service"
    os.makedirs(file.parent)
    with open(file, "w") as stream:
        stream.write("[Service]")
    assert f"Wanted {file} to be this role's, or absent" in refusal(host, **given_pair())


def test_a_timer_that_goes_takes_with_it_what_systemd_keeps(host):
    """When it ran for the last time: one that comes back later would not run at once."""
    host.ensure(**given_pair())
    stamp = host.root / "var/lib/systemd/timers/stamp-nginx-certificate-mlflow.timer"
    os.makedirs(stamp.parent)
    stamp.touch()
    host.ensure()
    assert not stamp.exists()
