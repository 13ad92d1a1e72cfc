"""What clients have written while all that rotates has rotated. The last tests, on purpose."""

import json

# The artifacts of loads in the folder of the S3 server: the turns of each run that are whole.
STORED = """
import collections, json, pathlib
found = collections.defaultdict(list)
for path in pathlib.Path("/srv/s3/rotation/mlflow/load").glob("*/*"):
    if path.read_text() == path.name * 1000:
        found[path.parent.name].append(int(path.name))
print(json.dumps(found))
"""


def lost(written: dict[str, list[int]], found: dict[str, list[int]]) -> dict[str, set[int]]:
    """Return the turns of each run that were acknowledged and are not there."""
    assert sum(map(len, written.values())) > 20, "nothing was written"
    missing = {run: set(turns) - set(found.get(run, [])) for run, turns in written.items()}
    return {run: turns for run, turns in missing.items() if turns}


def test_every_acknowledged_metric_is_in_the_database(fleet):
    """An answer that said so and was not so would be noticed by nobody, until somebody looks."""
    query = "SELECT run_uuid, json_agg(value::int) FROM metrics WHERE key = 'm' GROUP BY run_uuid"
    rows = (row.split("|") for row in fleet.sql(query, "mlflow"))
    found = {run: json.loads(turns) for run, turns in rows}
    assert lost(fleet.metrics, found) == {}


def test_every_acknowledged_artifact_is_in_the_store(fleet):
    """As above, of those that were put with the former key, too."""
    found = json.loads(fleet.on(fleet.stores, "python3", "-c", STORED))
    assert lost(fleet.artifacts, found) == {}
