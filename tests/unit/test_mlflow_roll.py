"""The roll, on a host of the imagination: every refusal, and a kill before each thing it does."""

import json
import os
import re
import sys
from pathlib import Path

import mlflow_roll
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import files, hosts, slots
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.roll_lock import Lock
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import tree
from kills import Killable, Killed
from mlflow_roll import Roll


class FakeProbe:
    """A probe that has ended with a code and a text on standard error."""

    def __init__(self, code, text=""):
        self.code = self.returncode = code
        self.text = text
        self.stderr = type("Stream", (), {"read": lambda _: text, "close": lambda _: None})()

    def poll(self):
        return self.code

    def communicate(self):
        return None, self.text


class FakeHost(Killable):
    """systemd, sockets and the clock of one host, which can be killed before its n-th action.

    A unit that is started keeps the settings of its slot as they are then, as a process does, and
    has the text that systemd had loaded: that of its first start or of the last daemon-reload.
    """

    def __init__(self, root: Path, instance: str = "mlflow"):
        super().__init__()
        self.root, self.instance = root, instance
        self.units = {}
        self.time = 1000.0
        self.unhealthy = set()
        self.refused_names = set()
        self.probe = self.database = FakeProbe(0)
        self.probed = []
        self.clients = {"blue": 0, "green": 0}
        self.looks = {"blue": [], "green": []}
        self.free_mb = 4000
        # Colours that were started before a file of theirs was changed.
        self.older = set()
        # Colours that run with libraries that were replaced.
        self.outdated = set()

    def state(self, unit):
        return self.units.setdefault(
            unit,
            {"active": "inactive", "file": "", "runs": None, "restarts": 0, "loaded": None},
        )

    def text(self, unit):
        file = self.root / "etc/systemd/system" / unit
        return file.read_text() if file.exists() else None

    def colour(self, unit):
        return unit.removesuffix(".service").rsplit("-", 1)[1]

    def setting(self, colour):
        return (self.root / "etc" / self.instance / colour / "server.env").read_text()

    def command(self, *words):
        self.act(" ".join(words))
        if words[0] == "systemd-analyze":
            if "nonsense" in Path(words[-1]).read_text():
                raise Refused("Wanted a unit that can be loaded; found nonsense; fix it.")
            return ""
        if words[1] == "daemon-reload":
            for unit, state in self.units.items():
                state["loaded"] = self.text(unit)
            return ""
        verb, unit = words[1], words[-1]
        state = self.state(unit)
        if verb == "start":
            setting = self.setting(self.colour(unit))
            state["loaded"] = state["loaded"] or self.text(unit)
            active = {"broken": "activating", "failing": "failed"}.get(setting, "active")
            state.update(
                active=active,
                runs=setting,
                text=state["loaded"],
                restarts=0 if active == "active" else 2,
            )
        if verb == "stop" or "--now" in words:
            # What has failed stays so until somebody resets it.
            failed = state["active"] == "failed"
            state.update(active="failed" if failed else "inactive", runs=None)
        if verb == "reset-failed":
            state["active"] = "inactive"
        if verb in ("enable", "disable"):
            state["file"] = f"{verb}d"
        return ""

    def show(self, unit):
        state = self.state(unit)
        return {
            "ActiveState": state["active"],
            "UnitFileState": state["file"],
            "NeedDaemonReload": "yes" if state["loaded"] not in (None, self.text(unit)) else "no",
            "NRestarts": str(state["restarts"]),
        }

    def started(self, unit):
        return 0.0 if self.colour(unit) in self.older else float("inf")

    def has_old_libraries(self, unit):
        return self.colour(unit) in self.outdated

    def journal(self, unit, since):
        return f"journal of {unit}"

    def start_probe(self, instance, slot, words, seconds, former=None, more=""):
        self.probed.append((words, former and former.name))
        return self.database if words[0] == "database" else self.probe

    def answers(self, path):
        colour = Path(path).parent.name
        active = self.state(f"{self.instance}-{colour}.service")["active"] == "active"
        return "" if active and colour not in self.unhealthy else "/health did not answer"

    def refused_name(self, path, names):
        return next((name for name in names if name in self.refused_names), "")

    def connections(self, path):
        colour = Path(path).parent.name
        return self.looks[colour].pop(0) if self.looks[colour] else self.clients[colour]

    def memory_available_mb(self):
        return self.free_mb

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds

    def boot(self):
        """Start what is enabled, as a reboot does."""
        for unit, state in self.units.items():
            state.update(active="inactive", runs=None)
            if state["file"] == "enabled":
                state.update(active="active", runs=self.setting(self.colour(unit)))

    def served(self):
        """Return the settings that a client reaches through the link, or nothing."""
        link = self.root / "etc" / self.instance / "current.sock"
        if not link.is_symlink():
            return None
        colour = Path(os.readlink(link)).parent.name
        return self.state(f"{self.instance}-{colour}.service")["runs"]


