#!/usr/bin/python
"""Make one database and its roles in a PostgreSQL server, local or RDS, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_database
short_description: One database with an owner, a group that reads and writes, and its logins
description:
  - The owner owns the database and its tables. The group, without a login, may read and write all
    tables of the owner in the schema public, also those to come. The logins are members of it.
  - What is there is compared with what is wanted before anything is changed. Whether a password is
    the wanted one is found by logging in with it. A password is never sent to the server in clear.
  - Roles and databases of others are refused, never altered. The password of a login that exists
    is not changed, as servers may use it. A login that exists without LOGIN rests, and is left
    alone. One that is made beside another that can log in is made to rest, without a password.
  - The administrator need not be a superuser. CREATEROLE and CREATEDB suffice, from PostgreSQL
    16 on with ADMIN OPTION on roles that it has not made itself.
  - With O(turn) nothing is made. Of two logins the one that rests takes the place of the other.
options:
  name: {description: Name of the database., type: str, required: true}
  owner: {description: Role that owns it., type: str, required: true}
  group: {description: Role that reads and writes., type: str, required: true}
  logins: {description: Roles that log in., type: list, elements: str, default: []}
  passwords:
    description:
      - Password of the owner and of each login, by its name. Never shown, and kept out of the
        host's journal, where Ansible notes the other options as they are.
    type: dict
    required: true
  admin_host:
    description: Host of the server. Empty is this host's unix socket, as the system's user.
    type: str
    default: ''
  admin_port: {description: Port of the server., type: int, default: 5432}
  admin_user: {description: Role that makes roles and databases., type: str, default: postgres}
  admin_password: {description: Its password., type: str, default: ''}
  admin_database: {description: Database that it connects to., type: str, default: postgres}
  sslmode: {description: libpq's sslmode for that host., type: str, default: require}
  ca: {description: Authorities that may sign for it in PEM., type: str, default: ''}
  python:
    description: A Python that can import psycopg2, if the one that runs the module cannot.
    type: str
    default: ''
  turn:
    description:
      - V(awake) gives the login whose turn it is LOGIN and its password, and notes that the other
        one leaves. V(rest) waits until nobody is logged in as that other one and takes its LOGIN.
      - A turn that was broken off is gone on with, never turned round. After a whole one nothing is
        done until O(passwords) has a new one for the login that rests.
    type: str
    choices: ['', awake, rest]
    default: ''
  serving: {description: Logins that the servers use., type: list, elements: str, default: []}
  kept:
    description: Logins that the servers used before, as long as they keep the password.
    type: list
    elements: str
    default: []
  patience: {description: Seconds for sessions to end., type: int, default: 60}
author: mlflow-ansible
"""

EXAMPLES = r"""
- name: Make the database
  postgresql_database:
    name: mlflow
    owner: mlflow_owner
    group: mlflow_readwrite
    logins: [mlflow_a, mlflow_b]
    passwords: "{{ vault_passwords }}"
"""

RETURN = r"""
plan: {description: What is (to be) done., type: list, elements: str, returned: success}
resting: {description: Logins that exist without LOGIN., type: list, returned: success}
comes: {description: The login whose turn it is., type: str, returned: with O(turn)}
leaves: {description: The other one., type: str, returned: with O(turn)}
whole:
  description: Whether a turn is behind, and there is no password for the next one.
  type: bool
  returned: with O(turn)
"""

import contextlib
import os
import pwd
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, respawn_module

try:
    import psycopg2
    from psycopg2 import extensions, sql
except ImportError:
    psycopg2 = None

OLDEST = 150000
# With this version CREATEROLE alone alters no role, and who makes one has not all its rights.
ADMIN_OPTION_SINCE = 160000
# Where Debian's server has it; other builds of libpq look elsewhere.
SOCKETS = "/var/run/postgresql"
# Any number that nobody else uses: two hosts may make the same database at the same time.
LOCK = 7165534
EXAMPLE = "example-change-me"

TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
SEQUENCE_RIGHTS = ("USAGE", "SELECT")

