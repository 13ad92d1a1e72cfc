"""Prove that a slot can work. Run as the service user, with the slot's environment and release.

    probe.py schema     before the server starts: a database that holds something is at the schema
                        revision of this release. MLflow would change the tables of some older ones
                        by itself, and then there is no way back to the release that served.
    probe.py artifacts  while it starts: the artifact store takes, returns and deletes an object.

Exits 0 and says nothing, or exits 1 and says on standard error what was wanted, what was found and
what to do.
"""

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

# One fixed name, so that a probe that was killed leaves at most this one object.
PROBE = "mlflow-server-probe"


def check_schema() -> int:
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return 0
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine

    with create_engine(uri).connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    package = Path(find_spec("mlflow").origin).parent
    wanted = ScriptDirectory(str(package / "store/db_migrations")).get_current_head()
    if found in (None, wanted):
        return 0
    print(
        f"Wanted the tracking database at schema revision {wanted}, which this MLflow needs; found "
        f"{found}; make a backup of the database, then, as its owner, run '{sys.executable} -m "
        "mlflow db upgrade' with its URI and run again (what serves goes on meanwhile), or take "
        "the version of MLflow that it belongs to.",
        file=sys.stderr,
    )
    return 1


def check_artifacts() -> int:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
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
    except Exception as error:  # each kind of store raises its own
        print(
            f"Wanted to put, get and delete {PROBE} in the artifact store {uri}; found that {step} "
            f"failed with {type(error).__name__}: {error}; give the service that right",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit({"schema": check_schema, "artifacts": check_artifacts}[sys.argv[1]]())
