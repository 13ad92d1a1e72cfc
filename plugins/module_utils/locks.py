"""Locks that a process holds until it ends, so that none is left behind by one that is killed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def hold(path: str | Path = "/run") -> int:
    """Wait for the lock of a folder or file, and hold it until this process ends.

    Two names of an inventory may be one host, on which two modules must not work at once.
    """
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor
