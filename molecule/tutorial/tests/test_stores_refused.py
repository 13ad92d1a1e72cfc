"""A database or a store that cannot work is refused with what to do, and what serves goes on."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.request

import boto3
import pytest
import testinfra
from api import call, colour, create_experiment, has_experiment

# What does not depend on the mode is tried on one host.
group = "tutorial-proxied"

# The same server by a name that the inventory does not have, as a database that others look after.
NOT_OURS = {
    "mlflow_server_database_host": "tutorial-database.dns.podman",
    "mlflow_server_database_ca": "",
}


@pytest.fixture(autouse=True)
def goes_on(host):
    """Every test here ends with the same process serving the same data."""

    def serving():
        return host.check_output(
            f"systemctl show --value --property=MainPID,InvocationID mlflow-{colour(host)}"
        )

    before, name = serving(), create_experiment(host)
    call(host, "runs/create", experiment_id="0")
    yield
    assert serving() == before
    assert has_experiment(host, name)


def sql(database, *statements):
    """Run statements as the database server's own administrator; return the rows of the last."""
    command = "runuser -u postgres -- psql --set=ON_ERROR_STOP=1 --tuples-only --no-align"
    server = testinfra.get_host("podman://tutorial-database")
    for statement in statements:
        rows = server.check_output(f"{command} --dbname={database} --command=%s", statement)
    return rows.splitlines()


def logins(name, password):
    return {"mlflow_server_database_logins": [{"name": name, "password": password}]}


@pytest.mark.parametrize(
    ("variables", "phrases"),
    [
        pytest.param(
            {"mlflow_server_database_port": 5433} | NOT_OURS,
            ["5433 failed: Connection refused", "let this host through", "Nothing has changed"],
            id="a database that cannot be reached",
        ),
        pytest.param(
            {"mlflow_server_database_host": "no-such-host"},
            ["could not translate host name", "mend the host's name"],
            id="a host name that nobody knows",
        ),
        pytest.param(
            NOT_OURS | {"mlflow_server_database_sslmode": "verify-full"},
            ["certificate", "mend the sslmode and the CA"],
            id="a certificate that nothing is checked against",
        ),
        pytest.param(
            NOT_OURS | {"mlflow_server_database_owner_password": "canary-wrong"},
            ["password authentication failed", "proxied_owner", "into the vault"],
            id="a wrong password of the owner",
        ),
        pytest.param(
            NOT_OURS | logins("proxied_a", "canary-wrong"),
            ["password authentication failed", "proxied_a@", "into the vault"],
            id="a wrong password of the login",
        ),
        pytest.param(
            {"mlflow_server_database_logins": []},
            ["Wanted the role and its password", "mlflow_server_database_logins"],
            id="a database without a login",
        ),
        pytest.param(
            {"mlflow_server_serve_artifacts": False},
            ["found in the database that they are at mlflow-artifacts:/0", "for ever"],
            id="artifacts past the server, where experiment 0 is proxied",
        ),
        pytest.param(
            {"mlflow_server_artifacts_destination": "s3://tutorial/elsewhere"},
            ["found runs whose artifacts are at s3://tutorial/proxied", "root_change: true"],
            id="another place, where runs have artifacts in the old one",
        ),
        pytest.param(
            {
                "mlflow_server_artifacts_destination": "s3://nowhere/proxied",
                "mlflow_server_allow_artifact_root_change": True,
            },
            ["PutObject was answered with NoSuchBucket", "create the bucket"],
            id="a bucket that is not there",
        ),
        pytest.param(
            {"aws_credentials_secret_access_key": "canary-wrong"},
            ["was answered with SignatureDoesNotMatch", "a key that is valid"],
            id="a wrong secret of the key",
        ),
        pytest.param(
            {"aws_credentials_access_key_id": "AKIANOBODY"},
            ["was answered with InvalidAccessKeyId", "a key that is valid"],
            id="a key that nobody has",
        ),
        pytest.param(
            {
                "aws_credentials_mode": "instance_profile",
                "aws_credentials_secret_access_key": "",
                "mlflow_server_environment": {
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"
                },
            },
            ["attach a profile to the instance"],
            id="an instance without a profile",
        ),
    ],
)
def test_a_store_that_cannot_work_is_refused(control, variables, phrases):
    """The operator reads what was wanted, what was found and what to do, and no secret."""
    said = control.refuse(**variables)
    assert [phrase for phrase in phrases if phrase not in said] == [], said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("revision", "phrases"),
    [
        ("451aebb31d03", ["an older one; make a backup", "mlflow db upgrade"]),
        ("ffffffffffff", ["a newer, unknown one; take that newer version", "no downgrade"]),
    ],
)
def test_a_schema_of_another_release_is_refused(control, revision, phrases):
    """Asked of the other server's database, as if this host were to serve it with its release."""
    (head,) = sql("direct", "SELECT version_num FROM alembic_version")
    other = NOT_OURS | logins("direct_a", "пароль-Ω ß canary-direct")
    sql("direct", f"UPDATE alembic_version SET version_num = '{revision}'")
    try:
        said = control.refuse(mlflow_server_database_name="direct", **other)
    finally:
        sql("direct", f"UPDATE alembic_version SET version_num = '{head}'")
    for phrase in ["at schema revision " + head, f"found {revision}", *phrases]:
        assert phrase in said, said
    assert "What serves is unchanged" in said


