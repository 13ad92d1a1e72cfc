"""Prove that a slot can work. Run by the release's Python, with the slot's environment.

probe.py database [any-artifact-root] [no-tables]
    Before the server starts: the database lets us in, with every right that MLflow needs, at the
    schema revision of this release; and, without the first word, a change of settings leaves no
    artifacts behind. The settings that serve at present, if any do, come on standard input, as the
    slot's environment files have them. The same of the database of users and permissions, if there
    is one. With the last word tables may be missing, as the owner makes them before.
probe.py look [any-artifact-root] [no-tables]
    The same, and whether the artifact store, unless it is a folder, lets itself be listed and read:
    all that can be asked without a change. Each refusal is reported.
probe.py artifacts [URI]
    While it starts: the artifact store takes, returns and deletes an object.
probe.py initialise WHAT, probe.py is-empty WHAT
    As the owner of a PostgreSQL database: make the tables of WHAT, `tracking`, `users` or
    `oidc`, if there are none, or only look. Says on standard output if there were none.
probe.py administrator NAME
    Give the administrator the password on standard input, in the database of users. Make him first
    if he is not there.
probe.py wrong-passwords
    Of the passwords by name on standard input, in JSON, say whose is not that in the database of
    users, as a list in JSON.

Exits 0, or says on standard error what was wanted, what was found and what to do: exit 2 if the
database did not let us in, or not with every right, else exit 1.
"""

import configparser
import json
import os
import re
import shlex
import sys
import tempfile
import uuid
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# Not one name for all: hosts try one store at the same time, and one must not delete what another
# is about to get. A probe that was killed leaves this one object, of a few bytes.
PROBE = f"mlflow-server-probe-{uuid.uuid4().hex[:12]}"


@dataclass
class Schema:
    """A set of tables that MLflow or an app of it keeps, each in a database of its own.

    Args:
        what: How to call the database.
        version_table: Where alembic notes the revision.
        migrations: Folder of its migrations, below the package.
        upgrade: The words for Python that bring older tables up to date.
        initial: Tables that MLflow makes before it notes a revision: a run that was cut off there
            goes on.
        package: The Python package that has the migrations.
    """

    what: str
    version_table: str
    migrations: str
    upgrade: str
    initial: tuple[str, ...] = ()
    package: str = "mlflow"


TRACKING = Schema(
    what="tracking database",
    version_table="alembic_version",
    migrations="store/db_migrations",
    upgrade="-m mlflow db upgrade",
    initial=("experiments", "runs", "tags", "metrics", "params"),
)
USERS = Schema(
    what="database of users",
    version_table="alembic_version_auth",
    migrations="server/auth/db/migrations",
    upgrade="-m mlflow.server.auth db upgrade --url",
)
OIDC = Schema(
    what="database of users",
    version_table="alembic_version",
    migrations="db/migrations",
    # The package has no other way in.
    upgrade='-c "from mlflow_oidc_auth.db.cli import commands; commands()" upgrade --url',
    package="mlflow_oidc_auth",
)
SCHEMAS = {"tracking": TRACKING, "users": USERS, "oidc": OIDC}

# What libpq says, and what to do about it.
LOGIN_REMEDIES = {
    "SSL|certificate": "fix the sslmode and the CA certificate",
    "could not translate host name": "fix the host's name",
    "refused|timed? ?out|timeout expired|unreachable|No route": (
        "start the database, fix host and port, or let this host through the database's firewall "
        "(security group)"
    ),
    "password authentication failed": "put the right name and password into the vault",
    "no pg_hba.conf entry": "let this host's address in there, with TLS",
    "does not exist": "create it, or fix its name",
    "not permitted to log in|permission denied for database": "grant that to the role",
    "too many clients|connection slots": "raise max_connections, or set fewer workers",
}
# What S3 answers, and what to do about it.
STORE_REMEDIES = {
    "NoSuchBucket": "create the bucket, or fix its name",
    "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidClientTokenId|(Expired|Invalid)Token": (
        "put a key that is valid into the vault"
    ),
    "RequestTimeTooSkewed": "set the host's clock (timedatectl)",
    "SecondLevelDomainForbidden": (
        "set MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE: virtual in mlflow_server_environment"
    ),
    "(?i)checksum.* header is required": (
        "set AWS_REQUEST_CHECKSUM_CALCULATION: when_supported in mlflow_server_environment, as a "
        "bucket with Object Lock asks for checksums"
    ),
    "PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint": (
        "set the region that the bucket is in"
    ),
}
# Which database it is.
PLACE = ("MLFLOW_BACKEND_STORE_URI", "PGHOST", "PGPORT", "PGDATABASE")
S3_ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}


