#!/usr/bin/python
"""Let the two logins of a PostgreSQL database take turns, one half of a turn at a time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_turn
short_description: Replace one of two logins of a database with the other, disabled one
description:
  - Database and roles must exist; M(mlflow_ansible.tracking.postgresql_database) makes them. Roles
    and databases of others are refused, never altered. A password is never sent in clear.
  - An interrupted turn is continued, never reversed. After a complete one nothing is done until
    O(passwords) has a new password for the disabled login.
  - The administrator need not be a superuser. CREATEROLE suffices, since PostgreSQL 16 with ADMIN
    OPTION on both logins.
options:
  turn:
    description:
      - V(awake) gives the next login LOGIN and its password, and notes that the former one is to
        be disabled. V(rest) waits until the former one has no sessions and removes its LOGIN.
    type: str
    choices: [awake, rest]
    required: true
  serving: {description: Logins that the servers use., type: list, elements: str, default: []}
  kept:
    description: Logins that the servers used before, as long as they retain the password.
    type: list
    elements: str
    default: []
  patience: {description: Timeout in seconds for sessions to end., type: int, default: 60}
extends_documentation_fragment: mlflow_ansible.tracking.postgresql
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Enable both logins
  mlflow_ansible.tracking.postgresql_turn:
    name: mlflow
    owner: mlflow_owner
    group: mlflow_readwrite
    logins: [mlflow_a, mlflow_b]
    passwords: "{{ vault_passwords }}"
    turn: awake
    serving: [mlflow_a]
"""

RETURN = r"""
plan: {description: What is (to be) done., type: list, elements: str, returned: success}
resting:
  description: Logins that existed without LOGIN.
  type: list
  elements: str
  returned: success
comes: {description: The next login., type: str, returned: success}
leaves: {description: The former login., type: str, returned: success}
whole:
  description: Whether the last turn is complete, and there is no password for another.
  type: bool
  returned: success
"""

import contextlib
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.postgresql_roles import (
    ADMIN_OPTION_SINCE,
    OPTIONS,
    Roles,
    WrongPassword,
    ask,
    check_names,
    check_passwords,
    check_roles,
    has_psycopg2,
    options_of,
    sql,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)

# Any role may see who is logged in, but not from where.
SESSIONS = """
SELECT pid, coalesce(host(client_addr), 'its own host'), application_name
FROM pg_stat_activity WHERE usename = %s ORDER BY pid
"""


def whose_turn(given: dict, roles: dict) -> tuple[str, str]:
    """Return the next login, and the former one.

    A turn under way continues. Its traces are a note at the former role or, once that has lost its
    LOGIN, its password on servers that used it.

    Args:
        given: The module's options.
        roles: Properties of each existing role, by name.
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
    """Return the note at a role that is about to be disabled."""
    return f"{name} takes its place"


class Turn(Roles):
    """Two logins that take turns.

    Attributes:
        comes, leaves: The next login, and the former one.
        is_whole: The last turn is complete, and there is no password for another.
    """

    def run(self) -> None:
        """Do one half of a turn, or in check mode only plan it."""
        self.look()
        self.log_in()
        check_roles(self.given, self.roles, self.database_owner, self.proven)
        self.comes, self.leaves = whose_turn(self.given, self.roles)
        self.is_whole = self.comes in self.resting and self.has_former_password(self.comes)
        if self.is_whole:
            check_passwords(self.given, self.roles, self.proven)
            self.comes, self.leaves = self.leaves, self.comes
        elif self.given["turn"] == "awake":
            self.awake()
        else:
            self.rest()

    def awake(self) -> None:
        """Enable the next login, and note that the former one is to be disabled."""
        comes, leaves, steps = self.comes, self.leaves, []
        needs_note = leaves not in self.resting and self.roles[leaves]["note"] != leaving(comes)
        if comes not in self.proven or needs_note:
            # Also the one whose LOGIN the second half removes.
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
        """Refuse a new password for the next login if that is in use."""
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
        """Return whether a disabled login still has the password in the vault."""
        try:
            self.as_role(name)
        except WrongPassword:
            return False
        return True

    def rest(self) -> None:
        """Remove the LOGIN of the former one, once it has no sessions."""
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
        """Wait for the sessions of a login to end, within the timeout `patience`."""
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

    def is_busy(self, name: str) -> bool:
        """Return whether a role has sessions."""
        cursor = self.admin.cursor()
        cursor.execute(SESSIONS, [name])
        return cursor.fetchone() is not None

    def sessions(self, name: str) -> str:
        """Describe the sessions of a role."""
        # Unless a superuser, the administrator sees their origin only as a member of the role: it
        # becomes one for this query alone.
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


def main():
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "turn": {"type": "str", "choices": ["awake", "rest"], "required": True},
            "serving": names,
            "kept": names,
            "patience": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    given = options_of(module)
    with refusing(module):
        check_names(given)
        has_psycopg2(given["python"], needed=True)
        turn = ask(Turn, given, module.check_mode)
        module.exit_json(
            changed=bool(turn.plan),
            plan=turn.plan,
            resting=turn.resting,
            comes=turn.comes,
            leaves=turn.leaves,
            whole=turn.is_whole,
        )


if __name__ == "__main__":
    main()
