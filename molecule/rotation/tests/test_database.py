"""The server's login changes to the other role while clients write, and the old one is closed."""

import itertools
import re
import uuid

import pytest
from fleet import GENTLE, IN_A_ROLL, ROLL, At

ROTATE = "playbooks/rotate_database_password.yml"
# Opens the login that comes, and at the end closes the one that leaves.
TURN = "let its logins take turns"
# Where both logins are open and in use, where the old one is closed and a slot still holds it.
BOUNDARIES = [
    At("changed", TURN),
    IN_A_ROLL,
    At("start", ROLL, 2),
    At("start", "Verify | Refuse a process"),
    At("changed", TURN),
    At("changed", ROLL),
]
OTHER = {"mlflow_a": "mlflow_b", "mlflow_b": "mlflow_a"}


def login(fleet) -> str:
    """Return the role with which every server logs in."""
    (name,) = {fleet.serving(host)["login"] for host in fleet.servers}
    return name


def password_of(vault, role: str) -> str:
    return vault[role.replace("mlflow", "password")]


def give_password(vault, role: str) -> None:
    """Put a new password for a role into the vault, as the operator does."""
    vault.put(**{role.replace("mlflow", "password"): f"c4nary'{uuid.uuid4().hex}\"$ %"})


def is_rotated(fleet, old: str) -> bool:
    """Tell whether a rotation away from a role is all done."""
    found = [fleet.look(host)["slots"] for host in fleet.servers]
    closed = fleet.sql(f"SELECT NOT rolcanlogin FROM pg_roles WHERE rolname = '{old}'") == ["t"]
    return closed and all(len(slots) == 2 for slots in found)


def assert_rotated(fleet, vault, old: str, old_password: str) -> None:
    """All servers use the other role, and the old one is worth nothing."""
    new = OTHER[old]
    for host in fleet.servers:
        found = fleet.look(host)
        assert set(found["slots"]) == {"wanted", found["serving"]}, "an idle slot keeps a secret"
        assert {slot["login"] for slot in found["slots"].values()} == {new}
    assert fleet.sessions(old) == 0
    assert fleet.sessions(new) > 0
    assert not fleet.can_log_in(old, old_password)
    assert fleet.can_log_in(new, password_of(vault, new))


def assert_none_failed(counts) -> None:
    assert counts["failed"] == 0, counts
    assert counts["written"] > 100, counts


def test_a_rotation_killed_at_six_boundaries_is_finished(fleet, account, vault):
    """A laptop goes to sleep: whoever runs it again gets there, and no client has noticed."""
    old = login(fleet)
    password = password_of(vault, old)
    give_password(vault, OTHER[old])
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_with_kills(ROTATE, BOUNDARIES)
    assert_none_failed(counts)
    assert_rotated(fleet, vault, old, password)


def test_site_yml_leaves_the_new_login(fleet, account):
    """It stands second in the inventory; site.yml must not bring the closed one back."""
    new = login(fleet)
    said = fleet.succeed("site.yml")
    assert set(re.findall(r"changed=(\d+)", said.split("PLAY RECAP")[1])) == {"0"}, said[-3000:]
    assert login(fleet) == new


def test_without_a_new_password_nothing_is_rotated(fleet, account):
    """Not back, either; who was cut off at the very end learns that all is done."""
    before = [fleet.look(host) for host in fleet.servers]
    said = fleet.succeed(ROTATE)
    assert f"the vault has the one that {OTHER[login(fleet)]} had before" in said, said[-5000:]
    assert [fleet.look(host) for host in fleet.servers] == before


def test_another_password_for_the_login_that_serves_changes_nothing(fleet, account, vault):
    """Whoever has mixed them up: it would lock the servers out."""
    role = login(fleet)
    password = password_of(vault, role)
    give_password(vault, role)
    said = fleet.refuse(ROTATE)
    vault.put(**{role.replace("mlflow", "password"): password})
    assert f"Wanted the password that {role} has" in said, said[-5000:]
    assert login(fleet) == role and fleet.can_log_in(role, password)


def test_check_mode_tells_whose_turn_it_is(fleet, account, vault):
    """And neither the database nor a server changes."""
    serves = login(fleet)
    before = [fleet.look(host) for host in fleet.servers]
    give_password(vault, OTHER[serves])
    said = fleet.succeed(ROTATE, "--check")
    assert f"{OTHER[serves]} would serve" in said and "No password was" not in said, said[-5000:]
    assert [fleet.look(host) for host in fleet.servers] == before
    assert not fleet.can_log_in(OTHER[serves], password_of(vault, OTHER[serves]))


def test_an_idle_colour_that_is_killed_while_it_starts_closes_nothing(fleet, account, vault):
    """The servers go on with the old login, which must stay open."""
    old = login(fleet)
    give_password(vault, OTHER[old])
    second = fleet.servers[1]
    with fleet.idle_colour_killed(second), fleet.load(*GENTLE) as counts:
        said = fleet.refuse(ROTATE)
    assert "it ended by itself" in said, said[-5000:]
    assert_none_failed(counts)
    assert fleet.serving(second)["login"] == old
    assert fleet.can_log_in(old, password_of(vault, old))


def test_two_operators_at_once_get_one_rotation(fleet, account, vault):
    """The second waits for the first, or is told; what the test before left is finished."""
    old = fleet.serving(fleet.servers[1])["login"]
    password = password_of(vault, old)
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_together(ROTATE)
    assert_none_failed(counts)
    assert_rotated(fleet, vault, old, password)


def test_an_administrator_from_afar_rotates_it_too(fleet, account, vault):
    """RDS has no host to become postgres on, and its master user is no superuser."""
    old = login(fleet)
    password = password_of(vault, old)
    give_password(vault, OTHER[old])
    fleet.sql("CREATE ROLE master LOGIN CREATEROLE PASSWORD 'of-the-master'")
    fleet.sql("GRANT mlflow_a, mlflow_b TO master WITH ADMIN OPTION")
    afar = {
        # By its address it is none of the inventory's hosts, and its certificate has the name.
        "mlflow_server_database_host": fleet.s3.address_of(fleet.stores),
        "mlflow_server_database_sslmode": "require",
        "mlflow_server_database_ca": "",
        "postgresql_admin_user": "master",
        "postgresql_admin_password": "of-the-master",
    }
    with fleet.load(*GENTLE) as counts:
        fleet.succeed(ROTATE, **afar)
    assert_none_failed(counts)
    assert_rotated(fleet, vault, old, password)


@pytest.mark.long
def test_a_rotation_killed_at_any_task_is_finished(fleet, account, vault):
    """As above, at every task and from a fresh start each time."""
    for number in itertools.count(1):
        old = login(fleet)
        password = password_of(vault, old)
        give_password(vault, OTHER[old])
        with fleet.load(*GENTLE) as counts:
            if not fleet.killed(ROTATE, At("start", count=number)):
                break
            if not is_rotated(fleet, old):
                fleet.succeed(ROTATE)
        assert counts["failed"] == 0, (number, counts)
        assert_rotated(fleet, vault, old, password)
    assert number > 6