ROLES = """
SELECT rolname, rolcanlogin,
       rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
       EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
               AND refobjid = pg_roles.oid AND deptype = 'o'),
       ARRAY(SELECT granted.rolname FROM pg_roles AS granted WHERE granted.oid <> pg_roles.oid
             AND pg_has_role(pg_roles.oid, granted.oid, 'MEMBER')),
       coalesce(shobj_description(oid, 'pg_authid'), ''),
       pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')
           -- RDS lets its master user alter roles without it.
           OR EXISTS (SELECT FROM pg_roles AS rds WHERE rds.rolname = 'rds_superuser'
                      AND pg_has_role(rds.oid, 'MEMBER'))
FROM pg_roles WHERE rolname = ANY (%s)
"""
# What it says of a role, after its name. `alterable` is meant for the administrator.
ROLE_COLUMNS = ("login", "mighty", "owns", "member_of", "note", "alterable")
DATABASE = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
# Everybody may see who is logged in, but not from where.
SESSIONS = """
SELECT pid, coalesce(host(client_addr), 'its own host'), application_name
FROM pg_stat_activity WHERE usename = %s ORDER BY pid
"""
ADMIN = """
SELECT rolsuper, rolsuper OR rolcreaterole, rolsuper OR rolcreatedb
FROM pg_roles WHERE rolname = current_user
"""
# Rights on the database that PUBLIC (0) and the group have.
DATABASE_RIGHTS = """
SELECT CASE grantee WHEN 0 THEN '' ELSE pg_get_userbyid(grantee)::text END, privilege_type
FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
WHERE datname = current_database()
"""
SCHEMA_RIGHTS = """
SELECT pg_get_userbyid(nspowner), pg_has_role(nspowner, 'USAGE'),
       has_schema_privilege(%(owner)s, oid, 'CREATE'),
       has_schema_privilege(%(group)s, oid, 'USAGE'),
       EXISTS (SELECT FROM aclexplode(nspacl) WHERE grantee = 0 AND privilege_type = 'CREATE')
FROM pg_namespace WHERE nspname = 'public'
"""
# The owner's tables or sequences in which the group lacks one of the rights.
LACKING = """
SELECT relname FROM pg_class, unnest(%(rights)s) AS wanted
WHERE relnamespace = 'public'::regnamespace AND relowner = %(owner)s::regrole
  AND relkind = ANY (%(kinds)s) AND NOT EXISTS (
      SELECT FROM aclexplode(relacl)
      WHERE grantee = %(group)s::regrole AND privilege_type = wanted)
GROUP BY relname ORDER BY relname
"""
IN_USE = "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
DEFAULT_RIGHTS = """
SELECT privilege_type FROM pg_default_acl, aclexplode(defaclacl)
WHERE defaclrole = %(owner)s::regrole AND defaclnamespace = 'public'::regnamespace
  AND defaclobjtype = %(kind)s AND grantee = %(group)s::regrole
"""


class Refused(Exception):
    """What is wanted cannot be, in words for the operator."""


class WrongPassword(Exception):
    """The server knows another password, or none, for the role."""


def remedy(said: str, user: str, place: str) -> str | None:
    """Return wanted, found and remedy for what libpq or the server said of a connection.

    None for a reason that none of the known words tells.
    """
    said = " ".join(said.split())
    for phrases, wanted, what in (
        (
            ["certificate verify failed", "does not match host name", "root certificate"],
            f"a certificate of {place} that can be verified",
            "give the authority that signed it as postgresql_ca, and the name that is in it as "
            "postgresql_admin_host",
        ),
        (
            ["no pg_hba.conf entry", "pg_hba.conf rejects"],
            f"{place} to let {user} in from this host",
            "add the host's network to postgresql_allowed_networks of the server, or allow it in "
            "its pg_hba.conf",
        ),
        (
            ["does not support SSL", "SSL error", "SSL SYSCALL"],
            f"TLS from {place}",
            "turn it on there (ssl = on), or set another postgresql_sslmode if the network is "
            "trusted",
        ),
        (
            ["Peer authentication failed", "Ident authentication failed"],
            f"the system's user {user} to be let in by {place}",
            "write `local all all peer` into its pg_hba.conf, or set postgresql_admin_user",
        ),
        (
            ["password authentication failed", "no password supplied"],
            f"the right password of {user} at {place}",
            "correct postgresql_admin_password, or set the server's with ALTER ROLE",
        ),
        (
            ["could not translate", "Connection refused", "timeout", "timed out", "No route"]
            + ["No such file", "unreachable", "starting up", "shutting down"],
            f"a PostgreSQL server at {place}",
            "correct postgresql_admin_host and postgresql_admin_port, start the server, or open "
            "the way to it (security group, firewall, its listen_addresses)",
        ),
    ):
        if any(phrase in said for phrase in phrases):
            return f"Wanted {wanted}; found: {said}; {what}."
    return None


def unexplained(said: str, user: str, place: str) -> str:
    """Return the same of a reason that has no remedy here."""
    said = " ".join(said.split())
    return f"Wanted to connect to {place} as {user}; found: {said}; fix that and run again."