class World:
    """A host with its folders, and what an operator does to it."""

    def __init__(self, root: Path):
        self.root = root
        self.host = FakeHost(root)
        self.config = root / "etc/mlflow"
        (self.config / "wanted").mkdir(parents=True)
        (root / "etc/systemd/system").mkdir(parents=True)
        (self.config / "wanted/mlflow.service").write_text("[Service]\n")
        (self.config / "wanted/release").symlink_to("/opt/release")
        self.want("one")

    def want(self, text):
        (self.config / "wanted/server.env").write_text(text)

    def make_roll(self, mode="blue_green", any_artifact_root=False, **more):
        return Roll("mlflow", mode, 800, any_artifact_root, 120, 60, self.host, self.root, **more)

    def roll(self, mode="blue_green", any_artifact_root=False, **more):
        roll = self.make_roll(mode, any_artifact_root, **more)
        with roll.locked():
            roll.run()
        return roll

    def enabled(self):
        return [unit for unit, state in self.host.units.items() if state["file"] == "enabled"]

    def active(self):
        return [unit for unit, state in self.host.units.items() if state["active"] != "inactive"]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_fresh_host_gets_blue(world):
    """The first roll has nothing to switch from and must leave one enabled colour."""
    world.roll()
    assert world.host.served() == "one"
    assert world.enabled() == world.active() == ["mlflow-blue.service"]


def test_what_serves_already_is_left_alone(world):
    """A second run must not cost a restart."""
    world.roll()
    world.host.actions.clear()
    assert world.roll().steps == []
    assert world.host.actions == []


@pytest.mark.parametrize("mode", ["blue_green", "stop_start"])
def test_a_changed_setting_moves_to_the_other_colour(world, mode):
    world.roll()
    world.want("two")
    world.roll(mode)
    assert world.host.served() == "two"
    assert world.enabled() == world.active() == ["mlflow-green.service"]
    assert (world.config / "blue/server.env").read_text() == "one", "the way back is kept"


def test_blue_green_never_leaves_the_link_without_a_server(world):
    """What a client sees before any line of a roll and any call of it is a server that runs."""
    world.roll()
    world.want("two")
    seen = set()
    ours = [module.__file__ for module in (mlflow_roll, files, hosts, slots)]

    def look(frame, *_):
        seen.add(world.host.served())
        return look if frame.f_code.co_filename in ours else None

    former = sys.gettrace()
    sys.settrace(look)
    try:
        world.roll()
    finally:
        sys.settrace(former)
    assert seen == {"one", "two"}


def test_a_colour_runs_the_unit_that_is_wanted_now(world):
    """systemd goes on with the text that it had loaded when the colour served the last time."""
    for turn in ("first", "second", "third"):
        (world.config / "wanted/mlflow.service").write_text(f"[Service]\n# {turn}\n")
        world.roll()
        (unit,) = world.active()
        assert turn in world.host.units[unit]["text"]


