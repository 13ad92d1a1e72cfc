"""tools/scenario: what `make test` says of its scenarios at the end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from api import wait_for
from control import ROOT

# The tool with another command in molecule's place, and another folder for what it notes.
RUN = """
import importlib.machinery, importlib.util, pathlib, sys
loader = importlib.machinery.SourceFileLoader("tool", "tools/scenario")
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("tool", loader))
loader.exec_module(tool)
folder, tool.MOLECULE = sys.argv[1], ["sh", "-c", sys.argv[2]]
tool.ROOT = pathlib.Path(folder)
tool.TIMES = tool.ROOT / "times"
(tool.ROOT / ".cache").mkdir(exist_ok=True)
if sys.argv[3] == "run":
    tool.run("roll")
else:
    tool.table(float(sys.argv[3]), sys.argv[4:])
"""
# As the plugin of pytest does.
COUNTED = """echo '{"cases": 3, "left": 1}' > "$SCENARIO_CASES" """


@pytest.fixture
def tool(tmp_path):
    """Return a function that starts the tool."""

    def start(*words, molecule=COUNTED, **environment):
        return subprocess.Popen(
            [sys.executable, "-c", RUN, tmp_path, molecule, *words],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def test_a_scenario_that_failed_or_did_not_run_is_in_the_table(tool):
    """A row that is missing is overlooked, and one of an earlier run is none."""
    assert tool("run").wait() == 0
    table = tool("0", "roll", "client")
    said = table.communicate()[0].splitlines()
    assert said[1].split() == ["roll", "0", "3", "1"]
    assert said[-2:] == [
        "client                failed, or did not run",
        "scenarios: 1 passed, 1 failed",
    ]
    assert table.returncode == 1
    assert tool("0", "roll").wait() == 0
    assert tool(str(time.time() + 60), "roll").wait() == 1
    assert tool("run", molecule="false").wait() == 1
    assert tool("0", "roll").wait() == 1


def test_a_run_has_all_tests_whatever_is_chosen_elsewhere(tool, tmp_path):
    """With an option from the shell some would be left out, and the scenario green."""
    assert tool("run", molecule=f'test -z "$PYTEST_ADDOPTS" && {COUNTED}').wait() == 0
    chosen = tool("run", molecule=f'test -z "$PYTEST_ADDOPTS" && {COUNTED}', PYTEST_ADDOPTS="-k x")
    assert chosen.wait() == 0
    noted = json.loads((tmp_path / "times/roll.json").read_text())
    assert (noted["cases"], noted["left"]) == (3, 1)


def test_what_is_ended_leaves_nothing_running(tool, tmp_path):
    """It would go on with hosts that the next run makes anew."""
    file = tmp_path / "child"
    run = tool("run", molecule=f"sleep 600 & echo $! > {file}.new; mv {file}.new {file}; wait")
    wait_for(file.exists, seconds=60)
    child = int(file.read_text())
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM
    wait_for(lambda: not os.path.exists(f"/proc/{child}"), seconds=60)
