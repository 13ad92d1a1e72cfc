"""Several hosts whose credentials rotate: what the tests and the benchmark do with them."""

import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from control import ROOT, Control
from s3 import S3

# What a tracking server's slots hold, and when each was filled.
LOOK = r"""
import configparser, json, os, pathlib, re
config = pathlib.Path("/etc/mlflow")
slots = {}
for name in ("wanted", "blue", "green"):
    if (slot := config / name).is_dir():
        key = configparser.RawConfigParser()
        key.read(slot / "aws_shared_credentials_file")
        text = "".join(path.read_text() for path in slot.glob("*.env"))
        login = re.search('^PGUSER="(.*)"', text, re.MULTILINE)
        slots[name] = {
            "key": key.get("default", "aws_access_key_id", fallback=""),
            "login": login[1] if login else "",
            "text": text,
            "installed": slot.stat().st_ctime,
        }
serving = pathlib.Path(os.readlink(config / "current.sock")).parent.name
print(json.dumps({"serving": serving, "slots": slots}))
"""

LOG_IN = """
import psycopg2, sys
try:
    psycopg2.connect(host=sys.argv[1], dbname="mlflow", sslmode="require")
    print("in")
except psycopg2.OperationalError as error:
    print(error)
"""

KILL = "kill -KILL $PPID"


@dataclass
class At:
    """A point of a playbook, and what a shell does there; see tests/callbacks/at_point.py."""

    event: str
    word: str = ""
    count: int = 1
    command: str = KILL

    @property
    def environment(self) -> dict[str, str]:
        return {
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "at_point",
            "AT_EVENT": self.event,
            "AT_WORD": self.word,
            "AT_COUNT": str(self.count),
            "AT_COMMAND": self.command,
        }


# A load that asks whether a write fails, not how many there can be: the cores are for playbooks. It
# sees gaps of half a second; bench/rotation has the load that sees all.
GENTLE = ("--threads=2", "--pause=0.5")
# Of a server, in all playbooks.
ROLL = "Rotate | Roll"
# What runs on the host goes on without the control process.
IN_A_ROLL = At("start", ROLL, command=f"(sleep 3; {KILL}) &")


