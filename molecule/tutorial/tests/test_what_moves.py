"""Artifacts move to another bucket while clients write, and all is shown that can be.

docs/tutorial.md has how it is done. One run of site.yml changes both servers, after all other
tests: those of a module with `host` come host by host, so none here has it.
"""

import hashlib
import os
from dataclasses import dataclass

import pytest
from api import call, request
from canaries import in_texts, on_host
from control import Control
from load import acknowledged, artifact
from slot import probe

# Parts of the inventory's secrets.
SECRETS = {
    "login of proxied": "canary-proxied",
    "login of proxied that rests": "canary-resting",
    "login of direct": "canary-direct",
    "owner of the databases": "canary-owner",
    "key of S3": "canary/s3+secret=",
}
NOTE = "/api/2.0/mlflow-artifacts/artifacts/note.txt"
# As `aws s3 sync`.
COPY = (
    "rclone copy --ca-cert=/srv/s3.pem --s3-provider=Rclone --s3-endpoint=https://tutorial-s3:9000 "
    "--s3-access-key-id=AKIATUTORIAL --s3-secret-access-key=canary/s3+secret= "
    ":s3:tutorial/proxied :s3:moved/proxied"
)


@dataclass
class Move:
    """What site.yml said, and what clients of the server that serves artifacts did meanwhile."""

    said: str
    counts: dict


@pytest.fixture(scope="module")
def moved(proxied, direct, s3):
    inventory = os.path.dirname(os.environ["MOLECULE_INVENTORY_FILE"])
    call(direct, "experiments/create", name="before the move")
    assert request(proxied, NOTE, "PUT", "written before")[0] == 200
    s3.check_output(COPY)
    load = Control(inventory, "tutorial-proxied").load("--threads=2", "--pause=0.1")
    with load as counts:
        code, said = Control(inventory, "mlflow").playbook(
            "-vvv",
            "--diff",
            mlflow_server_artifacts_destination="s3://moved/{{ mlflow_server_database_name }}",
            mlflow_server_allow_artifact_root_change=True,
        )
    assert code == 0, said
    s3.check_output(COPY)
    return Move(said, counts)


def test_artifacts_that_moved_are_found_through_the_server(moved, proxied, s3):
    """The database says nothing of where they are, so a next run has nothing to allow."""
    s3.check_output("rm -r /srv/s3/tutorial/proxied")
    assert request(proxied, NOTE) == (200, "written before")
    assert probe(proxied, "database") == (0, "")


def test_where_clients_go_to_s3_themselves_only_new_artifacts_move(moved, direct, sql):
    """The database says where the others are, for ever, so each run has to allow it."""
    call(direct, "experiments/create", name="after the move")
    query = "SELECT artifact_location FROM experiments WHERE name ~ 'the move$' ORDER BY name"
    new, old = sql("direct", query)
    assert new.startswith("s3://moved/direct/") and old.startswith("s3://tutorial/direct/")
    code, said = probe(direct, "database")
    assert code != 0 and "set mlflow_server_allow_artifact_root_change: true" in said
    assert probe(direct, "database", "any-artifact-root") == (0, "")


def test_what_was_acknowledged_is_in_the_database_and_in_the_store(moved, sql, s3):
    """An answer of 200 for what is nowhere is the one failure that no client sees."""
    metrics, artifacts = acknowledged(moved.counts)
    rows = sql("proxied", "SELECT run_uuid, step, value FROM metrics")
    written = {f"{run}|{turn}|{turn}" for run, turns in metrics.items() for turn in turns}
    assert len(written) > 100 and written - set(rows) == set()
    sums = s3.check_output("cd /srv/s3/moved/proxied && sha256sum load/*/*").splitlines()
    sent = [artifact(run, turn) for run, turns in artifacts.items() for turn in turns]
    expected = {f"{hashlib.sha256(content).hexdigest()}  {path}" for path, content in sent}
    assert len(expected) > 4 and expected - set(sums) == set()


def test_no_playbook_shows_a_secret(moved):
    """At the highest verbosity, which shows what modules are given."""
    assert "module_args" in moved.said and "AKIATUTORIAL" in moved.said
    assert in_texts(SECRETS, {"said": moved.said}) == []


@pytest.mark.parametrize("name", ["tutorial-proxied", "tutorial-direct", "tutorial-database"])
def test_no_host_shows_a_secret(moved, name):
    """In argv, foreign environments, units, journals and logs, or a file that others can read."""
    assert on_host(name, SECRETS, users=("mlflow", "mlflow-adopted", "postgres")) == []
