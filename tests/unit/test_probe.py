"""What the probe makes of answers of databases and stores; the scenarios have real ones."""

import contextlib
import io
import json
import sqlite3
import sys

import probe
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from sqlalchemy import create_engine, text
from werkzeug.security import generate_password_hash


@pytest.fixture
def database():
    """A tracking database as far as the probe looks at it, with experiment 0 proxied."""
    with create_engine("sqlite://").connect() as connection:
        connection.execute(text("CREATE TABLE experiments (experiment_id, artifact_location)"))
        connection.execute(text("CREATE TABLE runs (run_uuid)"))
        connection.execute(text("INSERT INTO experiments VALUES (0, 'mlflow-artifacts:/0')"))
        yield connection


def root(connection, monkeypatch, former="", **settings):
    """Check settings against the database and the settings that serve at present."""
    for name in ("MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO(former))
    probe.check_artifact_root(connection)


FORMER = """# Ansible managed
MLFLOW_ARTIFACTS_DESTINATION="s3://a/b"
PGPASSWORD="it's \\"x\\""
PEM="a
b=#"
"""


def test_the_same_place_is_no_change(database, monkeypatch):
    database.execute(text("INSERT INTO runs VALUES ('r')"))
    root(database, monkeypatch, FORMER, MLFLOW_ARTIFACTS_DESTINATION="s3://a/b")


def test_another_place_is_refused_once_there_are_runs(database, monkeypatch):
    """Nothing in the database says where proxied artifacts are; only the former settings do."""
    root(database, monkeypatch, FORMER, MLFLOW_ARTIFACTS_DESTINATION="s3://a/c")
    database.execute(text("INSERT INTO runs VALUES ('r')"))
    with pytest.raises(probe.Refusal, match="artifacts are at s3://a/b.*root_change: true"):
        root(database, monkeypatch, FORMER, MLFLOW_ARTIFACTS_DESTINATION="s3://a/c")


def test_a_first_start_has_nothing_to_compare_with(database, monkeypatch):
    database.execute(text("INSERT INTO runs VALUES ('r')"))
    root(database, monkeypatch, MLFLOW_ARTIFACTS_DESTINATION="s3://a/c")


def test_settings_of_another_database_say_nothing_of_this_ones_artifacts(database, monkeypatch):
    """Else the way back from a server that was started beside its data is refused."""
    database.execute(text("INSERT INTO runs VALUES ('r')"))
    former = 'MLFLOW_BACKEND_STORE_URI="sqlite:////x"\nMLFLOW_ARTIFACTS_DESTINATION="/x"\n'
    wanted = {"MLFLOW_BACKEND_STORE_URI": "postgresql://", "MLFLOW_ARTIFACTS_DESTINATION": "s3://a"}
    root(database, monkeypatch, former, **wanted)
    with pytest.raises(probe.Refusal, match="artifacts are at /x"):
        root(database, monkeypatch, former.replace("sqlite:////x", "postgresql://"), **wanted)


def test_a_secret_address_of_the_database_is_compared_with_too(database, monkeypatch):
    """It goes before the one that everybody may read. And a line that was spoilt by hand, for which
    the roll is there, spoils no other.
    """
    database.execute(text("INSERT INTO runs VALUES ('r')"))
    former = 'MLFLOW_ARTIFACTS_DESTINATION="/x"\nMLFLOW_BACKEND_STORE_URI="sqlite:///x"\n\n'
    former += 'MLFLOW_BACKEND_STORE_URI="mysql://a:b@db/c"\n'
    wanted = {"MLFLOW_BACKEND_STORE_URI": "mysql://a:b@db/c", "MLFLOW_ARTIFACTS_DESTINATION": "/y"}
    for text_of_files in (former, former + 'BROKEN="\n'):
        with pytest.raises(probe.Refusal, match="artifacts are at /x"):
            root(database, monkeypatch, text_of_files, **wanted)


@pytest.mark.parametrize("wanted", ["s3://a/b", "s3://a/bc", "s3://a/b/"])
def test_direct_artifacts_are_where_experiment_0_says(database, monkeypatch, wanted):
    """Its root was written when the database was made. Half of a name is another place."""
    database.execute(text("UPDATE experiments SET artifact_location = 's3://a/b/0'"))
    if wanted.rstrip("/") == "s3://a/b":
        root(database, monkeypatch, MLFLOW_DEFAULT_ARTIFACT_ROOT=wanted)
    else:
        with pytest.raises(probe.Refusal, match="at s3://a/b/0, for ever"):
            root(database, monkeypatch, MLFLOW_DEFAULT_ARTIFACT_ROOT=wanted)
    with pytest.raises(probe.Refusal, match="mlflow_server_serve_artifacts"):
        root(database, monkeypatch, MLFLOW_ARTIFACTS_DESTINATION=wanted)


@pytest.mark.parametrize(
    ("said", "what_to_do"),
    [
        ('connection to server at "db", port 5432 failed: Connection refused', "security group"),
        ("failed: timeout expired", "security group"),
        ('FATAL: password authentication failed for user "x"', "into the vault"),
        ("FATAL: no pg_hba.conf entry for host", "let this host's address in"),
        ('root certificate file "/x" does not exist', "CA certificate"),
        ('FATAL: database "mlflow" does not exist', "create it"),
        ("FATAL: remaining connection slots are reserved", "raise max_connections"),
        ("something new", "fix that"),
    ],
)
def test_a_refused_login_says_what_to_do(monkeypatch, said, what_to_do):
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg2://u:canary@db/mlflow")
    monkeypatch.delenv("PGHOST", raising=False)
    refusal = str(probe.refused_login(Exception(said)))
    assert what_to_do in refusal and "canary" not in refusal


@pytest.mark.parametrize(
    ("code", "operation", "what_to_do"),
    [
        ("AccessDenied", "PutObject", "add s3:PutObject for s3://a/b"),
        ("AccessDenied", "ListObjectsV2", "add s3:ListBucket for s3://a/b"),
        ("403", "HeadObject", "add s3:GetObject for s3://a/b"),
        ("NoSuchBucket", "PutObject", "create the bucket"),
        ("ExpiredToken", "PutObject", "a key that is valid"),
        ("SignatureDoesNotMatch", "PutObject", "a key that is valid"),
        ("PermanentRedirect", "PutObject", "the region"),
        ("SlowDown", "PutObject", "fix that"),
    ],
)
def test_a_refused_object_says_which_right_is_missing(code, operation, what_to_do):
    """MLflow and boto3 wrap the answer of S3 in errors of their own; it is looked for in them."""
    try:
        try:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)
        except ClientError:
            raise ValueError("upload failed")  # noqa: B904 - as boto3 does
    except ValueError as error:
        refusal = str(probe.refused_store(error, "s3://a/b", "put"))
    assert f"{operation} was answered with {code}" in refusal and what_to_do in refusal