def check_names(given: dict) -> None:
    """Refuse names and passwords that the variables alone show to be wrong."""
    roles = [given["owner"], given["group"], *given["logins"]]
    for name in [given["name"], *roles]:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) or name.startswith("pg_"):
            raise Refused(
                f"Wanted names of small letters, digits and _, at most 63; found '{name}'; correct "
                "postgresql_database, _owner, _group or _logins."
            )
    # The owner may be the administrator: of a database that he has made by hand.
    others = [given["group"], *given["logins"], given["admin_user"]]
    if len(set(roles)) < len(roles) or len(set(others)) < len(others):
        raise Refused(
            f"Wanted different roles as owner, group, logins and administrator; found "
            f"{', '.join([*roles, given['admin_user']])}; give each a name of its own."
        )
    for name in [given["owner"], *given["logins"]]:
        password = given["passwords"].get(name)
        if not password or password == EXAMPLE:
            raise Refused(
                f"Wanted a password of your own for {name}; found "
                f"{'that of the example' if password else 'none'}; put one into the vault as "
                "postgresql_owner_password or in postgresql_logins."
            )
    if given["sslmode"].startswith("verify") and not given["ca"] and given["admin_host"]:
        raise Refused(
            f"Wanted an authority to verify the server with; found sslmode {given['sslmode']} and "
            "no postgresql_ca; give it, for RDS Amazon's bundle for the region."
        )


def check_roles(given: dict, roles: dict, database_owner: str | None, proven: set[str]) -> None:
    """Refuse roles and a database that exist and are somebody else's.

    Args:
        given: The module's options.
        roles: What is known of each role that exists, by its name.
        database_owner: Who owns the database, None if there is none.
        proven: Roles that log in with the password that is wanted for them.
    """

    def refuse(name: str, found: str, more: str = "") -> None:
        raise Refused(
            f"Wanted {name} to be this database's alone, or absent; found {found}; choose another "
            f"name{more}."
        )

    owner, group = given["owner"], given["group"]
    if database_owner not in (None, owner):
        refuse(
            f"the database {given['name']}",
            f"that {database_owner} owns it",
            f", or hand it over with ALTER DATABASE and its tables with REASSIGN OWNED to {owner}",
        )
    for name in [owner, group, *given["logins"]]:
        if name in roles and roles[name]["mighty"]:
            if name == owner and database_owner == owner:
                if owner in proven:
                    continue
                raise Refused(
                    f"Wanted the right password of {owner}, who owns the database and is an "
                    "administrator; found that it is another, and nobody sets one's here; put the "
                    "right one into the vault."
                )
            refuse(
                f"the role {name}",
                "that it is a superuser, or may create roles or databases, replicate or bypass "
                "row level security",
            )
    if owner in roles:
        theirs = roles[owner]["owns"] and database_owner is None and owner not in proven
        if theirs or not roles[owner]["login"]:
            what = "that it owns other things, and has another password"
            refuse(f"the role {owner}", what if theirs else "that it may not log in")
    if group in roles:
        if roles[group]["login"] or roles[group]["owns"]:
            refuse(f"the role {group}", "that it may log in, or owns things")
        if owner in roles[group]["member_of"]:
            refuse(f"the role {group}", f"that it is a member of {owner}")
    for name in given["logins"]:
        role = roles.get(name)
        if role and (role["owns"] or owner in role["member_of"]):
            refuse(f"the login {name}", f"that it owns things, or is a member of {owner}")
        if role and group not in role["member_of"] and name not in proven:
            refuse(
                f"the login {name}",
                f"that it is no member of {group}, and does not log in with the password for it",
                f", or GRANT {group} TO it",
            )


def check_passwords(given: dict, roles: dict, proven: set[str]) -> None:
    """Refuse another password for a login that servers may use: each would have to be told."""
    for name in given["logins"]:
        if name in roles and roles[name]["login"] and name not in proven:
            raise Refused(
                f"Wanted the password that {name} has; found another one in the vault; put the "
                "former back. To change passwords give the login that rests a new one, and run "
                "playbooks/rotate_database_password.yml."
            )


def whose_turn(given: dict, roles: dict) -> tuple[str, str]:
    """Return which login is to serve, and which is to leave.

    A turn that is under way goes on. It has left a note at the role that leaves, or, after that one
    was laid to rest, its password with servers that used it.
    """
    logins, serving = given["logins"], set(given["serving"])
    if len(logins) != 2:
        raise Refused(
            f"Wanted two logins that take turns; found {', '.join(logins) or 'none'}; give two in "
            "postgresql_logins, run site.yml, which makes them, and then this again."
        )
    for name in logins:
        if name not in roles:
            raise Refused(f"Wanted the login {name}; found none; run site.yml, which makes it.")
    if not serving or serving - set(logins):
        raise Refused(
            f"Wanted servers that log in as {' or '.join(logins)}; found "
            f"{', '.join(sorted(serving)) or 'none that serves'}; run site.yml first."
        )
    first, second = logins
    other = {first: second, second: first}
    noted = [name for name in logins if roles[name]["note"] == leaving(other[name])]
    if len(noted) == 1:
        leaves = noted[0]
    elif len(serving) == 2:
        raise Refused(
            f"Wanted all servers to log in as one of {first} and {second}, or a rotation under way "
            "that was broken off; found that some use the one, some the other, and no rotation; "
            "set mlflow_server_database_login to one of them, run site.yml, and then this again."
        )
    else:
        (serves,) = serving
        leaves = other[serves] if other[serves] in given["kept"] else serves
    return other[leaves], leaves


