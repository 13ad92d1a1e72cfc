"""The lock of a roll: who waits, until when, and what a killed holder leaves."""

import json
import os
import subprocess
import sys

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.roll_lock import Lock
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import Instance

HOLDER = """
import json, sys, fcntl, time, os
lock = open(sys.argv[1], "a+"); fcntl.flock(lock, fcntl.LOCK_EX)
lock.truncate(0)
json.dump({"pid": os.getpid(), "step": "fill green", "until": float(sys.argv[2])}, lock)
lock.flush(); print("held", flush=True); time.sleep(60)
"""


class Clock:
    """The clock of a host on which nobody really waits."""

    def __init__(self):
        self.time = 1000.0

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds


@pytest.fixture
def lock(tmp_path):
    instance = Instance("mlflow", tmp_path)
    instance.config.mkdir(parents=True)
    return Lock(instance, Clock())


def test_a_second_roll_waits_and_then_names_the_holder(lock):
    """Two operators at once: the second waits up to the first one's own deadline, no longer."""
    arguments = [sys.executable, "-c", HOLDER, str(lock.path), str(lock.host.time + 30)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        begun = lock.host.time
        with pytest.raises(Refused, match=f"process {holder.pid}.*fill green"):
            with lock.held(60, "look"):
                raise AssertionError("two hold it")
        assert lock.waits == [f"wait for process {holder.pid}, which rolls mlflow already"]
        assert 30 <= lock.host.time - begun < 32
        holder.kill()
    with lock.held(60, "look"):
        pass


def test_the_holder_says_what_it_does_and_until_when(lock):
    """And nothing any more once it is done. Nobody but root reads it."""
    with lock.held(60, "look"):
        wanted = {"pid": os.getpid(), "step": "look", "until": lock.host.time + 60}
        assert json.loads(lock.path.read_text()) == wanted
        lock.note("fill")
        assert json.loads(lock.path.read_text()) == wanted | {"step": "fill"}
    assert lock.path.read_text() == ""
    assert lock.path.stat().st_mode & 0o777 == 0o600


def test_the_note_of_a_killed_holder_frightens_nobody(lock):
    """A killed run leaves its note behind. Who finds it before the new holder has written its own
    must not take it for that one's."""
    with subprocess.Popen(["true"]) as gone:
        pass
    lock.path.write_text(json.dumps({"pid": gone.pid, "step": "long ago", "until": 0}))
    hold = "import fcntl, sys, time; lock = open(sys.argv[1]); fcntl.flock(lock, fcntl.LOCK_EX); "
    hold += "print('held', flush=True); time.sleep(0.5)"
    arguments = [sys.executable, "-c", hold, str(lock.path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        with lock.held(60, "look"):
            assert holder.wait() == 0
