#!/usr/bin/python
"""Make users and permissions of a tracking server as listed, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_users
short_description: The administrator, users and permissions of a tracking server with basic-auth
description:
  - Uses MLflow's own API as the administrator, over the socket of the running instance. Passwords
    are compared in the database.
  - An administrator who cannot log in gets the wanted password in the database, by the release and
    with the rights of the server, so the former one need not be known.
  - Experiments and registered models that are named with a permission and do not exist are made,
    owned by the administrator. An existing one on which a user without a listed permission for it
    holds C(MANAGE) is refused before anything is changed.
  - Users, permissions and roles that are not listed are left alone. Users and permissions on C(*)
    among them are reported.
options:
  instance: {description: Name of the instance., type: str, default: mlflow}
  admin: {description: Name of the administrator., type: str, default: admin}
  admin_password: {description: The password of the administrator., type: str, required: true}
  users:
    description: Users and their permissions.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name of the user., type: str, required: true}
      state:
        description: Whether the user is to exist.
        type: str
        choices: [present, absent]
        default: present
      password: {description: Password of the user., type: str, default: ""}
      update_password:
        description: Whether an existing user gets that password, too.
        type: str
        choices: [always, on_create]
        default: always
      admin: {description: Whether the user is an administrator., type: bool, default: false}
      permissions:
        description:
          - A dictionary of permissions by name of the resource, by its type. V(NONE) removes a
            permission.
        type: dict
        default: {}
  only_admin:
    description: Handle the administrator alone, not users and permissions.
    type: bool
    default: false
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Let Ada work on one experiment
  mlflow_ansible.tracking.mlflow_users:
    admin_password: "{{ vault_mlflow_admin_password }}"
    users:
      - name: ada
        password: "{{ vault_mlflow_password_ada }}"
        permissions: {experiment: {forecast: EDIT}}
"""

RETURN = r"""
plan: {description: What is (to be) done., type: list, elements: str, returned: success}
unlisted:
  description: Permissions on C(*) that users have and that are not listed.
  type: list
  elements: str
  returned: success
"""

import base64
import json
import subprocess
from pathlib import Path
from urllib.parse import urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import (
    Instance,
    ask,
    probe_command,
)

TIMEOUT_SECONDS = 60
LIST = "/api/2.0/mlflow/users/list"
CURRENT = "/api/2.0/mlflow/users/current"
PERMISSIONS = "/api/3.0/mlflow/users/permissions"
# Calls that look up by name, and create, what is made here if it does not exist.
EXPERIMENT = ("/api/2.0/mlflow/experiments/get-by-name", "/api/2.0/mlflow/experiments/create")
MODEL = ("/api/2.0/mlflow/registered-models/get", "/api/2.0/mlflow/registered-models/create")
# From the least to the most.
LEVELS = ("NONE", "READ", "USE", "EDIT", "MANAGE")


class Host:
    """What is needed from the host. The unit tests replace it.

    Args:
        instance: The instance.
    """

    def __init__(self, instance: Instance):
        self.instance, self.link = instance, instance.current

    def slot(self) -> Path:
        """Return the serving slot."""
        return self.instance.config / self.instance.linked()

    def serves_with_users(self) -> bool:
        """Return whether the serving colour asks for a name and a password."""
        return bool(self.instance.linked()) and (self.slot() / "mlflow_auth_config_path").exists()

    def ask(self, method: str, path: str, login: tuple[str, str], **fields) -> tuple[int, dict]:
        """Return status and response of a request to the server over its socket.

        Raises:
            OSError: It does not answer.
        """
        # ":" separates the two, and MLflow decodes UTF-8: RFC 7617.
        words = base64.b64encode(":".join(login).encode()).decode()
        body = None if method == "GET" else json.dumps(fields)
        if method == "GET" and fields:
            path = f"{path}?{urlencode(fields)}"
        login_header = {"Authorization": f"Basic {words}"}
        status, text = ask(self.link, method, path, body, login_header)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, {"message": text.decode(errors="replace")}

    def wrong_passwords(self, passwords: dict[str, str]) -> list[str]:
        """Return which of these users are missing or have another password in the database.

        A login proves nothing, as a worker may have cached an earlier one.

        Raises:
            Refused: The database could not be asked.
        """
        text, secrets = json.dumps(passwords), list(passwords.values())
        return json.loads(self.probe("wrong-passwords", text=text, secrets=secrets))

    def set_admin(self, name: str, password: str) -> None:
        """Give the administrator a password in the database.

        Raises:
            Refused: That failed.
        """
        self.probe("administrator", name, text=password, secrets=[password])

    def probe(self, *words: str, text: str, secrets: list[str]) -> str:
        """Run the probe of the serving slot, with a text on its standard input."""
        # Checking a password takes 0.1 s of a core, more on a busy host.
        seconds = TIMEOUT_SECONDS + len(secrets)
        command = probe_command(self.instance.name, self.slot(), list(words), seconds)
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            for secret in filter(None, secrets):
                said = said.replace(secret, "********")
            raise Refused(
                f"Wanted the database of the users to answer; found: "
                f"{said or f'exit code {done.returncode}'}; fix that and run again."
            )
        return done.stdout


