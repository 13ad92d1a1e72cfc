"""Every change reaches what serves without a gap, or does not reach it at all: the real MLflow."""

import os

import pytest
from api import colour, create_experiment, has_experiment, wait_for, wait_until_served
from rolls import a_change, assert_kept, assert_settled, serving_change, slow_upload

group = "roll-debian13"


@pytest.fixture(scope="module")
def rolled(control, host):
    """Two rolls under load, so that each colour has been the old one, and an upload in the second.

    The load pauses, as four threads without one take both cores from the roll; at 60 writes a
    second some still fall into a gap of 50 ms.
    """
    found = {"served": []}
    with control.load("--pause=0.05") as found["counts"]:
        change = a_change()
        control.converge(**change)
        found["served"].append((serving_change(host), change))
        pid = control.podman("inspect", "--format={{.State.Pid}}", control.name)
        link = f"/proc/{pid}/root/etc/mlflow/current.sock"
        upload = slow_upload(control, f"[ $(readlink {link}) != {os.readlink(link)} ]")
        change = a_change()
        control.converge(**change)
        found["served"].append((serving_change(host), change))
        found["upload"] = upload.communicate()[0], upload.returncode
    return found


def test_a_changed_setting_costs_no_request(host, rolled):
    """Clients write all the time; the load does not retry, so one refused write would show."""
    for served, wanted in rolled["served"]:
        assert served == wanted
    counts = rolled["counts"]
    assert counts["failed"] == 0, counts["errors"]
    assert counts["written"] > 100, counts["written"]
    assert_settled(host)


def test_all_that_was_acknowledged_is_there_after_rolls(host, rolled):
    """An answer of 200 is a promise: the metric is in the database, the artifact in the store."""
    assert_kept(host, rolled["counts"])


def test_an_upload_in_flight_ends_on_the_old_colour(host, rolled):
    """A large model takes minutes; the old colour is drained before it is stopped."""
    said, code = rolled["upload"]
    assert said == "changed\n", "it had ended before the link was swapped"
    assert code == 0
    size = host.check_output("stat --format=%s /var/lib/mlflow/artifacts/slow")
    assert size == "20000000"


def test_a_setting_that_cannot_start_changes_nothing_that_serves(control, host):
    """The play fails with the unit's own words; the old colour serves on."""
    before, name = serving_change(host), create_experiment(host)
    said = control.refuse(mlflow_server_environment={"MLFLOW_WORKERS": "many"})
    assert "serves what it served before" in said
    assert "'many' is not a valid integer" in said, "the journal is missing"
    assert serving_change(host) == before
    assert has_experiment(host, name)
    assert_settled(host)


def loads(host):
    """Return the runs of loads that have put artifacts."""
    return host.run("ls /var/lib/mlflow/artifacts/load").stdout.split()


def test_a_power_cut_loses_nothing_that_was_acknowledged(control, host):
    """All processes are killed at once while clients write; the same colour comes back.

    What the disk itself would lose is not in it: the kernel lives on.
    """
    before, seen = serving_change(host), len(loads(host))
    with control.load("--pause=0.05") as counts:
        # Each thread has put an artifact.
        wait_for(lambda: len(loads(host)) >= seen + 4)
        control.podman("kill", control.name)
        control.podman("start", control.name)
        wait_until_served(host)
    assert counts["failed"] > 0, counts
    assert_kept(host, counts)
    assert serving_change(host) == before
    assert_settled(host)


def test_libraries_that_were_updated_are_taken_by_a_roll_alone(control, host):
    """Ubuntu's needrestart restarts whatever runs with the former ones, requests or not."""
    control.converge()
    host.check_output("apt-get update && apt-get install --yes needrestart")
    library = host.check_output("find /usr/lib -type f -name libssl.so.3")
    host.check_output(f"cp --preserve {library} {library}.new && mv {library}.new {library}")
    process = "systemctl show --value --property=MainPID {}"
    before, nginx = colour(host), host.check_output(process.format("nginx"))
    pid = host.check_output(process.format(f"mlflow-{before}"))
    host.check_output("needrestart -r a")
    assert host.check_output(process.format("nginx")) != nginx, "it has restarted nothing at all"
    assert host.check_output(process.format(f"mlflow-{before}")) == pid
    with control.load("--pause=0.05") as counts:
        control.converge()
    assert counts["failed"] == 0, counts["errors"]
    assert colour(host) != before
    control.settled()


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
    other = {"mlflow_server_instance": "mlflow-old", "mlflow_server_port": 5002}
    # The inventory names but one of the host's.
    said = control.refuse(**other, mlflow_server_allow_replacement=True)
    assert "Wanted the tracking database at schema revision" in said
    assert "found 451aebb31d03, an older one; make a backup" in said
    assert "-m mlflow db upgrade" in said
    assert host.check_output(f"sha256sum {database}") == before
    assert host.run("systemctl is-active mlflow-old-blue").stdout.strip() == "inactive"
