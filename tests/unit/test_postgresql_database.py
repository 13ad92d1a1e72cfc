"""What is made, what is left alone and what is refused, without a server."""

import contextlib
import copy
import re

import postgresql_database
import psycopg2
import pytest
from postgresql_database import (
    Database,
    Refused,
    WrongPassword,
    check_names,
    check_roles,
    leaving,
    remedy,
    unexplained,
    whose_turn,
)

OWNER, GROUP, LOGINS = "mlflow_owner", "mlflow_readwrite", ["mlflow_a", "mlflow_b"]
ALL_RIGHTS = {"r": ("SELECT", "INSERT", "UPDATE", "DELETE"), "S": ("USAGE", "SELECT")}


def options(**more):
    given = {
        "name": "mlflow",
        "owner": OWNER,
        "group": GROUP,
        "logins": LOGINS,
        "passwords": {OWNER: "canary-o", "mlflow_a": "canary-a", "mlflow_b": "canary-b"},
        "admin_host": "",
        "admin_port": 5432,
        "admin_user": "postgres",
        "admin_password": "canary-admin",
        "admin_database": "postgres",
        "sslmode": "require",
        "ca": "",
        "python": "",
        "turn": "",
        "serving": [],
        "kept": [],
        "patience": 0,
    }
    return given | more


def role(login=True, mighty=False, owns=False, member_of=(), note="", alterable=True):
    found = {"login": login, "mighty": mighty, "owns": owns, "member_of": list(member_of)}
    return found | {"note": note, "alterable": alterable}


def ours():
    """Return the roles as an earlier run left them."""
    logins = {name: role(member_of=[GROUP]) for name in LOGINS}
    return {OWNER: role(owns=True), GROUP: role(login=False), **logins}


