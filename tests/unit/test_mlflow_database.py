"""How the script is run, and what check mode makes of its answers; PostgreSQL is in scenarios."""

import contextlib
import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import mlflow_database
import probe
import pytest
from alembic.script import ScriptDirectory
from ansible.module_utils.testing import patch_module_args

# Says what it was given, or what the environment says that it should.
ECHO = """
import json, os, sys
files = {n: (open(p).read(), oct(os.stat(p).st_mode)) for n, p in os.environ.items() if "/fd/" in p}
said = {"words": sys.argv[1:], "stdin": sys.stdin.read(), "files": files, "env": dict(os.environ)}
print(json.dumps(said), file=sys.stderr)
sys.exit(int(os.environ.get("CODE", 0)))
"""
TRACKING = "postgresql+psycopg2://"


@pytest.fixture
def release(tmp_path):
    """Return the path of a virtualenv with this Python's packages."""
    python = tmp_path / "release/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(tmp_path / "release")


@pytest.fixture
def ask(release, capsys, monkeypatch):
    """Return a function that runs the module, as Ansible would, and returns what it says."""
    warnings = []
    warn = lambda _, text: warnings.append(text)  # noqa: E731
    monkeypatch.setattr(mlflow_database.AnsibleModule, "warn", warn)

    def function(check=True, **given):
        given = {"release": release, "script": ECHO} | given
        warnings.clear()
        with patch_module_args(given | {"_ansible_check_mode": check}):
            with pytest.raises(SystemExit):
                mlflow_database.main()
        return json.loads(capsys.readouterr().out) | {"warnings": list(warnings)}

    return function


def look(ask, **more):
    """Run the module to look with some settings; by default with a PostgreSQL database."""
    settings = {"MLFLOW_BACKEND_STORE_URI": TRACKING} | more.pop("settings", {})
    return ask(what="look", settings=json.dumps(settings), **more)


