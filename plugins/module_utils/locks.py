"""Locks that end with the process that holds them, so that a killed one leaves none behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused


def hold(path: str | Path = "/run") -> int:
    """Wait for the lock of a folder or file, and hold it until this process ends.

    Two inventory names may be one host, on which two modules must not work at once.
    """
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


@contextlib.contextmanager
def locked(
    path: Path, seconds: float, refusal: Callable[[str], str], root: Path = Path("/")
) -> Iterator[int]:
    """Hold the lock of a folder or file within the context, and yield its descriptor.

    A command that gets the descriptor (`pass_fds`) holds the lock too, so the next run waits
    for what a killed run has started.

    Args:
        seconds: How long to wait for another holder.
        refusal: Returns the message after a timeout, given the lock's holder: `process 4711`, or
            `another process` if unknown.
        root: Folder that stands for `/`.

    Raises:
        Refused: The lock was not released in time.
    """
    descriptor = os.open(path, os.O_RDONLY)
    deadline = time.monotonic() + seconds
    try:
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise Refused(refusal(holder(descriptor, root)))
            time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open folder or file, or return False if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(descriptor: int, root: Path = Path("/")) -> str:
    """Describe the process that holds the lock of an open folder or file."""
    locks = (root / "proc/locks").read_text()
    inode = os.fstat(descriptor).st_ino
    found = re.search(rf"FLOCK +ADVISORY +WRITE (\d+) \S+:{inode} ", locks)
    return f"process {found[1]}" if found else "another process"
