#!/usr/bin/python
"""Make one database and its roles on a PostgreSQL server, local or RDS, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_database
short_description: One database with an owner, a group that reads and writes, and its logins
description:
  - The owner owns the database and its tables. The group, without a login, may read and write all
    tables of the owner in the schema public, also future ones. The logins are members of it.
  - The state is compared with what is wanted before anything is changed. Passwords are checked by
    logging in, and never sent to the server in clear.
  - Roles and databases of others are refused, never altered. The password of an existing login is
    not changed, as servers may use it. A login that exists without LOGIN is disabled, and is left
    alone. One that is made beside an enabled one is itself disabled, and has no password;
    M(mlflow_ansible.tracking.postgresql_turn) changes which of the two is disabled.
  - The administrator need not be a superuser. CREATEROLE and CREATEDB suffice, since PostgreSQL 16
    with ADMIN OPTION on roles that it has not made itself.
extends_documentation_fragment: mlflow_ansible.tracking.postgresql
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Make the database
  mlflow_ansible.tracking.postgresql_database:
    name: mlflow
    owner: mlflow_owner
    group: mlflow_readwrite
    logins: [mlflow_a, mlflow_b]
    passwords: "{{ vault_passwords }}"
"""

RETURN = r"""
plan: {description: What is (to be) done., type: list, elements: str, returned: success}
resting:
  description: Logins that exist without LOGIN.
  type: list
  elements: str
  returned: success
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.postgresql_roles import (
    ADMIN_OPTION_SINCE,
    OPTIONS,
    Roles,
    ask,
    check_names,
    check_passwords,
    check_roles,
    has_psycopg2,
    options_of,
    socket_of,
    sql,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)

TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
SEQUENCE_RIGHTS = ("USAGE", "SELECT")

# Rights of PUBLIC (0) and the group on the database.
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
# The owner's tables or sequences on which the group lacks a right.
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


class Database(Roles):
    """One database, its roles and their rights."""

    def run(self) -> None:
        """Do what is to be done, or in check mode only plan it."""
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

    def joining(self) -> list[str]:
        """Return the logins that are not yet members of the group."""
        member_of = {name: role["member_of"] for name, role in self.roles.items()}
        return [name for name in self.logins if self.group not in member_of.get(name, ())]

    def altered(self) -> list[str]:
        """Return the roles that need the administrator's ADMIN OPTION, if they exist."""
        names = [self.group] if self.joining() else []
        becomes = self.owner in self.roles and not self.database_owner
        if self.owner not in self.proven or (becomes and not self.may_become_owner()):
            names.append(self.owner)
        return names

    def may_become_owner(self) -> bool:
        """Return whether the administrator may make a database for the owner, who exists."""
        cursor = self.admin.cursor()
        newer = self.admin.server_version >= ADMIN_OPTION_SINCE
        cursor.execute("SELECT pg_has_role(%s, %s)", [self.owner, "SET" if newer else "MEMBER"])
        return cursor.fetchone()[0]

    def make_roles(self) -> list[str]:
        """Make roles, set passwords and memberships, in one transaction; return the logins."""
        steps, identifier = [], sql.Identifier
        new = [name for name in (self.owner, self.group, *self.logins) if name not in self.roles]
        able = [name for name in self.logins if name in self.roles and name not in self.resting]
        able = able or [name for name in self.logins if name in new][:1]
        joining = self.joining()
        for name in new:
            # A disabled login gets its password together with its LOGIN.
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
        self.alter(steps)
        return [name for name in able if name in {*new, *joining}]

    def make_database(self) -> None:
        """Make the database, unless it exists."""
        if self.database_owner:
            return
        if not self.makes_databases:
            self.refuse_admin("CREATEDB", f"database {self.name}")
        steps = []
        if not self.admin_is_super and not self.check:
            # Unless a superuser, it can make databases only for roles that it may SET ROLE to.
            newer = self.admin.server_version >= ADMIN_OPTION_SINCE
            if not self.may_become_owner():
                grant = sql.SQL("GRANT {} TO CURRENT_USER" + " WITH INHERIT FALSE" * newer)
                what = f"{self.given['admin_user']} in {self.owner}"
                steps.append((what, grant.format(sql.Identifier(self.owner))))
        self.carry_out(self.admin, steps)
        make = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'")
        make = make.format(sql.Identifier(self.name), sql.Identifier(self.owner))
        # Cannot be in a transaction; the next run grants missing rights.
        self.carry_out(self.admin, [(f"database {self.name}", make)], together=False)

    def grant(self) -> None:
        """Grant the group its rights, as the owner, who may always do so."""
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
        # Others may use a database that existed before.
        if rights & {("", "CONNECT"), ("", "TEMPORARY")} and not cursor.fetchone()[0]:
            add("PUBLIC out", "REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC")
        if (self.group, "CONNECT") not in rights:
            add("CONNECT", "GRANT CONNECT ON DATABASE {database} TO {group}")
        if self.group not in self.roles and self.check:
            self.plan.append("rights on tables")
            return self.carry_out(self.as_owner, steps)

        cursor.execute(SCHEMA_RIGHTS, known)
        schema_owner, is_ours, creates, uses, everybody_creates = cursor.fetchone()
        # In a database from before PostgreSQL 15 the schema public is the administrator's.
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


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    given, check = options_of(module), module.check_mode
    plan, resting = [f"all of database {given['name']}"], []
    with refusing(module):
        check_names(given)
        # In check mode the server and a release with psycopg2 may not be installed yet.
        is_there = given["admin_host"] or os.path.exists(socket_of(given["admin_port"]))
        if has_psycopg2(given["python"], needed=not check) and (is_there or not check):
            database = ask(Database, given, check)
            plan, resting = database.plan, database.resting
    module.exit_json(changed=bool(plan), plan=plan, resting=resting)


if __name__ == "__main__":
    main()
