"""The database goes away and comes back: under load, while the host boots, in a roll."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from api import (
    OTHER,
    SEARCH,
    call,
    colour,
    create_experiment,
    has_experiment,
    request,
    wait_for,
    wait_until_served,
)

group = "tutorial-proxied"

# What a server with one worker keeps of connections at most: MLflow's defaults, and ours.
POOL = 15


@contextmanager
def away(database):
    """Have no database while the block runs."""
    database.check_output("systemctl stop 'postgresql@*'")
    try:
        yield
    finally:
        database.check_output("systemctl start postgresql")


def test_a_load_balancer_learns_that_the_store_is_gone(host, s3):
    """Before a client whose upload fails does; and that it is back, though nobody uploads."""
    assert request(host, "/ready") == (200, "ready\n")
    s3.check_output("systemctl stop s3")
    try:
        wait_for(lambda: request(host, "/ready") == (503, "not ready\n"), 60)
    finally:
        s3.check_output("systemctl start s3")
    wait_for(lambda: request(host, "/ready") == (200, "ready\n"), 30)
    journal = host.check_output(f"journalctl --output=cat --unit=mlflow-{colour(host)}")
    assert "Not ready: artifact store: " in journal and "Ready again: artifact store" in journal


def process(host):
    return host.check_output(f"systemctl show --value --property=MainPID mlflow-{colour(host)}")


def test_what_serves_goes_on_once_the_database_is_back(control, host, database, sql):
    """Nobody has to restart it, and its pool hands out no connection that is dead."""
    name, before = create_experiment(host), process(host)
    with control.load("--threads=8", "--pause=0.05") as counts:
        with away(database):
            status, said = request(host, *SEARCH)
            assert status == 503 and json.loads(said)["error_code"] == "TEMPORARILY_UNAVAILABLE"
            assert request(host, "/health") == (200, "OK"), "it is asked in vain for this"
            wait_for(lambda: request(host, "/ready") == (503, "not ready\n"), 10)
        wait_until_served(host)
        wait_for(lambda: request(host, "/ready") == (200, "ready\n"), 10)
    assert counts["failed"] > 0, "there was no load on what went away"
    with control.load("--threads=8", "--pause=0.05", "--at-least=80") as counts:
        pass
    assert counts["failed"] == 0, counts
    assert has_experiment(host, name)
    assert process(host) == before
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'proxied_a'"
    (sessions,) = sql("postgres", query)
    assert 0 < int(sessions) <= POOL


@contextmanager
def failed_over(database, host):
    """Have the database at another address while the block runs, and silence at its own."""
    address = database.check_output("hostname --ip-address").split()[0]
    # Of documentation (RFC 5737): in the network itself it could be another host's.
    other = "198.51.100.1"
    hosts = host.check_output("cat /etc/hosts")
    database.check_output(f"ip address add {other}/32 dev eth0")
    host.check_output(f"ip route add {other} dev eth0")
    database.check_output(f"ip rule add from {address} blackhole")
    host.check_output(f"echo {other} tutorial-database >> /etc/hosts")
    try:
        yield
    finally:
        with away(database):
            host.check_output("printf '%%s\n' %s > /etc/hosts", hosts)
            database.check_output(f"ip rule delete from {address} blackhole")
            database.check_output(f"ip address delete {other}/32 dev eth0")
            host.check_output(f"ip route delete {other}")


def test_a_database_that_fails_over_is_found_again(control, host, database, sql):
    """Its former address does not even refuse, and each connection of the pool leads there.

    So there are more requests than these: none may wait until the clients give up.
    """
    before = process(host)
    with control.load("--threads=8", "--at-least=80"):
        pass
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'proxied_a'"
    many = int(sql("postgres", query)[0])
    assert many > 1
    with failed_over(database, host), ThreadPoolExecutor(many + 2) as pool:
        answers = list(pool.map(lambda _: request(host, *SEARCH), range(many + 2)))
    assert [answer for answer in answers if answer[0] != 200] == []
    wait_until_served(host)
    assert process(host) == before


def test_a_host_that_boots_before_its_database_serves_once_it_is_there(control, host, database):
    """After a power cut nobody says which comes first, and nobody should have to log in to help.

    MLflow itself tries for a minute or two and ends; a kill saves the wait for that.
    """
    name, unit = create_experiment(host), f"mlflow-{colour(host)}"

    def tries():
        """Return which start of the unit it is, once that has tried twice."""
        start = host.run(f"systemctl show --value --property=InvocationID {unit}").stdout.strip()
        journal = host.run(f"journalctl --output=cat _SYSTEMD_INVOCATION_ID={start}").stdout
        return start if journal.count("Operation will be retried") > 1 else ""

    with away(database):
        control.podman("restart", host.backend.name)
        first = wait_for(tries)
        assert request(host, *SEARCH)[0] == 502
        host.check_output(f"systemctl kill --signal=KILL {unit}")
        wait_for(lambda: tries() not in ("", first))
    wait_until_served(host)
    assert has_experiment(host, name)


def test_a_roll_that_loses_the_database_is_refused_and_finished_later(control, host, database):
    """After it let the idle colour in, and before that is ready. What served stays what serves."""
    name, before, serving = create_experiment(host), process(host), colour(host)
    idle = OTHER[serving]
    # Holds the idle colour where systemd starts it.
    gate = f"/run/systemd/system/mlflow-{idle}.service.d"
    hold = "touch /run/mlflow-waits; while [ -e /run/mlflow-waits ]; do sleep 0.1; done"
    host.check_output(f"mkdir -p {gate}")
    host.check_output(f"printf %s > {gate}/hold.conf", f"[Service]\nExecStartPre=+sh -c '{hold}'\n")
    change = {"mlflow_server_environment": {"A": "change"}}
    run = control.start(mlflow_server_ready_timeout=20, **change)
    try:
        wait_for(lambda: host.file("/run/mlflow-waits").exists)
        with away(database):
            host.check_output(f"rm -r /run/mlflow-waits {gate}")
            said = " ".join(run.communicate()[0].split())
    finally:
        run.kill()
    assert run.returncode != 0
    for phrase in (
        f"Wanted mlflow-{idle}.service to be ready within 20 s; found:",
        f"mlflow-{serving}.service, which served before, does not work either",
        "Connection refused",
    ):
        assert phrase in said, said
    assert (colour(host), process(host)) == (serving, before)
    wait_until_served(host)
    assert has_experiment(host, name)
    control.converge(**change)
    assert colour(host) == idle and has_experiment(host, name)
    call(host, "runs/create", experiment_id="0")