def leaving(name: str) -> str:
    """Return the note at a role that is about to rest."""
    return f"{name} takes its place"


class Database:
    """One database, its roles and the server they are in.

    Args:
        given: The module's options.
        check: Change nothing, only tell.
    """

    def __init__(self, given: dict, check: bool):
        self.given, self.check = given, check
        self.name, self.owner, self.group = given["name"], given["owner"], given["group"]
        self.logins, self.passwords = given["logins"], given["passwords"]
        self.host, self.port = given["admin_host"], given["admin_port"]
        self.plan: list[str] = []
        self.resting: list[str] = []
        self.comes = self.leaves = ""
        self.is_whole = False
        self.open = contextlib.ExitStack()
        self.ca = ""
        if given["ca"] and self.host:
            # Nowhere on disk.
            memory = os.memfd_create("ca")
            self.open.callback(os.close, memory)
            os.write(memory, given["ca"].encode())
            self.ca = f"/proc/self/fd/{memory}"

    # Connections.

    def connect(self, **more):
        connection = psycopg2.connect(
            connect_timeout=10, client_encoding="UTF8", application_name="ansible", **more
        )
        self.open.callback(connection.close)
        connection.autocommit = True
        return connection

    def as_admin(self, database: str):
        """Connect as the administrator."""
        given = self.given
        where = {"dbname": database, "user": given["admin_user"], "port": self.port}
        if self.host:
            tls = {"sslmode": given["sslmode"], "sslrootcert": self.ca}
            return self.connect(host=self.host, password=given["admin_password"], **tls, **where)
        with acting_as(given["admin_user"]):
            return self.connect(host=SOCKETS, **where)

    def as_role(self, name: str):
        """Log in to the database with the wanted password, None if there is no database yet.

        Raises:
            WrongPassword: The role has another one.
        """
        tls = {"sslmode": "require"}
        if self.host:
            tls = {"sslmode": self.given["sslmode"], "sslrootcert": self.ca}
        try:
            connection = self.connect(
                host=self.host or self.address,
                port=self.port,
                dbname=self.name,
                user=name,
                password=self.passwords[name],
                **tls,
            )
        except psycopg2.OperationalError as error:
            said = str(error)
            # The server looks for LOGIN and the database after it has looked at the password.
            if "is not permitted to log in" in said:
                return None
            if "database" in said and "does not exist" in said:
                return None
            if "password authentication failed" in said:
                raise WrongPassword(name) from None
            # Such as a login that may not CONNECT yet.
            if "permission denied for database" in said:
                return None
            who = name, self.place(self.host or self.address)
            explained = remedy(said, *who)
            if explained is None:
                self.check_language(said)
            raise Refused(explained or unexplained(said, *who)) from None
        if not connection.info.used_password:
            raise Refused(
                f"Wanted the server to ask {name} for its password; found that it lets it in "
                "without one; replace trust in its pg_hba.conf by scram-sha-256."
            )
        return connection

    def check_language(self, said: str) -> None:
        """Refuse a server whose reason cannot be read: libpq has no code for that of a login.

        Raises:
            Refused: It says in another language than English why it lets nobody in.
        """
        cursor = self.admin.cursor()
        cursor.execute("SHOW lc_messages")
        (language,) = cursor.fetchone()
        if not re.match(r"(C|POSIX|en)\b|en_|$", language):
            raise Refused(
                f"Wanted {self.place(self.host)} to say in English why it refuses a login; found "
                f"lc_messages: {language} and: {' '.join(said.split())}; as its superuser run "
                "`ALTER SYSTEM SET lc_messages = 'C'` and `SELECT pg_reload_conf()`, or in RDS set "
                "it in the parameter group, and run this again."
            )

    def place(self, host: str) -> str:
        return f"{host}:{self.port}" if host else socket_of(self.port)

    # What is found.

    def look(self) -> None:
        """Find the server, the roles and the database."""
        user, given = self.given["admin_user"], self.given
        try:
            self.admin = self.as_admin(given["admin_database"])
        except psycopg2.OperationalError as error:
            why = str(error), user, self.place(self.host)
            raise Refused(remedy(*why) or unexplained(*why)) from None
        if self.admin.server_version < OLDEST:
            raise Refused(
                f"Wanted PostgreSQL {OLDEST // 10000} or newer; found "
                f"{self.admin.server_version // 10000}; upgrade the server."
            )
        cursor = self.admin.cursor()
        if not self.check:
            cursor.execute("SET lock_timeout = '60s'")
            cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        cursor.execute(ADMIN)
        self.admin_is_super, self.makes_roles, self.makes_databases = cursor.fetchone()
        cursor.execute(ROLES, [[self.owner, self.group, *self.logins]])
        self.roles = {name: dict(zip(ROLE_COLUMNS, found, strict=True)) for name, *found in cursor}
        cursor.execute(DATABASE, [self.name])
        found = cursor.fetchone()
        self.database_owner = found[0] if found else None
        self.address = ""
        if not self.host:
            cursor.execute("SELECT current_setting('listen_addresses')")
            self.address = contact(cursor.fetchone()[0])

    def log_in(self) -> None:
        """Find out which of the roles that exist have the wanted password."""
        self.proven, self.as_owner = set(), None
        self.resting = [n for n in self.logins if n in self.roles and not self.roles[n]["login"]]
        for name in [self.owner, *self.logins]:
            if name in self.roles and self.roles[name]["login"]:
                with contextlib.suppress(WrongPassword):
                    connection = self.as_role(name)
                    self.proven.add(name)
                    if name == self.owner:
                        self.as_owner = connection
                    elif connection:
                        connection.close()

    # What is done.

    def run(self) -> None:
        """Do what is to be done, or in check mode say it."""
        self.look()
        self.log_in()
        check_roles(self.given, self.roles, self.database_owner, self.proven)
        check_passwords(self.given, self.roles, self.proven)
        self.check_alterable(self.altered())
        changed = self.make_roles()
        self.make_database()
        if not self.check and not self.as_owner:
            self.as_owner = self.prove(self.owner)
        if self.as_owner:
            self.grant()
        else:
            self.plan.append("rights in the database")
        for name in changed if not self.check else ():
            self.prove(name)

    def prove(self, name: str):
        """Log in as a role that was made or changed, so that what is in the way shows now."""
        try:
            connection = self.as_role(name)
        except WrongPassword:
            connection = None
        if connection is None:
            raise Refused(
                f"Wanted {name} to log in to {self.name} with its new password; found that the "
                "server refuses it; look whether the role is out of date (VALID UNTIL), and for "
                "the reason in the server's log."
            )
        return connection

    def joining(self) -> list[str]:
        """Return the logins that are no members of the group yet."""
        member_of = {name: role["member_of"] for name, role in self.roles.items()}
        return [name for name in self.logins if self.group not in member_of.get(name, ())]

    def altered(self) -> list[str]:
        """Return the roles that need the administrator's ADMIN OPTION, if they exist already."""
        names = [self.group] if self.joining() else []
        becomes = self.owner in self.roles and not self.database_owner
        if self.owner not in self.proven or (becomes and not self.may_become_owner()):
            names.append(self.owner)
        return names

    def may_become_owner(self) -> bool:
        """Tell whether the administrator may make a database for the owner, who exists."""
        cursor = self.admin.cursor()
        newer = self.admin.server_version >= ADMIN_OPTION_SINCE
        cursor.execute("SELECT pg_has_role(%s, %s)", [self.owner, "SET" if newer else "MEMBER"])
        return cursor.fetchone()[0]

    def check_alterable(self, names: list[str]) -> None:
        """Refuse an administrator who may not alter the existing ones of some roles.

        Up to PostgreSQL 15 CREATEROLE suffices; an upgrade from there adds no ADMIN OPTION.
        """
        lacking = [name for name in sorted(names) if name in self.roles]
        lacking = [name for name in lacking if not self.roles[name]["alterable"]]
        if lacking and self.makes_roles and self.admin.server_version >= ADMIN_OPTION_SINCE:
            user, listed = self.given["admin_user"], ", ".join(lacking)
            raise Refused(
                f"Wanted an administrator who can alter {listed}; found that {user} lacks ADMIN "
                "OPTION there, which PostgreSQL 16 and newer ask for beside CREATEROLE; run "
                f"`GRANT {listed} TO {user} WITH ADMIN OPTION` as a superuser, or set another "
                "postgresql_admin_user."
            )

    def make_roles(self) -> list[str]:
        """Make roles, set passwords and memberships, all at once or nothing; return the logins."""
        steps, identifier = [], sql.Identifier
        new = [name for name in (self.owner, self.group, *self.logins) if name not in self.roles]
        able = [name for name in self.logins if name in self.roles and name not in self.resting]
        able = able or [name for name in self.logins if name in new][:1]
        joining = self.joining()
        for name in new:
            # A login at rest gets its password with its LOGIN.
            how = sql.SQL("NOLOGIN")
            if name in (self.owner, *able):
                how = sql.SQL("LOGIN PASSWORD {}").format(self.verifier(name))
            statement = sql.SQL("CREATE ROLE {} {}").format(identifier(name), how)
            steps.append((f"role {name}", statement))
        if self.owner in self.roles and self.owner not in self.proven:
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
            statement = statement.format(identifier(self.owner), self.verifier(self.owner))
            steps.append((f"password of {self.owner}", statement))
        for name in joining:
            statement = sql.SQL("GRANT {} TO {}")
            statement = statement.format(identifier(self.group), identifier(name))
            steps.append((f"{name} in {self.group}", statement))
        if steps and not self.makes_roles:
            self.refuse_admin("CREATEROLE", steps[0][0])
        self.carry_out(self.admin, steps)
        return [name for name in able if name in {*new, *joining}]

    def verifier(self, name: str):
        """Return what the server stores of a password, from which nobody can tell it."""
        password, scope = self.passwords[name], self.admin
        text = extensions.encrypt_password(password, name, scope, "scram-sha-256")
        return sql.Literal(text)

    def make_database(self) -> None:
        if self.database_owner:
            return
        if not self.makes_databases:
            self.refuse_admin("CREATEDB", f"database {self.name}")
        steps = []
        if not self.admin_is_super and not self.check:
            # Whoever is no superuser makes a database only for roles that it may become.
            newer = self.admin.server_version >= ADMIN_OPTION_SINCE
            if not self.may_become_owner():
                grant = sql.SQL("GRANT {} TO CURRENT_USER" + " WITH INHERIT FALSE" * newer)
                what = f"{self.given['admin_user']} in {self.owner}"
                steps.append((what, grant.format(sql.Identifier(self.owner))))
        self.carry_out(self.admin, steps)
        make = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'")
        make = make.format(sql.Identifier(self.name), sql.Identifier(self.owner))
        # Cannot be in a transaction; a database without its rights is what the next run finds.
        self.carry_out(self.admin, [(f"database {self.name}", make)], together=False)

    def grant(self) -> None:
        """Give the group its rights, as the owner: no matter what the administrator may do."""
        known = {"owner": self.owner, "group": self.group}
        names = {name: sql.Identifier(value) for name, value in known.items()}
        names["database"] = sql.Identifier(self.name)
        steps, by_admin = [], []

        def add(what: str, statement: str, to: list = steps, **more) -> None:
            to.append((what, sql.SQL(statement).format(**names, **more)))

        cursor = self.as_owner.cursor()
        cursor.execute(DATABASE_RIGHTS)
        rights = set(cursor)
        cursor.execute(IN_USE)
        # Others may have made use of a database that was here before.
        if rights & {("", "CONNECT"), ("", "TEMPORARY")} and not cursor.fetchone()[0]:
            add("PUBLIC out", "REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC")
        if (self.group, "CONNECT") not in rights:
            add("CONNECT", "GRANT CONNECT ON DATABASE {database} TO {group}")
        if self.group not in self.roles and self.check:
            self.plan.append("rights on tables")
            return self.carry_out(self.as_owner, steps)

        cursor.execute(SCHEMA_RIGHTS, known)
        schema_owner, is_ours, creates, uses, everybody_creates = cursor.fetchone()
        # A database from before PostgreSQL 15 has a schema public that is the administrator's.
        to = steps if is_ours else by_admin
        if everybody_creates:
            add("CREATE of PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", to)
        if everybody_creates and not is_ours or not creates:
            add("CREATE", "GRANT CREATE, USAGE ON SCHEMA public TO {owner}", to)
        if not uses:
            add("USAGE of the schema", "GRANT USAGE ON SCHEMA public TO {group}", to)
        for noun, kind, kinds, wanted in (
            ("TABLES", "r", "rpvmf", TABLE_RIGHTS),
            ("SEQUENCES", "S", "S", SEQUENCE_RIGHTS),
        ):
            listed = ", ".join(wanted)
            cursor.execute(LACKING, {**known, "rights": list(wanted), "kinds": list(kinds)})
            if lacking := [row[0] for row in cursor]:
                objects = sql.SQL(", ").join(sql.Identifier("public", name) for name in lacking)
                on = "TABLE" if kind == "r" else "SEQUENCE"
                statement = f"GRANT {listed} ON {on} {{objects}} TO {{group}}"
                add(f"{len(lacking)} {noun.lower()}", statement, objects=objects)
            cursor.execute(DEFAULT_RIGHTS, {**known, "kind": kind})
            if not set(wanted) <= {row[0] for row in cursor}:
                statement = "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT "
                statement += f"{listed} ON {noun} TO {{group}}"
                add(f"{noun.lower()} to come", statement)
        if by_admin:
            if not self.admin_is_super and self.given["admin_user"] != schema_owner:
                raise Refused(
                    f"Wanted the schema public of {self.name} to be its owner's; found that "
                    f"{schema_owner} owns it; run ALTER SCHEMA public OWNER TO pg_database_owner "
                    "in it, as that role."
                )
            self.carry_out(self.as_admin(self.name), by_admin)
        return self.carry_out(self.as_owner, steps)

    # Two logins that take turns.

    def take_turns(self) -> None:
        """Do one half of a turn, or in check mode say it."""
        self.look()
        self.log_in()
        check_roles(self.given, self.roles, self.database_owner, self.proven)
        self.comes, self.leaves = whose_turn(self.given, self.roles)
        if self.comes in self.resting and self.has_former_password(self.comes):
            # A whole turn is behind, and the vault has no password for the next one.
            check_passwords(self.given, self.roles, self.proven)
            self.comes, self.leaves = self.leaves, self.comes
            self.is_whole = True
        elif self.given["turn"] == "awake":
            self.awake()
        else:
            self.rest()

    def awake(self) -> None:
        """Let the one log in whose turn it is, and note that the other leaves."""
        comes, leaves, steps = self.comes, self.leaves, []
        needs_note = leaves not in self.resting and self.roles[leaves]["note"] != leaving(comes)
        if comes not in self.proven or needs_note:
            # Also the one whose LOGIN the second half takes.
            self.check_alterable([comes] if leaves in self.resting else [comes, leaves])
        if comes not in self.proven:
            self.check_new_password()
            statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}")
            statement = statement.format(sql.Identifier(comes), self.verifier(comes))
            steps.append((f"LOGIN and password of {comes}", statement))
        if needs_note:
            statement = sql.SQL("COMMENT ON ROLE {} IS {}")
            statement = statement.format(sql.Identifier(leaves), sql.Literal(leaving(comes)))
            steps.append((f"note at {leaves}", statement))
        self.alter(steps)
        if not self.check:
            self.prove(comes)

    def check_new_password(self) -> None:
        """Refuse another password for the login that comes if that one is in use."""
        comes = self.comes
        in_use = comes not in self.resting and self.is_busy(comes)
        if comes in self.given["serving"] or in_use:
            who = self.sessions(comes) or "servers that are not logged in right now"
            raise Refused(
                f"Wanted {comes}, which is in use, to have LOGIN and the password in the vault; "
                f"found that it has not; put the former password back, or run ALTER ROLE {comes} "
                f"LOGIN if it lacks that, or end what uses it: {who}."
            )

    def has_former_password(self, name: str) -> bool:
        """Tell whether a login that rests still has the password that is in the vault."""
        try:
            self.as_role(name)
        except WrongPassword:
            return False
        return True

    def rest(self) -> None:
        """Take the LOGIN of the one that leaves, once nobody is logged in as it any more."""
        leaves, steps = self.leaves, []
        if leaves in self.given["serving"]:
            raise Refused(
                f"Wanted {leaves} to be of no more use; found that servers log in as it; let them "
                f"log in as {self.comes} first."
            )
        if leaves not in self.resting:
            steps.append((f"NOLOGIN of {leaves}", "ALTER ROLE {} NOLOGIN"))
        if self.roles[leaves]["note"] == leaving(self.comes):
            steps.append((f"no note at {leaves}", "COMMENT ON ROLE {} IS NULL"))
        if steps:
            self.check_alterable([leaves])
        if leaves not in self.resting and not self.check:
            self.wait_until_nobody_is(leaves)
        name = sql.Identifier(leaves)
        self.alter([(what, sql.SQL(statement).format(name)) for what, statement in steps])

    def wait_until_nobody_is(self, name: str) -> None:
        until = time.monotonic() + self.given["patience"]
        while self.is_busy(name):
            if time.monotonic() >= until:
                raise Refused(
                    f"Wanted nobody to be logged in as {name} any more; found after "
                    f"{self.given['patience']} s {self.sessions(name)}; end what that is, or its "
                    "session with SELECT pg_terminate_backend(PROCESS), and run again. The servers "
                    f"log in as {self.comes}; {name} can log in as before."
                )
            time.sleep(0.5)

    def alter(self, steps: list) -> None:
        if steps and not self.makes_roles:
            self.refuse_admin("CREATEROLE", steps[0][0])
        self.carry_out(self.admin, steps)

    def is_busy(self, name: str) -> bool:
        cursor = self.admin.cursor()
        cursor.execute(SESSIONS, [name])
        return cursor.fetchone() is not None

    def sessions(self, name: str) -> str:
        """Return who is logged in as a role, in words."""
        # Who is no superuser sees only as a member from where; it is one for this question alone.
        inherit = " WITH INHERIT TRUE" if self.admin.server_version >= ADMIN_OPTION_SINCE else ""
        grant = sql.SQL("GRANT {} TO CURRENT_USER" + inherit).format(sql.Identifier(name))
        self.admin.autocommit = False
        try:
            with contextlib.closing(self.admin.cursor()) as cursor:
                cursor.execute(grant)
                cursor.execute(SESSIONS, [name])
                found = [f"process {pid} from {where} ({what})" for pid, where, what in cursor]
        finally:
            self.admin.rollback()
            self.admin.autocommit = True
        return ", ".join(found)

    def carry_out(self, connection, steps: list, together: bool = True) -> None:
        """Run statements, in one transaction, and note what they do."""
        if self.check or not steps:
            self.plan += [what for what, _ in steps]
            return
        connection.autocommit = not together
        done: list[str] = []
        try:
            with contextlib.closing(connection.cursor()) as cursor:
                for what, statement in steps:
                    done.append(what)
                    cursor.execute(statement)
            connection.commit()
        except psycopg2.Error as error:
            connection.rollback()
            # Not the statement, which holds a verifier.
            said = (error.diag.message_primary or str(error)).strip()
            hint = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
            raise Refused(
                f"Wanted to make {done[-1]}; found that the server says: {said}{hint}; give the "
                "role that does it that right, or remove what is in the way."
            ) from None
        finally:
            connection.autocommit = True
        self.plan += done

    def refuse_admin(self, right: str, what: str) -> None:
        user = self.given["admin_user"]
        raise Refused(
            f"Wanted an administrator who can make the {what}; found that {user} lacks {right}; "
            f"run ALTER ROLE {user} {right} as a superuser, or set another postgresql_admin_user."
        )


