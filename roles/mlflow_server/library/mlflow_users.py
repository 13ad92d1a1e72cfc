#!/usr/bin/python
"""Make the users of a tracking server, and what they may do, as listed, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_users
short_description: The administrator, users and permissions of a tracking server with basic-auth
description:
  - Asks the instance that serves, over its socket and by MLflow's own API, as the administrator.
    Whether a password is the wanted one is found in the database.
  - An administrator who cannot log in gets the wanted password in the database, by the release and
    with the rights of the server, so that nobody has to know the former one.
  - Users, permissions and roles that are not listed are left alone.
options:
  instance: {description: Name of the instance., type: str, default: mlflow}
  admin: {description: Name of the administrator., type: str, default: admin}
  admin_password: {description: The password that is wanted for him., type: str, required: true}
  users:
    description:
      - Users, each with C(name), C(state), C(password), C(update_password), C(admin) and
        C(permissions), a dictionary of permissions by name of the resource, by its type. The
        permission C(NONE) takes one away.
    type: list
    elements: dict
    default: []
author: mlflow-ansible
"""

EXAMPLES = r"""
- name: Let Ada work on one experiment
  mlflow_users:
    admin_password: "{{ vault_mlflow_admin_password }}"
    users:
      - name: ada
        password: "{{ vault_mlflow_password_ada }}"
        permissions: {experiment: {forecast: EDIT}}
"""

RETURN = r"""
plan: {description: What is (to be) done., type: list, elements: str, returned: success}
"""

import base64
import json
import os
import subprocess
from pathlib import Path
from urllib.parse import urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlflow_slot import ask, probe_command

TIMEOUT_SECONDS = 60
LIST = "/api/2.0/mlflow/users/list"
CURRENT = "/api/2.0/mlflow/users/current"
PERMISSIONS = "/api/3.0/mlflow/users/permissions"
EXPERIMENT = "/api/2.0/mlflow/experiments/get-by-name"


class Refused(Exception):
    """What is wanted cannot be, in words for the operator."""


