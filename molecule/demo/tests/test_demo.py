"""README's first command, typed as it stands there; beside a demo that somebody looks at."""

import os
import re
import subprocess
import urllib.request

import pytest
from control import ROOT

NAME = "mlflow-demo-test"


@pytest.fixture(scope="module")
def shell():
    """Return a function that runs a command as from a shell of the developer's."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANSIBLE_", "MOLECULE_", "MAKE", "MFLAGS"))
    }

    def run(*words):
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment | {"MLFLOW_DEMO_NAME": NAME},
        )

    yield run
    subprocess.run(["podman", "rm", "--force", "--ignore", NAME], check=True)


def test_the_demo_does_what_it_promises_and_goes(shell):
    """It drives a real host with the real client, and the UI's address that it prints answers."""
    done = shell("make", "demo")
    assert done.returncode == 0, done.stdout[-8000:]
    assert len(re.findall("(?m)^ok  ", done.stdout)) == 8, done.stdout[-8000:]
    (url,) = re.findall(r"The UI is at (\S+);", done.stdout)
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert "<title>MLflow</title>" in answer.read().decode()
    # What else it prints is to be typed, too.
    (words,) = re.findall(r"(?m)^To change something: (.*site\.yml)", done.stdout)
    again = shell(*words.split(), "--check")
    assert again.returncode == 0, again.stdout[-8000:]
    assert not re.search("changed=[1-9]", again.stdout), again.stdout[-8000:]

    gone = shell("make", "demo-down")
    assert gone.returncode == 0, gone.stdout
    names = ["podman", "ps", "--all", "--format={{.Names}}"]
    assert NAME not in subprocess.run(names, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert not list((ROOT / ".cache").glob(f"{NAME}*"))