class FakeServer:
    """Answers the module's questions, and keeps the statements that change something."""

    def __init__(self, monkeypatch):
        self.roles, self.owned_by, self.version = {}, None, 170000
        self.passwords, self.wanted, self.sessions = {}, {}, []
        self.admin = (True, True, True)
        self.may_become_owner = False
        self.database_rights = {("", "CONNECT"), ("", "TEMPORARY")}
        self.schema = ("pg_database_owner", True, True, True, False)
        self.lacking = {"r": [], "S": []}
        self.defaults = {"r": (), "S": ()}
        self.statements = []
        self.in_use, self.refuses, self.language = False, "", "C.UTF-8"
        self.info = type("Info", (), {"used_password": True})()
        monkeypatch.setattr(postgresql_database, "acting_as", contextlib.nullcontext)
        monkeypatch.setattr(postgresql_database.psycopg2, "connect", self.connect)
        monkeypatch.setattr(
            postgresql_database.extensions,
            "encrypt_password",
            lambda password, user, scope, algorithm: f"SCRAM-SHA-256 of {user}",
        )

    def make_ours(self):
        self.roles, self.owned_by = ours(), OWNER
        self.passwords = dict(options()["passwords"])
        self.database_rights = {(GROUP, "CONNECT")}
        self.defaults = ALL_RIGHTS

    def connect(self, user, dbname, password=None, **more):
        """Stand in for psycopg2.connect()."""
        if user in LOGINS or user == OWNER:
            if self.passwords.get(user) != password:
                raise psycopg2.OperationalError(f'password authentication failed for "{user}"')
            if not self.roles.get(user, role())["login"]:
                raise psycopg2.OperationalError(f'role "{user}" is not permitted to log in')
            if not self.owned_by:
                raise psycopg2.OperationalError(f'database "{dbname}" does not exist')
        return FakeConnection(self, user)

    def answer(self, query, given):
        """Return the rows with which a question is answered, or note a change."""
        if query == postgresql_database.ADMIN:
            return [self.admin]
        if query == postgresql_database.ROLES:
            columns = postgresql_database.ROLE_COLUMNS
            return [(n, *(r[c] for c in columns)) for n, r in self.roles.items() if n in given[0]]
        if query == postgresql_database.SESSIONS:
            return [session[1:] for session in self.sessions if session[0] == given[0]]
        if query == postgresql_database.DATABASE:
            return [(self.owned_by,)] if self.owned_by else []
        if query == postgresql_database.DATABASE_RIGHTS:
            return self.database_rights
        if query == postgresql_database.IN_USE:
            return [(self.in_use,)]
        if query == postgresql_database.SCHEMA_RIGHTS:
            return [self.schema]
        if query == postgresql_database.LACKING:
            return [(name,) for name in self.lacking["S" if given["kinds"] == ["S"] else "r"]]
        if query == postgresql_database.DEFAULT_RIGHTS:
            return [(right,) for right in self.defaults[given["kind"]]]
        text = str(query)
        if text == "SHOW lc_messages":
            return [(self.language,)]
        if "listen_addresses" in text:
            return [("*",)]
        if text.startswith("SELECT pg_has_role"):
            return [(self.may_become_owner,)]
        if text.startswith(("SELECT pg_advisory_lock", "SET lock_timeout")):
            return []
        words = re.findall(r"(?:SQL|Literal)\((['\"])(.*?)\1\)|Identifier\((.*?)\)", text)
        return self.change(" ".join(text or name for _, text, name in words).replace("'", ""))

    def change(self, text):
        text = " ".join(text.split())
        if self.refuses and self.refuses in text:
            raise psycopg2.OperationalError("no")
        self.statements.append(text)
        for name in re.findall(r"SCRAM-SHA-256 of (\w+)", text):
            self.passwords[name] = self.wanted[name]
        if made := re.match(r"CREATE ROLE (\w+) (LOGIN|NOLOGIN)", text):
            self.roles[made[1]] = role(login=made[2] == "LOGIN")
        if joined := re.match(r"GRANT (\w+) TO (\w+)$", text):
            self.roles.get(joined[2], role())["member_of"].append(joined[1])
        if altered := re.match(r"ALTER ROLE (\w+) (LOGIN|NOLOGIN)", text):
            self.roles[altered[1]]["login"] = altered[2] == "LOGIN"
        if noted := re.match(r"COMMENT ON ROLE (\w+) IS (.*)", text):
            self.roles[noted[1]]["note"] = noted[2].replace("NULL", "").strip()
        if text.startswith("CREATE DATABASE"):
            self.owned_by = OWNER
        return []

    def run(self, check=False, **more):
        """Run the module, as Ansible would; return what it says it did."""
        self.statements = []
        given = options(**more)
        self.wanted = given["passwords"]
        database = Database(given, check)
        database.take_turns() if given["turn"] else database.run()
        assert bool(self.statements) == bool(database.plan) or check
        return database


class FakeConnection:
    def __init__(self, server, user):
        self.server, self.user, self.info = server, user, server.info
        self.server_version, self.autocommit, self.rows = server.version, True, []
        self.before = None

    def cursor(self):
        return self

    def execute(self, query, given=None):
        if not self.autocommit and self.before is None:
            self.before = copy.deepcopy((self.server.roles, self.server.passwords))
        self.rows = list(self.server.answer(query, given))

    def commit(self):
        self.before = None

    def rollback(self):
        if self.before:
            self.server.roles, self.server.passwords = self.before
        self.before = None

    def fetchone(self):
        return self.rows[0] if self.rows else None

    def __iter__(self):
        return iter(self.rows)

    def close(self):
        pass


@pytest.fixture
def server(monkeypatch):
    return FakeServer(monkeypatch)


