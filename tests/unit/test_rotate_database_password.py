"""A rotation of the database's password, killed before each thing that it does."""

import itertools
from copy import deepcopy

import pytest
from postgresql_database import Database
from test_postgresql_database import LOGINS, FakeServer, options

A, B = LOGINS
FORMER = options()["passwords"]


class Killed(BaseException):
    """SIGKILL: nothing that the code catches."""


class World(FakeServer):
    """What playbooks/rotate_database_password.yml reads and changes: PostgreSQL, a vault, servers.

    A server has a slot that serves and an idle one, which may be empty: pairs of a login and its
    password. PostgreSQL is killed between two statements of a transaction, too, which is more than
    it has to endure.

    Attributes:
        left: How many more changes there are before a kill; None for no kill.
    """

    def __init__(self, monkeypatch, resting_password):
        super().__init__(monkeypatch)
        self.make_ours()
        self.roles[B]["login"] = False
        self.passwords[B] = resting_password
        self.vault = FORMER | {B: "canary-new"}
        self.servers = [{"serving": (A, FORMER[A]), "idle": ()} for _ in range(2)]
        self.changes, self.left = [], None

    def change(self, what):
        self.changing(what)
        return super().change(what)

    def changing(self, what):
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1
        self.changes.append(what)

    def take_turn(self, turn, serving):
        self.wanted = self.vault
        self.sessions = [(each["serving"][0], 7, "192.0.2.1", "") for each in self.servers]
        kept = {slot[0] for each in self.servers for slot in each.values() if slot}
        given = options(turn=turn, serving=serving, kept=sorted(kept), passwords=self.vault)
        database = Database(given, check=False)
        database.take_turns()
        return database

    def lets_in(self, login, password):
        return self.roles[login]["login"] and self.passwords[login] == password

    def run(self):
        """Do what the playbook does, in its order; return the login that serves."""
        comes = self.take_turn("awake", sorted({each["serving"][0] for each in self.servers})).comes
        new = comes, self.vault[comes]
        for server in self.servers:
            if server["serving"] != new:
                self.changing("fill")
                server["idle"] = new
                assert self.lets_in(*new), "its probe would fail"
                self.changing("switch")
                server.update(serving=new, idle=server["serving"])
        self.take_turn("rest", [comes])
        for server in self.servers:
            if server["idle"]:
                self.changing("wipe")
                server["idle"] = ()
        return comes

    def check(self):
        """No server ever has a login that PostgreSQL refuses, not even for its next connection."""
        assert all(self.lets_in(*each["serving"]) for each in self.servers)

    def state(self):
        return deepcopy((self.servers, self.roles, self.passwords))


@pytest.mark.parametrize(
    "resting_password", [None, "former"], ids=["its first turn", "a later one"]
)
def test_a_rotation_that_is_killed_anywhere_is_finished_by_the_next_run(
    monkeypatch, resting_password
):
    """Also when the run that goes on is killed too, at each of its own steps."""
    whole = World(monkeypatch, resting_password)
    assert whole.run() == B
    assert whole.servers == [{"serving": (B, "canary-new"), "idle": ()}] * 2
    assert whole.lets_in(B, "canary-new") and not whole.roles[A]["login"]
    count = len(whole.changes)
    assert count == 10
    for first, second in itertools.product(range(count + 1), repeat=2):
        world = World(monkeypatch, resting_password)
        for world.left in (first, second):
            try:
                world.run()
                break
            except Killed:
                world.check()
        else:
            world.left = None
            world.run()
        world.check()
        assert world.state() == whole.state(), (first, second)
        # And a run that finds all done changes nothing.
        world.left = 0
        assert world.run() == B


def test_the_next_rotation_goes_back_with_another_password(monkeypatch):
    """With the one that it had, whoever has stolen that could log in again."""
    world = World(monkeypatch, None)
    world.run()
    world.vault = world.vault | {A: "canary-newer"}
    assert world.run() == A
    world.check()
    assert world.servers == [{"serving": (A, "canary-newer"), "idle": ()}] * 2
    assert not world.roles[B]["login"] and not world.lets_in(A, FORMER[A])


def test_a_password_that_comes_too_early_is_for_the_rotation_after(monkeypatch):
    """Killed before the last slot was removed: what the former rotation has left goes first."""
    world = World(monkeypatch, None)
    world.left = 9
    with pytest.raises(Killed):
        world.run()
    world.left, world.vault = None, world.vault | {A: "canary-newer"}
    assert world.run() == B and not world.roles[A]["login"]
    assert world.run() == A
