"""Refusals of the database module, on an imagined server; molecule/tutorial has a real one."""

import pytest
from postgresql_database import Database, Refusal, refused_login

GIVEN = {
    "name": "lab",
    "owner": "lab_owner",
    "group": "lab_readwrite",
    "logins": ["lab_a"],
    "passwords": {"lab_owner": "one", "lab_a": "two"},
    "admin_host": "db",
    "admin_user": "postgres",
    "admin_password": "three",
    "admin_database": "postgres",
    "port": 5432,
    "sslmode": "require",
}


class Server:
    """Answers each query by the first phrase that is found in it, and notes every statement."""

    server_version = 150000

    def __init__(self, **answers):
        self.answers = answers
        self.statements = []

    def cursor(self):
        return self

    def close(self):
        pass

    def execute(self, query, values=()):
        self.statements.append(query)
        found = [rows for phrase, rows in self.answers.items() if phrase in str(query)]
        self.rows = found[0] if found else []

    def fetchall(self):
        return self.rows


def ensure(server, check=False):
    database = Database(GIVEN, check)
    database.connect = lambda *_: server
    database.ensure()
    return database


def test_an_old_server_is_refused():
    """In PostgreSQL 14 a login could make tables, whatever we grant."""
    server = Server()
    server.server_version = 140009
    with pytest.raises(Refusal, match="Wanted PostgreSQL 15 or newer; found 14"):
        ensure(server)
    assert server.statements == []


def test_a_mighty_role_is_never_made_a_login():
    """Its password would be reset to one that stands in the vault of a tracking server."""
    server = Server(rolcanlogin=[("lab_a", True, True)])
    with pytest.raises(Refusal, match="found that lab_a has them; choose other names"):
        ensure(server)


def test_an_administrator_who_owns_the_database_keeps_his_password(monkeypatch):
    """The tutorial's tables are the master user's; a slip in the vault must not lock him out."""
    server = Server(rolcanlogin=[("lab_owner", True, True)], pg_database=[("lab_owner",)])
    monkeypatch.setattr(Database, "login", lambda *_: None)
    monkeypatch.setattr(Database, "verifier", lambda *_: "SCRAM-SHA-256$…")
    with pytest.raises(Refusal, match="an administrator's, which is not set here"):
        ensure(server)
    assert not [s for s in server.statements if "ALTER ROLE" in str(s)]


def test_a_database_of_another_owner_is_left_alone():
    server = Server(pg_get_userbyid=[("somebody",)])
    with pytest.raises(Refusal, match="Wanted lab_owner as the owner of the database lab"):
        ensure(server)


def test_check_mode_makes_nothing_on_an_empty_server(monkeypatch):
    """And says what it would make."""
    monkeypatch.setattr(Database, "verifier", lambda *_: "SCRAM-SHA-256$…")
    server = Server()
    database = ensure(server, check=True)
    assert database.changes == [
        "make the group lab_readwrite",
        "make the role lab_owner",
        "make the role lab_a",
        "make the database lab",
    ]
    assert [s for s in server.statements if not s.startswith("SELECT")] == []


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ('FATAL: password authentication failed for user "x"', "the right password"),
        ("FATAL: no pg_hba.conf entry for host", "let this host's address in"),
        ("SSL error: certificate verify failed", "mend the CA"),
        ("server does not support SSL, but SSL was required", "mend the sslmode"),
        ("Connection refused", "through its firewall"),
    ],
)
def test_a_refused_login_says_what_to_do(said, remedy):
    assert remedy in str(refused_login("admin", "db", Exception(said)))