def test_the_script_gets_its_secrets_in_memory(ask, tmp_path, monkeypatch):
    """Whoever lists processes sees their words, and a file on disk outlives a kill."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PGSERVICE", "of the operator")
    (tmp_path / "server.env").write_text('A="b"')
    files = {"PGSSLROOTCERT": "canary of a file"}
    settings = {"CODE": 1, "PGPASSWORD": "canary of the login", "PGSSLROOTCERT_2": "x"}
    said = look(
        ask, settings=settings, files=files, former=str(tmp_path), allow=["any-artifact-root"]
    )
    assert said["failed"] and said["msg"].endswith(" Nothing has changed.")
    told = json.loads(said["msg"].removesuffix(" Nothing has changed."))
    assert told["words"] == ["look", "any-artifact-root"] and told["stdin"] == 'A="b"'
    assert told["files"]["PGSSLROOTCERT"][1] == "0o100400", "libpq wants a key to be closed"
    assert told["env"]["PGPASSWORD"] == "canary of the login"
    assert told["env"]["HOME"] == "/nonexistent" and "PGSERVICE" not in told["env"]


def test_a_look_has_the_rights_and_the_home_of_the_service_user(ask, monkeypatch):
    """Root would read a key that the service cannot, and run what its home says in its place."""
    seen = {}

    def run(command, **more):
        seen.update(more)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(mlflow_database.subprocess, "run", run)
    monkeypatch.setattr(mlflow_database.os, "fchown", lambda *_: None)
    assert not look(ask, user="nobody")["changed"]
    nobody = mlflow_database.pwd.getpwnam("nobody")
    assert (seen["user"], seen["group"], seen["extra_groups"]) == (nobody[2], nobody[3], [])
    assert seen["env"]["HOME"] == nobody.pw_dir and seen["timeout"] == 120


@pytest.mark.parametrize(
    ("code", "may_be_made", "outcome"),
    [(0, False, "passes"), (1, True, "fails"), (2, False, "fails"), (2, True, "warns")],
)
def test_a_look_fails_as_the_run_would(ask, code, may_be_made, outcome):
    """But not for a database or rights that the run makes before it asks."""
    said = look(ask, settings={"CODE": code}, may_be_made=may_be_made)
    assert bool(said.get("failed")) is (outcome == "fails")
    warnings = [text for text in said["warnings"] if "A run would go on if" in text]
    assert len(warnings) == len(said["warnings"]) == (outcome == "warns")
    assert not said.get("changed"), "and changes nothing"


@pytest.mark.parametrize(
    ("settings", "unseen"),
    [
        ({}, "schema of the database"),
        (
            {"MLFLOW_ARTIFACTS_DESTINATION": "s3://a/b"},
            "schema of the database and the key for S3",
        ),
        (
            {"MLFLOW_DEFAULT_ARTIFACT_ROOT": "gs://a", "MLFLOW_ARTIFACTS_DESTINATION": "/x"},
            "schema of the database and the artifact store",
        ),
        (
            {
                "MLFLOW_BACKEND_STORE_URI": "sqlite+pysqlite:////nowhere/x.db?timeout=5",
                "MLFLOW_ARTIFACTS_DESTINATION": "file:///var/lib/mlflow",
            },
            None,
        ),
    ],
)
def test_what_cannot_be_looked_at_is_named(ask, settings, unseen):
    """A check that says nothing is taken for one that has found nothing."""
    said = look(ask, settings=settings, release="/nowhere")
    wanted = f"Not looked at: {unseen}, as the release is not on the host yet."
    assert said == {"changed": False, "warnings": [wanted] if unseen else []}


def test_a_look_that_cannot_be_begun_is_told(ask, release):
    Path(release, "bin/python").write_text("no program")
    Path(release, "bin/python").chmod(0o644)
    (warning,) = look(ask)["warnings"]
    assert "Not looked at: schema of the database, as [Errno 13]" in warning


def test_a_look_that_does_not_end_fails(ask):
    said = look(ask, script="import time; time.sleep(60)", timeout=1)
    assert said["msg"].startswith(
        "Wanted database and artifact store to answer within 1 s; found that"
    )


@pytest.mark.parametrize(("check", "word"), [(True, "is-empty"), (False, "initialise")])
def test_tables_are_made_in_a_run_alone(ask, check, word):
    """The password is crossed out, whatever the script says."""
    environment = {"PGUSER": "owner", "CODE": 1}
    said = ask(check, what="users", environment=environment, password="canary")
    told = json.loads(said["msg"].removesuffix(" Nothing has changed."))
    assert told["words"] == [word, "users"] and told["env"]["PGUSER"] == "owner"
    assert "canary" not in json.dumps(said) and "PGPASSWORD" in told["env"]
    assert said["failed"]
    said = ask(check, script="print('initialised')", environment=environment)
    assert said["changed"]


@pytest.mark.parametrize(("release_is_there", "warns"), [(True, True), (False, False)])
def test_check_mode_waits_for_nothing_that_a_run_makes(ask, release, release_is_there, warns):
    """Neither the release nor the database are there before the first run."""
    more = {} if release_is_there else {"release": "/nowhere"}
    said = ask(environment={"CODE": 2}, may_be_made=True, **more)
    assert said["changed"] and bool(said["warnings"]) is warns


# With MLflow's own code.


def head():
    folder = Path(probe.find_spec("mlflow").origin).parent / probe.TRACKING.migrations
    return ScriptDirectory(str(folder)).get_current_head()


@pytest.fixture
def sqlite(tmp_path):
    """Return a function that makes a database at a revision, with a run, and returns its URI."""

    def function(revision):
        path = tmp_path / "mlflow.db"
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            database.execute("INSERT INTO alembic_version VALUES (?)", [revision])
            database.execute("CREATE TABLE experiments (experiment_id, artifact_location)")
            database.execute("INSERT INTO experiments VALUES (0, 'mlflow-artifacts:/0')")
            database.execute("CREATE TABLE runs (run_uuid)")
            database.execute("INSERT INTO runs VALUES ('r')")
            database.commit()
        return f"sqlite:///{path}"

    return function


@pytest.fixture
def s3():
    """Return a function that serves an S3 that answers all with a code; its settings and what it
    was asked for."""
    with contextlib.ExitStack() as stack:

        def function(code, status):
            asked = []

            class Store(http.server.BaseHTTPRequestHandler):
                def answer(self):
                    asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                    text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

                do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

                def log_message(self, *_):
                    pass

            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            port = server.server_address[1]
            where = {
                "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/prefix",
                "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            return where, asked

        yield function


KEY = {
    "AWS_SHARED_CREDENTIALS_FILE": "[default]\naws_access_key_id = WANTEDKEY\n"
    "aws_secret_access_key = canary\n"
}


def test_another_schema_and_a_refused_key_are_told_at_once(ask, sqlite, s3):
    """Of what is wanted, before it is anywhere on the host; and nothing is put into the store."""
    where, asked = s3("InvalidAccessKeyId", 403)
    script = Path(probe.__file__).read_text()
    settings = where | {"MLFLOW_BACKEND_STORE_URI": sqlite("0123456789ab")}
    said = look(ask, settings=settings, files=KEY, script=script)
    assert "found 0123456789ab, a newer, unknown one; take that newer version" in said["msg"]
    assert "ListObjectsV2 was answered with InvalidAccessKeyId: no; put a key" in said["msg"]
    assert "canary" not in json.dumps(said)
    assert asked and {method for method, *_ in asked} == {"GET"}
    assert all("Credential=WANTEDKEY/" in key for *_, key in asked)


def test_artifacts_that_would_be_left_behind_are_told(ask, sqlite, tmp_path):
    """By the settings of the slot that serves. A folder that is not there yet is made by the run.
    That all is well says nothing at all.
    """
    uri, script = sqlite(head()), Path(probe.__file__).read_text()
    (tmp_path / "slot").mkdir()
    (tmp_path / "slot/secrets.env").write_text(f'MLFLOW_BACKEND_STORE_URI="{uri}"\n')
    former = tmp_path / "slot/server.env"
    for destination in ("/former", "/wanted"):
        former.write_text(f'MLFLOW_ARTIFACTS_DESTINATION="{destination}"\n')
        settings = {
            "MLFLOW_BACKEND_STORE_URI": uri,
            "MLFLOW_ARTIFACTS_DESTINATION": "/wanted",
        }
        said = look(ask, settings=settings, former=str(former.parent), script=script)
        if destination == "/former":
            assert "found runs whose artifacts are at /former" in said["msg"]
        else:
            assert said == {"changed": False, "warnings": []}
    assert not os.path.exists("/wanted")
