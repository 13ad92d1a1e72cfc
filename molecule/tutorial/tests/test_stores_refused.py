"""A database or a store that cannot work is refused with what to do, and what serves goes on.

Each stage at which it is refused is met once by site.yml. What else is refused at it is asked of
the probe on the host, as the roll asks: with the environment of what serves, but for one variable.
That the variables of operators are in that environment: tests/unit/test_templates.py.
"""

import pytest
from api import call, colour, create_experiment, has_experiment
from canaries import in_texts
from control import Control
from slot import probe

# What does not depend on the mode is tried on one host.
group = "tutorial-proxied"

# The same server by a name that the inventory does not have, as a database that others look after.
NOT_OURS = {
    "mlflow_server_allow_replacement": True,
    "mlflow_server_database_host": "tutorial-database.dns.podman",
    "mlflow_server_database_ca": "",
}
# What must not be shown, though it is what is refused.
WRONG = "canary-wrong"


@pytest.fixture
def goes_on(host):
    """The same process serves the same data after the test."""

    def serving():
        return host.check_output(
            f"systemctl show --value --property=MainPID,InvocationID mlflow-{colour(host)}"
        )

    before, name = serving(), create_experiment(host)
    call(host, "runs/create", experiment_id="0")
    yield
    assert serving() == before
    assert has_experiment(host, name)


# An inventory elsewhere, of which group_vars of the project are not part.
BARE = "mlflow: {{hosts: {{{}: {{ansible_connection: containers.podman.podman}}}}}}"


@pytest.mark.parametrize(
    "playbook",
    ["site.yml", "playbooks/rotate_database_password.yml", "playbooks/credentials_status.yml"],
)
def test_an_inventory_that_does_not_see_its_variables_is_refused(host, goes_on, tmp_path, playbook):
    """It asks for an empty server with sqlite in the place of the team's, which the first run would
    make and the others would call well.
    """
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(BARE.format(host.backend.name))
    said = Control(str(inventory), host.backend.name).refuse(playbook=playbook)
    for phrase in (
        "Wanted mlflow with its metadata in sqlite:////var/lib/mlflow/mlflow.db",
        "it serves those in postgresql://tutorial-database:5432/proxied",
        f"is this the right inventory, with its group_vars beside it ({inventory})?",
    ):
        assert phrase in said, said


# The stages, one after the other


@pytest.mark.parametrize(
    ("variables", "phrases"),
    [
        pytest.param(
            {"mlflow_server_database_logins": []},
            ["Wanted the role and its password", "mlflow_server_database_logins"],
            id="by the variables alone",
        ),
        pytest.param(
            NOT_OURS | {"mlflow_server_database_owner_password": WRONG},
            ["password authentication failed", "proxied_owner", "vault", "Nothing has changed"],
            id="where the owner makes the tables",
        ),
        pytest.param(
            {"aws_credentials_secret_access_key": WRONG},
            ["was answered with SignatureDoesNotMatch", "a key that is valid", "serves what it"],
            id="by the store, once the idle colour has started",
        ),
    ],
)
def test_what_cannot_work_is_refused(control, goes_on, variables, phrases):
    """The operator reads what was wanted, what was found and what to do, and no secret."""
    said = control.refuse(**variables)
    assert [phrase for phrase in phrases if phrase not in said] == [], said
    assert in_texts({"wrong": WRONG}, {"said": said}) == []


def test_a_missing_right_is_named(control, goes_on, sql):
    """Without the check the server would start, and fail at the first thing that is deleted."""
    sql("proxied", "REVOKE DELETE ON tags, params FROM proxied_readwrite")
    said = control.refuse(mlflow_server_environment={"A": "change"}, **NOT_OURS)
    for phrase in (
        "found none of: DELETE on params, DELETE on tags",
        "GRANT SELECT, INSERT",
        "What serves is unchanged",
    ):
        assert phrase in said, said
    control.converge()
    (again,) = sql("proxied", "SELECT has_table_privilege('proxied_a', 'tags', 'DELETE')")
    assert again == "t", "where the database is ours the right comes back by itself"


# What else is refused there