class Run:
    """A playbook that runs.

    Args:
        command: The command.
        environment: More of it.
    """

    def __init__(self, command: list[str], environment: dict[str, str]):
        # Not a pipe: what a killed control process has started still holds its end.
        self.output = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | environment,
        )

    def wait(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it said, in one line."""
        code = self.process.wait()
        self.output.seek(0)
        return code, " ".join(self.output.read().split())


class Fleet:
    """The hosts.

    Args:
        inventory: Path of their inventory.
        servers: Names of the tracking servers, and of their containers.
        stores: Name of the host with the database and S3.
        arguments: For every playbook.
    """

    def __init__(self, inventory: str, servers: list[str], stores: str, *arguments: str):
        self.inventory, self.servers = inventory, servers
        self.stores, self.arguments = stores, arguments
        self.s3 = S3(stores)
        # Of the playbooks.
        self.environment: dict[str, str] = {}
        # All that any playbook has said.
        self.said: list[str] = []

    # Playbooks

    def start(self, playbook: str, *arguments: str, at: At | None = None, **variables) -> Run:
        """Start a playbook, by its path, against all hosts."""
        always = ["ansible-playbook", f"--inventory={self.inventory}", *self.arguments]
        command = [*always, *arguments]
        environment = self.environment | (at.environment if at else {})
        extra = f"--extra-vars={json.dumps(variables)}"
        return Run([*command, extra, str(ROOT / playbook)], environment)

    def run(self, playbook: str, *arguments: str, **variables) -> tuple[int, str]:
        """Run a playbook to its end; return its exit code and what it said, in one line."""
        code, said = self.start(playbook, *arguments, **variables).wait()
        self.said.append(said)
        return code, said

    def succeed(self, playbook: str, *arguments: str, **variables) -> str:
        """Run a playbook, which must succeed, and return what it says."""
        code, said = self.run(playbook, *arguments, **variables)
        assert code == 0, said[-8000:]
        return said

    def refuse(self, playbook: str, *arguments: str, **variables) -> str:
        """Run a playbook, which must fail, and return what it says."""
        code, said = self.run(playbook, *arguments, **variables)
        assert code > 0, f"it was not refused: {said[-8000:]}"
        return said

    def killed(self, playbook: str, at: At) -> bool:
        """Run a playbook that is killed at a point; tell whether it came there.

        One that did not has to succeed.
        """
        code, said = self.run(playbook, at=at)
        assert code in (0, -9), said[-8000:]
        return code == -9

    def succeed_with_kills(self, playbook: str, points: list[At]) -> str:
        """Run a playbook again and again, killed at one point after the other, then to its end.

        Each run finds what the one before has left.
        """
        for at in points:
            assert self.killed(playbook, at), f"it did not come to {at}: {self.said[-1][-3000:]}"
        return self.succeed(playbook)

    def succeed_together(self, playbook: str) -> None:
        """Run a playbook twice at the same time, as two operators do; one has to succeed."""
        first = self.start(playbook)
        time.sleep(1)
        ends = [run.wait() for run in (self.start(playbook), first)]
        self.said += [said for _, said in ends]
        assert 0 in [code for code, _ in ends], [said[-3000:] for _, said in ends]

    @contextmanager
    def idle_colour_killed(self, host: str):
        """Kill what a roll starts on a host, as the OOM killer does, while the block runs."""
        idle = {"blue": "green", "green": "blue"}[self.look(host)["serving"]]
        # Only once the server itself runs: before that, its unit does not start, which is another
        # failure than a server that ends.
        unit = f"mlflow-{idle}"
        runs = f"systemctl --quiet is-active {unit}"
        kill = f"while sleep 1; do {runs} && systemctl kill --signal=KILL {unit}; done"
        self.on(host, "systemd-run", "--quiet", "--unit=killer", "sh", "-c", kill)
        try:
            yield
        finally:
            self.on(host, "systemctl", "stop", "killer")

    # Hosts

    def on(self, host: str, *words: str) -> str:
        """Run a command on a host and return its output."""
        return self.s3.podman("exec", host, *words)

    def look(self, host: str) -> dict:
        """Return which colour of a tracking server serves, and what its slots hold."""
        return json.loads(self.on(host, "python3", "-c", LOOK))

    def serving(self, host: str) -> dict:
        """Return what the slot that serves holds."""
        found = self.look(host)
        return found["slots"][found["serving"]]

    def old_key_last_seen(self, host: str, key: str) -> float:
        """Return after how many seconds S3 saw a host's last request with a former key, from when
        the one that serves was installed there.
        """
        address, installed = self.s3.address_of(host), self.serving(host)["installed"]
        times = [
            each.time
            for each in self.s3.requests()
            if (each.address, each.key) == (address, key) and each.status != 403
        ]
        return max(times, default=installed) - installed

    def sql(self, query: str) -> list[str]:
        """Return the rows that the database server's own administrator gets for a query."""
        command = ["runuser", "-u", "postgres", "--", "psql", "--tuples-only", "--no-align"]
        return self.on(self.stores, *command, f"--command={query}").splitlines()

    def sessions(self, login: str) -> int:
        """Return how many sessions of a role there are."""
        query = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{login}'"
        return int(self.sql(query)[0])

    def can_log_in(self, login: str, password: str) -> bool:
        """Tell whether the database lets a role in, as asked by a tracking server's libpq."""
        host = self.servers[0]
        slot = f"/etc/mlflow/{self.look(host)['serving']}"
        words = [f"PGUSER={login}", f"PGPASSWORD={password}", f"{slot}/release/bin/python"]
        said = self.on(host, "env", *words, "-c", LOG_IN, self.stores)
        refusals = ("password authentication failed", "not permitted to log in")
        assert said == "in" or any(refusal in said for refusal in refusals), said
        return said == "in"

    # Load

    @contextmanager
    def load(self, *options: str):
        """Load every server while the block runs; the sums stand in the yielded counts after it."""
        counts: Counter = Counter()
        with ExitStack() as stack:
            each = [
                stack.enter_context(Control(self.inventory, name).load("--seconds=3600", *options))
                for name in self.servers
            ]
            yield counts
        for one in each:
            counts.update(written=one["written"], failed=one["failed"])
            counts.update(one["errors"])
