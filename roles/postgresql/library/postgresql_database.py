#!/usr/bin/python
"""Make one PostgreSQL database with its owner, a group that reads and writes, and its logins."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_database
short_description: A database with its owner, its group and its logins, in one round trip
description:
  - An administrator makes the roles and the database. The owner then grants the group what it needs
    on all tables, now and for those that it makes later. The logins are members of the group.
  - Passwords are sent as SCRAM verifiers, so that no log of the server can have them. Whether one
    is right already is found out by a login.
  - What is there and not as wanted (a database of another owner, a login with the rights of an
    administrator) is refused, not changed.
options:
  name:
    description: Name of the database.
    type: str
    required: true
  owner:
    description: Role that owns the database and its tables.
    type: str
    required: true
  group:
    description: Role that has the right to read and write, and cannot log in.
    type: str
    required: true
  logins:
    description: Roles that log in and are members of the group.
    type: list
    elements: str
    default: []
  passwords:
    description: Password of the owner and of each login, by its name.
    type: dict
    required: true
  admin_host:
    description: Server; the one on this host, as its system user C(postgres), if empty.
    type: str
    default: ''
  admin_user:
    description: Administrator. He needs no more than CREATEDB and CREATEROLE.
    type: str
    default: postgres
  admin_password:
    description: His password.
    type: str
    default: ''
  admin_database:
    description: Database that he logs in to.
    type: str
    default: postgres
  port:
    description: TCP port of the server.
    type: int
    default: 5432
  sslmode:
    description: What TLS is asked for, in libpq's words.
    type: str
    default: require
  ca:
    description: Text of the certificates that the server's is checked against.
    type: str
    default: ''
requirements: [psycopg2 2.8]
author: mlflow-ansible
"""

EXAMPLES = r"""
- name: Make the database
  postgresql_database:
    name: mlflow
    owner: mlflow_owner
    group: mlflow_readwrite
    logins: [mlflow_a, mlflow_b]
    passwords: {mlflow_owner: one, mlflow_a: two, mlflow_b: three}
"""

RETURN = r"""
changes: {description: "What was done, a phrase each.", type: list, returned: always}
"""

import contextlib
import os
import pwd
import tempfile

from ansible.module_utils.basic import AnsibleModule

try:
    import psycopg2
    from psycopg2 import sql
    from psycopg2.extensions import encrypt_password
except ImportError:
    psycopg2 = None

TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
SEQUENCE_RIGHTS = ("USAGE", "SELECT")
OLDEST = 15
# Where a login is proven when the server is on this host: its socket asks for no password.
LOCAL = "localhost"

REMEDIES = {
    "password authentication failed": "put the right password into the vault",
    "no pg_hba.conf entry": "let this host's address in there, with TLS",
    "certificate": "mend the CA and the sslmode",
    "SSL": "mend the sslmode",
    "": "start the server, mend host and port, or let this host through its firewall",
}


class Refusal(Exception):
    """What was wanted, what was found and what to do."""