def test_a_unit_that_was_changed_and_changed_back_is_loaded_again(world):
    """Its text is right again, but the next start, perhaps at night, would have the other one."""
    world.roll()
    unit = world.root / "etc/systemd/system/mlflow-blue.service"
    text = unit.read_text()
    unit.write_text("[Service]\n# by hand\n")
    world.host.command("systemctl", "daemon-reload")
    unit.write_text(text)
    assert world.roll().steps == ["reload systemd's units"]
    assert world.host.units[unit.name]["loaded"] == text
    assert world.roll().steps == []


@pytest.mark.parametrize("mode", ["blue_green", "stop_start"])
def test_a_unit_that_systemd_does_not_understand_is_refused_before_anything_is_started(world, mode):
    """systemd ignores a line that it does not know, so the server would run without its sandbox."""
    world.roll()
    (world.config / "wanted/mlflow.service").write_text("[Service]\nnonsense\n")
    world.host.actions.clear()
    with pytest.raises(Refused, match="found nonsense"):
        world.roll(mode)
    assert not [action for action in world.host.actions if action.startswith("systemctl st")]
    assert world.host.served() == "one"


@pytest.mark.parametrize(
    ("drift", "reason"),
    [
        (lambda w: (w.config / "blue/server.env").write_text("by hand"), "server.env in blue"),
        (lambda w: (w.config / "blue/server.env").chmod(0o666), "server.env in blue"),
        (lambda w: (w.config / "blue/extra").write_text(""), "extra in blue"),
        (lambda w: (w.config / "blue/release").unlink(), "release in blue"),
        (
            lambda w: (w.root / "etc/systemd/system/mlflow-blue.service").write_text("x"),
            "mlflow-blue.service differs",
        ),
        (lambda w: w.host.command("systemctl", "stop", "mlflow-blue.service"), "is not active"),
        (lambda w: w.host.unhealthy.add("blue"), "does not work"),
    ],
)
def test_drift_by_hand_is_rolled_away(world, drift, reason):
    """What is wanted is derived from the host; nothing has to remember that it changed."""
    world.roll()
    drift(world)
    assert any(reason in found for found in world.make_roll().reasons())
    world.roll()
    assert world.host.served() == "one"
    assert world.active() == world.enabled() == ["mlflow-green.service"]


def test_a_lost_link_is_made_again_without_a_restart(world):
    world.roll()
    (world.config / "current.sock").unlink()
    roll = world.roll()
    assert roll.steps == ["link blue"]
    assert world.host.served() == "one"


@pytest.mark.parametrize("mode", ["blue_green", "stop_start"])
def test_a_setting_that_cannot_start_leaves_the_old_one_serving(world, mode):
    """The play fails with the journal, and a reboot brings back what served."""
    world.roll()
    world.want("broken")
    with pytest.raises(Refused, match="journal of mlflow-green") as failure:
        world.roll(mode)
    assert "ended by itself" in str(failure.value)
    assert world.host.served() == "one"
    assert world.active() == world.enabled() == ["mlflow-blue.service"]
    world.host.boot()
    assert world.host.served() == "one"


def test_a_colour_that_failed_does_not_stay_failed(world):
    """An alarm on failed units would ring until somebody resets one that is idle anyway."""
    world.roll()
    world.want("failing")
    with pytest.raises(Refused, match="ended by itself"):
        world.roll()
    assert world.host.units["mlflow-green.service"]["active"] == "inactive"
    assert world.host.served() == "one"


def test_a_store_that_refuses_is_not_ready(world):
    """The server answers, but the artifact store does not take an object."""
    world.roll()
    world.want("two")
    world.host.probe = FakeProbe(1, "Wanted to put; found denied; give the right.")
    with pytest.raises(Refused, match="found denied"):
        world.roll()
    assert world.host.served() == "one"


def test_a_colour_that_refuses_the_name_of_its_clients_does_not_serve(world):
    """It answers whoever comes through the socket, and 403 to everybody else."""
    world.roll(names=["a:443"])
    world.want("two")
    world.host.refused_names.add("b:443")
    with pytest.raises(Refused, match="it refuses b:443, a name by which clients come; take"):
        world.roll(names=["a:443", "b:443"])
    assert world.host.served() == "one"


