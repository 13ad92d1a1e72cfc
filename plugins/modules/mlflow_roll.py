#!/usr/bin/python
"""Move an MLflow instance to what is wanted, from one colour to the other, without a gap."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_roll
short_description: Move an MLflow instance to what is wanted
description:
  - Compares C(/etc/<instance>/wanted) with the slot that serves. If they are equal, and the slot
    serves with the libraries that the host has, nothing happens. Otherwise the idle slot is filled
    from C(wanted) and started; once it is ready the link C(current.sock) is swapped, the old colour
    is drained and stopped.
  - If the idle colour does not become ready the old one has never stopped serving, and the module
    fails with the journal of the one that did not start.
  - Killed at any point, the next run finishes. Two runs on one host wait for each other.
  - With O(texts) only these change, whatever else is wanted; with O(prove) nothing does.
  - With O(state=absent) the instance is stopped and taken away. Its data stay, and the secrets that
    some of these are encrypted with, in C(wanted/generated.env).
options:
  instance:
    description: Name of the instance. Units, folders and sockets follow from it.
    type: str
    required: true
  state:
    description: Whether there is to be such an instance.
    type: str
    choices: [present, absent]
    default: present
  mode:
    description:
      - C(blue_green) starts the new colour beside the old one. C(stop_start) stops the old one
        first, for hosts without the memory for two.
    type: str
    choices: [blue_green, stop_start]
    default: blue_green
  memory_mb:
    description: Memory in MB that one colour takes. A second one is not started with less free.
    type: int
    default: 0
  allow_artifact_root_change:
    description: Also roll to settings under which artifacts that exist are at another place.
    type: bool
    default: false
  ready_timeout:
    description: Seconds within which a started colour must be ready.
    type: int
    default: 120
  drain_timeout:
    description: Seconds for requests in flight on the old colour, and again when it stops.
    type: int
    default: 60
  names:
    description: What clients send as Host. A colour that refuses one of them is not ready.
    type: list
    elements: str
    default: []
  texts:
    description:
      - Other texts for some files of what serves, by their names. C(wanted) becomes what serves
        with these, and if the roll fails what it was before.
    type: dict
    default: {}
  wipe_idle:
    description: At the end remove the idle slot, as it holds former secrets.
    type: bool
    default: false
  prove:
    description:
      - Do no more than put, get and delete an object with the settings that serve and these
        environment variables on top of them, as the service user.
    type: dict
author: mlflow-ansible
"""

EXAMPLES = r"""
- name: Roll
  mlflow_roll:
    instance: mlflow

- name: Let it serve with another key
  mlflow_roll:
    instance: mlflow
    texts: {aws_shared_credentials_file: "{{ text_of_the_file }}"}
"""

RETURN = r"""
colour: {description: "The colour that serves, if any.", type: str, returned: always}
reasons: {description: Why a roll was needed., type: list, returned: always}
steps: {description: What was done., type: list, returned: always}
"""

import fcntl
import http.client
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.mlflow_slot import (
    ask,
    probe_command,
    settings_of,
)

COLOURS = ("blue", "green")
# Seconds that a colour which serves is given to answer before it is replaced.
ANSWER_TIMEOUT = 30
SEARCH = "/api/2.0/mlflow/experiments/search"
# A unit that ended by itself this often while it should become ready will not become so.
RESTARTS = 2
# Of a unit that did not become ready, what an operator is shown.
JOURNAL_LINES = 40
# Seconds that steps without a timeout of their own take together at most, for the lock's deadline.
MARGIN = 90
# Of an instance that is taken away: secrets that were made on its host alone.
KEPT = "generated.env"
# Ubuntu has needrestart restart whatever runs with libraries that were updated.
NEEDRESTART = r"""# Ansible managed. A restart cuts off requests; site.yml rolls to what is new.
$nrconf{{override_rc}}{{qr(^{instance}-(blue|green)\.service$)}} = 0;
"""
# What is in the database is encrypted with these, so another value would make it unreadable.
ENCRYPTING = ("MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY")