@pytest.mark.parametrize(
    ("message", "what_to_do"),
    [
        (
            "User: arn:aws:iam::1:user/m is not authorized to perform: kms:GenerateDataKey on "
            "resource: arn:aws:kms:eu-central-1:1:key/abc because no identity-based policy allows "
            "the kms:GenerateDataKey action",
            "add kms:GenerateDataKey for arn:aws:kms:eu-central-1:1:key/abc to the policy of the "
            "user or role and to that of the key.",
        ),
        (
            "User: arn:aws:iam::1:user/m is not authorized to perform: s3:PutObject on resource: "
            '"arn:aws:s3:::b/x" with an explicit deny in a resource-based policy',
            "take the deny of s3:PutObject for arn:aws:s3:::b/x out of the policy that is named",
        ),
        ("Access Denied", "add s3:PutObject for s3://a/b to the policy of the user or role."),
    ],
)
def test_the_action_that_aws_names_is_the_one_that_is_told(message, what_to_do):
    """To put an object into a bucket with a key of KMS takes an action of another service."""
    error = ClientError({"Error": {"Code": "AccessDenied", "Message": message}}, "PutObject")
    assert what_to_do in str(probe.refused_store(error, "s3://a/b", "put"))


@pytest.mark.parametrize(
    ("code", "message", "what_to_do"),
    [
        ("RequestTimeTooSkewed", "The difference between the times is too large.", "clock"),
        ("SecondLevelDomainForbidden", "Please use virtual hosted style", "STYLE: virtual"),
        (
            "InvalidRequest",
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with "
            "Object Lock parameters",
            "CHECKSUM_CALCULATION: when_supported",
        ),
    ],
)
def test_what_a_policy_cannot_cure_is_told_apart(code, message, what_to_do):
    """Each of these was seen by somebody who then looked for a right that was missing."""
    error = ClientError({"Error": {"Code": code, "Message": message}}, "PutObject")
    said = str(probe.refused_store(error, "s3://a/b", "put"))
    assert what_to_do in said and "policy" not in said


