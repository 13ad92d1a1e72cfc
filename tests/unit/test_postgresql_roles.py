"""How a server and its roles are reached and read, and whose they are, without a server."""

import os
import subprocess
import sys
import types
from pathlib import Path

import psycopg2
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import postgresql_roles
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.postgresql_roles import (
    Roles,
    WrongPassword,
    check_names,
    check_roles,
    remedy,
    unexplained,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from fake_postgresql import GROUP, OWNER, FakeServer, options, ours, role
from postgresql_database import Database


@pytest.fixture
def server(monkeypatch):
    return FakeServer(monkeypatch)


def test_too_old_a_server_is_refused(server):
    server.version = 140000
    with pytest.raises(Refused, match="Wanted PostgreSQL 15 or newer; found 14"):
        server.run()


@pytest.mark.parametrize(
    ("name", "found", "phrase"),
    [
        (OWNER, role(privileged=True), "is an administrator; found that it is another"),
        (OWNER, role(login=False), "may not log in"),
        (GROUP, role(), "may log in, or owns things"),
        (GROUP, role(login=False, owns=True), "may log in, or owns things"),
        (GROUP, role(login=False, member_of=[OWNER]), f"a member of {OWNER}"),
        ("mlflow_a", role(privileged=True, member_of=[GROUP]), "superuser"),
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
    mighty = ours() | {OWNER: role(privileged=True, owns=True)}
    check_roles(options(), mighty, OWNER, {OWNER})
    with pytest.raises(Refused, match="superuser"):
        check_roles(options(), mighty, None, {OWNER})


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

    monkeypatch.setattr(postgresql_roles.psycopg2, "connect", full)
    with pytest.raises(Refused, match="Wanted to connect to .* as postgres; found: FATAL: sorry"):
        server.run()


@pytest.mark.parametrize(
    ("listens", "address"),
    [("*", "127.0.0.1"), ("localhost", "localhost"), ("::", "::1"), ("10.0.0.5, ::1", "10.0.0.5")],
)
def test_the_server_is_tried_where_it_listens(listens, address):
    assert postgresql_roles.contact(listens) == address


def test_a_server_without_tcp_is_refused():
    with pytest.raises(Refused, match="listens on TCP"):
        postgresql_roles.contact("")


def test_a_wrong_password_is_told_from_a_closed_door(server, monkeypatch):
    """The one is fixed by setting it, the other is not, and would be reported as changed."""
    server.make_ours()
    roles = Roles(options(), check=False)
    roles.look()
    server.passwords["mlflow_a"] = "former"
    with pytest.raises(WrongPassword):
        roles.as_role("mlflow_a")

    def closed(**_):
        raise psycopg2.OperationalError('no pg_hba.conf entry for host "1.2.3.4"')

    monkeypatch.setattr(postgresql_roles.psycopg2, "connect", closed)
    with pytest.raises(Refused, match="to let mlflow_a in from this host"):
        roles.as_role("mlflow_a")


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
    roles = Roles(options(), check=False)
    roles.look()

    def closed(**_):
        raise psycopg2.OperationalError("ОШИБКА: Passwort-Authentifizierung\n")

    monkeypatch.setattr(postgresql_roles.psycopg2, "connect", closed)
    with pytest.raises(Refused, match=f"Wanted .*{wanted}"):
        roles.as_role("mlflow_a")


def test_a_server_that_asks_for_no_password_is_refused(server):
    """With `trust` every password would look right."""
    server.make_ours()
    server.info.used_password = False
    with pytest.raises(Refused, match="found that it lets it in without one; replace trust"):
        server.run()


def test_the_environment_does_not_say_where_the_server_is(server, monkeypatch):
    """An administrator's PGHOST or PGSERVICEFILE would send the module to another server."""
    server.make_ours()
    monkeypatch.setenv("PGHOST", "elsewhere")
    assert postgresql_roles.ask(Database, options(), check=False).plan == []
    assert "PGHOST" not in os.environ


def test_the_authorities_are_read_from_memory(server, monkeypatch):
    """libpq takes a path alone."""
    server.make_ours()
    read = []

    def connect(sslrootcert, **more):
        read.append(Path(sslrootcert).read_text())
        return FakeServer.connect(server, **more)

    monkeypatch.setattr(postgresql_roles.psycopg2, "connect", connect)
    given = options(admin_host="db", ca="PEM", sslmode="verify-full")
    postgresql_roles.ask(Database, given, check=False)
    assert set(read) == {"PEM"} and len(read) > 1


def test_an_administrator_who_is_no_user_of_the_system_is_refused(server, monkeypatch):
    """Through the socket a server admits a role as the user of that name."""

    def getpwnam(name):
        raise KeyError(f"getpwnam(): name not found: '{name}'")

    monkeypatch.setattr(postgresql_roles.pwd, "getpwnam", getpwnam)
    with pytest.raises(Refused, match="system's user postgres; found .*not found: 'postgres'"):
        server.run()


def test_a_python_that_has_psycopg2_runs_the_module(monkeypatch):
    """That of a release of MLflow may be the only one; a module that it runs starts no other."""
    started = []
    monkeypatch.setattr(postgresql_roles, "respawn_module", started.append)
    assert postgresql_roles.has_psycopg2(sys.executable, needed=True) and started == []
    monkeypatch.setattr(postgresql_roles, "psycopg2", None)
    assert not postgresql_roles.has_psycopg2("/nowhere", needed=False) and started == []
    with pytest.raises(Refused, match="found none in /nowhere; install python3-psycopg2"):
        postgresql_roles.has_psycopg2("/nowhere", needed=True)
    postgresql_roles.has_psycopg2(sys.executable, needed=False)
    assert started == [sys.executable]
    monkeypatch.setattr(postgresql_roles, "has_respawned", lambda: True)
    postgresql_roles.has_psycopg2(sys.executable, needed=False)
    assert started == [sys.executable]


@pytest.mark.parametrize("module", ["postgresql_database", "postgresql_turn"])
def test_a_module_starts_without_psycopg2(module):
    """Else it could neither say what is missing nor go on with a Python that has it."""
    code = f"import sys; sys.modules['psycopg2'] = None; sys.path = {sys.path}; import {module}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_password_of_digits_is_a_text():
    """YAML takes it for a number, which psycopg2 would not take."""
    module = types.SimpleNamespace(params=options(passwords={OWNER: 123}))
    assert postgresql_roles.options_of(module)["passwords"] == {OWNER: "123"}