class RollError(Exception):
    """A roll that could not be done, in words for the operator."""


class NotReady(Exception):
    """A started colour that is not ready, with the reason."""


class Host:
    """What the roll asks of the host. The unit tests put another one in its place."""

    def command(self, *words: str) -> str:
        """Run a command and return its output; raise RollError if it fails."""
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise RollError(
                f"Wanted '{' '.join(words)}' to succeed; found exit code {done.returncode}: "
                f"{said}; fix that and run again."
            )
        return done.stdout

    def show(self, unit: str) -> dict[str, str]:
        """Return the properties of a unit that the roll looks at."""
        names = "ActiveState,UnitFileState,NeedDaemonReload,NRestarts"
        lines = self.command("systemctl", "show", unit, f"--property={names}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def started(self, unit: str) -> float:
        """Return when the main process of a unit was started, in seconds of the epoch."""
        name = "ExecMainStartTimestampMonotonic"
        microseconds = self.command("systemctl", "show", "--value", f"--property={name}", unit)
        return time.time() - time.monotonic() + int(microseconds) / 1e6

    def has_old_libraries(self, unit: str) -> bool:
        """Tell whether a unit runs with libraries of the system that were replaced since."""
        pid = self.command("systemctl", "show", "--value", "--property=MainPID", unit).strip()
        found = ""
        # It may end meanwhile.
        with suppress(OSError):
            found = Path(f"/proc/{pid}/maps").read_text()
        return bool(re.search(r" /(usr/)?lib\S*/\S+\.so\S* \(deleted\)$", found, re.MULTILINE))

    def journal(self, unit: str, since: float) -> str:
        """Return the last lines that a unit wrote since a time in seconds of the epoch."""
        said = self.command(
            "journalctl",
            f"--unit={unit}",
            f"--since=@{int(since)}",
            "--output=cat",
            "--no-pager",
            "--quiet",
        )
        # With --lines as well, systemd 252 gives the first ones: of a traceback without its error.
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
            former: A slot whose settings a probe that compares gets on its standard input.
            more: Path of a file with environment variables that go before the slot's.
        """
        # In no folder, as secrets are among them.
        with os.fdopen(os.memfd_create("former"), "w+") as stdin:
            stdin.write(settings_of(former))
            stdin.seek(0)
            return subprocess.Popen(
                probe_command(instance, slot, words, seconds, more),
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )

    def answers(self, path: Path) -> str:
        """Return why the server behind a socket does not work, or nothing if it does.

        /health is a constant, so the database is asked as well. 401 is the answer of a server that
        wants a login, which it gives only after its database answered at start.
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
        """Return the first name that the server behind a socket is not to be asked by, if any.

        MLflow refuses a Host that it does not know with 403, before it asks for a login.
        """
        for name in names:
            if ask(path, "GET", f"{SEARCH}?max_results=1", headers={"Host": name})[0] == 403:
                return name
        return ""

    def connections(self, path: Path) -> int:
        """Return how many connections to a unix socket are open or waiting to be accepted.

        The columns of /proc/net/unix are in proc_net_unix(5): the state is the sixth, 02 connecting
        and 03 connected, the path the eighth.
        """
        rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
        return sum(row[5] in ("02", "03") and row[7:8] == [str(path)] for row in rows)

    def memory_available_mb(self) -> int:
        """Return MemAvailable in MB."""
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
        raise RollError(
            "Wanted MemAvailable in /proc/meminfo; found none; use Linux 3.14 or newer."
        )

    def now(self) -> float:
        """Return the seconds of the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def tree(folder: Path) -> dict[str, tuple]:
    """Return what makes a slot what it is: kind, mode, owner, text or target of each path in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        what = (
            os.readlink(path)
            if stat.S_ISLNK(status.st_mode)
            else path.read_bytes()
            if stat.S_ISREG(status.st_mode)
            else None
        )
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_uid, status.st_gid, what)
    return found