def socket_of(port: int) -> str:
    return f"{SOCKETS}/.s.PGSQL.{port}"


def contact(listen_addresses: str) -> str:
    """Return an address at which a server that listens there is reached from its own host."""
    listed = [word.strip() for word in listen_addresses.split(",") if word.strip()]
    if not listed:
        raise Refused(
            "Wanted a server that listens on TCP, as passwords are tried there; found "
            "listen_addresses empty; set it to localhost at least."
        )
    first = listed[0]
    return {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first)


@contextlib.contextmanager
def acting_as(user: str):
    """Be a user of the system, whom the server lets in through its socket by that alone."""
    former = os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwnam(user)
        os.setegid(entry.pw_gid)
        os.seteuid(entry.pw_uid)
    except (KeyError, PermissionError) as error:
        raise Refused(
            f"Wanted to become the system's user {user}; found {error}; run this as root on the "
            "database's host, or set postgresql_admin_host."
        ) from None
    try:
        yield
    finally:
        os.seteuid(former[0])
        os.setegid(former[1])


def ask(given: dict, check: bool) -> dict:
    """Do all that needs the server."""
    # Neither the environment nor the files that it names are to tell libpq where to go.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    database = Database(given, check)
    try:
        with database.open:
            database.take_turns() if given["turn"] else database.run()
    except psycopg2.Error as error:
        said = " ".join(str(error).split())
        raise Refused(
            f"Wanted the server to answer; found: {said}; fix that and run again."
        ) from None
    result = {"plan": database.plan, "resting": database.resting}
    if given["turn"]:
        result |= {"comes": database.comes, "leaves": database.leaves, "whole": database.is_whole}
    return result


