"""A PostgreSQL server, local or RDS, as seen by the administrator of one database and its roles."""

from __future__ import annotations

import contextlib
import os
import pwd
import re

from ansible.module_utils.common.respawn import has_respawned, respawn_module
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.accounts import acting_as
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import in_memory
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.network import reachable
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused

try:
    import psycopg2
    from psycopg2 import extensions, sql
except ImportError:
    psycopg2 = extensions = sql = None

OPTIONS = {
    **dict.fromkeys(["name", "owner", "group"], {"type": "str", "required": True}),
    "logins": {"type": "list", "elements": "str", "default": []},
    "passwords": {"type": "dict", "required": True, "no_log": True},
    "admin_host": {"type": "str", "default": ""},
    "admin_port": {"type": "int", "default": 5432},
    "admin_user": {"type": "str", "default": "postgres"},
    "admin_password": {"type": "str", "default": "", "no_log": True},
    "admin_database": {"type": "str", "default": "postgres"},
    "sslmode": {"type": "str", "default": "require"},
    "ca": {"type": "str", "default": ""},
    "python": {"type": "str", "default": ""},
}

OLDEST = 150000
# Since then CREATEROLE alone cannot alter roles, and a role's creator lacks some of its rights.
ADMIN_OPTION_SINCE = 160000
# Where Debian's server has its socket; other builds of libpq look elsewhere.
SOCKETS = "/var/run/postgresql"
# Any number not used by others: two hosts may create the same database at the same time.
LOCK = 7165534
EXAMPLE = "example-change-me"

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
# Its columns after the role's name. `alterable` means by the administrator.
ROLE_COLUMNS = ("login", "privileged", "owns", "member_of", "note", "alterable")
DATABASE = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
ADMIN = """
SELECT rolsuper, rolsuper OR rolcreaterole, rolsuper OR rolcreatedb
FROM pg_roles WHERE rolname = current_user
"""


class WrongPassword(Exception):
    """The role has another password, or none."""


def remedy(said: str, user: str, place: str) -> str | None:
    """Return wanted, found and remedy for an error of libpq or the server about a connection.

    Returns:
        None if no remedy is known here.
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
            f"the system's user {user} to be admitted by {place}",
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
    """Return the same for an error without a known remedy."""
    said = " ".join(said.split())
    return f"Wanted to connect to {place} as {user}; found: {said}; fix that and run again."


def check_names(given: dict) -> None:
    """Refuse names and passwords that are wrong whatever the server has."""
    roles = [given["owner"], given["group"], *given["logins"]]
    for name in [given["name"], *roles]:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) or name.startswith("pg_"):
            raise Refused(
                f"Wanted names of small letters, digits and _, at most 63; found '{name}'; correct "
                "postgresql_database, _owner, _group or _logins."
            )
    # The owner may be the administrator, for a database made by hand.
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
    """Refuse existing roles and databases that are used for something else.

    Args:
        given: The module's options.
        roles: Properties of each existing role, by name.
        database_owner: Owner of the database, None if it does not exist.
        proven: Roles that can log in with their wanted password.
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
        if name in roles and roles[name]["privileged"]:
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
    """Refuse a new password for a login that servers may be using with the former one."""
    for name in given["logins"]:
        if name in roles and roles[name]["login"] and name not in proven:
            raise Refused(
                f"Wanted the password that {name} has; found another one in the vault; put the "
                "former back. To change passwords give the login that rests a new one, and run "
                "playbooks/rotate_database_password.yml."
            )