def test_a_colour_that_never_answers_is_given_up_at_the_limit(world):
    world.roll()
    world.want("two")
    world.host.unhealthy.add("green")
    begun = world.host.time
    with pytest.raises(Refused, match="within 120 s; found: /health did not answer"):
        world.roll()
    assert 120 <= world.host.time - begun < 125


def test_a_host_without_memory_for_two_is_told_the_way_out(world):
    world.roll()
    world.want("two")
    world.host.free_mb = 700
    with pytest.raises(Refused, match="Wanted 800 MB.*found 700 MB.*stop_start"):
        world.roll()
    assert world.host.served() == "one"
    world.roll("stop_start")
    assert world.host.served() == "two"


def test_the_old_colour_is_drained_before_it_is_stopped(world):
    """A long upload on the old colour goes on until it ends or the limit is reached."""
    world.roll()
    world.want("two")
    world.host.clients["blue"] = 1
    begun = world.host.time
    world.roll()
    assert 60 <= world.host.time - begun < 65
    world.want("three")
    begun = world.host.time
    world.roll()
    assert world.host.time - begun < 5


def test_a_request_that_read_the_old_link_before_the_swap_is_waited_for(world):
    """nginx follows the link, the roll swaps it, and only then nginx connects to the old one."""
    world.roll()
    world.want("two")
    world.host.looks["blue"] = [0, 1, 0, 0]
    world.roll()
    assert world.host.looks["blue"] == [], "quiet twice in a row, after the late one"


@pytest.mark.parametrize("mode", ["blue_green", "stop_start"])
@pytest.mark.parametrize("reboot", [False, True])
def test_a_roll_killed_before_any_action_is_finished_by_the_next(world, mode, reboot):
    """SIGKILL before each action and each file written, also followed by a reboot: what served
    serves (with stop_start at least after the reboot), and running again ends in the same state."""
    world.roll()
    real_write, real_point = files.write, Roll.point_to
    real_copy, real_note = files.copy_tree, Lock.note

    def counted(name, function):
        def call(*arguments):
            world.host.act(name)
            return function(*arguments)

        return call

    kills = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_roll, "write", counted("write", real_write))
        for module in (mlflow_roll, files):
            patch.setattr(module, "copy_tree", counted("copy", real_copy))
        patch.setattr(Roll, "point_to", counted("link", real_point))
        patch.setattr(Lock, "note", counted("note", real_note))
        for turn in range(100):
            before, wanted = world.host.served(), f"setting {turn}"
            world.want(wanted)
            world.host.left = turn
            try:
                world.roll(mode)
            except Killed:
                kills += 1
            else:
                break
            finally:
                world.host.left = None
            if reboot:
                world.host.boot()
            if reboot or mode == "blue_green":
                assert world.host.served() in (before, wanted), f"nothing serves, kill {turn}"
            world.roll(mode)
            assert world.host.served() == wanted
            assert world.active() == world.enabled()
            assert len(world.enabled()) == 1
            assert not list(world.config.glob(".*.new"))
            assert not list(world.root.rglob(".*.mlflow-ansible"))
    assert kills > 15, "the roll does more than fifteen things that can be interrupted"


def test_a_colour_enabled_by_a_killed_roll_does_not_boot_with_a_broken_setting(world):
    """Killed after `enable`, then run again with a setting that cannot start, then rebooted: the
    broken colour must not start for ever beside the one that serves."""
    world.roll()
    world.want("two")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Roll, "point_to", lambda *_: (_ for _ in ()).throw(Killed()))
        world.roll()
    assert len(world.enabled()) == 2
    world.want("broken")
    with pytest.raises(Refused):
        world.roll()
    assert world.enabled() == ["mlflow-blue.service"]
    world.host.boot()
    assert world.active() == ["mlflow-blue.service"]
    assert world.host.served() == "one"


