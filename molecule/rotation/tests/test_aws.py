"""A new AWS key reaches all that carry one while clients write, and the old one is revoked."""

import re
import time

import pytest
from api import OTHER
from fleet import GENTLE, ROLL, At, assert_none_failed, in_a_roll

ROTATE = "playbooks/rotate_aws_credentials.yml"
FIRST, SECOND, CLIENT = "rotation-debian13", "rotation-debian12", "rotation-client"
STORES = "rotation-stores"
MODULE = "mlflow_ansible.tracking.mlflow_roll"
# Where a secret is lost, where the new key is proven and no server has it, where they change to it,
# and where the old key is closed and a slot still holds it. A roll that has begun ends without us.
BOUNDARIES = [
    At("changed", "Mint | Make a key"),
    At("start", ROLL),
    in_a_roll(FIRST),
    At("changed", "Retire | Deactivate"),
]
# The unit tests have these too: before a key is made, and with one slot removed.
MORE_BOUNDARIES = [At("changed", "Mint | Note"), At("changed", ROLL), At("changed", ROLL, 3)]
# By number.
EVERY_FIFTH_TASK = range(5, 46, 5)


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
        other = OTHER[found["serving"]]
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


def assert_none_retired(account) -> None:
    assert set(account.status().values()) == {"Active"} and len(account.status()) == 2


def drop_other_keys(fleet, account) -> None:
    """Delete what no server carries: a key that was refused, or an old one. A user has two."""
    for name in account.status().keys() - {carried(fleet)}:
        account.delete_key(name)


# The operator gives the keys


@pytest.fixture(scope="module")
def give(fleet, account, vault):
    """Return a function that makes a key and puts it into the vault, as the operator does."""
    vault.put(iam_user="mlflow", key_file="")

    def function() -> str:
        drop_other_keys(fleet, account)
        name, secret = account.make_key()
        account.wait_for_s3()
        vault.put(access_key_id=name, secret_access_key=secret)
        return name

    return function


@pytest.fixture
def given(give):
    """A key that the operator has put into the vault."""
    return give()


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
    assert_none_retired(account)


def test_a_key_without_rights_changes_nothing(fleet, account, given, goes_on):
    """It is tried from each host before anything is written."""
    account.without_rights.add(given)
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
    said = fleet.refuse(ROTATE, f"--limit={FIRST}")
    left_out = re.findall("found ([a-z0-9, -]+) left out; run without --limit", said)
    # Said more than once, and in any order.
    assert {frozenset(each.split(", ")) for each in left_out} == {frozenset({SECOND, CLIENT})}


def test_a_client_that_the_inventory_takes_for_another_users_keeps_the_key_alive(
    fleet, given, goes_on, tmp_path
):
    """What a host carries is what counts: its next artifact would be refused."""
    other = tmp_path / "other.yml"
    other.write_text(f"all: {{hosts: {{{CLIENT}: {{aws_credentials_iam_user: ''}}}}}}")
    said = fleet.refuse(ROTATE, f"--inventory={other}")
    assert f"found that {CLIENT} would go on with it" in said, said[-5000:]


def test_check_mode_tells_what_would_be_rotated(fleet, given, goes_on):
    """The new key is tried and nothing is written."""
    said = fleet.succeed(ROTATE, "--check")
    assert f"…{given[-4:]} replaces …{carried(fleet)[-4:]}" in said, said[-5000:]


def test_a_client_that_cannot_be_reached_keeps_the_old_key_alive(fleet, given, goes_on):
    """A laptop that is switched off would come back with a key that is revoked."""
    fleet.s3.podman("pause", CLIENT)
    try:
        said = fleet.refuse(ROTATE)
    finally:
        fleet.s3.podman("unpause", CLIENT)
    assert re.findall(r"fatal: \[(.*?)\]", said) == [CLIENT], said[-5000:]


# One key on whose way everything goes wrong. Each refusal is gone on from by the next run, so the
# hosts are in a state that a run has left which was broken off.


@pytest.fixture(scope="module")
def change(fleet, give):
    """The old key, and the new one on its way."""
    old = carried(fleet)
    return old, give()


def test_an_idle_colour_that_is_killed_while_it_starts_keeps_the_old_key_alive(
    fleet, account, change
):
    """The OOM killer strikes the newcomer on one server, whose other colour serves on with the old
    key. Another server has the new one by then."""
    with fleet.idle_colour_killed(SECOND), fleet.load(*GENTLE) as counts:
        said = fleet.refuse(ROTATE)
    assert "it ended by itself" in said, said[-5000:]
    assert_none_failed(counts)
    assert_none_retired(account)
    assert [fleet.serving(host)["key"] for host in (SECOND, FIRST)] == list(change)


def test_s3_that_is_down_in_the_middle_is_waited_for_by_the_next_run(fleet, account, change):
    """One server has the new key by then, the other has not: both must go on working."""
    down = At("start", ROLL, command=f"podman exec {STORES} systemctl stop nginx")
    # Without artifacts, as nobody could write them now.
    with fleet.load(*GENTLE, "--write=metric") as counts:
        said = fleet.refuse(ROTATE, at=down)
        fleet.on(STORES, "systemctl", "start", "nginx")
    assert_none_failed(counts)
    assert "could not connect" in said.lower(), said[-5000:]
    assert_none_retired(account)
    assert [fleet.serving(host)["key"] for host in (SECOND, FIRST)] == list(change)


