"""The order of a roll, whatever happens in the middle of it: the stand-in serves."""

import re
from functools import partial
from unittest.mock import ANY

import pytest
from api import (
    colour,
    create_experiment,
    has_experiment,
    request,
    wait_for,
    wait_until_served,
)
from rolls import a_change, assert_kept, assert_settled, serving_change, slow_upload

group = "roll-standin"

# Stands in for systemctl, as the roll calls it, and leaves a mark.
WRAPPER = "/usr/local/sbin/systemctl"
CALLED = "/run/called"
SABOTAGE = """#!/bin/sh
case "$*" in
  {call}) {do} ;;
  *) exec /usr/bin/systemctl "$@" ;;
esac
"""
MARK = f'echo "$*" > {CALLED}'
# With SIGKILL, so that nothing is cleaned up.
KILL = {
    "before": f"{MARK}; kill -KILL $PPID",
    "after": f'/usr/bin/systemctl "$@"; {MARK}; kill -KILL $PPID',
}
GO_ON = "/run/go-on"
# Which processes hold the roll's lock or wait for it, and what a roll reads.
HOLDERS = "find /proc/[0-9]*/fd -lname /etc/mlflow/.roll.lock 2> /dev/null | wc -l"
FILES = "find /etc/mlflow/wanted -type f -exec sha256sum {} +"
HOLD = f'{MARK}; while [ ! -e {GO_ON} ]; do sleep 0.1; done; exec /usr/bin/systemctl "$@"'


@pytest.fixture
def at(host):
    """Return a function that has something done at a call of systemctl, until it is repaired."""

    def install(call, do):
        host.check_output(f"rm -f {CALLED} {GO_ON}")
        text = SABOTAGE.format(call=call, do=do)
        host.check_output(f"printf %s %s > {WRAPPER} && chmod 0755 {WRAPPER}", "%s", text)

    def repair():
        # A test that fails leaves no roll that waits.
        host.check_output(f"rm -f {WRAPPER} && touch {GO_ON}")

    install.repair = repair
    yield install
    repair()


def version(host):
    """Return the version of the server that answers."""
    status, body = request(host, "/version")
    assert status == 200
    return body


def roll_alone(control):
    """Run the roll, which must fail, to what an earlier run wanted."""
    with pytest.raises(AssertionError, match="FAILED"):
        control.module("mlflow_roll", instance="mlflow")


# At which call the roll is killed, before or after it; what serves then; whether the power is cut.
CHAINS = {
    "few": [
        ("start*", "after", "old", False),
        ("enable*", "before", "old", False),
        ("disable*{old}*", "before", "new", True),
    ],
    "before the start": [
        ("daemon-reload", "before", "old", False),
        ("start*", "before", "old", False),
    ],
    "before the link": [("enable*", "after", "old", True)],
    "at the end": [
        ("disable*{old}*", "before", "new", False),
        ("disable*{old}*", "after", "new", False),
    ],
}


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(points, id=name, marks=[pytest.mark.long] if name != "few" else [])
        for name, points in CHAINS.items()
    ],
)
def test_a_roll_killed_in_the_middle_is_finished_by_the_next(control, host, at, points):
    """Somebody's laptop goes to sleep, the OOM killer strikes, the power fails: just run it again.

    Each run finds what the one before has left; between the first and the last the roll runs alone.
    Where the power is cut both colours are enabled, and the link alone says who serves.
    """
    old, before = colour(host), serving_change(host)
    change = a_change()
    run = partial(control.refuse, **change)
    for call, when, serves, power_cut in points:
        at(call.format(old=f"mlflow-{old}"), KILL[when])
        run()
        run = partial(roll_alone, control)
        assert host.file(CALLED).exists, f"it was not killed {when} {call}"
        if power_cut:
            control.podman("kill", control.name)
            control.podman("start", control.name)
        wait_until_served(host)
        assert serving_change(host) == {"old": before, "new": change}[serves]
    at.repair()
    control.converge(**change)
    assert serving_change(host) == change
    assert_settled(host)


def test_drift_by_hand_is_rolled_away(control, host):
    """What is on the host is compared with what is wanted, not what Ansible remembers.

    Each is a reason of its own, and one roll removes them all.
    """
    served, drifted = serving_change(host), colour(host)
    slot, unit = f"/etc/mlflow/{drifted}", f"/etc/systemd/system/mlflow-{drifted}.service"
    host.check_output(f"echo TEST_CHANGE=by-hand >> {slot}/server.env")
    host.check_output(f"chmod 0644 {slot}/secrets.env")
    host.check_output(f"sed -i s/Restart=always/Restart=no/ {unit}")
    host.check_output(f"systemctl stop mlflow-{drifted}")
    code, said = control.playbook("-v", **served)
    assert code == 0, said
    for reason in (
        f"server.env in {drifted} differs from wanted",
        f"secrets.env in {drifted} differs from wanted",
        f"mlflow-{drifted}.service differs from the one in {drifted}",
        f"mlflow-{drifted}.service is not active",
    ):
        assert reason in said
    serving = colour(host)
    assert serving_change(host) == served
    assert "by-hand" not in host.check_output(f"cat /etc/mlflow/{serving}/server.env")
    assert host.check_output(f"stat --format=%a /etc/mlflow/{serving}/secrets.env") == "600"
    assert "Restart=always" in host.check_output(f"systemctl cat mlflow-{serving}")
    assert_settled(host)


