"""Every change reaches what serves without a gap, or does not reach it at all."""

import re
import subprocess
import sys
import time
import uuid

import pytest
from api import colour, create_experiment, has_experiment, wait_until_served

# Stands in for systemctl during one run: kills the module that calls it, with SIGKILL, so that
# nothing is cleaned up, before or after the real thing is done.
SABOTAGE = """#!/bin/sh
case "$*" in
  {call}) {first}kill -KILL $PPID ;;
  *) exec /usr/bin/systemctl "$@" ;;
esac
"""
WRAPPER = "/usr/local/sbin/systemctl"

# Sends 20 MB in 20 s, so that a whole roll passes meanwhile, and exits 0 if the server took it.
SLOW_UPLOAD = """
import http.client, sys, time

def body():
    for _ in range(20):
        print("sending", flush=True)
        yield b"x" * 1_000_000
        time.sleep(1)

connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=60)
connection.request("PUT", "/api/2.0/mlflow-artifacts/artifacts/slow", body(),
                   {"Content-Length": "20000000"})
sys.exit(connection.getresponse().status != 200)
"""


def a_change():
    """Return a variable of no consequence, and the value by which it is known in the process."""
    value = uuid.uuid4().hex
    return {"mlflow_server_environment": {"TEST_CHANGE": value}}, value


def serving_change(host):
    """Return the value with which the process that serves was started."""
    pid = host.check_output(f"systemctl show --value --property=MainPID mlflow-{colour(host)}")
    lines = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line).get("TEST_CHANGE")


def assert_settled(host):
    """One colour is linked, active and enabled; the other is none of these; nothing lies about."""
    wait_until_served(host)
    serving = colour(host)
    states = {
        each: host.run(f"systemctl is-active mlflow-{each}; systemctl is-enabled mlflow-{each}")
        for each in ("blue", "green")
    }
    assert states[serving].stdout.split() == ["active", "enabled"]
    other = states[{"blue": "green", "green": "blue"}[serving]].stdout.split()
    assert not {"active", "activating", "enabled"} & set(other)
    assert host.run("find /etc/mlflow /etc/systemd/system -name '.*.new'").stdout == ""


@pytest.fixture
def sabotage(host):
    """Kill the roll at a call of systemctl, until repaired."""

    def install(call, when):
        first = '/usr/bin/systemctl "$@"; ' if when == "after" else ""
        host.check_output(
            "printf %s %s > " + WRAPPER, "%s", SABOTAGE.format(call=call, first=first)
        )
        host.check_output(f"chmod 0755 {WRAPPER}")

    def repair():
        host.check_output(f"rm -f {WRAPPER}")

    install.repair = repair
    yield install
    repair()


def test_a_changed_setting_costs_no_request(control, host):
    """Clients write all the time; the load does not retry, so one refused write would show."""
    with control.load() as counts:
        for _ in range(2):
            variables, value = a_change()
            control.converge(**variables)
            assert serving_change(host) == value
    assert counts["failed"] == 0, counts
    assert counts["written"] > 500, counts
    assert_settled(host)


def test_stop_start_is_away_for_a_moment_and_comes_back(control, host):
    """For a host without the memory for two. Also the proof that the load can fail."""
    variables, value = a_change()
    with control.load() as counts:
        control.converge(mlflow_server_roll="stop_start", **variables)
    assert counts["failed"] > 0, counts
    assert serving_change(host) == value
    assert_settled(host)


def test_an_upload_in_flight_ends_on_the_old_colour(control, host):
    """A large model takes minutes; the old colour is drained before it is stopped."""
    upload = subprocess.Popen(
        control.inside(sys.executable, "-c", SLOW_UPLOAD), stdout=subprocess.PIPE, text=True
    )
    assert upload.stdout.readline() == "sending\n"
    variables, value = a_change()
    control.converge(**variables)
    upload.stdout.read()
    assert upload.wait() == 0
    assert serving_change(host) == value
    assert_settled(host)


def test_a_setting_that_cannot_start_changes_nothing_that_serves(control, host):
    """The play fails with the unit's own words; the old colour serves, also after a reboot."""
    before, name = serving_change(host), create_experiment(host)
    said = control.refuse(mlflow_server_environment={"MLFLOW_WORKERS": "many"})
    assert "serves what it served before" in said
    assert "'many' is not a valid integer" in said, "the journal is missing"
    for _ in range(2):
        assert serving_change(host) == before
        assert has_experiment(host, name)
        assert_settled(host)
        control.podman("restart", control.name)
        wait_until_served(host)


