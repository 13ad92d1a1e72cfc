"""The server's login changes to the other role while clients write, and the old one is closed."""

import uuid

import pytest
from fleet import GENTLE, ROLL, At, assert_none_failed, in_a_roll

ROTATE = "playbooks/rotate_database_password.yml"
FIRST, SECOND = "rotation-debian13", "rotation-debian12"
# Opens the login that comes, and at the end closes the one that leaves.
TURN = "Let the logins of the database take turns"
# Where both logins are open and in use, where the old one is closed and a slot still holds it.
BOUNDARIES = [
    At("changed", TURN),
    At("start", ROLL),
    in_a_roll(FIRST),
    At("changed", TURN),
]
# The unit tests have these too: with all servers changed, and with one slot removed.
MORE_BOUNDARIES = [At("start", "Verify | Refuse a process"), At("changed", ROLL, 3)]
# By number.
EVERY_THIRD_TASK = range(3, 25, 3)
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


def test_check_mode_tells_whose_turn_it_is(fleet, account, vault):
    """And neither the database nor a server changes."""
    serves = login(fleet)
    before = [fleet.look(host) for host in fleet.servers]
    give_password(vault, OTHER[serves])
    said = fleet.succeed(ROTATE, "--check")
    assert f"{OTHER[serves]} would serve" in said and "No password was" not in said, said[-5000:]
    assert [fleet.look(host) for host in fleet.servers] == before
    assert not fleet.can_log_in(OTHER[serves], password_of(vault, OTHER[serves]))


@pytest.fixture(scope="module")
def afar(fleet):
    """An administrator from afar: RDS has no host to become postgres on, and its master user is no
    superuser.
    """
    fleet.sql("DROP ROLE IF EXISTS master")
    fleet.sql("CREATE ROLE master LOGIN CREATEROLE PASSWORD 'of-the-master'")
    fleet.sql("GRANT mlflow_a, mlflow_b TO master WITH ADMIN OPTION")
    return {
        # By its address it is none of the inventory's hosts, and its certificate has the name.
        "mlflow_server_database_host": fleet.s3.address_of(fleet.stores),
        # The same database, which only its operator knows.
        "mlflow_server_allow_replacement": True,
        "mlflow_server_database_sslmode": "require",
        "mlflow_server_database_ca": "",
        "postgresql_admin_user": "master",
        "postgresql_admin_password": "of-the-master",
    }


def test_an_idle_colour_that_is_killed_while_it_starts_closes_nothing(fleet, account, vault, afar):
    """The first server has the new login by then, the second has not: both must stay open."""
    old = login(fleet)
    give_password(vault, OTHER[old])
    with fleet.idle_colour_killed(SECOND), fleet.load(*GENTLE) as counts:
        said = fleet.refuse(ROTATE, **afar)
    assert "it ended by itself" in said, said[-5000:]
    assert_none_failed(counts)
    assert fleet.serving(SECOND)["login"] == old
    assert fleet.can_log_in(old, password_of(vault, old))


def test_two_operators_at_once_get_one_rotation(fleet, account, vault, afar):
    """The second waits for the first, or is told; what the test before left is finished."""
    old = fleet.serving(SECOND)["login"]
    password = password_of(vault, old)
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_together(ROTATE, **afar)
    assert_none_failed(counts)
    assert_rotated(fleet, vault, old, password)


def test_a_rotation_killed_at_four_boundaries_is_finished(fleet, account, vault):
    """A laptop goes to sleep: whoever runs it again gets there, and no client has noticed."""
    old = login(fleet)
    password = password_of(vault, old)
    give_password(vault, OTHER[old])
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_with_kills(ROTATE, BOUNDARIES)
    assert_none_failed(counts)
    assert_rotated(fleet, vault, old, password)


@pytest.mark.long
@pytest.mark.parametrize("point", MORE_BOUNDARIES, ids=str)
def test_a_rotation_killed_at_another_boundary_is_finished(fleet, account, vault, point):
    """As above, from a fresh start each time."""
    old = login(fleet)
    password = password_of(vault, old)
    give_password(vault, OTHER[old])
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_with_kills(ROTATE, [point])
    assert_none_failed(counts)
    assert_rotated(fleet, vault, old, password)


@pytest.mark.long
@pytest.mark.parametrize("number", EVERY_THIRD_TASK)
def test_a_rotation_killed_at_a_task_is_finished(fleet, account, vault, number):
    """The unit tests have each step of the module; here is what lies around it. From a fresh start
    each time.
    """
    old = login(fleet)
    password = password_of(vault, old)
    give_password(vault, OTHER[old])
    with fleet.load(*GENTLE) as counts:
        said = fleet.succeed_with_kills(ROTATE, [At("start", count=number)])
    # So that none is left out once there are more.
    assert said.count("TASK [") < EVERY_THIRD_TASK.stop + EVERY_THIRD_TASK.step
    assert counts["failed"] == 0, counts
    assert_rotated(fleet, vault, old, password)


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
    try:
        said = fleet.refuse(ROTATE)
    finally:
        vault.put(**{role.replace("mlflow", "password"): password})
    assert f"Wanted the password that {role} has" in said, said[-5000:]
    assert login(fleet) == role and fleet.can_log_in(role, password)