def test_a_disk_that_is_full_is_told_and_the_next_run_goes_on(fleet, account, change):
    """Half a file with a credential would keep the next start from working."""
    filler = "dd if=/dev/zero of=/etc/mlflow/filler bs=4k 2>&1; true"
    fleet.on(SECOND, "sh", "-c", filler)
    try:
        said = fleet.refuse(ROTATE)
    finally:
        fleet.on(SECOND, "rm", "/etc/mlflow/filler")
    assert "No space left on device" in said, said[-5000:]
    assert_none_retired(account)


def test_a_process_of_the_other_colour_keeps_the_old_key_alive(fleet, account, change):
    """Whoever starts it by hand, or a stop that fails: it has the old key, and may be in use."""
    former = f"mlflow-{fleet.look(SECOND)['serving']}"
    stays = f"podman exec {SECOND} systemctl start {former}"
    said = fleet.refuse(ROTATE, at=At("changed", f"{ROLL} {MODULE} {SECOND}", command=stays))
    process = fleet.on(SECOND, "systemctl", "show", "--value", "--property=MainPID", former)
    refusal = rf"fatal: \[{SECOND}\].* of the other colour [\d, ]*\b{process}\b"
    assert re.search(refusal, said), said[-5000:]
    assert_none_retired(account)


def test_a_process_that_is_older_than_its_key_keeps_the_old_key_alive(fleet, account, change):
    """A file that was changed after the start: who knows with which key it was started."""
    changed = f"podman exec {SECOND} sh -c 'chmod 0600 /etc/mlflow/*/server.env'"
    said = fleet.refuse(ROTATE, at=At("changed", f"{ROLL} {MODULE} {SECOND}", command=changed))
    serving = fleet.look(SECOND)["serving"]
    refusal = rf"fatal: \[{SECOND}\].* found some of {serving} from \d+ .* of the other colour none"
    assert re.search(refusal, said), said[-5000:]
    assert_none_retired(account)


def test_two_operators_at_once_get_one_rotation(fleet, account, change):
    """The second waits for the first, or is told; what is left of the key's way is behind."""
    old, new = change
    begun = time.time()
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_together(ROTATE)
    assert_none_failed(counts)
    assert assert_rotated(fleet, account, old) == new
    assert fleet.refused_by_s3(begun) == [], "a server used a key that was retired"


@pytest.mark.long
def test_a_store_without_iam_is_told_which_key_to_revoke(fleet, account, vault, given):
    """MinIO, Ceph and the like: the hosts change, and the old key is for the operator to close."""
    old = carried(fleet)
    vault.put(iam_user="")
    try:
        said = fleet.succeed(ROTATE)
    finally:
        vault.put(iam_user="mlflow")
    assert f"Revoke …{old[-4:]} at your store" in said, said[-5000:]
    assert carried(fleet) == given
    assert account.status() == {old: "Active", given: "Active"}


@pytest.mark.long
@pytest.mark.parametrize("number", EVERY_FIFTH_TASK)
def test_a_rotation_killed_at_a_task_is_finished(fleet, account, given, number):
    """The unit tests have each step of the module; here is what lies around it. From a fresh start
    each time.
    """
    old = carried(fleet)
    with fleet.load(*GENTLE) as counts:
        said = fleet.succeed_with_kills(ROTATE, [At("start", count=number)])
    # So that none is left out once there are more.
    assert said.count("TASK [") < EVERY_FIFTH_TASK.stop + EVERY_FIFTH_TASK.step
    assert counts["failed"] == 0, counts
    assert_rotated(fleet, account, old)


# The playbook makes the keys itself, from now on to the end of all tests: see test_site.py


def test_a_rotation_killed_at_four_boundaries_is_finished(fleet, account, minted):
    """A laptop goes to sleep: whoever runs it again gets there, and no client has noticed."""
    drop_other_keys(fleet, account)
    old = carried(fleet)
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_with_kills(ROTATE, BOUNDARIES)
    assert_none_failed(counts)
    new = assert_rotated(fleet, account, old)
    assert minted.stat().st_mode & 0o777 == 0o600
    assert account.keys()[new].secret_access_key not in minted.read_text()


@pytest.mark.long
@pytest.mark.parametrize("point", MORE_BOUNDARIES, ids=str)
def test_a_rotation_killed_at_another_boundary_is_finished(fleet, account, minted, point):
    """As above, from a fresh start each time."""
    drop_other_keys(fleet, account)
    old = carried(fleet)
    with fleet.load(*GENTLE) as counts:
        fleet.succeed_with_kills(ROTATE, [point])
    assert_none_failed(counts)
    assert_rotated(fleet, account, old)


@pytest.mark.long
def test_the_old_key_waits_for_its_soak(fleet, account, minted):
    """Somebody else may have used it: inactive it can be brought back, deleted it cannot."""
    before, key = account.status(), carried(fleet)
    said = fleet.succeed(ROTATE)
    assert account.status() == before and carried(fleet) == key, said


def test_after_the_soak_the_old_key_is_deleted(fleet, account, minted):
    """A user has two keys at most: the next rotation needs the place."""
    key = carried(fleet)
    (old,) = account.status().keys() - {key}
    account.note_use()
    for name in (old, key):
        account.grow_older(name, days=2)
    fleet.succeed(ROTATE)
    assert account.status() == {key: "Active"} and carried(fleet) == key
