"""What clients have written while all that rotates has rotated. The last tests, on purpose."""

import json

from load import METRICS, STORED, lost


def count(written: dict[str, list[int]]) -> int:
    return sum(map(len, written.values()))


def test_every_acknowledged_metric_is_in_the_database(fleet):
    """An answer that said so and was not so would be noticed by nobody, until somebody looks."""
    rows = (row.split("|") for row in fleet.sql(METRICS, "mlflow"))
    found = {run: json.loads(turns) for run, turns in rows}
    assert count(fleet.metrics) > 20
    assert lost(fleet.metrics, found) == {}


def test_every_acknowledged_artifact_is_in_the_store(fleet):
    """As above, of those that were put with the former key, too."""
    command = ["python3", "-c", STORED, "/srv/s3/rotation/mlflow/load"]
    found = json.loads(fleet.on(fleet.stores, *command))
    assert count(fleet.artifacts) > 20
    assert lost(fleet.artifacts, found) == {}
