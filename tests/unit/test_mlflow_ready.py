"""The address by which load balancers learn whether a server can work.

That it fails with a real database and a real store is shown on hosts, in the scenario `tutorial`.
"""

import asyncio
import logging
import sqlite3
import threading
import time

import mlflow_ready
import pytest
from mlflow_ready import Check, Ready, look_at_database, look_at_store
from sqlalchemy.exc import OperationalError


def ask(app, path="/ready", method="GET", **scope) -> tuple[int, bytes]:
    """Return status and body of an answer."""
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path, "method": method, **scope}, None, send))
    return sent[0]["status"], sent[1]["body"]


async def behind(scope, receive, send):
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def fails():
    raise OSError("the database at db.internal:5432 is gone")


def test_it_says_whether_all_is_well_and_nothing_else(caplog):
    """Whoever asks has no login; the reason is for who reads the journal."""
    assert ask(Ready(behind, [Check("a", lambda: None, 1)])) == (200, b"ready\n")
    app = Ready(behind, [Check("a", lambda: None, 1), Check("b", fails, 1)])
    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        assert ask(app) == (503, b"not ready\n")
    assert "Not ready: b: the database at db.internal:5432 is gone" in caplog.text


@pytest.mark.parametrize(
    ("path", "method"),
    [("/ready/", "GET"), ("/ready", "POST"), ("/readyz", "GET"), ("//ready", "GET")],
)
def test_everything_else_is_for_the_app_behind_it(path, method):
    assert ask(Ready(behind, [Check("a", fails, 1)]), path, method)[0] == 401


def test_many_who_ask_at_once_make_one_question(monkeypatch):
    """Each load balancer asks each second; the database is not to notice that."""
    begun = []

    def look():
        begun.append(1)
        time.sleep(0.1)

    async def many():
        check = Check("a", look, 60)
        return [await asyncio.gather(*(check.holds() for _ in range(50))) for _ in range(3)]

    assert asyncio.run(many()) == [[True] * 50] * 3
    assert len(begun) == 1


def test_what_is_wrong_is_asked_again_soon_and_what_is_well_later():
    """So that a server that works again gets requests again."""
    clock, answers = [0.0], []

    def look():
        answers.append(1)
        if len(answers) == 2:
            raise OSError("gone")

    check = Check("a", look, 15, now=lambda: clock[0])

    async def at(second):
        clock[0] = second
        return await check.holds()

    async def all_of_them():
        return [await at(second) for second in (0, 14.9, 15.1, 16, 17.2, 32, 32.3)]

    assert asyncio.run(all_of_them()) == [True, True, False, False, True, True, True]
    assert len(answers) == 4


def test_one_that_says_nothing_counts_as_gone_and_costs_one_thread(monkeypatch, caplog):
    """A database whose host has vanished refuses nothing: a request to it waits."""
    monkeypatch.setattr(mlflow_ready, "LIMIT", 0.2)
    release, begun = threading.Event(), []

    def look():
        begun.append(1)
        release.wait(10)

    async def ask_twice():
        check = Check("a", look, 60)
        began = time.monotonic()
        said = [await check.holds(), await check.holds()]
        took = time.monotonic() - began
        release.set()
        while check.answer:
            await asyncio.sleep(0.01)
        return said, took, await check.holds()

    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        said, took, later = asyncio.run(ask_twice())
    assert caplog.messages == ["Not ready: a: no answer within 0.2 s", "Ready again: a"]
    assert (said, later, begun) == ([False, False], True, [1])
    assert took < 1, "who asks while it is silent waits no second time"


def test_a_database_has_to_be_there_with_its_tables(tmp_path):
    """Looking for one that is not there makes none, which MLflow would take for an empty one."""
    file = tmp_path / "mlflow.db"
    with pytest.raises(OSError, match="is not there"):
        look_at_database(f"sqlite:///{file}", "alembic_version")
    assert not file.exists()
    with sqlite3.connect(file) as connection:
        with pytest.raises(Exception, match="no such table"):
            look_at_database(f"sqlite:///{file}", "alembic_version")
        connection.execute("CREATE TABLE alembic_version (version_num)")
    for uri in (f"sqlite:///{file}", f"sqlite+pysqlite:///{file}?timeout=30"):
        look_at_database(uri, "alembic_version")
    file.unlink()
    with pytest.raises(OSError, match="is not there"):
        look_at_database(f"sqlite+pysqlite:///{file}?timeout=30", "alembic_version")


def test_a_database_that_is_full_is_not_gone(monkeypatch):
    """The server's own connections go on; without it no load balancer would send anybody."""

    def full(*_, **__):
        raise OperationalError("", {}, Exception("FATAL:  sorry, too many clients already"))

    monkeypatch.setattr("sqlalchemy.create_engine", full)
    look_at_database("postgresql+psycopg2://", "alembic_version")


def test_what_cannot_be_asked_is_no_and_asked_again(monkeypatch):
    """Where no thread can be started any more, for a while."""
    check = Check("a", lambda: None, 60)

    def no_more(*_):
        raise RuntimeError("can't start new thread")

    async def ask_twice():
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            with pytest.raises(RuntimeError):
                await check.holds()
        return await check.holds()

    assert asyncio.run(ask_twice())


def test_a_local_store_has_to_take_files(tmp_path):
    look_at_store(str(tmp_path / "made-with-the-first-artifact"))
    with pytest.raises(OSError, match="is not there"):
        look_at_store(str(tmp_path / "gone" / "artifacts"))
    # Root may write anywhere, so what cannot be written to is what no user may.
    with pytest.raises(OSError, match="not readable and writable"):
        look_at_store("/proc/sys/kernel/random/uuid")


def test_a_server_needs_what_its_settings_name(tmp_path, monkeypatch):
    """Of users there is a database only where there are users."""
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "OIDC_USERS_DB_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:///x")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://bucket")
    assert [check.name for check in mlflow_ready.checks()] == [
        "tracking database",
        "artifact store",
    ]
    ini = tmp_path / "auth.ini"
    ini.write_text("[mlflow]\ndatabase_uri = sqlite:///users\n")
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(ini))
    assert [check.name for check in mlflow_ready.checks()][1] == "database of users"