def test_a_missing_right_is_named(control):
    """Without the check the server would start, and fail at the first thing that is deleted."""
    sql("proxied", "REVOKE DELETE ON tags, params FROM proxied_readwrite")
    said = control.refuse(mlflow_server_environment={"A": "change"}, **NOT_OURS)
    for phrase in ("found none of: DELETE on params, DELETE on tags", "GRANT SELECT, INSERT"):
        assert phrase in said, said
    control.converge()
    (again,) = sql("proxied", "SELECT has_table_privilege('proxied_a', 'tags', 'DELETE')")
    assert again == "t", "where the database is ours the right comes back by itself"


def test_an_empty_database_of_others_needs_its_owner(control):
    """The login could never make the tables, and MLflow would say so in forty lines."""
    sql("postgres", "CREATE DATABASE hollow OWNER proxied_owner")
    said = control.refuse(
        mlflow_server_database_name="hollow", mlflow_server_database_owner_password="", **NOT_OURS
    )
    assert "give mlflow_server_database_owner_password" in said


@pytest.fixture
def aws(control):
    """AWS's own API with its access control, fresh for each test: its address."""
    form = "--format={{(index .Subnets 0).Gateway}}"
    gateway = control.podman("network", "inspect", form, "mlflow-ansible")
    with socket.socket() as free:
        free.bind((gateway, 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        ["moto_server", f"--host={gateway}", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        url = f"http://{gateway}:{port}"
        try:
            for _ in range(150):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/moto-api/", timeout=5)
                    break
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()


def with_policy(url, *actions):
    """Make a user who may do these actions of S3, and return the variables of his key."""
    root = {"endpoint_url": url, "region_name": "us-east-1"}
    root |= {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
    boto3.client("s3", **root).create_bucket(Bucket="guarded")
    iam = boto3.client("iam", **root)
    iam.create_user(UserName="mlflow")
    document = {
        "Effect": "Allow",
        "Action": [f"s3:{action}" for action in actions],
        "Resource": "*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [document]})
    iam.put_user_policy(UserName="mlflow", PolicyName="s3", PolicyDocument=policy)
    key = iam.create_access_key(UserName="mlflow")["AccessKey"]
    return {
        "aws_credentials_access_key_id": key["AccessKeyId"],
        "aws_credentials_secret_access_key": key["SecretAccessKey"],
        "aws_credentials_endpoint_url": url,
        "aws_credentials_ca": "",
        "mlflow_server_artifacts_destination": "s3://guarded/mlflow",
        "mlflow_server_allow_artifact_root_change": True,
    }


def ask_for_permission(url):
    """Let AWS look at policies from now on."""
    kind = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", kind, method="POST")
    urllib.request.urlopen(request, timeout=5).read()


@pytest.mark.parametrize(
    ("actions", "missing"),
    [
        (["ListBucket", "GetObject", "DeleteObject"], "PutObject"),
        (["PutObject", "ListBucket", "DeleteObject"], "GetObject"),
        (["PutObject", "ListBucket", "GetObject"], "DeleteObject"),
    ],
)
def test_a_key_without_a_right_is_told_which(control, aws, actions, missing):
    """An upload that works today and a delete that fails next month is the worst of both."""
    variables = with_policy(aws, *actions)
    ask_for_permission(aws)
    said = control.refuse(**variables)
    assert f"s3:{missing}" in said and "s3://guarded/mlflow" in said, said


def test_the_profile_of_the_instance_takes_the_place_of_a_key(control, host, aws):
    """A key that is left behind would go before the profile, and be refused once it is deleted."""
    variables = with_policy(aws, "*") | {
        "mlflow_server_instance": "mlflow-profile",
        "mlflow_server_port": 5001,
        "mlflow_server_database_host": "",
        "mlflow_server_database_ca": "",
        "mlflow_server_environment": {"AWS_EC2_METADATA_SERVICE_ENDPOINT": aws},
    }
    key = "aws_access_key_id"
    for mode, count in (("static", "1"), ("instance_profile", "0")):
        control.converge(**variables | {"aws_credentials_mode": mode})
        serving = host.check_output("readlink /etc/mlflow-profile/current.sock").split("/")[-2]
        for slot in ("wanted", serving):
            file = f"/etc/mlflow-profile/{slot}/aws_shared_credentials_file"
            assert host.run(f"grep -c {key} {file}").stdout.strip() == count
        variables["aws_credentials_secret_access_key"] = ""