class Refusal(Exception):
    """What was wanted, what was found and what to do."""

    code = 1


class NotLetIn(Refusal):
    """The same of a database that does not let us in, or not with every right."""

    code = 2


def remedy(remedies: dict[str, str], said: str, otherwise: str) -> str:
    """Return the remedy whose pattern is found in what was said."""
    return next((text for key, text in remedies.items() if re.search(key, said)), otherwise)


def database_name(uri: str = "") -> str:
    """Return how to call a database, by default that of the environment, without a password."""
    uri = uri or os.environ["MLFLOW_BACKEND_STORE_URI"]
    if "PGHOST" in os.environ:
        name = uri.partition(":///")[2] or os.environ["PGDATABASE"]
        return "{PGUSER}@{PGHOST}:{PGPORT}/".format(**os.environ) + name
    return re.sub("://[^@]*@", "://", uri)


def sqlite_path(uri: str) -> str:
    """Return the path of a sqlite database, nothing of another one."""
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]*)", uri)
    return found[1] if found else ""


def users_uri() -> str:
    """Return the URI of the database of users, or nothing if there is none."""
    settings = configparser.ConfigParser()
    settings.read(os.environ.get("MLFLOW_AUTH_CONFIG_PATH", os.devnull))
    return settings.get("mlflow", "database_uri", fallback="")


def refused_login(error: Exception, uri: str = "") -> NotLetIn:
    lines = [line.strip() for line in str(getattr(error, "orig", error)).splitlines()]
    said = " ".join(line for line in lines if line) or type(error).__name__
    what_to_do = remedy(LOGIN_REMEDIES, said, "fix that")
    return NotLetIn(f"Wanted to log in to {database_name(uri)}; found: {said}; {what_to_do}.")