def test_what_serves_is_not_refused(host):
    """Otherwise what follows would not show what it is that is refused."""
    for what in ("database", "artifacts"):
        assert probe(host, what) == (0, "")


@pytest.mark.parametrize(
    ("environment", "phrases"),
    [
        pytest.param(
            {"PGPORT": "5433"},
            ["5433 failed: Connection refused", "let this host through"],
            id="that cannot be reached",
        ),
        pytest.param(
            {"PGHOST": "no-such-host"},
            ["could not translate host name", "fix the host's name"],
            id="whose name nobody knows",
        ),
        pytest.param(
            {"PGSSLROOTCERT": "/dev/null"},
            ["certificate", "fix the sslmode and the CA"],
            id="whose certificate is of nobody who is known",
        ),
        pytest.param(
            {"PGHOST": "tutorial-database.dns.podman"},
            ["certificate", "fix the sslmode and the CA"],
            id="whose certificate is for another name",
        ),
        pytest.param(
            {"PGPASSWORD": WRONG},
            ["password authentication failed", "proxied_a@", "into the vault"],
            id="with another password",
        ),
        pytest.param(
            {"MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://tutorial/proxied"},
            ["found in the database that they are at mlflow-artifacts:/0", "for ever"],
            id="with artifacts past the server, where experiment 0 is proxied",
        ),
        pytest.param(
            {"MLFLOW_ARTIFACTS_DESTINATION": "s3://tutorial/elsewhere"},
            ["found runs whose artifacts are at s3://tutorial/proxied", "root_change: true"],
            id="with artifacts in another place, where runs have some in the old one",
        ),
    ],
)
def test_a_database_is_refused(host, environment, phrases):
    """Asked while what serves goes on, so that nothing of it changes."""
    call(host, "runs/create", experiment_id="0")
    code, said = probe(host, "database", **environment)
    assert code != 0
    assert [phrase for phrase in phrases if phrase not in said] == [], said
    assert in_texts({"wrong": WRONG, "right": "canary-proxied"}, {"said": said}) == []


@pytest.mark.parametrize(
    ("revision", "phrases"),
    [
        ("451aebb31d03", ["an older one; make a backup", "mlflow db upgrade"]),
        ("ffffffffffff", ["a newer, unknown one; take that newer version", "no downgrade"]),
    ],
)
def test_a_schema_of_another_release_is_refused(host, sql, revision, phrases):
    """Of the older ones MLflow would change some by itself, and then nothing older can start."""
    (head,) = sql("proxied", "SELECT version_num FROM alembic_version")
    sql("proxied", f"UPDATE alembic_version SET version_num = '{revision}'")
    try:
        code, said = probe(host, "database")
    finally:
        sql("proxied", f"UPDATE alembic_version SET version_num = '{head}'")
    assert code != 0
    for phrase in ["at schema revision " + head, f"found {revision}", *phrases]:
        assert phrase in said, said


def test_an_empty_database_of_others_needs_its_owner(host, sql):
    """The login could never make the tables, and MLflow would say so in forty lines."""
    sql("postgres", "CREATE DATABASE hollow OWNER proxied_owner")
    code, said = probe(host, "database", PGDATABASE="hollow")
    assert code != 0 and "give mlflow_server_database_owner_password" in said, said


@pytest.mark.parametrize(
    ("environment", "phrases"),
    [
        pytest.param(
            {"MLFLOW_ARTIFACTS_DESTINATION": "s3://nowhere/proxied"},
            ["PutObject was answered with NoSuchBucket", "create the bucket"],
            id="a bucket that is not there",
        ),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "AKIANOBODY", "AWS_SECRET_ACCESS_KEY": WRONG},
            ["was answered with InvalidAccessKeyId", "a key that is valid"],
            id="a key that nobody has",
        ),
        pytest.param(
            {
                "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9",
            },
            ["attach a profile to the instance"],
            id="an instance without a profile",
        ),
    ],
)
def test_a_store_is_refused(host, environment, phrases):
    """Which right it is that a key lacks: tests/unit/test_s3_actions.py."""
    code, said = probe(host, "artifacts", **environment)
    assert code != 0
    assert [phrase for phrase in phrases if phrase not in said] == [], said
    assert in_texts({"wrong": WRONG}, {"said": said}) == []
