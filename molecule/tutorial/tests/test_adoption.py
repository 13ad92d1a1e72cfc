"""A server as the tutorial makes it is taken over, with its database and its bucket."""

from base64 import b64encode
from contextlib import contextmanager

import pytest
import testinfra
from api import wait_until_served
from moto.server import ThreadedMotoServer

group = "tutorial-direct"
PORT = 5005
PYTHON = "/etc/mlflow/wanted/release/bin/python"

KEY = (
    "AWS_ACCESS_KEY_ID=AKIABYHAND AWS_SECRET_ACCESS_KEY=byhand "
    "AWS_ENDPOINT_URL=https://tutorial-s3:9000 AWS_CA_BUNDLE=/etc/mlflow/wanted/aws_ca_bundle "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
)
# As the tutorial's reader types it, but for the scheme, with which MLflow 3.17 does not start, and
# without the processes that tests have no core for.
BY_HAND = f"""
export {KEY} MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
cd /root
exec {PYTHON} -m mlflow server -h 127.0.0.1 -p {PORT} --workers 1 \\
    --backend-store-uri postgresql+psycopg2://tutor:byhand@tutorial-database/byhand \\
    --default-artifact-root s3://tutorial/byhand
"""

# Logs a text, and prints where to, and the texts of all runs of the experiment, the last one first.
LOG = """
import mlflow, sys
port, experiment, text = sys.argv[1:]
mlflow.set_tracking_uri(f"http://127.0.0.1:{port}")
mlflow.set_experiment(experiment)
with mlflow.start_run() as run:
    mlflow.log_text(text, "note.txt")
uris = [each.info.artifact_uri for each in mlflow.search_runs(output_format="list")]
print(run.info.artifact_uri, *(mlflow.artifacts.load_text(f"{uri}/note.txt") for uri in uris))
"""


def log(host, experiment, text, key="", port=PORT):
    """Log a text with the real client; return where to, and all texts of that experiment."""
    command = f"env {key} {PYTHON} -c %s {port} %s %s 2>/dev/null"
    uri, *texts = host.check_output(command, LOG, experiment, text).splitlines()[-1].split()
    return uri, texts


@pytest.fixture(scope="module")
def by_hand(sql):
    """The tutorial's server, in the place of its tmux, with an experiment and a run."""
    host = testinfra.get_host(f"podman://{group}")
    sql(
        "postgres",
        "CREATE ROLE tutor LOGIN CREATEDB CREATEROLE PASSWORD 'byhand'",
        "CREATE DATABASE byhand OWNER tutor",
    )
    host.check_output("systemd-run --unit=tmux sh -c %s", BY_HAND)
    wait_until_served(host, port=PORT)
    assert log(host, "old", "first", KEY)[1] == ["first"]
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
    # Beside a server that the inventory has under its usual name.
    "mlflow_server_allow_replacement": True,
    # For each host of the inventory, as extra variables are; so all of them have this database.
    "mlflow_server_secret_environment": {
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": "canary-kek-passphrase",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": b64encode(b"canary--" * 4).decode(),
    },
    "postgresql_admin_user": "tutor",
    "postgresql_admin_password": "byhand",
    "mlflow_server_artifacts_destination": "s3://tutorial/byhand",
}


def test_the_holder_of_the_port_is_named_and_not_killed(control, host, by_hand):
    """It is somebody's server, with clients at work."""
    said = control.refuse(**TAKE_OVER)
    assert "5005" in said and "tmux.service" in said and "python" in said, said
    assert host.service("tmux").is_running


def test_the_new_one_serves_beside_the_old(control, host, by_hand):
    """With its database and bucket: what was logged by hand is there, and clients go on."""
    control.converge(**TAKE_OVER | {"mlflow_server_port": 5006})
    uri, texts = log(host, "old", "second", KEY, port=5006)
    assert uri.startswith("s3://tutorial/byhand/") and texts == ["second", "first"]
    environment = host.check_output("cat /etc/mlflow-adopted/wanted/database.env")
    assert 'PGUSER="adopted_a"' in environment, "a role that can drop nothing"


@contextmanager
def instance_profile(control):
    """Serve a profile's key, as EC2 does, while the block runs; the address.

    Our S3 knows the key that moto gives out.
    """
    form = "--format={{(index .Subnets 0).Gateway}}"
    gateway = control.podman("network", "inspect", form, "mlflow-ansible")
    server = ThreadedMotoServer(gateway, port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def keys(host):
    """Return what is in the files for keys that are wanted, and that serve."""
    serving = host.check_output("readlink /etc/mlflow-adopted/current.sock").split("/")[-2]
    slots = " ".join(
        f"/etc/mlflow-adopted/{slot}/aws_shared_credentials_file" for slot in ("wanted", serving)
    )
    return host.check_output(f"cat {slots}")


def test_in_its_place_artifacts_go_through_the_server_with_no_key_at_all(control, host, by_hand):
    """As the end of docs/tutorial.md has it. A key that is left behind would be taken before the
    profile, and be refused once it is deleted."""
    host.check_output("systemctl stop tmux")
    assert keys(host).count("AKIATUTORIAL") == 2
    with instance_profile(control) as address:
        wanted = TAKE_OVER | {
            "mlflow_server_serve_artifacts": True,
            "mlflow_server_allow_artifact_root_change": True,
            "aws_credentials_mode": "instance_profile",
            "aws_credentials_secret_access_key": "",
            "mlflow_server_environment": {"AWS_EC2_METADATA_SERVICE_ENDPOINT": address},
        }
        control.converge(**wanted)
        assert keys(host).split() == ["[default]"] * 2
        uri, texts = log(host, "new", "through")
        assert uri.startswith("mlflow-artifacts:/") and texts == ["through"]
        uri, texts = log(host, "old", "third", KEY)
        assert uri.startswith("s3://tutorial/byhand/") and texts == ["third", "second", "first"]
        control.settled(**wanted)