def test_a_refusal_that_is_only_told_in_a_text_is_understood():
    """As MLflow sums up the downloads of its threads."""
    said = (
        "The following failures occurred while downloading one or more artifacts from s3://a/b:\n"
        "##### File x #####\n"
        "An error occurred (AccessDenied) when calling the GetObject operation: Access Denied\n"
    )
    assert "add s3:GetObject for s3://a/b" in str(
        probe.refused_store(ValueError(said), "s3://a/b", "get")
    )


def test_no_key_at_all_is_told_too():
    assert "attach a profile" in str(probe.refused_store(NoCredentialsError(), "s3://a/b", "put"))


@pytest.mark.parametrize("what", ["tracking", "users"])
def test_a_database_of_another_schema_is_named_with_its_remedy(what, tmp_path, monkeypatch):
    """MLflow would migrate a database of users by itself, at the start of whatever comes up."""
    schema, uri = probe.SCHEMAS[what], f"sqlite:///{tmp_path}/{what}.db"
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", uri)
    with contextlib.closing(sqlite3.connect(tmp_path / f"{what}.db")) as database:
        database.execute(f"CREATE TABLE {schema.version_table} (version_num VARCHAR(32))")
        database.execute(f"INSERT INTO {schema.version_table} VALUES ('0123456789ab')")
        database.commit()
    with pytest.raises(probe.Refusal, match=f"the {schema.what} at schema.*0123456789ab, a newer"):
        probe.check_schema(uri, schema)


def test_the_database_of_users_is_the_one_that_the_server_is_told_of(tmp_path, monkeypatch):
    assert probe.users_uri() == "", "without the app there is none"
    (tmp_path / "auth.ini").write_text("[mlflow]\ndatabase_uri = postgresql+psycopg2:///users\n")
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(tmp_path / "auth.ini"))
    assert probe.users_uri() == "postgresql+psycopg2:///users"
    for name, value in {"PGHOST": "db", "PGPORT": "5432", "PGUSER": "a", "PGDATABASE": "t"}.items():
        monkeypatch.setenv(name, value)
    assert probe.database_name(probe.users_uri()) == "a@db:5432/users"
    assert probe.database_name("postgresql+psycopg2://") == "a@db:5432/t"


def test_whose_password_is_wrong_is_told_from_the_database(monkeypatch, tmp_path, capsys):
    """The right one, another one, and nobody of the name; `hardening` has MLflow's own tables."""
    uri = f"sqlite:///{tmp_path}/auth.db"
    word = "the right password: p@ss%/'\""
    with create_engine(uri).begin() as connection:
        connection.execute(text("CREATE TABLE users (username, password_hash)"))
        rows = [{"name": name, "hash": generate_password_hash(word)} for name in ("ada", "bob")]
        connection.execute(text("INSERT INTO users VALUES (:name, :hash)"), rows)
    monkeypatch.setattr(probe, "users_uri", lambda: uri)
    wanted = dict.fromkeys(("ada", "eve"), word) | {"bob": "another"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(wanted)))
    assert probe.main("wrong-passwords") == 0
    assert json.loads(capsys.readouterr().out) == ["eve", "bob"]


