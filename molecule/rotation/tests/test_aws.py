"""A new AWS key reaches all that carry one while clients write, and the old one is revoked."""

import itertools
import re

import pytest
from fleet import GENTLE, IN_A_ROLL, ROLL, At

ROTATE = "playbooks/rotate_aws_credentials.yml"
CLIENT = "rotation-client"
STORES = "rotation-stores"
# Where a secret is lost, where one server has the new key and another has not, where the old key is
# closed and a slot still holds it.
BOUNDARIES = [
    At("changed", "Mint | Note"),
    At("changed", "Mint | Make a key"),
    IN_A_ROLL,
    At("start", ROLL, 2),
    At("changed", "Retire | Deactivate"),
    At("changed", ROLL),
]


def carried(fleet) -> str:
    """Return the id of the key with which every server serves."""
    (key,) = {fleet.serving(host)["key"] for host in fleet.servers}
    return key


def assert_rotated(fleet, account, old: str) -> str:
    """All hosts carry a new key and nothing else, the old one is worth nothing; return the new."""
    new = carried(fleet)
    for host in fleet.servers:
        found = fleet.look(host)
        assert set(found["slots"]) == {"wanted", found["serving"]}, "an idle slot keeps a secret"
        assert {slot["key"] for slot in found["slots"].values()} == {new}
        other = {"blue": "green", "green": "blue"}[found["serving"]]
        state = fleet.on(host, "sh", "-c", f"systemctl is-active mlflow-{other}; true")
        assert state in ("inactive", "failed"), "a process of the old colour is left"
    credentials = fleet.on(CLIENT, "cat", "/home/ada/.aws/credentials")
    assert new in credentials and old not in credentials
    assert account.status() == {old: "Inactive", new: "Active"}
    account.wait_for_s3()
    for name, answer in ((old, "InvalidAccessKeyId"), (new, "")):
        secret = account.keys()[name].secret_access_key
        assert fleet.s3.answer_to(name, secret, "rotation") == answer
    return new


def assert_none_failed(counts) -> None:
    assert counts["failed"] == 0, counts
    assert counts["written"] > 100, counts


# The playbook makes the keys itself


@pytest.fixture(scope="module")
def minted(fleet, account, vault, tmp_path_factory):
    """The playbook makes its keys itself, from now on; where it keeps the one that is in use."""
    file = tmp_path_factory.mktemp("operator") / "aws_key.json"
    vault.put(iam_user="mlflow", key_file=str(file), key_file_passphrase="c4nary-key-file")
    yield file
    # What is in use becomes a key that the operator gives.
    name = carried(fleet)
    secret = account.keys()[name].secret_access_key
    vault.put(key_file="", access_key_id=name, secret_access_key=secret)


def test_a_rotation_killed_at_six_boundaries_is_finished(fleet, account, minted):
    """A laptop goes to sleep: whoever runs it again gets there, and no client has noticed."""
    old = carried(fleet)
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_with_kills(ROTATE, BOUNDARIES)
    assert_none_failed(counts)
    new = assert_rotated(fleet, account, old)
    assert minted.stat().st_mode & 0o777 == 0o600
    assert account.keys()[new].secret_access_key not in minted.read_text()


@pytest.mark.long
def test_the_old_key_waits_for_its_soak(fleet, account, minted):
    """Somebody else may have used it: inactive it can be brought back, deleted it cannot."""
    before, key = account.status(), carried(fleet)
    said = fleet.succeed(ROTATE)
    assert account.status() == before and carried(fleet) == key, said


def test_site_yml_takes_the_key_from_the_file(fleet, account, minted):
    """The vault still has the one before; site.yml must not bring a dead key back."""
    key = carried(fleet)
    said = fleet.succeed("site.yml")
    assert set(re.findall(r"changed=(\d+)", said.split("PLAY RECAP")[1])) == {"0"}, said[-3000:]
    assert carried(fleet) == key


def test_after_the_soak_the_old_key_is_deleted(fleet, account, minted):
    """A user has two keys at most: the next rotation needs the place."""
    key = carried(fleet)
    (old,) = account.status().keys() - {key}
    account.note_use()
    for name in (old, key):
        account.grow_older(name, days=2)
    fleet.succeed(ROTATE)
    assert old not in account.status()


# The operator gives the keys


@pytest.fixture
def given(fleet, account, vault):
    """Return a function that makes a key and puts it into the vault, as the operator does.

    A key that no server carries goes away: the old one, or one that was refused.
    """
    vault.put(iam_user="mlflow", key_file="")

    def function():
        for name in account.status().keys() - {carried(fleet)}:
            account.delete_key(name)
        name, secret = account.make_key()
        account.wait_for_s3()
        vault.put(access_key_id=name, secret_access_key=secret)
        return name

    return function


@pytest.fixture
def goes_on(fleet, account):
    """What serves before a test serves after it, with the same key, and both keys are valid."""

    def state():
        units = "systemctl show --value --property=MainPID,InvocationID mlflow-"
        found = {host: fleet.look(host) for host in fleet.servers}
        return {
            host: (each["serving"], fleet.on(host, "sh", "-c", units + each["serving"]))
            for host, each in found.items()
        }

    before, key = state(), carried(fleet)
    yield
    assert state() == before and carried(fleet) == key
    assert set(account.status().values()) == {"Active"}


def test_a_key_without_rights_changes_nothing(fleet, account, given, goes_on):
    """It is tried from each host before anything is written."""
    new = given()
    account.without_rights.add(new)
    account.wait_for_s3()
    said = fleet.refuse(ROTATE)
    account.without_rights.clear()
    account.wait_for_s3()
    assert "AccessDenied" in said and "s3:PutObject" in said, said[-5000:]


