#!/usr/bin/python
"""Move an MLflow instance to what is wanted, from one colour to the other, without downtime."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_roll
short_description: Move an MLflow instance to what is wanted
description:
  - Compares C(/etc/<instance>/wanted) with the serving slot. If they are equal, and the slot runs
    with the host's current libraries, nothing happens. Otherwise the idle slot is filled from
    C(wanted) and started; once it is ready the link C(current.sock) is swapped, and the old colour
    is drained and stopped.
  - If the idle colour does not become ready the old one has never stopped serving, and the module
    fails with the journal of the one that did not start.
  - If it is killed at any point, the next run finishes. Two runs on one host wait for each other.
  - With O(texts) only these change, whatever else is wanted.
  - With O(state=absent) the instance is stopped and removed. Its data stay, as do the secrets that
    some of these are encrypted with, in C(wanted/generated.env).
options:
  instance:
    description: Name of the instance. Units, folders and sockets follow from it.
    type: str
    required: true
  state:
    description: Whether the instance is to exist.
    type: str
    choices: [present, absent]
    default: present
  mode:
    description:
      - C(blue_green) starts the new colour beside the old one. C(stop_start) stops the old one
        first, for hosts without memory for two.
    type: str
    choices: [blue_green, stop_start]
    default: blue_green
  memory_mb:
    description: Memory in MB of one colour. With less available a second one is not started.
    type: int
    default: 0
  allow_artifact_root_change:
    description: Also roll to settings that move the location of existing artifacts.
    type: bool
    default: false
  ready_timeout:
    description: Seconds in which a started colour must become ready.
    type: int
    default: 120
  drain_timeout:
    description: Seconds for requests in flight on the old colour, and again for its stop.
    type: int
    default: 60
  names:
    description: Host headers of clients. A colour that rejects one of them is not ready.
    type: list
    elements: str
    default: []
  texts:
    description:
      - New texts for some files of the serving slot, by name. C(wanted) becomes that slot with
        these texts, and is restored if the roll fails.
    type: dict
    default: {}
  wipe_idle:
    description: Remove the idle slot at the end, as it holds former secrets.
    type: bool
    default: false
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Roll
  mlflow_ansible.tracking.mlflow_roll:
    instance: mlflow

- name: Let it serve with another key
  mlflow_ansible.tracking.mlflow_roll:
    instance: mlflow
    texts: {aws_shared_credentials_file: "{{ text_of_the_file }}"}
"""

RETURN = r"""
colour: {description: "The colour that serves, if any.", type: str, returned: always}
reasons: {description: Why a roll was needed., type: list, returned: always}
steps: {description: What was done., type: list, returned: always}
"""