def test_an_empty_server_gets_all_of_it(server):
    """Roles first and together: a killed run leaves all of them or none."""
    plan = server.run().plan
    assert plan[:4] == [f"role {name}" for name in (OWNER, GROUP, *LOGINS)]
    assert f"CREATE ROLE {GROUP} NOLOGIN" in server.statements
    assert "CREATE ROLE mlflow_a LOGIN PASSWORD SCRAM-SHA-256 of mlflow_a" in server.statements
    assert "CREATE ROLE mlflow_b NOLOGIN" in server.statements, "its password comes with its turn"
    assert f"GRANT {GROUP} TO mlflow_a" in server.statements
    made = next(s for s in server.statements if s.startswith("CREATE DATABASE"))
    assert f"OWNER {OWNER}" in made and "ENCODING UTF8" in made
    assert any(s.startswith("REVOKE CONNECT, TEMPORARY") for s in server.statements)
    assert not any("GRANT mlflow_owner" in s for s in server.statements), "for a superuser"
    assert "canary" not in str(server.statements)


@pytest.mark.parametrize("refuses", [f"CREATE ROLE {LOGINS[1]}", f"GRANT {GROUP}"])
def test_roles_are_made_all_or_none(server, refuses):
    """A login without its group is somebody else's for the next run, which then refuses it."""
    server.refuses = refuses
    with pytest.raises(Refused, match="Wanted to make .*; found that the server says: no"):
        server.run()
    assert server.roles == {}
    server.refuses = ""
    server.run()
    assert set(server.roles) == {OWNER, GROUP, *LOGINS}


def test_a_second_run_changes_nothing(server):
    server.make_ours()
    assert server.run().plan == [] and server.statements == []


def test_check_mode_says_it_and_does_nothing(server):
    """Also where there is no database yet in which it could look."""
    plan = server.run(check=True).plan
    assert "database mlflow" in plan and "rights in the database" in plan
    assert server.statements == []
    server.make_ours()
    server.lacking["r"] = ["runs"]
    assert server.run(check=True).plan == ["1 tables"] and server.statements == []


@pytest.mark.parametrize(("version", "option"), [(150000, ""), (170000, " WITH INHERIT FALSE")])
def test_an_administrator_like_that_of_rds_joins_the_owner_first(server, version, option):
    """Without it CREATE DATABASE ... OWNER is denied; from 16 on ADMIN alone is not enough."""
    server.admin, server.version = (False, True, True), version
    server.run()
    at = server.statements.index(f"GRANT {OWNER} TO CURRENT_USER{option}")
    assert server.statements[at + 1].startswith("CREATE DATABASE")


@pytest.mark.parametrize(
    ("rights", "lacks"), [((False, False, True), "CREATEROLE"), ((False, True, False), "CREATEDB")]
)
def test_an_administrator_without_a_right_is_told_which(server, rights, lacks):
    """But one that has nothing to make needs none."""
    server.admin = rights
    with pytest.raises(Refused, match=f"found that postgres lacks {lacks}; run ALTER ROLE"):
        server.run()
    server.make_ours()
    assert server.run().plan == []


def without_admin_option(server, *names, version=170000):
    """Let a server be one that was upgraded, whose administrator has CREATEROLE and CREATEDB."""
    server.admin, server.version = (False, True, True), version
    for name in names:
        server.roles[name]["alterable"] = False


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("change", "altered"),
    [("another password of the owner", OWNER), ("a login", GROUP), ("the database", OWNER)],
)
def test_who_may_not_alter_a_role_since_an_upgrade_is_told_before_anything(
    server, change, altered, check
):
    """PostgreSQL 16 asks for ADMIN OPTION, which nobody has of roles that are older."""
    server.make_ours()
    without_admin_option(server, OWNER, GROUP, *LOGINS)
    assert server.run(check).plan == [], "who has nothing to alter needs none"
    if change == "another password of the owner":
        server.passwords[OWNER] = "former"
    elif change == "a login":
        del server.roles["mlflow_b"]
    else:
        server.owned_by = None
    with pytest.raises(Refused, match=f"run `GRANT {altered} TO postgres WITH ADMIN OPTION` as a"):
        server.run(check)
    assert server.statements == []


def test_before_postgresql_16_createrole_suffices(server):
    server.make_ours()
    without_admin_option(server, OWNER, version=150000)
    server.passwords[OWNER] = "former"
    assert server.run().plan == [f"password of {OWNER}"]