def main():
    text = {"type": "str", "default": ""}
    required = {"type": "str", "required": True}
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            **{"name": required, "owner": required, "group": required},
            "logins": names,
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "admin_host": text,
            "admin_port": {"type": "int", "default": 5432},
            "admin_user": {"type": "str", "default": "postgres"},
            "admin_password": {**text, "no_log": True},
            "admin_database": {"type": "str", "default": "postgres"},
            "sslmode": {"type": "str", "default": "require"},
            **{"ca": text, "python": text},
            "turn": {"type": "str", "choices": ["", "awake", "rest"], "default": ""},
            **{"serving": names, "kept": names, "patience": {"type": "int", "default": 60}},
        },
        supports_check_mode=True,
    )
    given, check = module.params, module.check_mode
    given["passwords"] = {name: str(word) for name, word in given["passwords"].items()}
    result = {"plan": [f"all of database {given['name']}"], "resting": []}
    try:
        check_names(given)
        if psycopg2 is None and os.access(given["python"], os.X_OK) and not has_respawned():
            respawn_module(given["python"])
        if psycopg2 is None and not (check and not given["turn"]):
            raise Refused(
                "Wanted a Python with psycopg2 on the host; found none in "
                f"{given['python'] or 'that of Ansible'}; install python3-psycopg2, or set "
                "postgresql_python to one that has it."
            )
        # In check mode neither the server nor a release with psycopg2 may have been installed.
        local = not given["admin_host"]
        fresh = local and check and not os.path.exists(socket_of(given["admin_port"]))
        if psycopg2 and (given["turn"] or not fresh):
            result = ask(given, check)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(changed=bool(result["plan"]), **result)


if __name__ == "__main__":
    main()
