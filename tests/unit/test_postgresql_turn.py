"""Two logins of a database that take turns, without a server."""

import postgresql_turn
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from fake_postgresql import GROUP, LOGINS, FakeServer, options, ours, role, without_admin_option
from postgresql_turn import leaving, whose_turn

A, B = LOGINS
NEW = {"passwords": options()["passwords"] | {B: "canary-new"}}


@pytest.fixture
def server(monkeypatch):
    return FakeServer(monkeypatch)


@pytest.mark.parametrize(
    ("can_log_in", "note_at", "serving", "kept", "comes"),
    [
        # Nothing is under way: the other one.
        ([A], None, [A], [], B),
        ([A, B], None, [A], [], B),
        ([B], None, [B, B], [], A),
        # A is about to leave, however far the servers are; site.yml may have filled slots anew.
        ([A, B], A, [A, A], [], B),
        ([A, B], A, [A, A], [B], B),
        ([A, B], A, [B, A], [A], B),
        ([A, B], A, [B, B], [A, A], B),
        ([A, B], A, [B, B], [], B),
        ([A, B], B, [A, B], [B], A),
        # A rests, but a server keeps its password: the rest was done, the wiping not.
        ([B], None, [B, B], [A], B),
        ([A], None, [A], [B], A),
        # Somebody laid A to rest by hand.
        ([B], A, [B], [], B),
        # A backup brought back what was before the rotation.
        ([A], None, [B], [], A),
    ],
)
def test_a_turn_goes_on_where_it_was_broken_off(can_log_in, note_at, serving, kept, comes):
    """Never back: the password that leaves may be the one that somebody has stolen."""
    roles = ours()
    for name in LOGINS:
        roles[name]["login"] = name in can_log_in
    if note_at:
        roles[note_at]["note"] = leaving(A if note_at == B else B)
    given = options(serving=serving, kept=kept)
    assert whose_turn(given, roles) == (comes, A if comes == B else B)


@pytest.mark.parametrize(
    ("more", "phrase"),
    [
        ({"logins": [A]}, "Wanted two logins that take turns; found mlflow_a"),
        ({"logins": [*LOGINS, "c"]}, "Wanted two logins that take turns"),
        ({"logins": [A, "c"]}, "Wanted the login c; found none; run site.yml"),
        ({"serving": []}, "found none that serves; run site.yml first"),
        ({"serving": [A, "c"]}, "found c, mlflow_a; run site.yml first"),
        ({"serving": [A, B]}, "found that some use the one, some the other"),
    ],
)
def test_a_turn_that_cannot_be_decided_is_refused(more, phrase):
    with pytest.raises(Refused, match=phrase):
        whose_turn(options(serving=[A]) | more, ours())


@pytest.fixture
def resting(server):
    """Return the server as a first run leaves it: the second login rests, without a password."""
    server.make_ours()
    server.roles[B]["login"] = False
    server.passwords[B] = None
    return server


def test_a_whole_turn_and_the_next_one(resting):
    """The one that comes has both at once, so that a killed run leaves it with both or neither."""
    awake = resting.run(turn="awake", serving=[A])
    assert (awake.comes, awake.leaves, awake.is_whole) == (B, A, False)
    assert resting.statements == [
        f"ALTER ROLE {B} LOGIN PASSWORD SCRAM-SHA-256 of {B}",
        f"COMMENT ON ROLE {A} IS {leaving(B)}",
    ]
    assert resting.run(turn="awake", serving=[A]).plan == []
    assert resting.run().plan == [], "site.yml leaves it as it is"
    assert resting.run(turn="rest", serving=[B], kept=[A]).leaves == A
    assert resting.statements == [f"ALTER ROLE {A} NOLOGIN", f"COMMENT ON ROLE {A} IS NULL"]
    assert resting.run(turn="rest", serving=[B], kept=[A]).plan == []
    assert resting.run().plan == [], "site.yml leaves it as it is"
    words = options()["passwords"] | {A: "canary-new"}
    assert resting.run(turn="awake", serving=[B], passwords=words).comes == A
    assert resting.passwords[A] == "canary-new"


@pytest.mark.parametrize("turn", ["awake", "rest"])
def test_without_a_new_password_a_finished_turn_stays_as_it_is(resting, turn):
    """Whoever was cut off at the very end runs the same command again; it may not turn back."""
    resting.passwords[B] = "canary-b"
    again = resting.run(turn=turn, serving=[A])
    assert (again.comes, again.leaves, again.plan, again.is_whole) == (A, B, [], True)
    resting.passwords[A] = "former"
    with pytest.raises(Refused, match=f"Wanted the password that {A} has"):
        resting.run(turn=turn, serving=[A])


def test_a_login_that_cannot_log_in_after_all_is_an_error_before_servers_move(resting, monkeypatch):
    """A role past its VALID UNTIL is refused with every password."""
    monkeypatch.setattr(resting, "change", lambda text: resting.statements.append(text) or [])
    with pytest.raises(Refused, match=f"Wanted {B} to log in to mlflow with its new password"):
        resting.run(turn="awake", serving=[A])