def test_who_may_become_the_owner_already_makes_the_database(server):
    """As a superuser has arranged it; or the owner is the administrator himself."""
    server.make_ours()
    without_admin_option(server, OWNER)
    server.owned_by, server.may_become_owner = None, True
    assert "database mlflow" in server.run().plan


def test_another_password_of_the_owner_is_set_and_tried(server):
    """No server uses it: it only migrates, from the control side."""
    server.make_ours()
    server.passwords[OWNER] = "former"
    assert server.run().plan == [f"password of {OWNER}"]
    assert server.statements == [f"ALTER ROLE {OWNER} PASSWORD SCRAM-SHA-256 of {OWNER}"]


def test_another_password_of_a_login_is_never_set(server):
    """A server that runs would be locked out at its next connection."""
    server.make_ours()
    server.passwords["mlflow_a"] = "former"
    with pytest.raises(Refused, match="the password that mlflow_a has.*rotate_database_password"):
        server.run()
    assert server.statements == []


def test_a_new_login_beside_one_that_can_log_in_rests(server):
    """And where none can, the first of those that are made can."""
    server.make_ours()
    del server.roles["mlflow_a"]
    server.run()
    assert "CREATE ROLE mlflow_a NOLOGIN" in server.statements
    server.make_ours()
    del server.roles["mlflow_b"]
    server.roles["mlflow_a"]["login"] = False
    server.run()
    assert "CREATE ROLE mlflow_b LOGIN PASSWORD SCRAM-SHA-256 of mlflow_b" in server.statements


def test_a_password_that_does_not_work_after_all_is_an_error(server, monkeypatch):
    """A role past its VALID UNTIL is refused with every password."""
    server.make_ours()
    server.passwords[OWNER] = "former"
    monkeypatch.setattr(server, "change", lambda text: server.statements.append(text) or [])
    with pytest.raises(Refused, match=f"{OWNER} to log in .*VALID UNTIL"):
        server.run()


def test_a_login_at_rest_is_left_alone(server):
    """Between two rotations one of the two has no LOGIN; to give it back would undo that."""
    server.make_ours()
    server.roles["mlflow_b"]["login"] = False
    server.passwords["mlflow_b"] = "former"
    database = server.run()
    assert database.plan == [] and database.resting == ["mlflow_b"]


def test_a_server_that_asks_for_no_password_is_refused(server):
    """With `trust` every password would look right."""
    server.make_ours()
    server.info.used_password = False
    with pytest.raises(Refused, match="found that it lets it in without one; replace trust"):
        server.run()


def test_only_the_rights_that_lack_are_given(server):
    server.make_ours()
    server.lacking = {"r": ["runs", 'odd"name'], "S": ["ids"]}
    server.defaults = {"r": ("SELECT",), "S": ALL_RIGHTS["S"]}
    assert server.run().plan == ["2 tables", "tables to come", "1 sequences"]


def test_what_the_group_needs_to_get_in_is_given_if_it_lacks(server):
    """Without it each login is refused by its own database, with all rights on its tables."""
    server.make_ours()
    server.database_rights = set()
    assert server.run().plan == ["CONNECT"]
    assert server.statements == [f"GRANT CONNECT ON DATABASE mlflow TO {GROUP}"]
    server.make_ours()
    server.schema = ("pg_database_owner", True, True, False, False)
    assert server.run().plan == ["USAGE of the schema"]


@pytest.mark.parametrize("superuser", [True, False])
def test_a_schema_from_before_postgresql_15_is_closed_by_its_owner(server, superuser):
    """Everybody could make tables in it, and its owner is the administrator of then."""
    server.make_ours()
    server.schema = ("rdsadmin", False, True, True, True)
    server.admin = (superuser, True, True)
    if superuser:
        assert server.run().plan == ["CREATE of PUBLIC", "CREATE"]
    else:
        with pytest.raises(Refused, match="rdsadmin owns it; run ALTER SCHEMA public OWNER TO"):
            server.run()