def changed_at(slot: Path) -> float:
    """Return when a file of a slot was changed for the last time, in seconds of the epoch."""
    return max(path.lstat().st_ctime for path in slot.iterdir() if path.is_file())


def variable(name: str, slot: dict[str, tuple]) -> str | None:
    """Return an environment variable as the files of a slot set it."""
    values = {}
    for file in ("generated.env", "secrets.env"):
        if file in slot:
            values |= variables(slot[file][-1].decode())
    return values.get(name)


def variables(text: str) -> dict[str, str]:
    """Return what an environment file sets. A line that was spoilt by hand spoils no other."""
    try:
        return dict(word.split("=", 1) for word in shlex.split(text, comments=True))
    except ValueError:
        lines = text.splitlines()
        return (
            {} if len(lines) < 2 else {k: v for each in lines for k, v in variables(each).items()}
        )


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with modes and owners. No file can be read by more people on the way."""
    status = source.lstat()
    if stat.S_ISLNK(status.st_mode):
        target.symlink_to(os.readlink(source))
        os.lchown(target, status.st_uid, status.st_gid)
        return
    if stat.S_ISDIR(status.st_mode):
        target.mkdir(mode=0o700)
        for path in source.iterdir():
            copy_tree(path, target / path.name)
    else:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(source.read_bytes())
            stream.flush()
            os.fsync(descriptor)
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(stat.S_IMODE(status.st_mode))
    # Since when a secret is in use is read off its file.
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def quoted(value: str) -> str:
    """Return a value for an environment file, as systemd.exec(5) has it."""
    return '"' + re.sub(r'(["\\\\$`])', r"\\\1", value) + '"'


def put(path: Path, text: bytes) -> None:
    """Write a file that root owns and everybody may read, at once or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(text)
    beside.chmod(0o644)
    sync(beside)
    beside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return once a file, or the names in a folder, are on the disk: a power cut is too late."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Roll:
    """One instance on one host.

    Args:
        instance, mode, memory_mb, allow_artifact_root_change, ready_timeout, drain_timeout, texts,
            wipe_idle, names: the module's options.
        host: what the host can be asked.
        root: folder taken for /, for the unit tests.
    """

    def __init__(
        self,
        instance: str,
        mode: str,
        memory_mb: int,
        allow_artifact_root_change: bool,
        ready_timeout: int,
        drain_timeout: int,
        host: Host,
        root: Path = Path("/"),
        texts: dict | None = None,
        wipe_idle: bool = False,
        names: list[str] | None = None,
    ):
        self.instance, self.mode, self.memory_mb = instance, mode, memory_mb
        self.allow_artifact_root_change = allow_artifact_root_change
        self.ready_timeout, self.drain_timeout = ready_timeout, drain_timeout
        self.host, self.texts, self.wipe_idle = host, texts or {}, wipe_idle
        self.names = names or []
        self.config = root / "etc" / instance
        self.wanted = self.config / "wanted"
        self.current = self.config / "current.sock"
        self.units = root / "etc/systemd/system"
        self.sockets = root / "run" / instance
        self.needrestart = root / f"etc/needrestart/conf.d/{instance}.conf"
        self.exception = NEEDRESTART.format(instance=instance).encode()
        self.steps: list[str] = []
        # That it has waited for another run is told, and no change.
        self.waits: list[str] = []
        self.lock_file = None

    # Names

    def unit(self, colour: str) -> str:
        return f"{self.instance}-{colour}.service"

    def socket(self, colour: str) -> Path:
        return self.sockets / colour / "server.sock"

    @staticmethod
    def other(colour: str) -> str:
        return COLOURS[1 - COLOURS.index(colour)]

    # The state, always asked of the host

    def linked(self) -> str:
        """Return the colour that the link names, empty if it is missing or names something else."""
        name = Path(os.readlink(self.current)).parent.name if self.current.is_symlink() else ""
        return name if name in COLOURS else ""

    def serving(self) -> str:
        """Return the colour that serves: the one the link names, else the one that is active."""
        if linked := self.linked():
            return linked
        active = [colour for colour in COLOURS if self.is_active(colour)]
        return active[0] if len(active) == 1 else ""

    def is_active(self, colour: str) -> bool:
        return self.host.show(self.unit(colour))["ActiveState"] == "active"

    def is_enabled(self, colour: str) -> bool:
        return self.host.show(self.unit(colour))["UnitFileState"] == "enabled"

    def is_idle(self, colour: str) -> bool:
        """Tell whether a colour neither runs nor waits to be restarted."""
        return self.host.show(self.unit(colour))["ActiveState"] in ("inactive", "failed")

    def reasons(self) -> list[str]:
        """Say why what serves is not what is wanted, in a phrase each."""
        colour = self.serving()
        if not colour:
            return ["nothing serves yet"]
        slot, unit = self.config / colour, self.units / self.unit(colour)
        found = tree(slot)
        wanted = self.adopted(found) if self.texts else tree(self.wanted)
        reasons = [
            f"{name} in {colour} differs from wanted"
            for name in sorted(wanted.keys() | found.keys())
            if wanted.get(name) != found.get(name)
        ]
        if not unit.is_file() or unit.read_bytes() != found.get("mlflow.service", (b"",))[-1]:
            reasons.append(f"{unit.name} differs from the one in {colour}")
        if not self.is_active(colour):
            reasons.append(f"{unit.name} is not active")
        elif self.texts and self.host.started(unit.name) < changed_at(slot):
            # What it was started with nobody can tell, and a rotation has to be sure.
            reasons.append(f"{unit.name} was started before its files were changed")
        elif self.host.has_old_libraries(unit.name):
            reasons.append(f"{unit.name} runs with libraries that were updated since")
        elif not reasons:
            why = self.wait_for_answer(colour)
            if why:
                reasons.append(f"{unit.name} does not work: {why}")
        return reasons

    def wait_for_answer(self, colour: str) -> str:
        """Give a colour that was just booted some seconds; return why it does not work."""
        until = self.host.now() + ANSWER_TIMEOUT
        while why := self.host.answers(self.socket(colour)):
            if self.host.now() >= until:
                return why
            self.host.sleep(0.5)
        return ""

    def is_left_alone(self) -> bool:
        """Tell whether needrestart knows that it must not restart a colour."""
        return self.needrestart.is_file() and self.needrestart.read_bytes() == self.exception

    # The lock

    @contextmanager
    def lock(self):
        """Hold the instance's lock; wait for another holder until that one's own deadline."""
        with open(self.config / ".roll.lock", "a+") as self.lock_file:
            os.fchmod(self.lock_file.fileno(), 0o600)
            while True:
                try:
                    fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self.wait_for_holder()
                    self.host.sleep(0.2)
            # Draining takes the timeout, stopping a colour the same and what the unit adds to it.
            waits = self.ready_timeout + ANSWER_TIMEOUT + 4 * (self.drain_timeout + 15)
            self.until = self.host.now() + waits + MARGIN
            self.note("look at what serves")
            try:
                yield
            finally:
                self.lock_file.truncate(0)

    def wait_for_holder(self) -> None:
        """Raise RollError if the holder of the lock is past the deadline it gave itself."""
        self.lock_file.seek(0)
        try:
            holder = json.loads(self.lock_file.read())
        except ValueError:
            return  # between taking the lock and writing who took it
        left_by_a_killed_run = not Path(f"/proc/{holder['pid']}").exists()
        if self.host.now() > holder["until"] and not left_by_a_killed_run:
            raise RollError(
                f"Wanted to roll {self.instance}; found that process {holder['pid']} still does "
                f"so, at step '{holder['step']}', past its own deadline; look at that process, end "
                "it if it hangs, and run again."
            )
        waited = f"wait for process {holder['pid']}, which rolls {self.instance} already"
        if waited not in self.waits:
            self.waits.append(waited)

    def step(self, text: str) -> None:
        """Note a step before it is done."""
        self.steps.append(text)
        self.note(text)

    def note(self, text: str) -> None:
        """Say in the lock file what its holder does, and until when at most."""
        self.lock_file.seek(0)
        self.lock_file.truncate()
        json.dump({"pid": os.getpid(), "step": text, "until": self.until}, self.lock_file)
        self.lock_file.flush()

    # The roll

    def run(self) -> list[str]:
        """Do what is to be done and return the reasons that there were."""
        self.remove(".wanted.new", ".wanted.old")  # what a killed run left
        reasons = self.reasons()
        former = self.config / ".wanted.old"
        if self.texts:
            self.adopt(former)
        try:
            if reasons:
                self.replace()
        except (RollError, OSError):
            if former.exists():
                self.step("want again what was wanted before")
                self.remove("wanted")
                former.rename(self.wanted)
            raise
        self.settle()
        self.remove(".wanted.old")
        if not self.is_left_alone():
            self.step("tell needrestart to leave both colours alone")
            self.needrestart.parent.mkdir(parents=True, exist_ok=True)
            put(self.needrestart, self.exception)
        return reasons

    def remove(self, *names: str) -> None:
        """Remove folders of the instance, if they are there."""
        for name in names:
            if (self.config / name).exists():
                shutil.rmtree(self.config / name)

    # Away with it

    def left(self) -> list[Path]:
        """Return what there is of the instance on the host, but for what stays."""
        units = [self.units / self.unit(colour) for colour in COLOURS]
        slots = [self.config / colour for colour in COLOURS]
        hidden = self.config.glob(".*.new"), self.config.glob(".*.old")
        wanted = [path for path in self.wanted.glob("*") if path.name != KEPT]
        all_of_it = [*units, self.needrestart, self.current, *slots, *wanted]
        all_of_it += [path for some in hidden for path in some]
        return [path for path in all_of_it if path.is_symlink() or path.exists()]

    def take_away(self) -> None:
        """Stop both colours and remove all but what stays."""
        # What the data are encrypted with is what served last, whatever was wanted since.
        slots = [self.config / name / KEPT for name in (self.serving(), *COLOURS) if name]
        found = next((path for path in slots if path.exists()), None)
        kept = self.wanted / KEPT
        if found and (not kept.exists() or kept.read_bytes() != found.read_bytes()):
            self.step(f"keep {KEPT}, without which some of the data cannot be read")
            self.wanted.mkdir(mode=0o750, exist_ok=True)
            beside = self.config / f".{KEPT}.new"
            beside.unlink(missing_ok=True)
            copy_tree(found, beside)
            beside.replace(kept)
            sync(self.wanted)
        for colour in COLOURS:
            unit = self.unit(colour)
            if not self.is_idle(colour):
                self.step(f"drain {colour}")
                self.drain(colour)
                self.step(f"stop {colour}")
                self.host.command("systemctl", "stop", unit)
            if self.host.show(unit)["ActiveState"] == "failed":
                self.host.command("systemctl", "reset-failed", unit)
            if (self.units / unit).exists():
                self.step(f"disable {colour}")
                self.host.command("systemctl", "disable", unit)
        for path in self.left():
            self.step(f"remove {path}")
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.host.command("systemctl", "daemon-reload")

    # Other texts for some files

    def adopted(self, slot: dict[str, tuple]) -> dict[str, tuple]:
        """Return what a slot is with the texts in it.

        Raises:
            RollError: It does not have these files.
        """
        if missing := sorted(self.texts.keys() - slot.keys()):
            raise RollError(
                f"Wanted {' and '.join(missing)} in what {self.instance} serves with; found none; "
                "run site.yml with that setting first. Nothing has changed."
            )
        new = slot | {name: (*slot[name][:-1], text.encode()) for name, text in self.texts.items()}
        self.check_encrypting(slot, new)
        return new

    def check_encrypting(self, slot: dict[str, tuple], new: dict[str, tuple]) -> None:
        """Refuse to serve with another secret than what is in the database is encrypted with."""
        changed = [name for name in ENCRYPTING if variable(name, slot) != variable(name, new)]
        if changed:
            raise RollError(
                f"Wanted {' and '.join(changed)} as {self.instance} serves with, as secrets in its "
                "database are encrypted with it; found another; take the former value (one that "
                f"the host made itself is in {self.wanted}/generated.env), or see docs/rotation.md "
                "for how to change it. What serves is unchanged."
            )

    def adopt(self, former: Path) -> None:
        """Make what is wanted a copy of what serves, with the texts in it, at once.

        Args:
            former: Where to put what was wanted before.
        """
        serving = self.serving()
        if not serving:
            raise RollError(
                f"Wanted a server {self.instance} that serves; found none; run site.yml first."
            )
        if tree(self.wanted) == self.adopted(tree(self.config / serving)):
            return
        beside = self.config / ".wanted.new"
        self.step("want what serves, with other texts")
        try:
            copy_tree(self.config / serving, beside)
            for name, text in self.texts.items():
                if (beside / name).read_bytes() != text.encode():
                    (beside / name).write_bytes(text.encode())
                    sync(beside / name)
        except OSError:
            self.remove(".wanted.new")
            raise
        if self.wanted.exists():
            self.wanted.rename(former)
        beside.rename(self.wanted)
        sync(self.config)

    def prove(self, environment: dict[str, str]) -> None:
        """Put, get and delete an object with what serves and some variables on top of it.

        Raises:
            RollError: That is refused, with the reason.
        """
        serving = self.serving()
        if not serving:
            raise RollError(
                f"Wanted a server {self.instance} that serves; found none; run site.yml first."
            )
        # In no folder, and gone with this process, however that ends.
        with os.fdopen(os.memfd_create("more"), "w") as more:
            more.writelines(f"{name}={quoted(value)}\n" for name, value in environment.items())
            more.flush()
            slot, path = self.config / serving, f"/proc/{os.getpid()}/fd/{more.fileno()}"
            probe = self.host.start_probe(
                self.instance, slot, ["artifacts"], self.ready_timeout, more=path
            )
            said = probe.communicate()[1].strip()
        if probe.returncode:
            raise RollError(f"{said or 'The probe did not end in time.'} Nothing has changed.")

    def replace(self) -> None:
        """Bring the idle colour up from wanted and let it serve."""
        old = self.serving()
        new = self.other(old) if old else COLOURS[0]
        if not self.is_idle(new) or self.is_enabled(new):
            self.step(f"stop what a broken-off roll left of {new}")
            self.host.command("systemctl", "disable", "--now", self.unit(new))
        beside = bool(old) and self.is_active(old)
        # Both are changed while nothing serves.
        if beside:
            self.check_encrypting(tree(self.config / old), tree(self.wanted))
        stop_first = beside and self.mode == "stop_start"
        if not old or (beside and not stop_first):
            self.check_memory()
        self.step(f"fill {new}")
        self.fill(new)
        self.check_database(old, new)
        since = self.host.now()
        try:
            if stop_first:
                self.step(f"stop {old}")
                self.host.command("systemctl", "stop", self.unit(old))
            self.step(f"start {new}")
            self.host.command("systemctl", "start", self.unit(new))
            self.step(f"wait until {new} is ready")
            self.wait_until_ready(new)
        except (RollError, NotReady, OSError, http.client.HTTPException) as error:
            raise RollError(self.go_back(old, new, str(error), since)) from error
        self.step(f"enable {new}")
        self.host.command("systemctl", "enable", self.unit(new))
        self.step(f"switch to {new}")
        self.point_to(new)

    def check_database(self, old: str, new: str) -> None:
        """Refuse a database that does not let us in or does not fit release and settings."""
        self.step(f"compare the database with what {new} needs")
        words = ["database", *(["any-artifact-root"] if self.allow_artifact_root_change else [])]
        former = self.config / old if old else None
        probe = self.host.start_probe(
            self.instance, self.config / new, words, self.ready_timeout, former
        )
        said = probe.communicate()[1].strip()
        if probe.returncode:
            raise RollError(f"{said} What serves is unchanged.")

    def check_memory(self) -> None:
        free = self.host.memory_available_mb()
        if free < self.memory_mb:
            raise RollError(
                f"Wanted {self.memory_mb} MB of free memory to start another colour; found {free} "
                "MB; free some, set a smaller mlflow_server_workers, or, if one serves already, "
                "mlflow_server_roll: stop_start, which is away for some seconds at each change. "
                "What serves is unchanged."
            )

    def fill(self, colour: str) -> None:
        """Make a slot a copy of wanted and install its unit."""
        slot, beside = self.config / colour, self.config / f".{colour}.new"
        for path in (beside, slot):
            if path.exists():
                shutil.rmtree(path)
        copy_tree(self.wanted, beside)
        beside.rename(slot)
        unit = self.units / self.unit(colour)
        put(unit, (slot / "mlflow.service").read_bytes())
        # Not the units that it depends on: what is wrong with those is the host's own affair.
        self.host.command("systemd-analyze", "verify", "--recursive-errors=no", str(unit))
        self.host.command("systemctl", "daemon-reload")

    def wait_until_ready(self, colour: str) -> None:
        """Return when server, database and artifact store of a started colour work.

        Raises:
            NotReady: The reason why they do not, as soon as it is clear that they will not.
        """
        slot = self.config / colour
        probe = self.host.start_probe(self.instance, slot, ["artifacts"], self.ready_timeout)
        until = self.host.now() + self.ready_timeout
        try:
            while True:
                state = self.host.show(self.unit(colour))
                if int(state["NRestarts"]) >= RESTARTS:
                    raise NotReady(f"it ended by itself {RESTARTS} times")
                why = self.host.answers(self.socket(colour))
                probed = probe.poll()
                if probed:
                    raise NotReady(probe.stderr.read().strip() or f"its probe exited {probed}")
                if not why and probed == 0:
                    if name := self.host.refused_name(self.socket(colour), self.names):
                        raise NotReady(
                            f"it refuses {name}, a name by which clients come; take "
                            "MLFLOW_SERVER_ALLOWED_HOSTS out of mlflow_server_environment, or add "
                            "the name to it"
                        )
                    return
                if self.host.now() >= until:
                    raise NotReady(why or "its probe of the artifact store did not end")
                self.host.sleep(0.1)
        finally:
            if probe.poll() is None:
                probe.kill()
                probe.wait()
            probe.stderr.close()

    def go_back(self, old: str, new: str, why: str, since: float) -> str:
        """Stop the colour that did not become ready; return what to tell the operator.

        What goes wrong on the way back is told too, but keeps nothing from being tried.
        """
        wanted = f"{self.unit(new)} to be ready within {self.ready_timeout} s"
        told = [f"Wanted {wanted}; found: {why.rstrip('.')}."]
        self.attempt(told, "stop", new)
        if self.host.show(self.unit(new))["ActiveState"] == "failed":
            # The host's own monitoring has no reason to worry about an idle colour.
            self.attempt(told, "reset-failed", new)
        if old and not self.is_active(old):
            self.attempt(told, "start", old)
        if not old:
            told.append("Nothing has served yet.")
        elif still := self.wait_for_answer(old):
            told.append(f"{self.unit(old)}, which served before, does not work either: {still}.")
        else:
            told.append(f"{self.unit(old)} serves what it served before.")
        told.append("Fix what the journal says and run again. The journal:\n")
        try:
            told.append(self.host.journal(self.unit(new), since))
        except (RollError, OSError) as error:
            told.append(str(error))
        return " ".join(told)

    def attempt(self, told: list[str], verb: str, colour: str) -> None:
        """Let systemd do something to a colour, and tell what is wrong if it cannot."""
        try:
            self.host.command("systemctl", verb, self.unit(colour))
        except (RollError, OSError) as error:
            told.append(str(error))

    def point_to(self, colour: str) -> None:
        """Let the link name a colour's socket, in one step."""
        beside = self.config / ".current.sock.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(self.socket(colour))
        beside.replace(self.current)
        sync(self.config)

    def settle(self) -> None:
        """Leave one colour: linked, enabled and alone. Also finishes a roll that was broken off."""
        serving = self.serving()
        idle = self.other(serving)
        if self.linked() != serving:
            # Perhaps a first roll that was broken off before the colour was proven.
            self.step(f"link {serving}")
            since = self.host.now()
            try:
                self.wait_until_ready(serving)
            except NotReady as error:
                raise RollError(self.go_back("", serving, str(error), since)) from error
            self.point_to(serving)
        if not self.is_enabled(serving):
            self.step(f"enable {serving}")
            self.host.command("systemctl", "enable", self.unit(serving))
        if self.host.show(self.unit(serving))["NeedDaemonReload"] == "yes":
            self.step("reload systemd's units")
            self.host.command("systemctl", "daemon-reload")
        if self.is_enabled(idle) or not self.is_idle(idle):
            self.step(f"drain {idle}")
            self.drain(idle)
            self.step(f"stop {idle}")
            self.host.command("systemctl", "disable", "--now", self.unit(idle))
        if self.wipe_idle and (self.config / idle).exists():
            self.step(f"remove what {idle} had, as it holds former secrets")
            self.remove(idle)

    def drain(self, colour: str) -> None:
        """Wait until nobody talks to a colour any more, or the limit is reached."""
        until = self.host.now() + self.drain_timeout
        quiet = 0
        # Twice, as a proxy may have read the old link just before it was swapped.
        while quiet < 2 and self.host.now() < until:
            quiet = 0 if self.host.connections(self.socket(colour)) else quiet + 1
            self.host.sleep(0.1)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "mode": {
                "type": "str",
                "choices": ["blue_green", "stop_start"],
                "default": "blue_green",
            },
            "memory_mb": {"type": "int", "default": 0},
            "allow_artifact_root_change": {"type": "bool", "default": False},
            "ready_timeout": {"type": "int", "default": 120},
            "drain_timeout": {"type": "int", "default": 60},
            "names": {"type": "list", "elements": "str", "default": []},
            "texts": {"type": "dict", "default": {}, "no_log": True},
            "wipe_idle": {"type": "bool", "default": False},
            "prove": {"type": "dict", "no_log": True},
        },
        supports_check_mode=True,
    )
    prove, state = module.params.pop("prove"), module.params.pop("state")
    roll = Roll(host=Host(), **module.params)
    try:
        if prove is not None:
            if not module.check_mode:
                roll.prove(prove)
            module.exit_json(changed=False, colour=roll.serving(), reasons=[], steps=[])
        if state == "absent":
            reasons = [f"{path} is there" for path in roll.left()]
            if reasons and not module.check_mode:
                # Perhaps somebody has removed it by hand, and nothing else.
                roll.config.mkdir(mode=0o750, exist_ok=True)
                with roll.lock():
                    roll.take_away()
            module.exit_json(
                changed=bool(reasons), colour=roll.serving(), reasons=reasons, steps=roll.steps
            )
        if module.check_mode:
            reasons = roll.reasons()
        else:
            with roll.lock():
                reasons = roll.run()
        module.exit_json(
            changed=bool(reasons or roll.steps or not roll.is_left_alone()),
            colour=roll.serving(),
            reasons=reasons,
            steps=roll.waits + roll.steps,
        )
    except RollError as error:
        module.fail_json(msg=str(error), steps=roll.waits + roll.steps)
    except OSError as error:
        module.fail_json(
            msg=f"Wanted to roll {roll.instance}; found {error} at step "
            f"'{(roll.steps or ['look'])[-1]}'; fix that and run again.",
            steps=roll.waits + roll.steps,
        )


if __name__ == "__main__":
    main()
