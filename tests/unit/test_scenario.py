"""Which tests of a scenario run: none gets lost without a word."""

import json
from types import SimpleNamespace

import pytest
import scenario


class Config:
    """As much of pytest's as the plugin uses."""

    def __init__(self, keyword):
        self.stash = pytest.Stash()
        self.option = SimpleNamespace(keyword=keyword, markexpr="")
        self.deselected = []
        self.hook = SimpleNamespace(pytest_deselected=lambda items: self.deselected.extend(items))


def item(
    name, *, group="mlflow", path="molecule/roll/tests/test_roll.py", long=False, needs="host"
):
    """Return a test as pytest collects it, with the fixture that it needs."""
    return SimpleNamespace(
        name=name,
        nodeid=f"{path}::{name}",
        path=scenario.ROOT / path,
        module=SimpleNamespace(group=group),
        fixturenames=[needs],
        get_closest_marker=lambda marker: long if marker == "long" else None,
    )


@pytest.fixture(autouse=True)
def hosts(monkeypatch, tmp_path):
    """A scenario with one host, in the group mlflow."""
    monkeypatch.setattr(scenario, "NAME", "roll")
    monkeypatch.setattr(scenario, "WANTED", tmp_path / "cases.json")
    monkeypatch.setattr(scenario, "hosts_of", lambda group: {"mlflow": ["a"]}.get(group, []))
    monkeypatch.delenv("TEST_ALL", raising=False)


def run(*items, keyword="", wanted=0):
    """Return the names of the tests that run, and of those left to test-all.

    Args:
        keyword: What is chosen by -k.
        wanted: How many cases the scenario is to have; 0 is as many as there are.
    """
    config, items = Config(keyword), list(items)
    scenario.WANTED.write_text(json.dumps({"roll": wanted or len(items)}))
    scenario.pytest_collection_modifyitems(config, items)
    return [each.name for each in items], [each.name for each in config.stash[scenario.left]]


def test_a_mistyped_group_is_an_error():
    """Its tests would be left out, and the scenario green."""
    with pytest.raises(pytest.UsageError, match="none in mlflwo for .*test_roll.py::b; correct"):
        run(item("a"), item("b", group="mlflwo"))


def test_a_role_without_a_host_is_left_out():
    """A scenario without a database has no use for the tests of databases."""
    path = "tests/testinfra/postgresql/test_postgresql.py"
    for needs in ("host", "servers"):
        tests = item("a"), item("b", group="database", path=path, needs=needs)
        assert run(*tests, wanted=1) == (["a"], [])


def test_a_test_that_is_lost_is_an_error():
    """A folder that is no longer named would take its tests with it, and the scenario be green."""
    role = item("of a role", group="database", path="tests/testinfra/x/test_x.py")
    tests = [item("a"), item("long", long=True), item("longer", long=True), role]
    run(*tests, wanted=3)
    with pytest.raises(pytest.UsageError, match="Wanted 4 cases of roll.*found 3"):
        run(*tests, wanted=4)
    run(*tests, keyword="only one", wanted=4)


def test_a_long_test_that_is_chosen_runs_whatever_is_drawn():
    """Who works on it would else wait for the right commit."""
    tests = [item("a"), *(item(f"long {number}", long=True) for number in range(5))]
    assert run(*tests, keyword="long") == ([each.name for each in tests], [])


def test_one_long_test_is_drawn():
    """The same for one content, or a failure could not be looked into."""
    tests = [item("a"), *(item(f"long {number}", long=True) for number in range(5))]
    runs, left = run(*tests)
    assert len(runs) == 2 and runs[0] == "a" and len(left) == 4
    assert run(*tests) == (runs, left)


def test_each_long_test_is_drawn_in_time(monkeypatch):
    """Else nobody knows whether the others pass."""
    tests, seen = [item(f"long {number}", long=True) for number in range(3)], set()
    for commit in range(50):
        done = SimpleNamespace(stdout=b"%d" % commit)
        monkeypatch.setattr(scenario.subprocess, "run", lambda *_, done=done, **__: done)
        seen |= set(run(*tests)[0])
    assert len(seen) == 3


def test_all_long_tests_run_on_request(monkeypatch):
    monkeypatch.setenv("TEST_ALL", "1")
    tests = [item(f"long {number}", long=True) for number in range(3)]
    assert run(*tests) == ([each.name for each in tests], [])
