"""The server's own secrets change while clients write."""

import pytest
from fleet import GENTLE, ROLL, At, assert_none_failed, in_a_roll

ROTATE = "playbooks/rotate_server_secrets.yml"
# Each run begins anew, as it gives each host another key for sessions.
BOUNDARIES = [in_a_roll("rotation-debian13"), At("changed", ROLL)]
MORE_BOUNDARIES = [
    At("start", ROLL),
    At("start", "Verify | Refuse a process"),
    At("changed", ROLL, 2),
]


def slots(fleet) -> dict[str, str]:
    """Return each server's settings as the slot that serves has them."""
    return {host: fleet.serving(host)["text"] for host in fleet.servers}


def assert_finished(fleet, points: list[At]) -> None:
    """Whoever runs it again gets there, no client has noticed, and every host has a new secret."""
    before = slots(fleet)
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_with_kills(ROTATE, points)
    assert_none_failed(counts)
    after = slots(fleet)
    assert all(after[host] != before[host] for host in fleet.servers)
    assert [len(fleet.look(host)["slots"]) for host in fleet.servers] == [2, 2]


def test_a_rotation_killed_at_two_boundaries_is_finished(fleet, account):
    """A laptop goes to sleep: that one must not be left between two secrets."""
    assert_finished(fleet, BOUNDARIES)


@pytest.mark.long
@pytest.mark.parametrize("point", MORE_BOUNDARIES, ids=str)
def test_a_rotation_killed_at_another_boundary_is_finished(fleet, account, point):
    """As above, from a fresh start each time."""
    assert_finished(fleet, [point])


def test_servers_that_are_away_meanwhile_roll_in_turn_and_none_after_one_that_fails(fleet, account):
    """Else a bad secret would take all of them down, one after the other."""
    # As they are in the inventory.
    first, second = "rotation-debian13", "rotation-debian12"
    before = slots(fleet)
    with fleet.idle_colour_killed(first):
        said = fleet.refuse(ROTATE, mlflow_server_roll="stop_start")
    assert "it ended by itself" in said, said[-5000:]
    assert slots(fleet) == before
    fleet.succeed(ROTATE)
    assert slots(fleet)[second] != before[second]


def test_what_encrypts_the_database_is_refused(fleet, account, vault):
    """With another passphrase nobody could read what was encrypted with this one."""
    before, passphrase = slots(fleet), vault["passphrase"]
    vault.put(passphrase="c4nary-another-passphrase")
    said = fleet.refuse(ROTATE)
    vault.put(passphrase=passphrase)
    assert "Wanted MLFLOW_CRYPTO_KEK_PASSPHRASE as mlflow serves with" in said, said[-5000:]
    assert slots(fleet) == before