class Host:
    """What is asked of the host. The unit tests put another one in its place.

    Args:
        instance: Name of the instance.
    """

    def __init__(self, instance: str):
        self.link = Path("/etc", instance, "current.sock")
        self.instance = instance

    def slot(self) -> Path:
        """Return the slot that serves."""
        return self.link.parent / Path(os.readlink(self.link)).parent.name

    def serves_with_users(self) -> bool:
        """Tell whether a colour serves that asks for a name and a password."""
        if not self.link.is_symlink():
            return False
        return (self.slot() / "mlflow_auth_config_path").exists()

    def ask(self, method: str, path: str, login: tuple[str, str], **fields) -> tuple[int, dict]:
        """Return status and answer of a request to the server over its socket.

        Raises:
            OSError: It does not answer.
        """
        # ":" parts the two, and UTF-8 is what MLflow decodes: RFC 7617.
        words = base64.b64encode(":".join(login).encode()).decode()
        body = None if method == "GET" else json.dumps(fields)
        if method == "GET" and fields:
            path = f"{path}?{urlencode(fields)}"
        status, text = ask(self.link, method, path, body, {"Authorization": f"Basic {words}"})
        try:
            return status, json.loads(text)
        except ValueError:
            return status, {"message": text.decode(errors="replace")}

    def wrong_passwords(self, passwords: dict[str, str]) -> list[str]:
        """Return those of these users who are not there, or have another password, in the database.

        Who logs in with it may be remembered by a worker from before.

        Raises:
            Refused: The database does not tell.
        """
        text, secrets = json.dumps(passwords), list(passwords.values())
        return json.loads(self.probe("wrong-passwords", text=text, secrets=secrets))

    def set_admin(self, name: str, password: str) -> None:
        """Give the administrator a password in the database.

        Raises:
            Refused: It does not take it.
        """
        self.probe("administrator", name, text=password, secrets=[password])

    def probe(self, *words: str, text: str, secrets: list[str]) -> str:
        """Ask the probe of the slot that serves, with a text on its standard input."""
        # To check a password takes 0.1 s of a core, on a busy host more.
        seconds = TIMEOUT_SECONDS + len(secrets)
        command = probe_command(self.instance, self.slot(), list(words), seconds)
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
        host: The host that it serves on.
        given: The module's options.
        check: Change nothing, only tell.
    """

    def __init__(self, host: Host, given: dict, check: bool):
        self.host, self.check = host, check
        self.login = (given["admin"], given["admin_password"])
        self.wanted = given["users"]
        self.wrong: list[str] = []
        self.plan: list[str] = []
        self.missing: list[str] = []
        self.mighty: list[str] = []

    def run(self) -> None:
        """Do what is to be done, or in check mode say it."""
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
                return  # nobody else can tell what the users are
            self.reset_admin()
        found = {user["username"]: user for user in self.call("GET", LIST)["users"]}
        known = {self.login[0], *(user["name"] for user in self.wanted)}
        self.mighty = [name for name in found if found[name]["is_admin"] and name not in known]
        for user in self.wanted:
            if user["state"] == "absent":
                if user["name"] in found:
                    self.do(f"no user {user['name']}", "DELETE", "delete", username=user["name"])
                continue
            self.make(user, found.get(user["name"]))
            self.permit(user, user["name"] in found)

    # The administrator

    def is_admin(self) -> bool:
        """Tell whether the server takes him for an administrator."""
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
            raise Refused(
                f"Wanted the server to carry out {method} {path} for "
                f"{fields.get('username', 'the list of users')}; found that it answered {status}: "
                f"{answer.get('message', answer)}; fix that and run again."
            )
        return answer

    def do(self, what: str, method: str, path: str, **fields) -> None:
        """Note a change, and make it unless only that is wanted."""
        self.plan.append(what)
        if not self.check:
            path = path if path.startswith("/") else f"/api/2.0/mlflow/users/{path}"
            self.call(method, path, **fields)

    def make(self, wanted: dict, found: dict | None) -> None:
        """Make a user, or give one that is there the password and rank that are wanted."""
        name, password = wanted["name"], wanted["password"]
        if found is None:
            self.do(f"user {name}", "POST", "create", username=name, password=password)
        elif name in self.wrong:
            fields = {"username": name, "password": password}
            self.do(f"password of {name}", "PATCH", "update-password", **fields)
        if wanted["admin"] != bool(found and found["is_admin"]):
            what = f"{name} {'an' if wanted['admin'] else 'no'} administrator"
            self.do(what, "PATCH", "update-admin", username=name, is_admin=wanted["admin"])

    def permit(self, wanted: dict, exists: bool) -> None:
        """Give a user the permissions that are listed, and take those that are listed as NONE."""
        name = wanted["name"]
        has = {}
        if exists and wanted["permissions"]:
            # Those of roles are the administrator's.
            rows = self.call("GET", f"{PERMISSIONS}/list", username=name)["permissions"]
            own = [row for row in rows if row["role_name"].startswith("__user_")]
            names = ("resource_type", "resource_pattern")
            has = {tuple(row[each] for each in names): row["permission"] for row in own}
        for kind, permissions in wanted["permissions"].items():
            for resource, permission in permissions.items():
                number = self.identify(kind, resource)
                if number is None:
                    if permission != "NONE":
                        self.missing.append(f"{resource} (for {name})")
                    continue
                fields = {"username": name, "resource_type": kind, "resource_id": number}
                former = has.get((kind, number), "NONE")
                if permission == former:
                    continue
                what = f"{permission} for {name} on {kind} {resource}"
                if former != "NONE":
                    # There is no call that changes one.
                    self.do(what, "POST", f"{PERMISSIONS}/revoke", **fields)
                if permission != "NONE":
                    fields["permission"] = permission
                    self.do(what, "POST", f"{PERMISSIONS}/grant", **fields)

    def identify(self, kind: str, resource: str) -> str | None:
        """Return how the server calls a resource; None for an experiment that is not there."""
        if kind != "experiment" or resource == "*":
            return resource
        status, answer = self.host.ask("GET", EXPERIMENT, self.login, experiment_name=resource)
        if status == 404:
            return None
        if status != 200:
            raise Refused(
                f"Wanted the number of the experiment {resource}; found that the server answered "
                f"{status}: {answer.get('message', answer)}; fix that and run again."
            )
        return answer["experiment"]["experiment_id"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "default": "mlflow"},
            "admin": {"type": "str", "default": "admin"},
            "admin_password": {"type": "str", "required": True, "no_log": True},
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
    users = Users(Host(module.params["instance"]), module.params, module.check_mode)
    try:
        users.run()
    except Refused as refused:
        module.fail_json(msg=str(refused))
    except OSError as error:
        module.fail_json(
            msg=f"Wanted the server to answer on {users.host.link}; found: {error}; look at its "
            "journal."
        )
    if users.missing:
        module.warn(
            "Wanted experiments to give permissions on; found none named "
            f"{', '.join(users.missing)}; run this again once somebody has made them."
        )
    if users.mighty:
        module.warn(
            "Wanted administrators that are listed; found that "
            f"{', '.join(users.mighty)} may do everything, too; list them, or with state: absent."
        )
    plan = list(dict.fromkeys(users.plan))
    module.exit_json(changed=bool(plan), plan=plan)


if __name__ == "__main__":
    main()