@pytest.mark.parametrize(
    ("call", "when"),
    [
        pytest.param("daemon-reload", "before", marks=pytest.mark.long),
        pytest.param("start*", "before", marks=pytest.mark.long),
        ("start*", "after"),
        ("enable*", "before"),
        pytest.param("enable*", "after", marks=pytest.mark.long),
        pytest.param("disable*", "before", marks=pytest.mark.long),
        ("disable*", "after"),
    ],
)
def test_a_roll_killed_in_the_middle_is_finished_by_the_next(control, host, sabotage, call, when):
    """Somebody's laptop goes to sleep, the OOM killer strikes: just run it again.

    The unit tests have every step; here are two before the link changes, and one after.
    """
    before = serving_change(host)
    variables, value = a_change()
    sabotage(call, when)
    control.refuse(**variables)
    assert serving_change(host) == (value if call == "disable*" else before)
    wait_until_served(host)
    sabotage.repair()
    control.converge(**variables)
    assert serving_change(host) == value
    assert_settled(host)


@pytest.mark.parametrize(
    ("call", "when"),
    [pytest.param("enable*", "after", marks=pytest.mark.long), ("disable*", "before")],
)
def test_a_reboot_in_the_middle_brings_back_what_served(control, host, sabotage, call, when):
    """Both colours are enabled at these two points; the link alone says who serves."""
    variables, value = a_change()
    sabotage(call, when)
    control.refuse(**variables)
    served = serving_change(host)
    control.podman("restart", control.name)
    wait_until_served(host)
    assert serving_change(host) == served
    sabotage.repair()
    control.converge(**variables)
    assert serving_change(host) == value
    assert_settled(host)


SETTLED = []


@pytest.fixture
def settled(control):
    """A change that serves, made once for all that drifts from it."""
    if not SETTLED:
        variables, value = a_change()
        control.converge(**variables)
        SETTLED.extend((variables, value))
    return SETTLED


@pytest.mark.parametrize(
    "drift",
    [
        "echo TEST_CHANGE=by-hand >> /etc/mlflow/{colour}/server.env",
        pytest.param("chmod 0644 /etc/mlflow/{colour}/server.env", marks=pytest.mark.long),
        pytest.param(
            "sed -i s/Restart=always/Restart=no/ /etc/systemd/system/mlflow-{colour}.service",
            marks=pytest.mark.long,
        ),
        "systemctl stop mlflow-{colour}",
    ],
)
def test_drift_by_hand_is_rolled_away(control, host, settled, drift):
    """What is on the host is compared with what is wanted, not what Ansible remembers."""
    variables, value = settled
    host.check_output(drift.format(colour=colour(host)))
    control.converge(**variables)
    assert serving_change(host) == value
    serving = colour(host)
    mode = host.check_output(f"stat --format=%a /etc/mlflow/{serving}/server.env")
    assert mode == "600"
    assert "Restart=always" in host.check_output(f"systemctl cat mlflow-{serving}")
    assert_settled(host)


def test_two_operators_at_once_wait_for_each_other(control, host):
    """One finds the lock held, waits, and finds nothing left to do; on a busy machine the first."""
    variables, value = a_change()
    first = control.start(**variables)
    time.sleep(1)
    second = control.converge(**variables)
    said = first.communicate()[0]
    assert first.returncode == 0, said
    assert serving_change(host) == value
    both = " ".join(f"{said} {second}".split())
    assert len(re.findall(r"Service \| Roll\] \*+ (?:ok|changed):", both)) == 2, both
    assert len(re.findall(r"Service \| Roll\] \*+ changed:", both)) == 1, both
    assert_settled(host)


def test_a_database_of_another_schema_is_left_as_it_is(control, host):
    """MLflow itself would change the tables of some, and no older release could start on it."""
    host.check_output("useradd --system --home-dir /var/lib/mlflow-old mlflow-old")
    host.check_output("install --directory --owner=mlflow-old --mode=0700 /var/lib/mlflow-old")
    database = "/var/lib/mlflow-old/mlflow.db"
    code = (
        f"import sqlite3; d = sqlite3.connect('{database}'); "
        "d.execute('create table alembic_version (version_num varchar(32))'); "
        "d.execute('insert into alembic_version values (?)', ['451aebb31d03']); d.commit()"
    )
    host.check_output("runuser -u mlflow-old -- python3 -c %s", code)
    before = host.check_output(f"sha256sum {database}")
    said = control.refuse(mlflow_server_instance="mlflow-old", mlflow_server_port=5002)
    assert "Wanted the tracking database at schema revision" in said
    assert "found 451aebb31d03, an older one; make a backup" in said
    assert "-m mlflow db upgrade" in said
    assert host.check_output(f"sha256sum {database}") == before
    assert host.run("systemctl is-active mlflow-old-blue").stdout.strip() == "inactive"
