"""The server's own secrets change while clients write."""

from fleet import GENTLE, IN_A_ROLL, ROLL, At

ROTATE = "playbooks/rotate_server_secrets.yml"
# Each run begins anew, as it gives each host another key for sessions.
BOUNDARIES = [
    At("start", ROLL),
    IN_A_ROLL,
    At("changed", ROLL),
    At("start", ROLL, 2),
    At("start", "Verify | Refuse a process", 2),
    At("changed", ROLL, 2),
]


def slots(fleet) -> dict[str, str]:
    """Return each server's settings as the slot that serves has them."""
    return {host: fleet.serving(host)["text"] for host in fleet.servers}


def test_a_rotation_killed_at_six_boundaries_is_finished(fleet, account):
    """Whoever runs it again gets there, no client has noticed, and every host has a new secret."""
    before = slots(fleet)
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_with_kills(ROTATE, BOUNDARIES)
    assert counts["failed"] == 0, counts
    assert counts["written"] > 100, counts
    after = slots(fleet)
    assert all(after[host] != before[host] for host in fleet.servers)
    assert [len(fleet.look(host)["slots"]) for host in fleet.servers] == [2, 2]


def test_what_encrypts_the_database_is_refused(fleet, account, vault):
    """With another passphrase nobody could read what was encrypted with this one."""
    before, passphrase = slots(fleet), vault["passphrase"]
    vault.put(passphrase="c4nary-another-passphrase")
    said = fleet.refuse(ROTATE)
    vault.put(passphrase=passphrase)
    assert "MLFLOW_CRYPTO_KEK_PASSPHRASE" in said, said[-5000:]
    assert slots(fleet) == before
