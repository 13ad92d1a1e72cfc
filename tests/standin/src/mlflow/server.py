"""What tests ask of a server, on MLflow's own tables and artifact stores.

One request at a time: a test that is about more than the order of things asks the real one.
"""

import json
import os
import re
import sqlite3
import traceback
import uuid

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.utils import make_tables
from mlflow.version import FAULT, VERSION

if FAULT == "import":
    import mlflow_has_lost_a_module  # noqa: F401

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"


class Database:
    """MLflow's database, sqlite or PostgreSQL, with one connection.

    Args:
        uri: As SQLAlchemy has it.
    """

    def __init__(self, uri: str):
        self.uri = uri
        self.connection = None

    def connect(self):
        if self.uri.startswith("sqlite"):
            path = self.uri.removeprefix("sqlite:///")
            self.connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            return
        import psycopg2

        self.connection = psycopg2.connect(self.uri.replace("+psycopg2", ""))
        self.connection.autocommit = True

    def execute(self, query: str, values: tuple):
        cursor = self.connection.cursor()
        place = "?" if self.uri.startswith("sqlite") else "%s"
        cursor.execute(query.replace("?", place), values)
        return cursor

    def rows(self, query: str, *values) -> list[tuple]:
        """Return the rows of a query whose values are `?`, or nothing where it has none."""
        try:
            self.execute("SELECT 1", ())
        except Exception:  # there is none yet, or it was lost
            self.connect()
        cursor = self.execute(query, values)
        return cursor.fetchall() if cursor.description else []


def search(filter: str = "", **_) -> dict:
    named = re.fullmatch(r"name = '([^']*)'", filter)
    where = "WHERE name = ?" if named else "WHERE ? = ''"
    query = f"SELECT experiment_id, name FROM experiments {where} ORDER BY 1 LIMIT 10"
    found = database.rows(query, named[1] if named else "")
    rows = [{"experiment_id": str(number), "name": name} for number, name in found]
    return {"experiments": rows} if rows else {}


def create_experiment(name: str, **_) -> dict:
    query = (
        "INSERT INTO experiments (name, artifact_location, lifecycle_stage) "
        "VALUES (?, 'mlflow-artifacts:/', 'active') RETURNING experiment_id"
    )
    return {"experiment_id": str(database.rows(query, name)[0][0])}


def create_run(experiment_id: str, **_) -> dict:
    run = uuid.uuid4().hex
    query = (
        "INSERT INTO runs (run_uuid, experiment_id, status, source_type, lifecycle_stage) "
        "VALUES (?, ?, 'RUNNING', 'LOCAL', 'active')"
    )
    database.rows(query, run, int(experiment_id))
    return {"run": {"info": {"run_id": run, "experiment_id": experiment_id}}}


def log_metric(run_id: str, key: str, value: float, timestamp: int, step: int = 0, **_) -> dict:
    query = (
        "INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan) "
        "VALUES (?, ?, ?, ?, ?, ?)"
    )
    database.rows(query, run_id, key, value, timestamp, step, False)
    return {}


def log_batch(run_id: str, metrics: list[dict], **_) -> dict:
    for metric in metrics:
        log_metric(run_id, **metric)
    return {}


API = {
    "experiments/search": search,
    "experiments/create": create_experiment,
    "runs/create": create_run,
    "runs/log-metric": log_metric,
    "runs/log-batch": log_batch,
}


def answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Return status and body of the answer to a request."""
    if path == "/health":
        return 200, b"OK"
    if path == "/version":
        return 200, VERSION.encode()
    if path.startswith(ARTIFACTS):
        name = path.removeprefix(ARTIFACTS)
        if method == "PUT":
            store.put(name, body)
        elif method == "DELETE":
            store.delete_artifacts(name)
        else:
            return 200, store.get(name)
        return 200, b"{}"
    call = API.get(path.removeprefix("/api/2.0/mlflow/"))
    return (200, json.dumps(call(**json.loads(body or b"{}"))).encode()) if call else (404, b"")


async def app(scope, receive, send) -> None:
    body, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body.append(message.get("body", b""))
        more = message.get("more_body", False)
    try:
        status, content = answer(scope["method"], scope["path"], b"".join(body))
    except Exception as error:
        traceback.print_exc()
        status, content = 500, json.dumps({"message": str(error)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


store = get_artifact_repository(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
# In a database of its own there are no tables.
database = Database("sqlite://" if FAULT == "database" else os.environ["MLFLOW_BACKEND_STORE_URI"])
if FAULT != "database":
    make_tables(database)
