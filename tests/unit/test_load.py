"""A load tells what was acknowledged from what failed, else a lost write would pass for refused."""

import json

from load import Load, acknowledged


def test_what_failed_was_not_acknowledged():
    """Of each run, in the JSON that it prints."""
    load = Load("http://nowhere", seconds=60, pause=0.001)
    names, reached = iter("ab"), {"a": 0, "b": 0}
    load.start_run = lambda: next(names)

    def write(connection, run, turn):
        reached[run] = turn
        if min(reached.values()) > 40:
            load.stopped.set()
        if (run, turn) in (("a", 2), ("b", 20)):
            raise OSError("refused")

    load.write = write
    counts = json.loads(json.dumps(load.run(2)))
    assert (counts["failed"], counts["written"] + 2) == (2, sum(load.counts.values()))
    metrics, artifacts = acknowledged(counts)
    assert metrics["a"][:3] == [1, 3, 4]
    assert metrics["b"][:3] == [1, 2, 3]
    for run in "ab":
        turns = counts["runs"][run]["turns"]
        wrong = counts["runs"][run]["failed"]
        assert sorted(metrics[run] + artifacts[run] + wrong) == list(range(1, turns + 1))
        assert all(turn % 20 == 0 for turn in artifacts[run])
    assert 20 not in artifacts["b"]
