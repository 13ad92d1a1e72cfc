"""The host of a roll: its units, its servers' answers, its memory and its clock."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import in_memory
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import (
    COLOURS,
    Instance,
    ask,
    probe_command,
    settings_of,
)

SEARCH = "/api/2.0/mlflow/experiments/search"
# Shown to the operator if a unit did not become ready.
JOURNAL_LINES = 40


class Host:
    """What a roll needs from its host. The unit tests replace it."""

    def command(self, *words: str) -> str:
        """Run a command and return its output. Raises Refused if it fails."""
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise Refused(
                f"Wanted '{' '.join(words)}' to succeed; found exit code {done.returncode}: "
                f"{said}; fix that and run again."
            )
        return done.stdout

    def show(self, unit: str) -> dict[str, str]:
        """Return the properties of a unit that the roll uses."""
        names = "ActiveState,UnitFileState,NeedDaemonReload,NRestarts"
        lines = self.command("systemctl", "show", unit, f"--property={names}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def started(self, unit: str) -> float:
        """Return when the main process of a unit was started, in seconds since the epoch."""
        name = "ExecMainStartTimestampMonotonic"
        microseconds = self.command("systemctl", "show", "--value", f"--property={name}", unit)
        return time.time() - time.monotonic() + int(microseconds) / 1e6

    def has_old_libraries(self, unit: str) -> bool:
        """Return whether a unit uses system libraries that have been replaced since it started."""
        pid = self.command("systemctl", "show", "--value", "--property=MainPID", unit).strip()
        found = ""
        # The process may end in the meantime.
        with suppress(OSError):
            found = Path(f"/proc/{pid}/maps").read_text()
        return bool(re.search(r" /(usr/)?lib\S*/\S+\.so\S* \(deleted\)$", found, re.MULTILINE))

    def journal(self, unit: str, since: float) -> str:
        """Return the last lines that a unit has logged since a time in seconds since the epoch."""
        said = self.command(
            "journalctl",
            f"--unit={unit}",
            f"--since=@{int(since)}",
            "--output=cat",
            "--no-pager",
            "--quiet",
        )
        # With --lines, systemd 252 returns the first lines: a traceback without its error.
        return "\n".join(said.strip().splitlines()[-JOURNAL_LINES:])

    def start_probe(
        self,
        instance: str,
        slot: Path,
        words: list[str],
        seconds: int,
        former: Path | None = None,
        more: str = "",
    ):
        """Start the slot's probe as the service user, with its environment and a time limit.

        Args:
            former: A slot whose settings are passed to a comparing probe on its standard input.
            more: Path of a file with environment variables that take precedence over the slot's.
        """
        # In memory, as they include secrets.
        with in_memory(settings_of(former)) as (path,), open(path) as stdin:
            return subprocess.Popen(
                probe_command(instance, slot, words, seconds, more),
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )

    def answers(self, path: Path) -> str:
        """Return why the server behind a socket does not work, or nothing if it works.

        /health is a constant, so the database is checked as well. A server that requires a login
        answers 401, and starts only if its database answers.
        """
        for words in (("GET", "/health"), ("POST", SEARCH, json.dumps({"max_results": 1}))):
            try:
                status, body = ask(path, *words, timeout=5)
            except (OSError, http.client.HTTPException) as error:
                return f"{words[1]} did not answer: {error}"
            if status not in (200, 401):
                return f"{words[1]} answered {status}: {body[:200]!r}"
        return ""

    def refused_name(self, path: Path, names: list[str]) -> str:
        """Return the first name that the server behind a socket rejects as Host, if any.

        MLflow rejects an unknown Host with 403, before it asks for a login.
        """
        for name in names:
            if ask(path, "GET", f"{SEARCH}?max_results=1", headers={"Host": name})[0] == 403:
                return name
        return ""

    def connections(self, path: Path) -> int:
        """Return how many connections to a unix socket are open or waiting to be accepted.

        Columns of /proc/net/unix, see proc_net_unix(5): the sixth is the state, 02 connecting and
        03 connected; the eighth is the path.
        """
        rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
        return sum(row[5] in ("02", "03") and row[7:8] == [str(path)] for row in rows)

    def memory_available_mb(self) -> int:
        """Return MemAvailable in MB."""
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
        raise Refused("Wanted MemAvailable in /proc/meminfo; found none; use Linux 3.14 or newer.")

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class HostedInstance(Instance):
    """An instance, and its state on its host.

    Args:
        name, root: As in `Instance`.
        host: The host.
    """

    def __init__(self, name: str, host: Host, root: Path = Path("/")):
        super().__init__(name, root)
        self.host = host

    def serving(self) -> str:
        """Return the colour that serves: the one that the link names, else the active one."""
        if linked := self.linked():
            return linked
        active = [colour for colour in COLOURS if self.is_active(colour)]
        return active[0] if len(active) == 1 else ""

    def must_serve(self) -> str:
        """Return the colour that serves. Raises Refused if none does."""
        if colour := self.serving():
            return colour
        raise Refused(f"Wanted a server {self.name} that serves; found none; run site.yml first.")

    def is_active(self, colour: str) -> bool:
        return self.host.show(self.unit(colour))["ActiveState"] == "active"

    def is_enabled(self, colour: str) -> bool:
        return self.host.show(self.unit(colour))["UnitFileState"] == "enabled"

    def is_idle(self, colour: str) -> bool:
        """Return whether a colour neither runs nor waits to be restarted."""
        return self.host.show(self.unit(colour))["ActiveState"] in ("inactive", "failed")
