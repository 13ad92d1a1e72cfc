"""A rotation of the database's password, killed before each thing that it does."""

from copy import deepcopy

import pytest
from fake_postgresql import LOGINS, FakeServer, options
from kills import Killable, Killed, assert_each_is_finished
from postgresql_turn import Turn

A, B = LOGINS
FORMER = options()["passwords"]


class World(FakeServer, Killable):
    """What playbooks/rotate_database_password.yml reads and changes: PostgreSQL, a vault, servers.

    A server has a slot that serves and an idle one, which may be empty: pairs of a login and its
    password. PostgreSQL is killed between two statements of a transaction, too, which is more than
    it has to endure.
    """

    def __init__(self, monkeypatch, resting_password):
        FakeServer.__init__(self, monkeypatch)
        Killable.__init__(self)
        self.make_ours()
        self.roles[B]["login"] = False
        self.passwords[B] = resting_password
        self.vault = FORMER | {B: "canary-new"}
        self.servers = [{"serving": (A, FORMER[A]), "idle": ()} for _ in range(2)]

    def change(self, what):
        self.act(what)
        return super().change(what)

    def take_turn(self, turn, serving):
        self.wanted = self.vault
        self.sessions = [(each["serving"][0], 7, "192.0.2.1", "") for each in self.servers]
        kept = {slot[0] for each in self.servers for slot in each.values() if slot}
        given = options(turn=turn, serving=serving, kept=sorted(kept), passwords=self.vault)
        turn = Turn(given, check=False)
        turn.run()
        return turn

    def lets_in(self, login, password):
        return self.roles[login]["login"] and self.passwords[login] == password

    def run(self):
        """Do what the playbook does, in its order; return the login that serves."""
        comes = self.take_turn("awake", sorted({each["serving"][0] for each in self.servers})).comes
        new = comes, self.vault[comes]
        for server in self.servers:
            if server["serving"] != new:
                self.act("fill")
                server["idle"] = new
                assert self.lets_in(*new), "its probe would fail"
                self.act("switch")
                server.update(serving=new, idle=server["serving"])
        self.take_turn("rest", [comes])
        for server in self.servers:
            if server["idle"]:
                self.act("wipe")
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
    assert len(whole.actions) == 10
    assert_each_is_finished(lambda: World(monkeypatch, resting_password), whole)


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