def test_two_operators_at_once_wait_for_each_other(control, host, at):
    """The second, who wants something else, finds the lock held and writes nothing until the first
    is done. Then the one's change is rolled to, and after it the other's."""
    change, later = a_change(), a_change()
    at("start*", HOLD)
    first = control.start(**change)
    wait_for(lambda: host.file(CALLED).exists)
    wanted = host.check_output(FILES)
    second = control.start(**later)
    wait_for(lambda: int(host.run(HOLDERS).stdout) > 1)
    assert serving_change(host) != change
    assert (first.poll(), second.poll()) == (None, None)
    assert host.check_output(FILES) == wanted
    host.check_output(f"touch {GO_ON}")
    said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    rolled = r"Service \| Roll\] \*+\s+changed:"
    assert [len(re.findall(rolled, each)) for each in said] == [1, 1], said
    assert serving_change(host) == later
    assert_settled(host)


def test_stop_start_is_away_for_a_moment_and_comes_back(control, host):
    """For a host without the memory for two. Also the proof that the load can fail."""
    change = a_change()
    with control.load("--pause=0.05") as counts:
        control.converge(mlflow_server_roll="stop_start", **change)
    assert counts["failed"] > 0, counts
    assert serving_change(host) == change
    assert_kept(host, counts)
    assert_settled(host)


def test_another_release_and_back_cost_no_request(control, host):
    """A version is a setting like any other, as long as the database's schema is the same.

    The way back stays on the host, whatever number of releases is to stay; older ones go.
    """
    older = "/opt/mlflow/releases/0.0.0-cp311-00000000"
    host.check_output(f"mkdir {older} && touch -d 2000-01-01 {older}/.complete")
    with control.load("--pause=0.05") as counts:
        control.converge(mlflow_venv_version="0.0.2")
        assert version(host) == "0.0.2"
        control.converge(mlflow_venv_keep_releases=1)
        assert version(host) == "0.0.1"
    assert counts["failed"] == 0, counts["errors"]
    assert counts["written"] > 100, counts["written"]
    assert_kept(host, counts)
    named = host.check_output("readlink /etc/mlflow/blue/release /etc/mlflow/green/release")
    releases = host.check_output("ls -d /opt/mlflow/releases/*").splitlines()
    assert releases == sorted(named.splitlines())
    assert [name.split("/")[-1][:5] for name in releases] == ["0.0.1", "0.0.2"]
    assert_settled(host)


def test_another_port_cuts_off_nothing_that_is_under_way(control, host, at):
    """Clients are given the new one; what they have begun at the old one ends well."""
    name = create_experiment(host)
    # The server rolls first, and would wait for an upload that the old colour has.
    at("disable*", HOLD)
    run = control.start(mlflow_server_port=5010)
    wait_for(lambda: host.file(CALLED).exists)
    upload = slow_upload(control, "! : </dev/tcp/127.0.0.1/5000")
    host.check_output(f"touch {GO_ON}")
    said = run.communicate()[0]
    assert run.returncode == 0, said
    assert (upload.communicate()[0], upload.returncode) == ("changed\n", 0)
    size = host.check_output("stat --format=%s /var/lib/mlflow/artifacts/slow")
    assert size == "20000000"
    assert request(host, "/health") == (0, ANY)
    assert has_experiment(host, name, port=5010)
    control.converge()
    assert has_experiment(host, name)
    assert request(host, "/health", port=5010) == (0, ANY)


@pytest.mark.parametrize(
    ("release", "seconds", "found"),
    [
        ("0.0.3", 120, ["it ended by itself", "mlflow_has_lost_a_module"]),
        ("0.0.4", 20, ["experiments/search answered 500", "no such table: experiments"]),
    ],
    ids=["that breaks on import", "that is healthy and whose database is not"],
)
def test_a_release_that_does_not_work_changes_nothing_that_serves(
    control, host, release, seconds, found
):
    """It is refused with its own words, and no client has noticed.

    Args:
        seconds: How long it may take to become ready; one that stays up unfit takes all of it.
    """
    name = create_experiment(host)
    with control.load("--pause=0.05") as counts:
        said = control.refuse(mlflow_venv_version=release, mlflow_server_ready_timeout=seconds)
    for words in [*found, "serves what it served before"]:
        assert words in said
    assert counts["failed"] == 0, counts["errors"]
    assert version(host) == "0.0.1"
    assert has_experiment(host, name)
    assert_settled(host)