import http.client
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.environment import (
    legible_variables,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import (
    copy_tree,
    remove,
    sync,
    write,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.hosts import (
    Host,
    HostedInstance,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.roll_lock import Lock
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import (
    COLOURS,
    changed_at,
    other,
    tree,
)

# Seconds in which a serving colour must answer, or it is replaced.
ANSWER_TIMEOUT = 30
# A unit that has ended by itself this often while starting will not become ready.
RESTARTS = 2
# Maximum seconds of all steps without their own timeout, for the lock's deadline.
MARGIN = 90
# Stays when an instance is removed: secrets that were made on its host.
KEPT = "generated.env"
# On Ubuntu needrestart restarts whatever runs with updated libraries.
NEEDRESTART = r"""# Ansible managed. A restart cuts off requests; site.yml rolls to what is new.
$nrconf{{override_rc}}{{qr(^{instance}-(blue|green)\.service$)}} = 0;
"""
# Data in the database are encrypted with these: another value would make them unreadable.
ENCRYPTING = ("MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY")


class NotReady(Exception):
    """A started colour is not ready, with the reason."""


def variable(name: str, slot: dict[str, tuple]) -> str | None:
    """Return an environment variable as set by the files of a slot."""
    values = {}
    for file in ("generated.env", "secrets.env"):
        if file in slot:
            values |= legible_variables(slot[file][-1].decode(errors="surrogateescape"))
    return values.get(name)


class Roll(HostedInstance):
    """One instance on one host.

    Args:
        instance, mode, memory_mb, allow_artifact_root_change, ready_timeout, drain_timeout, texts,
            wipe_idle, names: the module's options.
        host: the host.
        root: folder that stands for `/`, for the unit tests.
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
        super().__init__(instance, host, root)
        self.mode, self.memory_mb = mode, memory_mb
        self.allow_artifact_root_change = allow_artifact_root_change
        self.ready_timeout, self.drain_timeout = ready_timeout, drain_timeout
        self.texts, self.wipe_idle = texts or {}, wipe_idle
        self.names = names or []
        self.needrestart = root / f"etc/needrestart/conf.d/{instance}.conf"
        self.exception = NEEDRESTART.format(instance=instance).encode()
        self.steps: list[str] = []
        self.lock = Lock(self, host)

    # The state, always read from the host

    def reasons(self) -> list[str]:
        """Return why what serves is not what is wanted, one phrase each."""
        colour = self.serving()
        if not colour:
            return ["nothing serves yet"]
        slot, unit = self.config / colour, self.unit_file(colour)
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
            # What it was started with is unknown, and a rotation has to be sure.
            reasons.append(f"{unit.name} was started before its files were changed")
        elif self.host.has_old_libraries(unit.name):
            reasons.append(f"{unit.name} runs with libraries that were updated since")
        elif not reasons:
            why = self.wait_for_answer(colour)
            if why:
                reasons.append(f"{unit.name} does not work: {why}")
        return reasons

    def wait_for_answer(self, colour: str) -> str:
        """Give a just booted colour some seconds; return why it does not work."""
        until = self.host.now() + ANSWER_TIMEOUT
        while why := self.host.answers(self.socket(colour)):
            if self.host.now() >= until:
                return why
            self.host.sleep(0.5)
        return ""

    def is_left_alone(self) -> bool:
        """Return whether needrestart is configured not to restart a colour."""
        return self.needrestart.is_file() and self.needrestart.read_bytes() == self.exception

    # The lock

    def locked(self):
        """Hold the instance's lock for at most the sum of the timeouts."""
        # Draining takes the timeout; stopping a colour takes it again plus what the unit adds.
        waits = self.ready_timeout + ANSWER_TIMEOUT + 4 * (self.drain_timeout + 15)
        return self.lock.held(waits + MARGIN, "look at what serves")

    def step(self, text: str) -> None:
        """Note a step before it is done."""
        self.steps.append(text)
        self.lock.note(text)

    # The roll

    def run(self) -> list[str]:
        """Do what is to be done and return the reasons for it."""
        former = self.config / ".wanted.old"
        for path in (self.config / ".wanted.new", former):
            remove(path)  # left by a killed run
        reasons = self.reasons()
        if self.texts:
            self.adopt(former)
        try:
            if reasons:
                self.replace()
        except (Refused, OSError):
            if former.exists():
                self.step("want again what was wanted before")
                remove(self.wanted)
                former.rename(self.wanted)
            raise
        self.settle()
        remove(former)
        if not self.is_left_alone():
            self.step("tell needrestart to leave both colours alone")
            self.needrestart.parent.mkdir(parents=True, exist_ok=True)
            write(self.needrestart, self.exception, 0o644)
        return reasons

    # Removal

    def left(self) -> list[Path]:
        """Return what exists of the instance on the host, except what stays."""
        units = [self.unit_file(colour) for colour in COLOURS]
        slots = [self.config / colour for colour in COLOURS]
        hidden = self.config.glob(".*.new"), self.config.glob(".*.old")
        wanted = [path for path in self.wanted.glob("*") if path.name != KEPT]
        all_of_it = [*units, self.needrestart, self.current, *slots, *wanted]
        all_of_it += [path for some in hidden for path in some]
        return [path for path in all_of_it if path.is_symlink() or path.exists()]

    def take_away(self) -> None:
        """Stop both colours and remove everything except what stays."""
        # The data are encrypted with the secrets that served last, whatever was wanted since.
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
            if self.unit_file(colour).exists():
                self.step(f"disable {colour}")
                self.host.command("systemctl", "disable", unit)
        for path in self.left():
            self.step(f"remove {path}")
            remove(path)
        self.host.command("systemctl", "daemon-reload")

    # New texts for some files

    def adopted(self, slot: dict[str, tuple]) -> dict[str, tuple]:
        """Return the contents of a slot with the new texts.

        Raises:
            Refused: It does not have these files.
        """
        if missing := sorted(self.texts.keys() - slot.keys()):
            raise Refused(
                f"Wanted {' and '.join(missing)} in what {self.name} serves with; found none; "
                "run site.yml with that setting first. Nothing has changed."
            )
        new = slot | {name: (*slot[name][:-1], text.encode()) for name, text in self.texts.items()}
        self.check_encrypting(slot, new)
        return new

    def check_encrypting(self, slot: dict[str, tuple], new: dict[str, tuple]) -> None:
        """Refuse another secret than the one that data in the database are encrypted with."""
        changed = [name for name in ENCRYPTING if variable(name, slot) != variable(name, new)]
        if changed:
            raise Refused(
                f"Wanted {' and '.join(changed)} as {self.name} serves with, as secrets in its "
                "database are encrypted with it; found another; take the former value (one that "
                f"the host made itself is in {self.wanted}/generated.env), or see docs/rotation.md "
                "for how to change it. What serves is unchanged."
            )

    def adopt(self, former: Path) -> None:
        """Make what is wanted a copy of what serves with the new texts, atomically.

        Args:
            former: Where to keep what was wanted before.
        """
        serving = self.must_serve()
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
            remove(beside)
            raise
        if self.wanted.exists():
            self.wanted.rename(former)
        beside.rename(self.wanted)
        sync(self.config)

    def replace(self) -> None:
        """Start the idle colour from wanted and let it serve."""
        old = self.serving()
        new = other(old) if old else COLOURS[0]
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
        except (Refused, NotReady, OSError, http.client.HTTPException) as error:
            raise Refused(self.go_back(old, new, str(error), since)) from error
        self.step(f"enable {new}")
        self.host.command("systemctl", "enable", self.unit(new))
        self.step(f"switch to {new}")
        self.point_to(new)

    def check_database(self, old: str, new: str) -> None:
        """Refuse a database that rejects the login or does not fit release and settings."""
        self.step(f"compare the database with what {new} needs")
        words = ["database", *(["any-artifact-root"] if self.allow_artifact_root_change else [])]
        former = self.config / old if old else None
        probe = self.host.start_probe(
            self.name, self.config / new, words, self.ready_timeout, former
        )
        said = probe.communicate()[1].strip()
        if probe.returncode:
            raise Refused(f"{said} What serves is unchanged.")

    def check_memory(self) -> None:
        free = self.host.memory_available_mb()
        if free < self.memory_mb:
            raise Refused(
                f"Wanted {self.memory_mb} MB of free memory to start another colour; found {free} "
                "MB; free some, set a smaller mlflow_server_workers, or, if one serves already, "
                "mlflow_server_roll: stop_start, which is away for some seconds at each change. "
                "What serves is unchanged."
            )

    def fill(self, colour: str) -> None:
        """Make a slot a copy of wanted and install its unit."""
        slot, beside = self.config / colour, self.config / f".{colour}.new"
        for path in (beside, slot):
            remove(path)
        copy_tree(self.wanted, beside)
        beside.rename(slot)
        unit = self.unit_file(colour)
        write(unit, (slot / "mlflow.service").read_bytes(), 0o644)
        # Not the units that it depends on: their errors are the host's own affair.
        self.host.command("systemd-analyze", "verify", "--recursive-errors=no", str(unit))
        self.host.command("systemctl", "daemon-reload")

    def wait_until_ready(self, colour: str) -> None:
        """Wait until server, database and artifact store of a started colour work.

        Raises:
            NotReady: The reason, as soon as it is clear that they will not.
        """
        slot = self.config / colour
        probe = self.host.start_probe(self.name, slot, ["artifacts"], self.ready_timeout)
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
        """Stop the colour that did not become ready; return the message for the operator.

        Errors on the way back are reported too, but do not stop the remaining steps.
        """
        wanted = f"{self.unit(new)} to be ready within {self.ready_timeout} s"
        report = [f"Wanted {wanted}; found: {why.rstrip('.')}."]
        self.attempt(report, "stop", new)
        if self.host.show(self.unit(new))["ActiveState"] == "failed":
            # The host's monitoring should not alert for an idle colour.
            self.attempt(report, "reset-failed", new)
        if old and not self.is_active(old):
            self.attempt(report, "start", old)
        if not old:
            report.append("Nothing has served yet.")
        elif still := self.wait_for_answer(old):
            report.append(f"{self.unit(old)}, which served before, does not work either: {still}.")
        else:
            report.append(f"{self.unit(old)} serves what it served before.")
        report.append("Fix what the journal says and run again. The journal:\n")
        try:
            report.append(self.host.journal(self.unit(new), since))
        except (Refused, OSError) as error:
            report.append(str(error))
        return " ".join(report)

    def attempt(self, report: list[str], verb: str, colour: str) -> None:
        """Run systemctl on a colour's unit, and append the error if it fails."""
        try:
            self.host.command("systemctl", verb, self.unit(colour))
        except (Refused, OSError) as error:
            report.append(str(error))

    def point_to(self, colour: str) -> None:
        """Point the link to a colour's socket, atomically."""
        beside = self.config / ".current.sock.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(self.socket(colour))
        beside.replace(self.current)
        sync(self.config)

    def settle(self) -> None:
        """Leave one colour linked, enabled and alone. Also finishes an interrupted roll."""
        serving = self.serving()
        idle = other(serving)
        if self.linked() != serving:
            # Perhaps a first roll was interrupted before the colour was proven.
            self.step(f"link {serving}")
            since = self.host.now()
            try:
                self.wait_until_ready(serving)
            except NotReady as error:
                raise Refused(self.go_back("", serving, str(error), since)) from error
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
            remove(self.config / idle)

    def drain(self, colour: str) -> None:
        """Wait until a colour has no connections, or the timeout is reached."""
        until = self.host.now() + self.drain_timeout
        quiet = 0
        # Twice, as a proxy may have read the old link just before it was swapped.
        while quiet < 2 and self.host.now() < until:
            quiet = 0 if self.host.connections(self.socket(colour)) else quiet + 1
            self.host.sleep(0.1)


def present(roll: Roll, check: bool) -> dict:
    """Serve what is wanted, or in check mode find out why not; return the module's result."""
    if check:
        reasons = roll.reasons()
    else:
        with roll.locked():
            reasons = roll.run()
    changed = bool(reasons or roll.steps or not roll.is_left_alone())
    return {"changed": changed, "reasons": reasons}


def absent(roll: Roll, check: bool) -> dict:
    """Remove the instance, or in check mode list what exists; return the module's result."""
    reasons = [f"{path} is there" for path in roll.left()]
    if reasons and not check:
        # The folder alone may have been removed by hand.
        roll.config.mkdir(mode=0o750, exist_ok=True)
        with roll.locked():
            roll.take_away()
    return {"changed": bool(reasons), "reasons": reasons}


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
        },
        supports_check_mode=True,
    )
    bring = {"present": present, "absent": absent}[module.params.pop("state")]
    roll = Roll(host=Host(), **module.params)
    with refusing(module, answer=lambda: {"steps": roll.lock.waits + roll.steps}):
        try:
            answer = bring(roll, module.check_mode) | {"colour": roll.serving()}
        except OSError as error:
            raise Refused(
                f"Wanted to roll {roll.name}; found {error} at step "
                f"'{(roll.steps or ['look'])[-1]}'; fix that and run again."
            ) from error
    module.exit_json(steps=roll.lock.waits + roll.steps, **answer)


if __name__ == "__main__":
    main()