class Database:
    """One database and its roles.

    Args:
        given: the module's options.
        check: change nothing, only note what would be done.
        ca_file: path of the CA's certificates, empty for none.
    """

    def __init__(self, given: dict, check: bool, ca_file: str = ""):
        self.given, self.check = given, check
        self.ca_file = ca_file
        self.name, self.owner, self.group = given["name"], given["owner"], given["group"]
        self.changes: list[str] = []

    # Talking to the server

    def connect(self, user: str, password: str, database: str, host: str):
        """Log in; an empty host is the local socket. Raises psycopg2.OperationalError."""
        where = {"host": host, "sslmode": self.given["sslmode"]} if host else {}
        if host and self.ca_file:
            where["sslrootcert"] = self.ca_file
        if host == LOCAL:
            where["sslmode"] = "require"  # no certificate has that name
        connection = psycopg2.connect(
            user=user,
            password=password or None,
            dbname=database,
            port=self.given["port"],
            connect_timeout=10,
            **where,
        )
        connection.autocommit = True
        return connection

    def connect_as_admin(self):
        given = self.given
        user, host = given["admin_user"], given["admin_host"]
        try:
            with contextlib.nullcontext() if host else acting_as(user):
                return self.connect(user, given["admin_password"], given["admin_database"], host)
        except psycopg2.OperationalError as error:
            raise refused_login(user, host, error) from error

    def login(self, user: str):
        """Log in to the database as the owner or a login, over TCP, or return None: wrong password.

        Raises:
            Refusal: The login failed for another reason than the password.
        """
        host = self.given["admin_host"] or LOCAL
        try:
            return self.connect(user, self.given["passwords"][user], self.name, host)
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                return None
            raise refused_login(user, host, error) from error

    def change(self, connection, what: str, statement: str, *names: str, text: str = "") -> None:
        """Note a change and, unless in check mode, make it. `names` are quoted as identifiers."""
        self.changes.append(what)
        if not self.check:
            query = sql.SQL(statement).format(*map(sql.Identifier, names), text=sql.Literal(text))
            connection.cursor().execute(query)

    @staticmethod
    def ask(connection, query: str, *values) -> list[tuple]:
        cursor = connection.cursor()
        cursor.execute(query, values)
        return cursor.fetchall()

    # The wanted state

    def ensure(self) -> None:
        """Bring the server to the wanted state and note what that took."""
        admin = self.connect_as_admin()
        with contextlib.closing(admin):
            if admin.server_version < OLDEST * 10000:
                raise Refusal(
                    f"Wanted PostgreSQL {OLDEST} or newer; found {admin.server_version // 10000}, "
                    "in which everybody may make tables everywhere; upgrade it."
                )
            roles = self.roles(admin)
            self.refuse_foreign(admin, roles)
            for role in (self.group, self.owner, *self.given["logins"]):
                if role not in roles:
                    self.make_role(admin, role)
            self.make_database(admin)
            if not self.database_exists(admin):
                return  # in check mode there is nothing yet to look into
            self.set_password_unless_right(admin, self.owner, roles)
            self.grant_database(admin)
            for role in self.given["logins"]:
                self.make_member(admin, role)
            self.grant_tables()
            for role in self.given["logins"]:
                self.set_password_unless_right(admin, role, roles)

    def roles(self, admin) -> dict[str, dict]:
        """Return what the server knows of our roles."""
        wanted = [self.owner, self.group, *self.given["logins"]]
        query = (
            "SELECT rolname, rolcanlogin, rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls "
            "FROM pg_roles WHERE rolname = ANY(%s)"
        )
        rows = self.ask(admin, query, wanted)
        return {name: {"can_login": login, "mighty": mighty} for name, login, mighty in rows}

    def refuse_foreign(self, admin, roles: dict[str, dict]) -> None:
        mighty = [name for name in roles if roles[name]["mighty"] and name != self.owner]
        if mighty:
            raise Refusal(
                f"Wanted roles without the rights of an administrator; found that "
                f"{', '.join(mighty)} has them; choose other names."
            )
        query = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
        for (owner,) in self.ask(admin, query, self.name):
            if owner != self.owner:
                raise Refusal(
                    f"Wanted {self.owner} as the owner of the database {self.name}; found {owner}; "
                    "name that one as the owner, or choose another database."
                )

    def make_role(self, admin, role: str) -> None:
        if role == self.group:
            self.change(admin, f"make the group {role}", "CREATE ROLE {} NOLOGIN", role)
        else:
            verifier = self.verifier(admin, role)
            statement = "CREATE ROLE {} LOGIN PASSWORD {text}"
            self.change(admin, f"make the role {role}", statement, role, text=verifier)

    def verifier(self, admin, role: str) -> str:
        """Return what the server stores instead of the password."""
        return encrypt_password(self.given["passwords"][role], role, admin, "scram-sha-256")

    def database_exists(self, admin) -> bool:
        return bool(self.ask(admin, "SELECT 1 FROM pg_database WHERE datname = %s", self.name))

    def make_database(self, admin) -> None:
        if self.database_exists(admin):
            return
        # Who is not a superuser may only give a database to a role that he can become.
        right = "SET" if admin.server_version >= 160000 else "MEMBER"
        if not self.check and self.ask(
            admin, "SELECT NOT pg_has_role(current_user, %s, %s)", self.owner, right
        ) == [(True,)]:
            admin.cursor().execute(
                sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(self.owner))
            )
        statement = "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'"
        self.change(admin, f"make the database {self.name}", statement, self.name, self.owner)

    def grant_database(self, admin) -> None:
        """Let in the group, and nobody else as long as nobody can have made use of it."""
        public, group = self.ask(
            admin,
            "SELECT has_database_privilege('public', %s, 'CONNECT'), EXISTS (SELECT FROM "
            "pg_database, aclexplode(datacl) acl WHERE datname = %s AND privilege_type = 'CONNECT' "
            "AND grantee = (SELECT oid FROM pg_roles WHERE rolname = %s))",
            self.name,
            self.name,
            self.group,
        )[0]
        owner = self.login(self.owner)
        tables = "SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace LIMIT 1"
        if public and owner and not self.ask(owner, tables):
            self.change(
                owner,
                f"close the database {self.name} to others",
                "REVOKE ALL ON DATABASE {} FROM PUBLIC",
                self.name,
            )
        if not group:
            self.change(
                owner,
                f"let {self.group} in",
                "GRANT CONNECT ON DATABASE {} TO {}",
                self.name,
                self.group,
            )

    def make_member(self, admin, role: str) -> None:
        query = (
            "SELECT 1 FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid "
            "JOIN pg_roles r ON r.oid = m.member WHERE g.rolname = %s AND r.rolname = %s"
        )
        if not self.ask(admin, query, self.group, role):
            what = f"make {role} a member of {self.group}"
            self.change(admin, what, "GRANT {} TO {}", self.group, role)

    def grant_tables(self) -> None:
        """As the owner: give the group its rights on what is there and on what will be."""
        owner = self.login(self.owner)
        if owner is None:
            return  # in check mode the password is not set yet
        with contextlib.closing(owner):
            for kinds, words, kind, rights in (
                (["r", "p"], "TABLES", "r", TABLE_RIGHTS),
                (["S"], "SEQUENCES", "S", SEQUENCE_RIGHTS),
            ):
                self.grant(owner, kinds, words, kind, rights)

    def grant(self, owner, kinds: list[str], words: str, kind: str, rights: tuple) -> None:
        function = f"has_{words.lower().removesuffix('s')}_privilege"
        missing = self.ask(
            owner,
            "SELECT 1 FROM pg_class c, unnest(%s) AS wanted(name) WHERE c.relkind = ANY(%s) AND "
            "c.relnamespace = 'public'::regnamespace AND c.relowner = current_user::regrole AND "
            f"NOT {function}(%s, c.oid, wanted.name) LIMIT 1",
            list(rights),
            kinds,
            self.group,
        )
        given = ", ".join(rights)
        if missing:
            statement = f"GRANT {given} ON ALL {words} IN SCHEMA public TO {{}}"
            self.change(owner, f"grant {given} on all {words.lower()}", statement, self.group)
        found = self.ask(
            owner,
            "SELECT privilege_type FROM pg_default_acl d, aclexplode(d.defaclacl) acl WHERE "
            "d.defaclrole = current_user::regrole AND d.defaclobjtype = %s AND "
            "d.defaclnamespace = 'public'::regnamespace AND "
            "acl.grantee = (SELECT oid FROM pg_roles WHERE rolname = %s)",
            kind,
            self.group,
        )
        if not set(rights) <= {right for (right,) in found}:
            statement = (
                f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT {given} ON {words} TO {{}}"
            )
            what = f"grant {given} on {words.lower()} to come"
            self.change(owner, what, statement, self.group)

    def set_password_unless_right(self, admin, role: str, before: dict[str, dict]) -> None:
        """Set a password that does not let the role in. One that may not log in is left alone."""
        if role not in before or not before[role]["can_login"]:
            return
        connection = self.login(role)
        if connection is None and before[role]["mighty"]:
            raise Refusal(
                f"Wanted to log in as the owner {role}; found that the password is another, and "
                "that this is an administrator's, which is not set here; put the right one into "
                "the vault."
            )
        if connection is None:
            verifier = self.verifier(admin, role)
            statement = "ALTER ROLE {} PASSWORD {text}"
            self.change(admin, f"set the password of {role}", statement, role, text=verifier)
        else:
            connection.close()


