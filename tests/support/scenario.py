"""Which tests of a scenario run: a plugin of pytest, registered by its conftest.py."""

import functools
import json
import os
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from control import ROOT
from testinfra.utils.ansible_runner import AnsibleRunner

NAME = os.environ.get("MOLECULE_SCENARIO_NAME", "")
# How many each scenario has, so that none is lost without a word.
WANTED = ROOT / "tests/cases.json"
# Tests of roles, which a scenario has if it has their hosts.
OF_ROLES = ROOT / "tests/testinfra"
# What a run of tests depends on, so that a change of a text alone repeats what has run already.
CONTENT = ["plugins", "roles", "playbooks", "site.yml", "molecule", "tests"]

left = pytest.StashKey[list]()


@functools.cache
def hosts_of(group: str) -> list[str]:
    """Return the names of the hosts of a group, or of one host by its name."""
    if not NAME:
        raise pytest.UsageError("Wanted a scenario; found none; run `make verify SCENARIO=roll`.")
    inventory = os.path.dirname(os.environ["MOLECULE_INVENTORY_FILE"])
    return AnsibleRunner(inventory).get_hosts(group)


def group_of(module) -> str:
    """Return the group, or host, on which the tests of a module run."""
    return getattr(module, "group", "mlflow")


def hosts_for(module) -> list[str]:
    """Return the names of the hosts on which the tests of a module run."""
    return hosts_of(group_of(module))


def pytest_configure(config):
    config.addinivalue_line("markers", "long: `make test` draws one of a scenario")


def draw() -> random.Random:
    """Return what draws the same for one state of the product and its tests, as committed."""
    command = ["git", "rev-parse", *[f"HEAD:{path}" for path in CONTENT]]
    # Not in a repository, as in an archive of one, it is always the same.
    trees = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE).stdout
    return random.Random(trees + NAME.encode())


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of a role of which the scenario has no host, and all long ones but one.

    Raises:
        pytest.UsageError: A test of the scenario itself has no host, or there are more or fewer
            tests than tests/cases.json says.
    """
    of_roles = [item for item in items if item.path.is_relative_to(OF_ROLES)]
    asking = [item for item in items if item in of_roles or "host" in item.fixturenames]
    homeless = [item for item in asking if not hosts_for(item.module)]
    if lost := [item for item in homeless if item not in of_roles]:
        groups = ", ".join(sorted({group_of(item.module) for item in lost}))
        raise pytest.UsageError(
            f"Wanted a host for each test of the scenario {NAME}; found none in {groups} for "
            f"{', '.join(item.nodeid for item in lost)}; correct the group that the module names, "
            "or the inventory."
        )
    # By who looks into one: it runs, drawn or not.
    chosen = config.option.keyword or config.option.markexpr
    found, wanted = len(items) - len(homeless), json.loads(WANTED.read_text()).get(NAME)
    if found != wanted and not chosen:
        raise pytest.UsageError(
            f"Wanted {wanted} cases of {NAME}, as tests/cases.json says; found {found}; correct "
            "that file if it is meant."
        )
    long = [i for i in items if i.get_closest_marker("long") and i not in homeless]
    all_of_them = chosen or os.environ.get("TEST_ALL") or not long
    takes = long if all_of_them else [draw().choice(long)]
    config.stash[left] = [item for item in long if item not in takes]
    if out := homeless + config.stash[left]:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_report_collectionfinish(config):
    counts = Counter(item.originalname for item in config.stash.get(left, []))
    return [f"long, left to `make test-all`: {count} of {name}" for name, count in counts.items()]


def pytest_sessionfinish(session):
    """Say how many tests there were, to tools/scenario."""
    if not (file := os.environ.get("SCENARIO_CASES")):
        return
    count = {"cases": session.testscollected, "left": len(session.config.stash.get(left, []))}
    Path(file).write_text(json.dumps(count))