def test_too_old_a_server_is_refused(server):
    server.version = 140000
    with pytest.raises(Refused, match="Wanted PostgreSQL 15 or newer; found 14"):
        server.run()


@pytest.mark.parametrize(
    ("name", "found", "phrase"),
    [
        (OWNER, role(mighty=True), "is an administrator; found that it is another"),
        (OWNER, role(login=False), "may not log in"),
        (GROUP, role(), "may log in, or owns things"),
        (GROUP, role(login=False, owns=True), "may log in, or owns things"),
        (GROUP, role(login=False, member_of=[OWNER]), f"a member of {OWNER}"),
        ("mlflow_a", role(mighty=True, member_of=[GROUP]), "superuser"),
        ("mlflow_a", role(owns=True, member_of=[GROUP]), "owns things"),
        ("mlflow_a", role(member_of=[GROUP, OWNER]), f"a member of {OWNER}"),
        ("mlflow_a", role(member_of=["others"]), f"no member of {GROUP}"),
    ],
)
def test_a_role_of_others_is_refused(name, found, phrase):
    """A name that is taken is a slip, or an application whose password would change."""
    with pytest.raises(Refused) as refused:
        check_roles(options(), ours() | {name: found}, OWNER, set())
    assert phrase in str(refused.value) and name in str(refused.value)


def test_an_administrator_may_own_a_database_that_was_made_by_hand():
    """The tutorial's is the master user's. With his password it is taken over, and never reset."""
    mighty = ours() | {OWNER: role(mighty=True, owns=True)}
    check_roles(options(), mighty, OWNER, {OWNER})
    with pytest.raises(Refused, match="superuser"):
        check_roles(options(), mighty, None, {OWNER})


def test_a_database_that_holds_something_stays_open_to_whom_it_was(server):
    """Somebody's report may read it as the role that everybody is a member of."""
    server.make_ours()
    server.database_rights = {(GROUP, "CONNECT"), ("", "CONNECT")}
    server.in_use = True
    server.run()
    assert not [statement for statement in server.statements if "REVOKE" in statement]
    server.in_use = False
    server.run()
    assert [statement for statement in server.statements if "REVOKE CONNECT" in statement]


def test_a_database_of_others_is_refused():
    with pytest.raises(Refused, match="found that bob owns it; .* REASSIGN OWNED"):
        check_roles(options(), ours(), "bob", set())


def test_an_owner_of_other_things_is_ours_if_its_password_is():
    """One owner for two databases is a choice; a role whose password we do not know is not ours."""
    with pytest.raises(Refused, match="owns other things, and has another password"):
        check_roles(options(), ours(), None, set())
    check_roles(options(), ours(), None, {OWNER})


def test_what_a_killed_run_may_have_left_is_ours():
    """The roles are there, the database is not."""
    left = ours() | {OWNER: role()}
    check_roles(options(), left, None, set())


@pytest.mark.parametrize(
    ("more", "phrase"),
    [
        ({"name": "MLflow"}, "found 'MLflow'"),
        ({"logins": ["a" * 64]}, "at most 63"),
        ({"owner": "pg_owner"}, "found 'pg_owner'"),
        ({"owner": GROUP}, "Wanted different roles"),
        ({"logins": ["postgres"]}, "Wanted different roles"),
        ({"logins": ["mlflow_a", "mlflow_a"]}, "Wanted different roles"),
        ({"passwords": {}}, f"a password of your own for {OWNER}; found none"),
        ({"passwords": {OWNER: "example-change-me"}}, "found that of the example"),
        ({"admin_host": "db", "sslmode": "verify-full"}, "no postgresql_ca; give it"),
    ],
)
def test_what_the_variables_alone_show_is_refused(more, phrase):
    """Before anybody is asked."""
    check_names(options())
    with pytest.raises(Refused) as refused:
        check_names(options(**more))
    assert phrase in str(refused.value) and "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("said", "phrase"),
    [
        ('could not translate host name "db" to address', "open the way to it"),
        ("Connection refused Is the server running", "open the way to it"),
        ("timeout expired", "security group"),
        ('FATAL: password authentication failed for user "a"', "postgresql_admin_password"),
        ("SSL error: certificate verify failed", "postgresql_ca"),
        ('certificate for "x" does not match host name "y"', "postgresql_ca"),
        ("server does not support SSL, but SSL was required", "ssl = on"),
        ('no pg_hba.conf entry for host "1.2.3.4", no encryption', "postgresql_allowed_networks"),
        ('Peer authentication failed for user "postgres"', "peer"),
    ],
)
def test_what_libpq_says_is_told_with_a_remedy(said, phrase):
    text = remedy(said, "a", "db:5432")
    assert text.startswith("Wanted ") and "; found: " in text and phrase in text