def test_a_database_of_users_that_is_not_there_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(probe, "users_uri", lambda: f"sqlite:///{tmp_path}/none/auth.db")
    assert probe.main("wrong-passwords") == 2
    assert "Wanted to log in to sqlite:///" in capsys.readouterr().err


def test_an_object_is_put_got_and_deleted(monkeypatch, tmp_path):
    """A key that may not delete fills the store with a small object at each roll, and MLflow says
    nothing about it."""
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(tmp_path / "store"))
    store = LocalArtifactRepository(str(tmp_path / "store"))
    done = []
    for name in ("log_artifact", "download_artifacts", "delete_artifacts"):
        real = getattr(LocalArtifactRepository, name)

        def watched(*args, name=name, real=real):
            done.append(name)
            return real(*args)

        monkeypatch.setattr(LocalArtifactRepository, name, watched)
    assert probe.main("artifacts") == 0
    assert done[:3] == ["log_artifact", "download_artifacts", "delete_artifacts"]
    assert store.list_artifacts() == []


def test_an_object_that_stays_though_nobody_refused_to_delete_it_is_told(
    monkeypatch, tmp_path, capsys
):
    """S3 answers a DeleteObjects with 200 and a list of errors, which MLflow does not read."""
    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", lambda *_: None)
    assert probe.main("artifacts", str(tmp_path / "store")) == 1
    assert "delete said nothing and left it there; give" in capsys.readouterr().err


def refusing(kind):
    def function(*_):
        raise kind(f"Wanted a thing; found {kind.__name__}; fix that.")

    return function


@pytest.mark.parametrize(
    ("database", "store", "code"),
    [
        (None, None, 0),
        (probe.NotLetIn, None, 2),
        (probe.Refusal, None, 1),
        (None, probe.Refusal, 1),
        (probe.NotLetIn, probe.Refusal, 1),
    ],
)
def test_a_look_tells_all_that_is_refused(monkeypatch, capsys, database, store, code):
    """A database that is made by the run itself must not hide a key that is refused."""
    for name, kind in (("check_database", database), ("look_at_artifacts", store)):
        monkeypatch.setattr(probe, name, refusing(kind) if kind else lambda *_: None)
    assert probe.main("look", "no-tables") == code
    told = capsys.readouterr().err.splitlines()
    assert len(told) == sum(kind is not None for kind in (database, store))


class Answers:
    """A connection to PostgreSQL that answers each question with the next of some values."""

    def __init__(self, *values):
        self.values = list(values)

    def execute(self, *_):
        return self

    def scalar(self):
        return self.values.pop(0)

    def scalars(self):
        return self.values.pop(0)


@pytest.mark.parametrize(
    ("answers", "no_tables", "refuses"),
    [
        (["alembic_version", []], False, ""),
        (["alembic_version", ["DELETE on runs"]], True, "found none of: DELETE on runs"),
        ([None, True], False, ""),
        ([None, False], False, "found neither; give mlflow_server_database_owner_password"),
        ([None], True, ""),
    ],
)
def test_tables_that_the_owner_makes_first_may_be_missing(answers, no_tables, refuses):
    """In check mode they are not there yet, and the server's login may not make any. What lacks may
    come with the roles of the run, and so is told by the code of a database that lets nobody in.
    """
    question = Answers(*answers), probe.TRACKING, "db", no_tables
    if refuses:
        with pytest.raises(probe.NotLetIn, match=refuses):
            probe.check_rights(*question)
    else:
        probe.check_rights(*question)


@pytest.mark.parametrize("uri", ["sqlite:///{}", "sqlite+pysqlite:///{}", "sqlite:///{}?timeout=5"])
def test_a_sqlite_file_that_is_not_there_is_not_made(tmp_path, uri):
    """Check mode would leave it behind, root's."""
    probe.check_schema(uri.format(tmp_path / "mlflow.db"), probe.TRACKING)
    assert list(tmp_path.iterdir()) == []