@contextlib.contextmanager
def acting_as(user: str):
    """Be a system user for a moment, whom PostgreSQL asks the kernel for (peer authentication)."""
    entry = pwd.getpwnam(user)
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def has_user(name: str) -> bool:
    return name in {entry.pw_name for entry in pwd.getpwall()}


def refused_login(user: str, host: str, error: Exception) -> Refusal:
    said = " ".join(str(error).split())
    remedy = next(text for key, text in REMEDIES.items() if key in said)
    return Refusal(
        f"Wanted to log in as {user} at {host or 'the local socket'}; found: {said}; {remedy}."
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "group": {"type": "str", "required": True},
            "logins": {"type": "list", "elements": "str", "default": []},
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "admin_host": {"type": "str", "default": ""},
            "admin_user": {"type": "str", "default": "postgres"},
            "admin_password": {"type": "str", "default": "", "no_log": True},
            "admin_database": {"type": "str", "default": "postgres"},
            "port": {"type": "int", "default": 5432},
            "sslmode": {"type": "str", "default": "require"},
            "ca": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    if psycopg2 is None:
        if module.check_mode:
            module.exit_json(changed=True, changes=["make all, once psycopg2 is there"])
        module.fail_json(
            msg="Wanted psycopg2 for this Python; found none; install python3-psycopg2."
        )
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as ca_file:
        ca_file.write(given["ca"])
        ca_file.flush()
        database = Database(given, module.check_mode, ca_file.name if given["ca"] else "")
        try:
            database.ensure()
        except Refusal as refusal:
            module.fail_json(msg=str(refusal), changes=database.changes)
        except KeyError as error:
            if module.check_mode and error.args[0] not in given["passwords"]:
                module.exit_json(changed=True, changes=["make all, once there is a server"])
            module.fail_json(
                msg=f"Wanted the password of each role; found none of {error}; give it."
            )
        except psycopg2.Error as error:
            said = " ".join(str(error).split())
            module.fail_json(
                msg=f"Wanted {(database.changes or ['to look'])[-1]}; found: {said}; give the "
                f"administrator {given['admin_user']} that right and run again.",
                changes=database.changes,
            )
    module.exit_json(changed=bool(database.changes), changes=database.changes)


if __name__ == "__main__":
    main()
