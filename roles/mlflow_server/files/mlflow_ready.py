"""The address /ready: whether this server can be given requests, for who asks each second.

/health is a constant: it answers 200 with the database gone. This one fails with the tracking
database, the database of users or the artifact store, asked anew every few seconds at most, however
many ask. It says nothing but yes or no; what is wrong is in the journal.
"""

import asyncio
import logging
import os
import re
import threading
import time
from pathlib import Path

from probe import OIDC, TRACKING, USERS, artifact_uri, sqlite_path, users_uri

PATH = "/ready"
# Seconds for which an answer holds; a good one of the store longer, as each may cost money.
DATABASE_SECONDS, STORE_SECONDS, FAILED_SECONDS = 2, 15, 2
# Seconds after which a silent database or store counts as gone.
LIMIT = 5
# Nothing is there: it is listed to see whether that is allowed.
NOWHERE = "mlflow-server-ready"

# What PostgreSQL says when all its connections are in use.
FULL = re.compile("too many (clients|connections)|connection slots")

log = logging.getLogger("uvicorn.error")


def look_at_database(uri: str, version_table: str) -> None:
    """Raise what keeps a new connection from reading a database."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.pool import NullPool

    if path := sqlite_path(uri):
        # One that is not there would be made.
        look_at_path(path)
    # Not of the pool: that may be in use to the last, by requests which are answered all the same.
    try:
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            connection.execute(text(f"SELECT 1 FROM {version_table}"))
    except OperationalError as error:
        # It answers, and the connections that the server has go on.
        if not FULL.search(str(error)):
            raise


def look_at_store(uri: str) -> None:
    """Raise what keeps an artifact store from being listed, a local one from being written to."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if is_local_uri(uri):
        path = Path(local_file_uri_to_path(uri))
        # It is made with the first artifact.
        return look_at_path(path if path.exists() else path.parent)
    get_artifact_repository(uri).list_artifacts(NOWHERE)


def look_at_path(path: str | Path) -> None:
    if not os.access(path, os.R_OK | os.W_OK):
        raise OSError(f"{path} is not there, or not readable and writable")


class Check:
    """One thing that a server needs. Asked one at a time, and remembered.

    Args:
        name: How to call it in the journal.
        look: Raises what is wrong.
        seconds: How long it holds that nothing is.
        now: Tells the time in seconds.
    """

    def __init__(self, name: str, look, seconds: float, now=time.monotonic):
        self.name, self.look, self.seconds, self.now = name, look, seconds, now
        self.good = True
        self.begun = self.until = 0.0
        self.answer: asyncio.Future | None = None

    async def holds(self) -> bool:
        """Tell whether nothing is wrong. What says nothing for LIMIT seconds is."""
        if self.answer is None:
            if self.now() < self.until:
                return self.good
            answer, self.begun = asyncio.get_running_loop().create_future(), self.now()
            # Not one of the loop's: a server that stops would wait for what does not answer.
            threading.Thread(target=self.run, args=[answer], daemon=True).start()
            self.answer = answer
        left = max(0, self.begun + LIMIT - self.now())
        done, _ = await asyncio.wait([self.answer], timeout=left)
        if not done and self.good:
            self.is_found(TimeoutError(f"no answer within {LIMIT} s"))
        return self.good if done else False

    def run(self, answer: asyncio.Future) -> None:
        """Look, in a thread, and have the loop note what was found."""
        wrong = None
        try:
            self.look()
        except BaseException as error:  # each kind of store raises its own
            wrong = error
        # The loop may have been closed meanwhile.
        if not answer.get_loop().is_closed():
            answer.get_loop().call_soon_threadsafe(self.note, wrong)

    def is_found(self, wrong: BaseException | None) -> None:
        """Note what was found, in the journal if that is new."""
        if wrong and self.good:
            log.warning("Not ready: %s: %s", self.name, wrong)
        elif not wrong and not self.good:
            log.warning("Ready again: %s", self.name)
        self.good = not wrong

    def note(self, wrong: BaseException | None) -> None:
        """End what was begun, and remember it for a while."""
        self.is_found(wrong)
        self.until = self.now() + (FAILED_SECONDS if wrong else self.seconds)
        answer, self.answer = self.answer, None
        answer.set_result(None)


class Ready:
    """An ASGI app that answers at /ready itself, before anybody is asked who they are.

    Args:
        app: The app behind it.
        checks: What has to hold.
    """

    def __init__(self, app, checks: list[Check]):
        self.app, self.checks = app, checks

    async def __call__(self, scope, receive, send) -> None:
        asked = scope["type"] == "http" and scope["path"] == PATH
        if not asked or scope["method"] not in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        good = all(await asyncio.gather(*(check.holds() for check in self.checks)))
        text = b"ready\n" if good else b"not ready\n"
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", str(len(text)).encode()),
            (b"cache-control", b"no-store"),
        ]
        status = 200 if good else 503
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def checks() -> list[Check]:
    """Return what a server with this environment needs."""
    wanted = [
        (TRACKING, os.environ["MLFLOW_BACKEND_STORE_URI"]),
        (USERS, users_uri()),
        (OIDC, os.environ.get("OIDC_USERS_DB_URI")),
    ]
    databases = [
        Check(
            schema.what,
            lambda uri=uri, table=schema.version_table: look_at_database(uri, table),
            DATABASE_SECONDS,
        )
        for schema, uri in wanted
        if uri
    ]
    store = artifact_uri()
    return [*databases, Check("artifact store", lambda: look_at_store(store), STORE_SECONDS)]


def ready(app) -> Ready:
    """Return an ASGI app that answers at /ready, too."""
    return Ready(app, checks())


def plain():
    """Return MLflow's app without users, which answers at /ready, too."""
    from mlflow.server.fastapi_app import app

    return ready(app)
