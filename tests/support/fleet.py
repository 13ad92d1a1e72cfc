"""Several hosts whose credentials rotate: what the tests and the benchmark do with them."""

import json
import os
import shlex
import subprocess
import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from api import OTHER
from control import ANSIBLE, ROOT, Control
from load import acknowledged
from s3 import S3, Request

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

    def __str__(self):
        return f"{self.event} {self.word} {self.count}"

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


def assert_none_failed(counts) -> None:
    """A load has written, and none of its writes has failed."""
    assert counts["failed"] == 0, counts
    assert counts["written"] > 20, counts


# The task that rolls a server has this name in all playbooks.
ROLL = "Roll | Serve with other texts"
# The steps of a roll from the start of the other colour on, as its module notes them in the lock.
STARTED = '"(start|wait until|enable|switch to|drain|stop) (blue|green)'


def in_a_roll(host: str) -> At:
    """Return the point at which a roll has started a host's other colour.

    What runs there goes on without the control process.
    """
    wait = f"until grep -qsE '{STARTED}' /etc/mlflow/.roll.lock; do sleep 0.05; done"
    wait = shlex.join(["timeout", "300", "podman", "exec", host, "sh", "-c", wait])
    return At("start", ROLL, command=f"({wait} && {KILL}) &")


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
            env=os.environ | ANSIBLE | environment,
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
        # All that was acknowledged to loads: the turns of each run.
        self.metrics: dict[str, list[int]] = {}
        self.artifacts: dict[str, list[int]] = {}

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

    def succeed_with_kills(self, playbook: str, points: list[At]) -> str:
        """Run a playbook again and again, killed at one point after the other, then to its end.

        Each run finds what the one before has left.
        """
        for at in points:
            code, said = self.run(playbook, at=at)
            assert code == -9, f"it did not come to {at}: {said[-3000:]}"
        return self.succeed(playbook)

    def succeed_together(self, playbook: str, **variables) -> None:
        """Run a playbook twice, as two operators do who come to the servers at once.

        One has to succeed, and one to wait for the other.
        """
        with tempfile.TemporaryDirectory() as folder:
            both = f"until [ $(ls {folder} | wc -l) = 2 ]; do sleep 0.1; done"
            meet = f"touch {folder}/$PPID; timeout 300 sh -c '{both}'"
            at = At("start", ROLL, command=meet)
            runs = [self.start(playbook, at=at, **variables) for _ in range(2)]
            ends = [run.wait() for run in runs]
        self.said += [said for _, said in ends]
        assert 0 in [code for code, _ in ends], [said[-3000:] for _, said in ends]
        waited = [said for _, said in ends if "which rolls mlflow already" in said]
        assert waited, "none has waited for the other"

    @contextmanager
    def idle_colour_killed(self, host: str):
        """Kill what a roll starts on a host, as the OOM killer does, while the block runs.

        Each time a fifth of a second after its start, when it is not ready. Not before: a unit that
        does not start is a different failure from a server that ends.
        """
        idle = OTHER[self.look(host)["serving"]]
        folder = f"/run/systemd/system/mlflow-{idle}.service.d"
        lines = "[Service]\nRuntimeMaxSec=200ms\nKillSignal=SIGKILL\n"
        # A roll has systemd read its units again.
        self.on(host, "sh", "-c", f"mkdir -p {folder}; printf '{lines}' >{folder}/killed.conf")
        try:
            yield
        finally:
            self.on(host, "sh", "-c", f"rm -r {folder}; systemctl daemon-reload")

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

    def refused_by_s3(self, since: float) -> list[Request]:
        """Return the requests of tracking servers that S3 has refused since a time."""
        addresses = [self.s3.address_of(host) for host in self.servers]
        asked = [each for each in self.s3.requests(since) if each.address in addresses]
        assert asked, "S3 has heard of no tracking server"
        return [each for each in asked if each.status == 403]

    def sql(self, query: str, database: str = "postgres") -> list[str]:
        """Return the rows that the database server's own administrator gets for a query."""
        psql = ["psql", "--tuples-only", "--no-align", f"--dbname={database}"]
        command = ["runuser", "-u", "postgres", "--", *psql, f"--command={query}"]
        return self.on(self.stores, *command).splitlines()

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
            metrics, artifacts = acknowledged(one)
            self.metrics |= metrics
            self.artifacts |= artifacts
