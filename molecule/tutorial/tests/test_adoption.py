"""A server as the tutorial makes it is taken over, with its database and its bucket."""

import pytest
import testinfra
from api import call, has_experiment, request, wait_until_served

group = "tutorial-direct"
PORT = 5005

# As the tutorial's reader types it, but for the scheme, with which MLflow 3.17 does not start.
BY_HAND = """
export AWS_ACCESS_KEY_ID=AKIABYHAND AWS_SECRET_ACCESS_KEY=byhand
export AWS_ENDPOINT_URL=https://tutorial-s3:9000 AWS_CA_BUNDLE=/etc/mlflow/wanted/aws_ca_bundle
export AWS_REQUEST_CHECKSUM_CALCULATION=when_required
cd /root
exec /etc/mlflow/wanted/release/bin/python -m mlflow server -h 127.0.0.1 -p {port} \\
    --backend-store-uri postgresql+psycopg2://tutor:byhand@tutorial-database/byhand \\
    --default-artifact-root s3://tutorial/byhand
"""


@pytest.fixture(scope="module")
def by_hand():
    """The tutorial's server, in the place of its tmux, with an experiment and a run."""
    host = testinfra.get_host(f"podman://{group}")
    database = testinfra.get_host("podman://tutorial-database")
    for statement in (
        "CREATE ROLE tutor LOGIN CREATEDB CREATEROLE PASSWORD 'byhand'",
        "CREATE DATABASE byhand OWNER tutor",
    ):
        database.check_output("runuser -u postgres -- psql --command=%s", statement)
    host.check_output("systemd-run --unit=tmux sh -c %s", BY_HAND.format(port=PORT))
    wait_until_served(host, port=PORT)
    call(host, "experiments/create", port=PORT, name="by hand")
    call(host, "runs/create", port=PORT, experiment_id="0")
    yield host
    host.run("systemctl stop tmux")


TAKE_OVER = {
    "mlflow_server_instance": "mlflow-adopted",
    "mlflow_server_port": PORT,
    # Not the inventory's name: a database that is reached only over the network, as RDS is.
    "mlflow_server_database_host": "tutorial-database.dns.podman",
    "mlflow_server_database_ca": "",
    "mlflow_server_database_name": "byhand",
    "mlflow_server_database_owner": "tutor",
    "mlflow_server_database_owner_password": "byhand",
    "mlflow_server_database_logins": [{"name": "adopted_a", "password": "new one"}],
    "postgresql_admin_user": "tutor",
    "postgresql_admin_password": "byhand",
    "mlflow_server_artifacts_destination": "s3://tutorial/byhand",
}


def test_the_holder_of_the_port_is_named_and_not_killed(control, host, by_hand):
    """It is somebody's server, with clients at work."""
    said = control.refuse(**TAKE_OVER)
    assert "5005" in said and "tmux.service" in said and "python" in said, said
    assert host.service("tmux").is_running


def test_the_new_one_serves_beside_the_old_and_then_in_its_place(control, host, by_hand):
    """The same database: what was logged by hand is there, and login roles that drop nothing."""
    control.converge(**TAKE_OVER | {"mlflow_server_port": 5006})
    assert has_experiment(host, "by hand", port=5006)
    host.check_output("systemctl stop tmux")
    control.converge(**TAKE_OVER)
    assert has_experiment(host, "by hand", port=PORT)
    assert request(host, "/health", port=PORT)[0] == 200
    environment = host.check_output("cat /etc/mlflow-adopted/wanted/database.env")
    assert 'PGUSER="adopted_a"' in environment
    assert "changed=0" in control.converge(**TAKE_OVER)
