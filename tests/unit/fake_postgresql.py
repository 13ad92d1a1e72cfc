"""A PostgreSQL server of the imagination, for the modules that ask one."""

import copy
import os
import pwd
import re

import postgresql_database
import postgresql_turn
import psycopg2
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import postgresql_roles
from postgresql_database import Database
from postgresql_turn import Turn

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


def role(login=True, privileged=False, owns=False, member_of=(), note="", alterable=True):
    found = {"login": login, "privileged": privileged, "owns": owns, "member_of": list(member_of)}
    return found | {"note": note, "alterable": alterable}


def ours():
    """Return the roles as an earlier run left them."""
    logins = {name: role(member_of=[GROUP]) for name in LOGINS}
    return {OWNER: role(owns=True), GROUP: role(login=False), **logins}


class FakeServer:
    """Answers the modules' questions, and keeps the statements that change something."""

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
        # Whoever runs the tests: nobody else can be become.
        me = pwd.getpwuid(os.geteuid())
        monkeypatch.setattr(postgresql_roles.pwd, "getpwnam", lambda name: me)
        monkeypatch.setattr(postgresql_roles.psycopg2, "connect", self.connect)
        monkeypatch.setattr(
            postgresql_roles.extensions,
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
        if query == postgresql_roles.ADMIN:
            return [self.admin]
        if query == postgresql_roles.ROLES:
            columns = postgresql_roles.ROLE_COLUMNS
            return [(n, *(r[c] for c in columns)) for n, r in self.roles.items() if n in given[0]]
        if query == postgresql_turn.SESSIONS:
            return [session[1:] for session in self.sessions if session[0] == given[0]]
        if query == postgresql_roles.DATABASE:
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
        """Run a module, as Ansible would; return what it says it did."""
        self.statements = []
        given = options(**more)
        self.wanted = given["passwords"]
        asked = (Turn if given["turn"] else Database)(given, check)
        asked.run()
        assert bool(self.statements) == bool(asked.plan) or check
        return asked


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


def without_admin_option(server, *names, version=170000):
    """Let a server be one that was upgraded, whose administrator has CREATEROLE and CREATEDB."""
    server.admin, server.version = (False, True, True), version
    for name in names:
        server.roles[name]["alterable"] = False