def test_a_key_of_another_account_changes_nothing(fleet, account, vault, given, goes_on):
    """S3 would take it; whose objects would it write, and who would ever revoke it?"""
    account.others["AKIASTRANGERSTRANGER"] = "c4nary-stranger"
    account.wait_for_s3()
    vault.put(access_key_id="AKIASTRANGERSTRANGER", secret_access_key="c4nary-stranger")
    said = fleet.refuse(ROTATE)
    assert "…NGER, the key to be used, in IAM user mlflow" in said, said[-5000:]


def test_a_server_that_is_left_out_keeps_the_old_key_alive(fleet, given, goes_on):
    """With --limit one host would go on with a key that is revoked."""
    given()
    said = fleet.refuse(ROTATE, f"--limit={fleet.servers[0]}")
    assert fleet.servers[1] in said, said[-5000:]


def test_a_client_that_the_inventory_takes_for_another_users_keeps_the_key_alive(
    fleet, given, goes_on, tmp_path
):
    """What a host carries is what counts: its next artifact would be refused."""
    given()
    other = tmp_path / "other.yml"
    other.write_text(f"all: {{hosts: {{{CLIENT}: {{aws_credentials_iam_user: ''}}}}}}")
    said = fleet.refuse(ROTATE, f"--inventory={other}")
    assert f"found that {CLIENT} would go on with it" in said, said[-5000:]


def test_check_mode_tells_what_would_be_rotated(fleet, given, goes_on):
    """The new key is tried and nothing is written."""
    new = given()
    said = fleet.succeed(ROTATE, "--check")
    assert f"…{new[-4:]} replaces …{carried(fleet)[-4:]}" in said, said[-5000:]


def test_a_client_that_cannot_be_reached_keeps_the_old_key_alive(fleet, given, goes_on):
    """A laptop that is switched off would come back with a key that is revoked."""
    given()
    fleet.s3.podman("pause", CLIENT)
    try:
        said = fleet.refuse(ROTATE)
    finally:
        fleet.s3.podman("unpause", CLIENT)
    assert CLIENT in said.split("PLAY RECAP")[0], said[-5000:]


def test_an_idle_colour_that_is_killed_while_it_starts_changes_nothing(fleet, given, goes_on):
    """The OOM killer strikes the newcomer; the one that serves is told of nothing."""
    given()
    with fleet.idle_colour_killed(fleet.servers[0]), fleet.load(*GENTLE) as counts:
        said = fleet.refuse(ROTATE)
    assert "it ended by itself" in said, said[-5000:]
    assert counts["failed"] == 0, counts


def test_s3_that_is_down_in_the_middle_is_waited_for_by_the_next_run(fleet, account, given):
    """The first server has the new key by then, the second has not: both must go on working."""
    old, _ = carried(fleet), given()
    down = At("start", "Rotate | Roll", 2, f"podman exec {STORES} systemctl stop nginx")
    # Without artifacts, as nobody could write them now.
    with fleet.load(*GENTLE, "--write=metric") as counts:
        said = fleet.refuse(ROTATE, at=down)
        fleet.on(STORES, "systemctl", "start", "nginx")
    assert_none_failed(counts)
    assert "could not connect" in said.lower(), said[-5000:]
    assert set(account.status().values()) == {"Active"}
    with fleet.load(*GENTLE) as counts:
        fleet.succeed(ROTATE)
    assert_none_failed(counts)
    assert_rotated(fleet, account, old)


def test_a_disk_that_is_full_is_told_and_the_next_run_goes_on(fleet, account, given):
    """Half a file with a credential would keep the next start from working."""
    old, _ = carried(fleet), given()
    host = "rotation-debian13"
    filler = "dd if=/dev/zero of=/etc/mlflow/filler bs=4k 2>&1; true"
    fleet.on(host, "sh", "-c", filler)
    try:
        said = fleet.refuse(ROTATE)
    finally:
        fleet.on(host, "rm", "/etc/mlflow/filler")
    assert "No space left on device" in said, said[-5000:]
    assert set(account.status().values()) == {"Active"}
    fleet.succeed(ROTATE)
    assert_rotated(fleet, account, old)


def test_two_operators_at_once_get_one_rotation(fleet, account, given):
    """The second waits for the first, or is told; either way all is well in the end."""
    old, _ = carried(fleet), given()
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_together(ROTATE)
    assert_none_failed(counts)
    assert_rotated(fleet, account, old)
    assert max(fleet.old_key_last_seen(host, old) for host in fleet.servers) < 60


@pytest.mark.long
def test_a_store_without_iam_is_told_which_key_to_revoke(fleet, account, vault, given):
    """MinIO, Ceph and the like: the hosts change, and the old key is for the operator to close."""
    old, new = carried(fleet), given()
    vault.put(iam_user="")
    said = fleet.succeed(ROTATE)
    assert f"Revoke …{old[-4:]} at your store" in said, said[-5000:]
    assert carried(fleet) == new
    assert account.status() == {old: "Active", new: "Active"}


@pytest.mark.long
def test_a_rotation_killed_at_any_task_is_finished(fleet, account, given):
    """As above, at every task and from a fresh start each time."""
    for number in itertools.count(1):
        old, _ = carried(fleet), given()
        with fleet.load(*GENTLE) as counts:
            if not fleet.killed(ROTATE, At("start", count=number)):
                break
            fleet.succeed(ROTATE)
        assert counts["failed"] == 0, (number, counts)
        assert_rotated(fleet, account, old)
    assert number > 6