def test_a_first_colour_that_was_never_proven_is_proven_before_it_is_linked(world):
    """Killed while it waited; the artifact store refuses, so it must not be taken for ready."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Roll, "wait_until_ready", lambda *_: (_ for _ in ()).throw(Killed()))
        world.roll()
    world.host.probe = FakeProbe(1, "Wanted to put; found denied; give the right.")
    with pytest.raises(Refused, match="found denied.*Nothing has served yet"):
        world.roll()
    assert world.host.served() is None
    assert world.active() == []


@pytest.mark.parametrize("mode", ["blue_green", "stop_start"])
def test_an_old_colour_that_was_stopped_by_hand_is_started_when_the_new_one_fails(world, mode):
    """The message says that it serves: so it must."""
    world.roll()
    world.host.command("systemctl", "stop", "mlflow-blue.service")
    world.want("broken")
    with pytest.raises(Refused, match="mlflow-blue.service serves what it served before"):
        world.roll(mode)
    assert world.host.served() == "one"


@pytest.mark.parametrize("failing", ["wait", "journal", "stop"])
def test_with_stop_start_the_old_colour_comes_back_whatever_fails(world, monkeypatch, failing):
    """A disk that fills up, a journal that cannot be read, a stop that times out."""
    world.roll()
    world.want("broken")

    def full(*_):
        raise OSError(28, "No space left on device")

    real = world.host.command

    def no_stop_of_green(*words):
        if words[1:] == ("stop", "mlflow-green.service"):
            raise Refused("Wanted a stop; found a timeout; fix that.")
        return real(*words)

    if failing == "wait":
        monkeypatch.setattr(Roll, "wait_until_ready", full)
    elif failing == "journal":
        monkeypatch.setattr(world.host, "journal", full)
    else:
        monkeypatch.setattr(world.host, "command", no_stop_of_green)
    with pytest.raises(Refused, match="serves what it served before"):
        world.roll("stop_start")
    assert world.host.served() == "one"


@pytest.mark.parametrize("mode", ["blue_green", "stop_start"])
def test_a_database_that_does_not_fit_is_seen_before_anything_is_started(world, mode):
    """MLflow would change the tables of some databases while it starts; then the old release could
    not start again."""
    world.roll()
    world.want("two")
    world.host.database = FakeProbe(1, "Wanted revision b; found a; upgrade it.")
    world.host.actions.clear()
    with pytest.raises(Refused, match="found a; upgrade it. What serves is unchanged"):
        world.roll(mode)
    assert not [action for action in world.host.actions if "start" in action]
    assert world.host.served() == "one"


def test_the_database_is_compared_with_what_served_before(world):
    """Only the slot that serves still knows where artifacts are that were proxied until now."""
    world.roll()
    world.want("two")
    world.roll()
    world.want("three")
    world.roll(any_artifact_root=True)
    assert [probed for probed in world.host.probed if probed[0] != ["artifacts"]] == [
        (["database"], None),
        (["database"], "blue"),
        (["database", "any-artifact-root"], "green"),
    ]


def test_a_server_that_was_disabled_by_hand_starts_at_the_next_boot(world):
    """It serves, so nobody would notice until the host is down."""
    world.roll()
    world.host.command("systemctl", "disable", "mlflow-blue.service")
    assert world.roll().steps == ["enable blue"]
    world.host.boot()
    assert world.host.served() == "one"


def test_a_link_that_a_killed_run_left_beside_its_place_is_in_nobodys_way(world):
    """It was made, and the run was killed before it took the place of the other."""
    world.roll()
    (world.config / ".current.sock.new").symlink_to("/run/mlflow/green/server.sock")
    world.want("two")
    world.roll()
    assert world.host.served() == "two" and not list(world.config.glob(".*.new"))


def test_a_link_to_something_else_is_set_right(world):
    """Drift of the one thing that says who serves."""
    world.roll()
    (world.config / "current.sock").unlink()
    (world.config / "current.sock").symlink_to("/run/other/stand-in.sock")
    assert world.roll().steps == ["link blue"]
    assert world.host.served() == "one"


def test_a_killed_copy_leaves_no_half_slot(world, monkeypatch):
    """Half of a slot in the idle place must never be taken for a whole one."""
    world.roll()
    world.want("two")
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        world.roll()
    monkeypatch.undo()
    world.roll()
    assert tree(world.config / "green") == tree(world.config / "wanted")


def test_other_texts_serve_and_nothing_else_that_is_wanted(world):
    """A rotation must not deliver what somebody else has written and not rolled yet."""
    (world.config / "wanted/key").write_text("old key")
    (world.config / "wanted/key").chmod(0o400)
    world.roll()
    world.want("two, unproven")
    before = (world.config / "blue/server.env").stat().st_mtime_ns
    world.roll(texts={"key": "new key"})
    assert world.host.served() == "one"
    for place in ("wanted", "green"):
        assert (world.config / place / "key").read_text() == "new key"
        assert (world.config / place / "key").stat().st_mode & 0o777 == 0o400
        since = (world.config / place / "server.env").stat().st_mtime_ns
        assert since == before, "since when a text is in use is read off its file"
    assert not list(world.config.glob(".wanted*"))
    assert world.roll(texts={"key": "new key"}).steps == [], "a second run changes nothing"


@pytest.mark.parametrize("failing", ["store", "disk"])
def test_a_refused_text_leaves_what_serves_and_what_is_wanted(world, monkeypatch, failing):
    """Else the next roll, for whatever reason, would bring the refused key back."""
    (world.config / "wanted/key").write_text("old key")
    world.roll()
    world.want("two")
    if failing == "store":
        world.host.probe = FakeProbe(1, "Wanted to put; found denied; give the right.")
    else:
        monkeypatch.setattr(
            mlflow_roll, "sync", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
    with pytest.raises((Refused, OSError), match="denied|full"):
        world.roll(texts={"key": "refused"})
    assert world.host.served() == "one"
    assert (world.config / "wanted/key").read_text() == "old key"
    assert (world.config / "wanted/server.env").read_text() == "two"
    assert not list(world.config.glob(".wanted*"))


def test_what_is_older_than_its_files_is_rolled_by_a_rotation(world):
    """Which secrets it was started with nobody can tell: Verify refuses it, and sends for a run."""
    world.roll()
    world.host.older.add("blue")
    assert world.roll().steps == [], "site.yml has no credential to prove"
    roll = world.make_roll(texts={"server.env": "one"})
    assert roll.reasons() == ["mlflow-blue.service was started before its files were changed"]
    world.roll(texts={"server.env": "one"})
    assert world.active() == ["mlflow-green.service"]
    assert world.roll(texts={"server.env": "one"}).steps == []


def test_libraries_that_were_updated_are_taken_by_a_roll(world):
    """needrestart, which would restart it, is told to leave it to that."""
    world.roll()
    text = (world.root / "etc/needrestart/conf.d/mlflow.conf").read_text()
    pattern = re.search(r"^\$nrconf{override_rc}{qr\((.*)\)} = 0;$", text, re.MULTILINE)[1]
    for unit in world.host.units:
        assert re.search(pattern, unit)
    assert not re.search(pattern, "mlflow-team-blue.service")
    world.host.outdated.add("blue")
    found = ["mlflow-blue.service runs with libraries that were updated since"]
    assert world.make_roll().reasons() == found
    world.roll()
    assert world.active() == ["mlflow-green.service"] and world.make_roll().reasons() == []


def test_texts_go_only_where_they_have_been(world):
    """A host on which site.yml has never put a key has no use for one."""
    with pytest.raises(Refused, match="found none; run site.yml first"):
        world.roll(texts={"key": "new"})
    world.roll()
    with pytest.raises(Refused, match="Wanted key in what mlflow serves with"):
        world.roll(texts={"key": "new"})


def test_what_encrypts_the_database_is_not_replaced(world):
    """With another passphrase nobody can read what was encrypted with the former one."""
    (world.config / "wanted/generated.env").write_text('MLFLOW_CRYPTO_KEK_PASSPHRASE="old one"')
    (world.config / "wanted/secrets.env").write_text("")
    world.roll()
    world.roll(texts={"secrets.env": 'A="1"\nMLFLOW_CRYPTO_KEK_PASSPHRASE="old one"'})
    with pytest.raises(Refused, match="Wanted MLFLOW_CRYPTO_KEK_PASSPHRASE as"):
        world.roll(texts={"secrets.env": 'MLFLOW_CRYPTO_KEK_PASSPHRASE="new one"'})
    assert "old one" in (world.config / "wanted/secrets.env").read_text()


def test_what_encrypts_the_database_changes_only_while_nothing_serves(world):
    """As of an operator who fills in the vault after the first run: stored keys would be lost."""
    (world.config / "wanted/generated.env").write_text('MLFLOW_CRYPTO_KEK_PASSPHRASE="old one"')
    world.roll()
    (world.config / "wanted/secrets.env").write_text('MLFLOW_CRYPTO_KEK_PASSPHRASE="new one"')
    before = world.active()
    with pytest.raises(Refused, match="serves with.*wanted/generated.env.*What serves is unch"):
        world.roll()
    assert world.active() == before
    for unit in world.host.units.values():
        unit["active"] = "inactive"
    world.roll()


@pytest.mark.parametrize("spoilt", ["it's", "no variable", '"'])
def test_a_line_that_was_spoilt_by_hand_is_rolled_away(world, spoilt):
    """Whether the passphrase is the former one is told by its own line."""
    text = 'MLFLOW_CRYPTO_KEK_PASSPHRASE="old one"\n'
    (world.config / "wanted/secrets.env").write_text(text)
    world.roll()
    served = world.config / world.make_roll().serving() / "secrets.env"
    served.write_text(f"{text}{spoilt}\n")
    world.roll()
    served = world.config / world.make_roll().serving() / "secrets.env"
    assert served.read_text() == text


def test_a_slot_keeps_owners_and_modes_whatever_the_umask(world):
    """The server reads some files as its own user; with another owner each run would roll."""
    key = world.config / "wanted/key"
    key.write_text("key")
    os.chown(key, 4321, 8765)
    key.chmod(0o440)
    former = os.umask(0o077)
    try:
        world.roll()
    finally:
        os.umask(former)
    found = (world.config / "blue/key").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (4321, 8765, 0o440)
    unit = world.root / "etc/systemd/system/mlflow-blue.service"
    assert unit.stat().st_mode & 0o777 == 0o644
    assert world.roll().steps == []


def test_the_idle_slot_goes_when_it_is_to_be_wiped(world):
    """It holds the former secret. What serves has to go on without it, also through a roll."""
    world.roll()
    world.want("two")
    assert (world.config / "blue").exists()
    world.roll(wipe_idle=True)
    assert not (world.config / "blue").exists()
    assert world.roll(wipe_idle=True).steps == []
    world.want("three")
    world.roll()
    assert world.host.served() == "three"


@pytest.mark.parametrize("mode", ["blue_green", "stop_start"])
def test_a_roll_with_texts_killed_anywhere_is_finished_by_the_next(world, mode):
    (world.config / "wanted/key").write_text("0")
    world.roll()
    kills = 0
    note = Lock.note
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lock, "note", lambda self, text: (world.host.act(text), note(self, text)))
        changing = [(mlflow_roll, "copy_tree"), (files, "copy_tree"), (mlflow_roll, "write")]
        for module, name in [*changing, (os, "fsync")]:
            real = getattr(files, name, os.fsync)
            patch.setattr(module, name, lambda *a, f=real: (world.host.act("file"), f(*a))[1])
        for turn in range(100):
            texts = {"key": f"{turn + 1}"}
            world.host.left = turn
            try:
                world.roll(mode, texts=texts, wipe_idle=True)
            except Killed:
                kills += 1
            else:
                break
            finally:
                world.host.left = None
            if mode == "blue_green":
                assert world.host.served() == "one", f"nothing serves, kill {turn}"
            world.roll(mode, texts=texts, wipe_idle=True)
            found = [path.read_text() for path in world.config.rglob("key")]
            assert found == [texts["key"]] * 2, "in what is wanted and in what serves"
            assert len(world.enabled()) == len(world.active()) == 1
            assert not list(world.config.glob(".*.new")) + list(world.config.glob(".wanted*"))
            assert not list(world.root.rglob(".*.mlflow-ansible"))
    assert kills > 20, "it does more than twenty things that can be interrupted"


def test_a_roll_says_what_it_does_and_until_when(world):
    """Who finds the lock taken is told by whom, at which step, and waits no longer than it may."""
    world.roll()
    world.want("two")
    lock, notes = world.config / ".roll.lock", {}
    act = world.host.act

    def noted(what):
        notes[what] = json.loads(lock.read_text())
        act(what)

    world.host.act = noted
    begun = world.host.time
    world.roll()
    note = notes["systemctl start mlflow-green.service"]
    assert (note["pid"], note["step"]) == (os.getpid(), "start green")
    assert notes["systemctl disable --now mlflow-blue.service"]["step"] == "stop blue"
    # Until it is ready, what it replaces answers or not, and that is drained and stopped.
    assert note["until"] - begun >= 120 + 30 + 2 * 60
    assert lock.read_text() == "", "nobody is told of a roll that has ended"
    assert lock.stat().st_mode & 0o777 == 0o600


def take_away(world):
    roll = world.make_roll()
    if roll.left():
        with roll.locked():
            roll.take_away()
    return roll


def what_is_left(world):
    return sorted(
        str(path.relative_to(world.root))
        for path in world.root.rglob("*")
        if not path.is_dir() and path.name != ".roll.lock"
    )


def test_an_instance_is_taken_away_but_for_what_its_data_are_encrypted_with(world):
    """Without that file a server made again on the same database cannot read its secrets."""
    (world.config / "wanted/generated.env").write_text("A=1")
    world.roll()
    world.want("two")
    world.roll()
    (world.config / "wanted/generated.env").unlink()
    assert take_away(world).steps[:1] == [
        "keep generated.env, without which some of the data cannot be read"
    ]
    assert world.active() == []
    assert what_is_left(world) == ["etc/mlflow/wanted/generated.env"]
    assert (world.config / "wanted/generated.env").read_text() == "A=1"
    assert take_away(world).steps == [], "a second time there is nothing to do"


def test_what_the_data_are_encrypted_with_is_what_served_last(world):
    """Another text that was wanted since, and that a roll has refused, is nobody's key."""
    (world.config / "wanted/generated.env").write_text("A=1")
    world.roll()
    (world.config / "wanted/generated.env").write_text("A=2")
    take_away(world)
    assert (world.config / "wanted/generated.env").read_text() == "A=1"


def test_who_is_connected_is_let_go_before_an_instance_is_taken_away(world):
    world.roll()
    steps = take_away(world).steps
    assert steps.index("drain blue") < steps.index("stop blue")


def test_a_removal_that_was_killed_is_finished_by_the_next(world, tmp_path):
    """At each of its steps: what serves is stopped, and nothing is left that would start again."""
    for number in range(20):
        each = World(tmp_path / str(number))
        (each.config / "wanted/generated.env").write_text("A=1")
        each.roll()
        each.host.left = number
        try:
            take_away(each)
            killed = False
        except Killed:
            killed = True
        each.host.left = None
        take_away(each)
        assert what_is_left(each) == ["etc/mlflow/wanted/generated.env"], number
        assert each.active() == each.enabled() == []
        if not killed:
            return
    raise AssertionError("it was killed in each case")