def connect(uri: str):
    """Return a connection to a database; raise NotLetIn if it does not let us in."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    try:
        return create_engine(uri).connect()
    except OperationalError as error:
        raise refused_login(error, uri) from error


def check_rights(connection, schema: Schema, place: str, no_tables: bool) -> None:
    """Refuse a role without a right that MLflow needs, on PostgreSQL."""
    from sqlalchemy import text

    query = text("SELECT to_regclass(:name)")
    if connection.execute(query, {"name": schema.version_table}).scalar() is None:
        right = "has_schema_privilege(current_schema(), 'CREATE')"
        if not no_tables and not connection.execute(text(f"SELECT {right}")).scalar():
            raise NotLetIn(
                f"Wanted MLflow's tables in {place}, or the right to create them; found "
                "neither; give mlflow_server_database_owner_password, so that the owner makes them."
            )
        return
    rights = ("SELECT", "INSERT", "UPDATE", "DELETE")
    missing = connection.execute(
        text(
            "SELECT wanted.name || ' on ' || c.relname "
            "FROM pg_class c, unnest(:rights) AS wanted(name) "
            "WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') "
            "AND NOT has_table_privilege(c.oid, wanted.name) ORDER BY 1"
        ),
        {"rights": list(rights)},
    ).scalars()
    if names := list(missing):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise NotLetIn(
            f"Wanted {', '.join(rights)} on all tables in {place}; found none of: "
            f"{', '.join(names[:3])}{more}; as the tables' owner, run 'GRANT {', '.join(rights)} "
            "ON ALL TABLES IN SCHEMA public TO …', the role or its group."
        )


def check_revision(found: str | None, schema: Schema) -> None:
    """Refuse a database of another schema: MLflow would change some of the older ones by itself."""
    from alembic.script import ScriptDirectory

    package = Path(find_spec(schema.package).origin).parent
    script = ScriptDirectory(str(package / schema.migrations))
    wanted = script.get_current_head()
    if found in (None, wanted):
        return
    is_known = any(revision.revision == found for revision in script.walk_revisions())
    what_to_do = (
        "make a backup of the database, then, as its owner, run "
        f"'{sys.executable} {schema.upgrade}' with its URI and run again (what serves goes on "
        "meanwhile), or take the version of MLflow that it belongs to"
        if is_known
        else "take that newer version of MLflow, or restore a backup of this one's schema, as "
        "there is no downgrade"
    )
    raise Refusal(
        f"Wanted the {schema.what} at schema revision {wanted}, which this MLflow needs; found "
        f"{found}, {'an older' if is_known else 'a newer, unknown'} one; {what_to_do}."
    )


def check_artifact_root(connection) -> None:
    """Refuse settings under which artifacts that are there would not be found any more.

    MLflow writes the root into the database when an experiment is made, number 0 included, and
    goes on using it. For a proxied one that is `mlflow-artifacts:`, and where the objects are only
    the settings know.
    """
    from sqlalchemy import text

    query = text("SELECT artifact_location FROM experiments WHERE experiment_id = 0")
    root = connection.execute(query).scalar()
    if root is None:
        return
    destination = os.environ.get("MLFLOW_ARTIFACTS_DESTINATION")
    wanted = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "mlflow-artifacts:").rstrip("/") + "/"
    what_to_do = (
        "set mlflow_server_serve_artifacts and mlflow_server_artifacts_destination back, or, if "
        "what exists is copied already or may stay where it is, set "
        "mlflow_server_allow_artifact_root_change: true"
    )
    if not root.startswith(wanted):
        raise Refusal(
            f"Wanted artifacts of experiment 0 at {wanted}; found in the database that they are at "
            f"{root}, for ever; {what_to_do}."
        )
    settings = variables(sys.stdin.read())
    # What was served before from another database says nothing of this one's artifacts.
    if any(settings.get(name) != os.environ.get(name) for name in PLACE):
        return
    former = settings.get("MLFLOW_ARTIFACTS_DESTINATION", destination)
    if destination and former != destination:
        if connection.execute(text("SELECT count(*) FROM runs")).scalar():
            raise Refusal(
                f"Wanted artifacts at {destination}; found runs whose artifacts are at {former}, "
                f"where nobody would look for them any more; {what_to_do}."
            )


def variables(text: str) -> dict[str, str]:
    """Return what environment files set. A line that was spoilt by hand spoils no other."""
    try:
        words = shlex.split(text, comments=True)  # a value may have several lines
    except ValueError:
        lines = text.splitlines() if "\n" in text.strip() else []
        return {name: value for line in lines for name, value in variables(line).items()}
    return dict(word.split("=", 1) for word in words if "=" in word)


def check_database(*words: str) -> None:
    uri, no_tables = os.environ["MLFLOW_BACKEND_STORE_URI"], "no-tables" in words
    check_schema(uri, TRACKING, no_tables, "any-artifact-root" not in words)
    if uri := users_uri():
        check_schema(uri, USERS, no_tables)
    if uri := os.environ.get("OIDC_USERS_DB_URI"):
        check_schema(uri, OIDC, no_tables)


def check_schema(
    uri: str, schema: Schema, no_tables: bool = False, artifact_root: bool = False
) -> None:
    """Refuse a database that does not let us in, lacks a right or has another schema.

    Args:
        uri: Of the database.
        schema: What has to be in it.
        no_tables: Or nothing, without the right to make it.
        artifact_root: Look whether its artifacts would still be found, too.
    """
    path = sqlite_path(uri)
    if path and not Path(path).exists():  # to connect would make it
        return
    from alembic.migration import MigrationContext

    with connect(uri) as connection:
        if uri.startswith("postgresql"):
            check_rights(connection, schema, database_name(uri), no_tables)
        options = {"version_table": schema.version_table}
        revision = MigrationContext.configure(connection, opts=options).get_current_revision()
        if revision:
            check_revision(revision, schema)
            if artifact_root:
                check_artifact_root(connection)


def initialise(schema: Schema, make: bool) -> None:
    """Make MLflow's tables, as their owner, unless there are some. One at a time."""
    import psycopg2

    try:
        guard = psycopg2.connect("")
    except psycopg2.OperationalError as error:
        raise refused_login(error) from error
    with guard, guard.cursor() as cursor:
        # Several hosts of one database; released with the connection.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('mlflow_initialise'))")
        cursor.execute("SELECT to_regclass(%s)", [schema.version_table])
        if cursor.fetchone()[0] is not None:
            return
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace "
            "AND relkind IN ('r', 'p') AND relname <> ALL(%s) LIMIT 1",
            [list(schema.initial)],
        )
        if others := cursor.fetchone():
            raise Refusal(
                f"Wanted an empty database, or one of MLflow's, at {database_name()}; found the "
                f"table {others[0]} of something else; choose another database."
            )
        print("initialised")
        if make:
            make_tables(schema)