class Users:
    """The users of a server.

    Args:
        host: The server's host.
        given: The module's options.
        check: Change nothing, only plan.
    """

    def __init__(self, host: Host, given: dict, check: bool):
        self.host, self.check = host, check
        self.login = (given["admin"], given["admin_password"])
        self.wanted = given["users"]
        self.only_admin = given.get("only_admin", False)
        # The server's ids of named resources, by type and name; None if missing.
        self.numbers: dict[tuple[str, str], str | None] = {}
        self.wrong: list[str] = []
        self.plan: list[str] = []
        self.administrators: list[str] = []
        self.others: list[str] = []
        self.deleted: list[str] = []
        self.unlisted: list[str] = []

    def run(self) -> None:
        """Do what is to be done, or in check mode only plan it."""
        if not self.host.serves_with_users():
            if not self.check:
                raise Refused(
                    "Wanted a server that serves and asks for passwords; found none; run site.yml."
                )
            self.plan.append("all users")
            return
        compared = [
            user
            for user in self.wanted
            if user["update_password"] == "always" and user["state"] == "present"
        ]
        passwords = {user["name"]: user["password"] for user in compared}
        self.wrong = self.host.wrong_passwords(passwords | dict([self.login]))
        if self.login[0] in self.wrong or not self.is_admin():
            self.plan.append(f"password of {self.login[0]}")
            if self.check:
                return  # only the administrator can list the users
            self.reset_admin()
        if self.only_admin:
            return
        # Before the users: the owners of what is found here have their permissions by then.
        self.look_up()
        # With their roles, thus with all their permissions.
        found = {user["username"]: user for user in self.call("GET", LIST)["users"]}
        known = {self.login[0], *(user["name"] for user in self.wanted)}
        # Without a list the users are managed in MLflow.
        if self.wanted:
            self.others = [
                name for name in found if name not in known and not found[name]["is_admin"]
            ]
        self.administrators = [
            name for name in found if found[name]["is_admin"] and name not in known
        ]
        others = [user for user in found.values() if not self.is_mighty_or_gone(user)]
        self.refuse_owners(others)
        self.unlisted = [text for user in others for text in self.beyond_the_list(user)]
        self.make_resources()
        for user in self.wanted:
            if user["state"] == "absent":
                if user["name"] in found:
                    self.do(f"no user {user['name']}", "DELETE", "delete", username=user["name"])
                continue
            self.make(user, found.get(user["name"]))
            self.permit(user, found.get(user["name"]))

    # The administrator

    def is_admin(self) -> bool:
        """Return whether the server accepts the login as an administrator's."""
        status, answer = self.host.ask("GET", CURRENT, self.login)
        if status not in (200, 401):
            raise Refused(
                f"Wanted the server to tell whether {self.login[0]} can log in; found that it "
                f"answered {status}: {answer.get('message', answer)}; look at its journal."
            )
        return status == 200 and answer["user"]["is_admin"]

    def reset_admin(self) -> None:
        self.host.set_admin(*self.login)
        if not self.is_admin():
            raise Refused(
                f"Wanted {self.login[0]} to log in with the new password; found that the server "
                "refuses it; look at its journal, and whether it has another database of users."
            )

    # Users

    def call(self, method: str, path: str, **fields) -> dict:
        status, answer = self.host.ask(method, path, self.login, **fields)
        if status != 200:
            whom = fields.get("username") or fields.get("name", "the list of users")
            raise Refused(
                f"Wanted the server to carry out {method} {path} for {whom}; found that it "
                f"answered {status}: {answer.get('message', answer)}; fix that and run again."
            )
        return answer

    def do(self, what: str, method: str, path: str, **fields) -> dict:
        """Note a change, and make it unless in check mode. Return the response, if any."""
        self.plan.append(what)
        if self.check:
            return {}
        path = path if path.startswith("/") else f"/api/2.0/mlflow/users/{path}"
        return self.call(method, path, **fields)

    def make(self, wanted: dict, found: dict | None) -> None:
        """Make a user, or give an existing one the wanted password and rank."""
        name, password = wanted["name"], wanted["password"]
        if found is None:
            self.do(f"user {name}", "POST", "create", username=name, password=password)
        elif name in self.wrong:
            fields = {"username": name, "password": password}
            self.do(f"password of {name}", "PATCH", "update-password", **fields)
        if wanted["admin"] != bool(found and found["is_admin"]):
            what = f"{name} {'an' if wanted['admin'] else 'no'} administrator"
            self.do(what, "PATCH", "update-admin", username=name, is_admin=wanted["admin"])

    def permit(self, wanted: dict, found: dict | None) -> None:
        """Grant a user's listed permissions, and revoke those listed as NONE."""
        name = wanted["name"]
        # Permissions of roles are managed by the administrator.
        rows = grants(found) if found else []
        has = {(kind, what): level for kind, what, level, role in rows if not role}
        for kind, resource, permission in named(wanted):
            number = self.number(kind, resource)
            former = has.get((kind, number), "NONE")
            if permission == former:
                continue
            fields = {"username": name, "resource_type": kind, "resource_id": number}
            what = f"{permission} for {name} on {kind} {resource}"
            if former != "NONE":
                # There is no call to change one.
                self.do(what, "POST", f"{PERMISSIONS}/revoke", **fields)
            if permission != "NONE":
                fields["permission"] = permission
                self.do(what, "POST", f"{PERMISSIONS}/grant", **fields)

    # Named resources

    def look_up(self) -> None:
        """Look up each named experiment and registered model, once."""
        for user in self.wanted:
            for kind, name, permission in named(user):
                if name == "*" or (kind, name) in self.numbers:
                    continue
                if kind == "experiment":
                    experiment = self.get(kind, name, EXPERIMENT[0], "experiment_name")
                    self.numbers[kind, name] = experiment and experiment["experiment_id"]
                elif kind == "registered_model" and permission != "NONE":
                    self.numbers[kind, name] = self.get(kind, name, MODEL[0], "name") and name

    def get(self, kind: str, name: str, path: str, field: str) -> dict | None:
        """Return a resource; None if it does not exist."""
        status, answer = self.host.ask("GET", path, self.login, **{field: name})
        if status == 404:
            return None
        if status != 200:
            raise Refused(
                f"Wanted to look up the {kind} {name}; found that the server answered {status}: "
                f"{answer.get('message', answer)}; fix that and run again."
            )
        found = answer[kind]
        # MLflow still finds it by name. Any user with MANAGE may have deleted it.
        if found.get("lifecycle_stage") == "deleted":
            self.deleted.append(f"{name} ({found['experiment_id']})")
        return found

    def number(self, kind: str, name: str) -> str | None:
        """Return the server's id of a resource; None for an experiment that does not exist."""
        return self.numbers.get((kind, name)) if kind == "experiment" and name != "*" else name

    def make_resources(self) -> None:
        """Make what is named with a permission and does not exist, before a user does.

        Its creator becomes its owner, and would see what users with a permission do.
        """
        for user in self.wanted:
            for kind, name, permission in named(user):
                if permission == "NONE" or self.numbers.get((kind, name), name) is not None:
                    continue
                path = {"experiment": EXPERIMENT, "registered_model": MODEL}[kind][1]
                answer = self.do(f"make {kind} {name}", "POST", path, name=name)
                # In check mode there is no id, so the name is noted: once is enough.
                self.numbers[kind, name] = answer.get("experiment_id", name)

    # Users who may do more than is listed

    def is_mighty_or_gone(self, user: dict) -> bool:
        """Return whether an existing user will be an administrator, or will be removed."""
        wanted = self.listed(user["username"])
        if user["username"] == self.login[0] or wanted is None:
            return user["is_admin"]
        return wanted["admin"] or wanted["state"] == "absent"

    def listed(self, name: str) -> dict | None:
        return next((user for user in self.wanted if user["name"] == name), None)

    def permissions(self, name: str) -> dict[tuple, str]:
        """Return a user's listed permissions, by type and id."""
        user = self.listed(name)
        rows = named(user) if user else []
        return {(kind, self.number(kind, what)): level for kind, what, level in rows}

    def refuse_owners(self, users: list[dict]) -> None:
        """Refuse a named resource that belongs to a user it is not listed for.

        The owner sees, changes and shares what the listed users do. A permission that is listed,
        even NONE, replaces the owner's.
        """
        owned = []
        rows = [row for user in self.wanted for row in named(user)]
        wanted = {(kind, name) for kind, name, permission in rows if permission != "NONE"}
        for kind, name in [each for each in self.numbers if each in wanted]:
            # Changing a tag turns a prompt into a model of that name.
            kinds = ("registered_model", "prompt") if kind == "registered_model" else (kind,)
            owns = {(each, self.number(kind, name), "MANAGE", "") for each in kinds}
            for user in users:
                owned += [
                    f"{user['username']} holds MANAGE on {what[0]} {name}"
                    for what in owns.intersection(grants(user))
                    if what[:2] not in self.permissions(user["username"])
                ]
        if owned:
            raise Refused(
                "Wanted what mlflow_server_users names to belong to those who are listed for it; "
                f"found that {', '.join(owned)}; if that is meant, give the user a line with the "
                "permission MANAGE on it, else take it away with NONE there or in MLflow, or "
                "choose another name."
            )

    def beyond_the_list(self, user: dict) -> list[str]:
        """Return a user's unlisted permissions on everything of a type."""
        found, listed = [], self.permissions(user["username"])
        for kind, what, level, role in grants(user):
            wanted = listed.get((kind, "*"))
            if what != "*" or level not in LEVELS or wanted == "DENY":
                continue
            # The user's own becomes what is listed; a role's is covered by a listed one as high.
            if wanted and (not role or LEVELS.index(wanted) >= LEVELS.index(level)):
                continue
            by = f" by the role {role}" if role else ""
            found.append(f"{level} for {user['username']} on {kind} *{by}")
        return found


