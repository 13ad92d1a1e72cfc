"""The lock of an instance, in which its holder notes its step and its deadline."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.hosts import Host
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.locks import try_lock
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import Instance


class Lock:
    """The lock held by whatever rolls an instance or writes what is wanted.

    Args:
        instance: The instance.
        host: Its host, for the clock.

    Attributes:
        waits: Processes it has waited for, one phrase each. Reported, but not a change.
    """

    def __init__(self, instance: Instance, host: Host):
        self.name, self.path, self.host = instance.name, instance.config / ".roll.lock", host
        self.waits: list[str] = []
        self.file = None
        self.until = 0.0

    @contextmanager
    def held(self, seconds: float, step: str) -> Iterator[None]:
        """Hold the lock; wait for another holder until that holder's deadline.

        Args:
            seconds: How long it is held at most. Not enforced, but published to others.
            step: The first step.

        Raises:
            Refused: The other holder is past its deadline.
        """
        with open(self.path, "a+") as self.file:
            os.fchmod(self.file.fileno(), 0o600)
            while not try_lock(self.file.fileno()):
                self.look_at_holder()
                self.host.sleep(0.2)
            self.until = self.host.now() + seconds
            self.note(step)
            try:
                yield
            finally:
                self.file.truncate(0)

    def look_at_holder(self) -> None:
        """Note the process that this one waits for. Raises Refused if it is past its deadline."""
        self.file.seek(0)
        try:
            holder = json.loads(self.file.read())
        except ValueError:
            return  # between taking the lock and writing its holder
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
        """Write the holder's next step into the lock's file."""
        self.file.seek(0)
        self.file.truncate()
        json.dump({"pid": os.getpid(), "step": step, "until": self.until}, self.file)
        self.file.flush()