def make_tables(schema: Schema) -> None:
    from sqlalchemy import create_engine

    engine = create_engine("postgresql+psycopg2://")
    if schema is TRACKING:
        from mlflow.store.db.utils import _initialize_tables

        _initialize_tables(engine)
        return
    if schema is OIDC:
        from mlflow_oidc_auth.db.utils import migrate
    else:
        from mlflow.server.auth.db.utils import migrate
    migrate(engine, "head")


def set_administrator(name: str) -> None:
    """Give the administrator the password on standard input, whatever he had before."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store, password = SqlAlchemyStore(), sys.stdin.read()
    store.init_db(users_uri())
    if store.has_user(name):
        store.update_user(name, password=password, is_admin=True)
    else:
        store.create_user(name, password, is_admin=True)


def wrong_passwords() -> None:
    """Say who of those on standard input is not there, or has another password."""
    from sqlalchemy import text
    from werkzeug.security import check_password_hash

    with connect(users_uri()) as connection:
        hashes = dict(connection.execute(text("SELECT username, password_hash FROM users")).all())
    wanted = json.load(sys.stdin).items()
    # Nobody's password has an empty hash.
    wrong = [name for name, word in wanted if not check_password_hash(hashes.get(name, ""), word)]
    json.dump(wrong, sys.stdout)


def said_by(error: Exception) -> str:
    """Return the text of an error and of those that it was raised from."""
    said, cause = str(error), error
    while cause := cause.__cause__ or cause.__context__:
        said += f" {cause}"
    return said


def refused_store(error: Exception, uri: str, step: str) -> Refusal:
    """Say what an artifact store refused. In S3's case its answer is in the text of the error, or
    of the one that it was raised from: MLflow and boto3 have errors of their own."""
    said = said_by(error)
    found = f"{type(error).__name__}: {error}"
    what_to_do = "fix that, or give the service that right"
    if answer := re.search(r"\((\w+)\) when calling the (\w+) operation.*?: ([^\n]*)", said):
        code, operation, message = answer.groups()
        found = f"{operation} was answered with {code}: {message.strip()}"
        allow = allowed(message, S3_ACTIONS.get(operation, f"s3:{operation}"), uri)
        # The answer to HeadObject has no body, so no code but that of HTTP.
        is_denied = re.search("AccessDenied|403|^Forbidden$", code)
        what_to_do = remedy(
            STORE_REMEDIES, f"{code}: {message}", allow if is_denied else "fix that"
        )
    elif re.search("NoCredentialsError|CredentialRetrievalError|locate credentials", found + said):
        what_to_do = "give the service a key, or attach a profile to the instance"
    return Refusal(
        f"Wanted to put, get and delete {PROBE} in the artifact store {uri}; found that {step} "
        f"failed: {found}; {what_to_do}."
    )


def allowed(message: str, action: str, uri: str) -> str:
    """Return how an action comes to be allowed that AWS has denied.

    Args:
        message: What AWS says. It names the action that it looked for, which is another than that
            of the request where the bucket has a key of KMS, and what for.
        action: That of the request, if AWS names none.
    """
    named = re.search(r"not authorized to perform: (\S+)(?: on resource: \"?([^\s\"]+))?", message)
    action, place = (named[1], named[2] or uri) if named else (action, uri)
    if "explicit deny" in message:
        return f"take the deny of {action} for {place} out of the policy that is named there"
    also = " and to that of the key" if action.startswith("kms:") else ""
    return f"add {action} for {place} to the policy of the user or role{also}"


def is_there(store) -> bool:
    """Tell whether the object is still there: MLflow does not look at what S3 refused to delete."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            store.download_artifacts(PROBE, folder)
        except Exception:  # each kind of store raises its own
            return False
    return True