def named(user: dict) -> list[tuple[str, str, str]]:
    """Return type, name and permission of each resource listed for a user."""
    by_kind = user["permissions"] or {} if user["state"] == "present" else {}
    return [(kind, str(name), each) for kind in by_kind for name, each in by_kind[kind].items()]


def grants(user: dict) -> list[tuple[str, str, str, str]]:
    """Return type, pattern, permission and role of each grant of a user; no role: their own.

    MLflow keeps a user's own grants in a role that no one else can make or have.
    """
    return [
        (row["resource_type"], row["resource_pattern"], row["permission"], name)
        for role in user["roles"]
        for name in ["" if role["name"].startswith("__user_") else role["name"]]
        for row in role["permissions"]
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "default": "mlflow"},
            "admin": {"type": "str", "default": "admin"},
            "admin_password": {"type": "str", "required": True, "no_log": True},
            "only_admin": {"type": "bool", "default": False},
            "users": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "state": {
                        "type": "str",
                        "choices": ["present", "absent"],
                        "default": "present",
                    },
                    "password": {"type": "str", "default": "", "no_log": True},
                    "update_password": {
                        "type": "str",
                        "choices": ["always", "on_create"],
                        "default": "always",
                        "no_log": False,
                    },
                    "admin": {"type": "bool", "default": False},
                    "permissions": {"type": "dict", "default": {}},
                },
            },
        },
        supports_check_mode=True,
    )
    users = Users(Host(Instance(module.params["instance"])), module.params, module.check_mode)
    with refusing(module):
        try:
            users.run()
        except OSError as error:
            raise Refused(
                f"Wanted the server to answer on {users.host.link}; found: {error}; look at its "
                "journal."
            ) from error
    if users.administrators:
        module.warn(
            "Wanted administrators that are listed; found that "
            f"{', '.join(users.administrators)} are administrators, too; list them, or remove "
            "them with state: absent."
        )
    if users.deleted:
        module.warn(
            "Wanted experiments for the users that are listed with them; found deleted: "
            f"{', '.join(users.deleted)}, so nobody can log there; restore each by its number with "
            "`mlflow experiments restore --experiment-id`, or take it out of the list."
        )
    if users.others:
        module.warn(
            "Wanted users that are listed in mlflow_server_users; found that "
            f"{', '.join(users.others)} can log in, too; list them, or with state: absent."
        )
    if users.unlisted:
        module.warn(
            "Wanted permissions on * that are listed in mlflow_server_users; found "
            f"{', '.join(users.unlisted)}; list them, or take them away, with NONE in the list, or "
            "in MLflow if they come by a role or are of a type that the list does not have."
        )
    plan = list(dict.fromkeys(users.plan))
    module.exit_json(changed=bool(plan), plan=plan, unlisted=users.unlisted)


if __name__ == "__main__":
    main()
