"""The lock of an instance, in which its holder says what it does, and until when at most."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.hosts import Host
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import Instance


class Lock:
    """The lock that whatever rolls an instance holds, and whatever writes what is wanted.

    Args:
        instance: The instance.
        host: Its host, for the clock.

    Attributes:
        waits: For which processes it has waited, a phrase each. That is reported, and no change.
    """

    def __init__(self, instance: Instance, host: Host):
        self.name, self.path, self.host = instance.name, instance.config / ".roll.lock", host
        self.waits: list[str] = []
        self.file = None
        self.until = 0.0

    @contextmanager
    def held(self, seconds: float, step: str) -> Iterator[None]:
        """Hold the lock; wait for another holder until that one's own deadline.

        Args:
            seconds: How long it is held at most. It is not enforced: others are given it.
            step: What is done first.

        Raises:
            Refused: The other holder is past its deadline.
        """
        with open(self.path, "a+") as self.file:
            os.fchmod(self.file.fileno(), 0o600)
            while True:
                try:
                    fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self.look_at_holder()
                    self.host.sleep(0.2)
            self.until = self.host.now() + seconds
            self.note(step)
            try:
                yield
            finally:
                self.file.truncate(0)

    def look_at_holder(self) -> None:
        """Note for which process this one waits. Raises Refused if that is past its deadline."""
        self.file.seek(0)
        try:
            holder = json.loads(self.file.read())
        except ValueError:
            return  # between taking the lock and writing who took it
        left_by_a_killed_run = not Path(f"/proc/{holder['pid']}").exists()
        if self.host.now() > holder["until"] and not left_by_a_killed_run:
            raise Refused(
                f"Wanted to roll {self.name}; found that process {holder['pid']} still does "
                f"so, at step '{holder['step']}', past its own deadline; look at that process, end "
                "it if it hangs, and run again."
            )
        waited = f"wait for process {holder['pid']}, which rolls {self.name} already"
        if waited not in self.waits:
            self.waits.append(waited)

    def note(self, step: str) -> None:
        """Say in the lock's file what its holder does next."""
        self.file.seek(0)
        self.file.truncate()
        json.dump({"pid": os.getpid(), "step": step, "until": self.until}, self.file)
        self.file.flush()