def test_check_mode_tells_whose_turn_it_is(resting):
    """The playbook asks so before it changes anything, refusals included."""
    awake = resting.run(check=True, turn="awake", serving=[A])
    assert awake.comes == B and resting.statements == []
    resting.roles[B]["login"], resting.sessions = True, [(B, 7, "192.0.2.1", "notebook")]
    with pytest.raises(Refused, match="in use"):
        resting.run(check=True, turn="awake", serving=[A])


@pytest.mark.parametrize(
    ("login", "serving", "sessions"),
    [
        (True, [A], [(B, 7, "192.0.2.1", "notebook")]),
        (True, [A, B], []),
        (False, [A, B], []),
    ],
)
def test_the_password_of_a_login_in_use_stays(resting, login, serving, sessions):
    """Who changes the vault in the middle of a rotation must not lock servers out that moved."""
    resting.roles[B]["login"], resting.sessions = login, sessions
    resting.roles[A]["note"] = leaving(B)
    resting.passwords[B] = "former"
    with pytest.raises(Refused, match="put the former password back") as refused:
        resting.run(turn="awake", serving=serving, **NEW)
    assert not [text for text in resting.statements if text.startswith("ALTER")]
    assert not sessions or "process 7 from 192.0.2.1 (notebook)" in str(refused.value)


def test_a_login_that_nobody_uses_gets_its_password_though_it_never_rested(resting):
    """Databases that were made by hand, or by an older release, have two that can log in."""
    resting.roles[B]["login"], resting.passwords[B] = True, "former"
    assert resting.run(turn="awake", serving=[A]).comes == B
    assert resting.passwords[B] == "canary-b"


def test_a_login_with_sessions_is_not_laid_to_rest(resting, monkeypatch):
    """Somebody else uses it: a notebook, a report. It is named, and can go on."""
    resting.run(turn="awake", serving=[A])
    resting.sessions = [(A, 7, "192.0.2.1", "notebook"), (A, 8, "its own host", "psql")]
    waits = iter([0, 1, 30, 61])
    monkeypatch.setattr(postgresql_turn.time, "monotonic", lambda: next(waits))
    monkeypatch.setattr(postgresql_turn.time, "sleep", lambda seconds: None)
    with pytest.raises(Refused) as refused:
        resting.run(turn="rest", serving=[B], patience=60)
    for phrase in ("process 7 from 192.0.2.1 (notebook)", "process 8", "after 60 s", "terminate"):
        assert phrase in str(refused.value)
    assert resting.roles[A]["login"] and next(waits, None) is None


def test_a_login_that_servers_use_is_not_laid_to_rest(resting):
    """Whoever calls it too early."""
    resting.run(turn="awake", serving=[A])
    with pytest.raises(Refused, match=f"found that servers log in as it; let them log in as {B}"):
        resting.run(turn="rest", serving=[A, B])


def test_a_turn_of_logins_that_are_others_is_refused(resting):
    """Else a rotation would set the password of an application's role of the same name."""
    resting.roles[B] = role(login=False, owns=True, member_of=[GROUP])
    with pytest.raises(Refused, match=f"the login {B} to be this database's alone"):
        resting.run(turn="awake", serving=[A])
    assert resting.statements == []


def test_an_administrator_without_createrole_cannot_begin_a_turn(resting):
    resting.admin = (False, False, True)
    with pytest.raises(Refused, match="postgres lacks CREATEROLE"):
        resting.run(turn="awake", serving=[A])


@pytest.mark.parametrize("check", [True, False])
def test_a_turn_asks_for_the_right_to_alter_both_logins_before_it_begins(resting, check):
    """Else its second half fails, or its first one where --check has said that all is well."""
    for name in LOGINS:
        without_admin_option(resting, name)
        with pytest.raises(Refused, match=f"run `GRANT {name} TO postgres WITH ADMIN OPTION`"):
            resting.run(check, turn="awake", serving=[A])
        resting.roles[name]["alterable"] = True
    without_admin_option(resting, *LOGINS)
    with pytest.raises(Refused, match=f"`GRANT {A}, {B} TO postgres WITH ADMIN OPTION`"):
        resting.run(check, turn="awake", serving=[A])
    assert resting.statements == []


def test_the_second_half_of_a_turn_asks_before_it_waits(resting, monkeypatch):
    """The right was there for the first half, and is gone."""
    resting.run(turn="awake", serving=[A])
    without_admin_option(resting, A)
    resting.sessions = [(A, 7, "192.0.2.1", "notebook")]
    monkeypatch.setattr(postgresql_turn.time, "sleep", lambda seconds: pytest.fail("waits"))
    with pytest.raises(Refused, match=f"can alter {A}; found that postgres lacks ADMIN OPTION"):
        resting.run(turn="rest", serving=[B], patience=60)
    resting.sessions = []
    without_admin_option(resting, B)
    resting.roles[A]["alterable"] = True
    assert resting.run(turn="rest", serving=[B]).leaves == A, "nothing of the other is altered"


def test_the_password_of_a_login_in_use_is_asked_for_after_the_right(resting):
    """Who is logged in, only a member of the role sees, and that takes the right, too."""
    without_admin_option(resting, B)
    resting.roles[B]["login"], resting.passwords[B] = True, "former"
    resting.sessions = [(B, 7, "192.0.2.1", "notebook")]
    with pytest.raises(Refused, match=f"GRANT {B} TO postgres WITH ADMIN OPTION"):
        resting.run(turn="awake", serving=[A])
