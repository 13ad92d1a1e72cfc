"""Locks that a process holds until it ends, so that none is left behind by one that is killed."""

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

    Two names of an inventory may be one host, on which two modules must not work at once.
    """
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


@contextlib.contextmanager
def locked(
    path: Path, seconds: float, refusal: Callable[[str], str], root: Path = Path("/")
) -> Iterator[int]:
    """Hold the lock of a folder or file inside, and give its descriptor.

    A command that gets the descriptor (`pass_fds`) holds the lock too: what a killed run has
    started is waited for until it ends.

    Args:
        seconds: How long to wait for another holder.
        refusal: Gives the message of an operator who has waited that long, from who holds the lock:
            `process 4711`, or `another process` if that is not known.
        root: Folder that stands for `/`.

    Raises:
        Refused: The lock was not given up in time.
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
    """Return in words which process holds the lock of an open folder or file."""
    locks = (root / "proc/locks").read_text()
    inode = os.fstat(descriptor).st_ino
    found = re.search(rf"FLOCK +ADVISORY +WRITE (\d+) \S+:{inode} ", locks)
    return f"process {found[1]}" if found else "another process"
