"""A team's server: what the real client writes is in PostgreSQL and S3, and only there."""

import json
import re

import pytest
from api import colour, request
from control import ROOT

# What each server has in the inventory, so that a test can look for it behind the server's back.
DATABASES = {"tutorial-proxied": "proxied", "tutorial-direct": "direct"}
S3 = {
    "AWS_ACCESS_KEY_ID": "AKIATUTORIAL",
    "AWS_SECRET_ACCESS_KEY": "canary/s3+secret=",
    "AWS_ENDPOINT_URL": "https://tutorial-s3:9000",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}
# The calls that the S3 server notes, and the action that AWS wants for each.
ACTIONS = {
    "LIST BUCKET": "s3:ListBucket",
    "GET OBJECT": "s3:GetObject",
    "HEAD OBJECT": "s3:GetObject",
    "CREATE OBJECT": "s3:PutObject",
    "initiate multipart": "s3:PutObject",
    "put multipart": "s3:PutObject",
    "complete multipart": "s3:PutObject",
    "delete multi": "s3:DeleteObject",
}


@pytest.fixture
def name(host):
    return host.backend.name


DAYS = {}


@pytest.fixture
def day(control, name, certificate):
    """A client's day against the server, once; clients of the direct one have their own key."""
    if name in DAYS:
        return DAYS[name]
    own = {} if name == "tutorial-proxied" else S3 | {"AWS_CA_BUNDLE": certificate("tutorial-s3")}
    done = control.client(ROOT / "demo/client.py", **own)
    assert done.returncode == 0, done.stdout
    DAYS[name] = re.search(r"demo-[0-9a-f]{8}", done.stdout)[0]
    return DAYS[name]


def test_what_a_client_writes_is_in_the_tables_and_in_the_bucket(day, name, sql, s3):
    """A server that quietly kept it in sqlite or on its disk would lose it with the host."""
    query = (
        "SELECT r.run_uuid, e.artifact_location FROM runs r JOIN experiments e USING "
        f"(experiment_id) JOIN metrics m USING (run_uuid) WHERE e.name = '{day}' AND m.key = 'loss'"
    )
    rows = sql(DATABASES[name], query)
    assert len(rows) == 5
    run, location = rows[0].split("|")
    root = {"proxied": "mlflow-artifacts:/", "direct": "s3://tutorial/direct/"}[DATABASES[name]]
    assert location.startswith(root)
    files = s3.check_output(f"find /srv/s3/tutorial/{DATABASES[name]} -type f")
    assert f"/{run}/artifacts/files/weights.bin" in files
    assert files.count("model.pkl") >= 1


def test_nothing_is_kept_on_the_server_itself(day, host):
    left = host.check_output("find /var/lib/mlflow -type f -size +0")
    assert left == ""


def test_only_five_actions_of_s3_are_called(day, s3):
    """So the policy in the role's README is enough, and nobody needs s3:*."""
    journal = s3.check_output("journalctl --unit s3 --no-pager --output cat")
    calls = re.findall(r"serve s3: (?!bucketname:|Listed |Access Denied)(\w+ \w+|.*)", journal)
    assert {"CREATE OBJECT", "GET OBJECT", "put multipart"} <= set(calls)
    assert set(calls) - ACTIONS.keys() == set()


def test_the_login_can_write_rows_and_change_no_table(host):
    """A hole in MLflow must not be able to drop a table; migrations are the owner's."""
    slot = f"/etc/mlflow/{colour(host)}"
    code = (
        "import psycopg2, sys\n"
        "connection = psycopg2.connect('')\n"
        "connection.autocommit = True\n"
        "for statement in sys.argv[1:]:\n"
        "    try: connection.cursor().execute(statement); print('done')\n"
        "    except psycopg2.errors.InsufficientPrivilege: print('refused')\n"
    )
    statements = [
        "SELECT count(*) FROM runs",
        "UPDATE tags SET value = value",
        "CREATE TABLE another (i int)",
        "ALTER TABLE runs ADD COLUMN another int",
        "DROP TABLE runs",
        "TRUNCATE runs",
    ]
    done = host.check_output(
        "systemd-run --quiet --wait --pipe --collect --uid=mlflow --gid=mlflow "
        f"--property=EnvironmentFile={slot}/server.env "
        f"--property=EnvironmentFile={slot}/database.env "
        f"--setenv=PGSSLROOTCERT={slot}/pgsslrootcert --setenv=PGSERVICEFILE={slot}/pgservicefile "
        f"{slot}/release/bin/python -c %s " + " ".join(["%s"] * len(statements)),
        code,
        *statements,
    )
    assert done.split() == ["done"] * 2 + ["refused"] * 4


def test_every_connection_to_the_database_is_encrypted(name, day, sql):
    """Passwords and parameters of runs cross a network."""
    query = (
        "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
        "WHERE client_addr IS NOT NULL"
    )
    assert sql(DATABASES[name], query) == ["t"]


def test_nobody_is_given_a_link_past_the_server(host):
    """By it a client or a browser would talk to S3 itself, and hang where it cannot reach it. Both
    ask the server whether there are any, the client for other things, too.
    """
    for api in ("/api", "/ajax-api"):
        status, body = request(host, f"{api}/3.0/mlflow/server-info")
        told = json.loads(body)
        assert status == 200 and told["store_type"] == "SqlStore"
        assert told["multipart_uploads_enabled"] is told["multipart_downloads_enabled"] is False
        for method, path in {
            "GET": "mlflow-artifacts/presigned/1/x",
            "PUT": "mlflow-artifacts/mpu/create/1/x",
            "POST": "mlflow/artifacts/presigned-download-url",
        }.items():
            assert request(host, f"{api}/2.0/{path}", method)[0] == 404