def test_what_has_no_remedy_is_told_as_it_is(server, monkeypatch):
    """Also of the administrator, and with a text that ends like the one that we would write."""
    why = "FATAL: sorry, too many\n clients; fix that and run again.", "postgres", "db:5432"
    assert remedy(*why) is None
    assert "as postgres; found: FATAL: sorry, too many clients; fix" in unexplained(*why)

    def full(**_):
        raise psycopg2.OperationalError(why[0])

    monkeypatch.setattr(postgresql_database.psycopg2, "connect", full)
    with pytest.raises(Refused, match="Wanted to connect to .* as postgres; found: FATAL: sorry"):
        server.run()


@pytest.mark.parametrize(
    ("listens", "address"),
    [("*", "127.0.0.1"), ("localhost", "localhost"), ("::", "::1"), ("10.0.0.5, ::1", "10.0.0.5")],
)
def test_the_server_is_tried_where_it_listens(listens, address):
    assert postgresql_database.contact(listens) == address


def test_a_server_without_tcp_is_refused():
    with pytest.raises(Refused, match="listens on TCP"):
        postgresql_database.contact("")


def test_a_wrong_password_is_told_from_a_closed_door(server, monkeypatch):
    """The one is fixed by setting it, the other is not, and would be reported as changed."""
    server.make_ours()
    database = Database(options(), check=False)
    database.look()
    server.passwords["mlflow_a"] = "former"
    with pytest.raises(WrongPassword):
        database.as_role("mlflow_a")

    def closed(**_):
        raise psycopg2.OperationalError('no pg_hba.conf entry for host "1.2.3.4"')

    monkeypatch.setattr(postgresql_database.psycopg2, "connect", closed)
    with pytest.raises(Refused, match="to let mlflow_a in from this host"):
        database.as_role("mlflow_a")


@pytest.mark.parametrize(
    ("language", "wanted"),
    [
        ("de_DE.UTF-8", "English .*found lc_messages: de_DE.UTF-8 and: .*Passwort.*ALTER SYS"),
        ("en_GB.UTF-8", "to connect to .* as mlflow_a; found: "),
        ("C", "to connect to .* as mlflow_a; found: "),
        ("", "to connect to .* as mlflow_a; found: "),
    ],
)
def test_a_server_of_another_language_is_asked_for_english(server, monkeypatch, language, wanted):
    """Else a password that is to be set is taken for a door that is closed, at each run."""
    server.make_ours()
    server.language = language
    database = Database(options(), check=False)
    database.look()

    def closed(**_):
        raise psycopg2.OperationalError("ОШИБКА: Passwort-Authentifizierung\n")

    monkeypatch.setattr(postgresql_database.psycopg2, "connect", closed)
    with pytest.raises(Refused, match=f"Wanted .*{wanted}"):
        database.as_role("mlflow_a")


A, B = LOGINS
NEW = {"passwords": options()["passwords"] | {B: "canary-new"}}


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
    monkeypatch.setattr(postgresql_database.time, "monotonic", lambda: next(waits))
    monkeypatch.setattr(postgresql_database.time, "sleep", lambda seconds: None)
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
    monkeypatch.setattr(postgresql_database.time, "sleep", lambda seconds: pytest.fail("waits"))
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