class Roles:
    """The roles of one database, and their server.

    Args:
        given: The module's options.
        check: Change nothing, only plan.

    Attributes:
        plan: What was done, or in check mode would be.
        resting: Logins that exist without LOGIN.
        admin: The administrator's connection; set by `look`, as are `roles`, properties of each
            role by name, and `database_owner`, None if the database does not exist.
        proven: Roles that can log in with their wanted password; set by `log_in`.
    """

    def __init__(self, given: dict, check: bool):
        self.given, self.check = given, check
        self.name, self.owner, self.group = given["name"], given["owner"], given["group"]
        self.logins, self.passwords = given["logins"], given["passwords"]
        self.host, self.port = given["admin_host"], given["admin_port"]
        self.plan: list[str] = []
        self.resting: list[str] = []
        self.open = contextlib.ExitStack()
        self.ca = ""
        if given["ca"] and self.host:
            (self.ca,) = self.open.enter_context(in_memory(given["ca"]))

    # Connections.

    def connect(self, **more):
        """Return an autocommit connection that is closed with `open`."""
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
        # Through its socket the server authenticates system users without a password.
        try:
            user = pwd.getpwnam(given["admin_user"])
            with acting_as(user.pw_uid, user.pw_gid):
                return self.connect(host=SOCKETS, **where)
        except (KeyError, PermissionError) as error:
            raise Refused(
                f"Wanted to become the system's user {given['admin_user']}; found {error}; run "
                "this as root on the database's host, or set postgresql_admin_host."
            ) from None

    def as_role(self, name: str):
        """Log in to the database with the wanted password.

        Returns:
            The connection; None if the password is right but something else is missing: LOGIN, the
            database, or the CONNECT right.

        Raises:
            WrongPassword: The role has another password.
            Refused: The password could not be checked.
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
            # The server checks LOGIN and the database after the password.
            if "is not permitted to log in" in said:
                return None
            if "database" in said and "does not exist" in said:
                return None
            if "password authentication failed" in said:
                raise WrongPassword(name) from None
            # For instance a login that may not CONNECT yet.
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
        """Refuse a server whose login errors cannot be parsed: libpq has no codes for them.

        Raises:
            Refused: Its messages are not in English.
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
        """Return where the server is, for messages; without a host its unix socket."""
        return f"{host}:{self.port}" if host else socket_of(self.port)

    # State.

    def look(self) -> None:
        """Read the state of the server, the roles and the database."""
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
        """Find out which of the existing roles have the wanted password."""
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

    def prove(self, name: str):
        """Log in as a role that was made or changed, so that problems show now."""
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

    def check_alterable(self, names: list[str]) -> None:
        """Refuse an administrator who may not alter those of the roles that exist.

        Up to PostgreSQL 15 CREATEROLE suffices; upgrading from there does not add ADMIN OPTION.
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

    def verifier(self, name: str):
        """Return what the server stores for a password, which cannot be recovered from it."""
        password, scope = self.passwords[name], self.admin
        text = extensions.encrypt_password(password, name, scope, "scram-sha-256")
        return sql.Literal(text)

    def alter(self, steps: list) -> None:
        """Run steps that need CREATEROLE."""
        if steps and not self.makes_roles:
            self.refuse_admin("CREATEROLE", steps[0][0])
        self.carry_out(self.admin, steps)

    def carry_out(self, connection, steps: list, together: bool = True) -> None:
        """Run statements, and add them to the plan.

        Args:
            steps: Pairs of a description and a statement.
            together: In one transaction.
        """
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
            # Not the statement, which contains a verifier.
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
        """Refuse an administrator without a right (CREATEROLE or CREATEDB)."""
        user = self.given["admin_user"]
        raise Refused(
            f"Wanted an administrator who can make the {what}; found that {user} lacks {right}; "
            f"run ALTER ROLE {user} {right} as a superuser, or set another postgresql_admin_user."
        )


def socket_of(port: int) -> str:
    """Return the unix socket of this host's server."""
    return f"{SOCKETS}/.s.PGSQL.{port}"


def contact(listen_addresses: str) -> str:
    """Return an address at which such a server is reached from its own host."""
    listed = [word.strip() for word in listen_addresses.split(",") if word.strip()]
    if not listed:
        raise Refused(
            "Wanted a server that listens on TCP, as passwords are tried there; found "
            "listen_addresses empty; set it to localhost at least."
        )
    return reachable(listed[0])


def options_of(module) -> dict:
    """Return a module's options, passwords as text: YAML reads some as numbers."""
    words = module.params["passwords"].items()
    return module.params | {"passwords": {name: str(word) for name, word in words}}


def has_psycopg2(python: str, needed: bool) -> bool:
    """Return whether psycopg2 is installed. Restarts the module with a given Python that has it.

    Raises:
        Refused: It is missing, and needed.
    """
    if psycopg2 is None and os.access(python, os.X_OK) and not has_respawned():
        respawn_module(python)
    if psycopg2 is None and needed:
        raise Refused(
            "Wanted a Python with psycopg2 on the host; found none in "
            f"{python or 'that of Ansible'}; install python3-psycopg2, or set postgresql_python to "
            "one that has it."
        )
    return psycopg2 is not None


def ask(kind: type, given: dict, check: bool) -> Roles:
    """Do everything that needs the server.

    Args:
        kind: A subclass of `Roles` whose `run` does its module's work, or plans it in check mode.

    Returns:
        The instance that has run.
    """
    # libpq must take its settings neither from the environment nor from files that it names.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    asked = kind(given, check)
    try:
        with asked.open:
            asked.run()
    except psycopg2.Error as error:
        said = " ".join(str(error).split())
        raise Refused(
            f"Wanted the server to answer; found: {said}; fix that and run again."
        ) from None
    return asked
