"""Locks: who waits, for how long, for whom; and what a killed process leaves."""

import fcntl
import os
import re
import signal
import subprocess
import threading

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import locks
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.locks import hold, locked
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused


def is_taken(path):
    """Tell whether somebody has a folder's lock for themselves."""
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(folder)


def sentence(holder):
    return f"Wanted the lock; found it taken by {holder}; wait for it."


def test_a_lock_that_is_held_is_held_until_the_process_ends(tmp_path):
    """Nothing has to be cleared away after a kill."""
    os.mkfifo(tmp_path / "held")
    child = os.fork()
    if not child:
        hold(tmp_path)
        (tmp_path / "held").write_text("")
        signal.pause()
    (tmp_path / "held").read_text()
    taken = is_taken(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert taken and not is_taken(tmp_path)


def test_who_comes_second_waits_until_the_first_is_done(tmp_path, monkeypatch):
    done, refused = [], threading.Semaphore(0)
    try_lock = locks.try_lock

    def tried(descriptor):
        got = try_lock(descriptor)
        if not got:
            refused.release()
        return got

    monkeypatch.setattr(locks, "try_lock", tried)

    def second():
        with locked(tmp_path, 600, sentence):
            done.append("second")

    with locked(tmp_path, 600, sentence):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert refused.acquire(timeout=60), "it has begun, and waits"
        assert refused.acquire(timeout=60), "it waits still"
        done.append("first")
    waiting.join(60)
    assert done == ["first", "second"]
    assert not is_taken(tmp_path)


def test_a_lock_is_given_up_after_an_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path, 0, sentence):
        raise KeyError
    assert not is_taken(tmp_path)


def test_a_lock_that_is_not_given_up_is_refused_with_its_holder(tmp_path):
    """A run that hangs has to be found before it can be ended."""
    found = f"Wanted the lock; found it taken by process {os.getpid()}; wait for it."
    with locked(tmp_path, 0, sentence):
        with pytest.raises(Refused, match=re.escape(found)), locked(tmp_path, 0, sentence):
            raise AssertionError("two hold it")


def test_a_holder_that_the_kernel_does_not_name_is_another_process(tmp_path):
    """One in another namespace, as of a container."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/locks").write_text("1: FLOCK  ADVISORY  WRITE 4711 fe:00:1 0 EOF\n")
    with locked(tmp_path, 0, sentence):
        with pytest.raises(Refused, match="taken by another process;"):
            with locked(tmp_path, 0, sentence, tmp_path):
                raise AssertionError("two hold it")


def test_what_a_killed_run_started_is_waited_for(tmp_path):
    """An installer outlives its killed module and would go on writing beside the next run's."""
    os.mkfifo(tmp_path / "started")
    os.mkfifo(tmp_path / "end")
    child = os.fork()
    if not child:
        with locked(tmp_path, 0, sentence) as lock:
            script = f"echo > {tmp_path}/started; read line < {tmp_path}/end"
            subprocess.run(["sh", "-c", script], pass_fds=[lock])
        os._exit(0)
    (tmp_path / "started").read_text()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert is_taken(tmp_path)
    (tmp_path / "end").write_text("\n")
    with locked(tmp_path, 60, sentence):
        pass