def artifact_uri() -> str:
    settings = ("MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_ARTIFACTS_DESTINATION")
    return next(os.environ[name] for name in settings if name in os.environ)


def check_artifacts(uri: str = "") -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = uri or artifact_uri()
    step = "open"
    try:
        store = get_artifact_repository(uri)
        with tempfile.TemporaryDirectory() as sent, tempfile.TemporaryDirectory() as returned:
            Path(sent, PROBE).write_text(PROBE)
            step = "put"
            store.log_artifact(str(Path(sent, PROBE)))
            step = "get"
            if Path(store.download_artifacts(PROBE, returned)).read_text() != PROBE:
                raise ValueError("another content came back than was put")
            step = "delete"
            store.delete_artifacts(PROBE)
            left = is_there(store)
    except Exception as error:  # each kind of store raises its own
        raise refused_store(error, uri, step) from error
    if left:
        raise Refusal(
            f"Wanted to put, get and delete {PROBE} in the artifact store {uri}; found that delete "
            "said nothing and left it there; give the service that right, in S3 s3:DeleteObject."
        )


def look_at_artifacts() -> None:
    """Refuse an artifact store that cannot be listed and read, where nobody has put anything."""
    uri = artifact_uri()
    # The service makes a folder itself.
    if re.match("/|file:", uri):
        return
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    step = "open"
    try:
        store = get_artifact_repository(uri)
        step = "list"
        store.list_artifacts(PROBE)
        step = "get"
        with tempfile.TemporaryDirectory() as folder:
            store.download_artifacts(PROBE, folder)
    except Exception as error:  # each kind of store raises its own
        # That it is not there is the best answer that there is.
        if step != "get" or re.search("AccessDenied|403|Forbidden", said_by(error)):
            raise refused_store(error, uri, step) from error


def look(*words: str) -> int:
    """Say each refusal of database and artifact store; return the exit code for all of them."""
    refusals = []
    for check in (lambda: check_database(*words), look_at_artifacts):
        try:
            check()
        except Refusal as refusal:
            # At once, as the next may take for ever.
            print(refusal, file=sys.stderr, flush=True)
            refusals.append(refusal)
    return min((refusal.code for refusal in refusals), default=0)


def main(what: str, *more: str) -> int:
    checks = {
        "database": lambda: check_database(*more),
        "look": lambda: look(*more),
        "artifacts": lambda: check_artifacts(*more),
        "initialise": lambda: initialise(SCHEMAS[more[0]], make=True),
        "is-empty": lambda: initialise(SCHEMAS[more[0]], make=False),
        "administrator": lambda: set_administrator(*more),
        "wrong-passwords": wrong_passwords,
    }
    try:
        return checks[what]() or 0
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return refusal.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
