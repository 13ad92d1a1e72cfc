#!/usr/bin/python
"""Make MLflow's tables in an empty PostgreSQL database, or check whether a server would work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_database
short_description: Make MLflow's tables in an empty PostgreSQL database, or check
description:
  - Logs in as the owner of the database and, if MLflow's tables do not exist, makes them with the
    release. A database that is not empty is never changed.
  - Or checks the databases and the artifact store of a server that does not run yet, with its
    settings, as far as that is possible without a change.
  - Passwords and files are kept in memory only.
options:
  release:
    description: Path of the virtualenv whose MLflow is used.
    type: path
    required: true
  script:
    description: Text of the Python script to run, C(probe.py).
    type: str
    required: true
  what:
    description:
      - Which tables to make, C(tracking), or those of users and permissions, MLflow's own
        (C(users)) or mlflow-oidc-auth's (C(oidc)). C(look) makes none and only checks.
    type: str
    choices: [tracking, users, oidc, look]
    default: tracking
  environment:
    description: Variables of libpq for the connection, C(PGHOST), C(PGUSER) and so on.
    type: dict
    default: {}
  password:
    description: The password for the connection.
    type: str
    default: ''
  settings:
    description:
      - All variables of a server, for a check. As one text, as each occurrence of a secret
        value, such as a 2, would be masked in errors.
    type: json
  files:
    description: Texts of files, by the variable that holds their path, such as C(PGSSLROOTCERT).
    type: dict
    default: {}
  may_be_made:
    description: Whether the run makes database and roles first, which check mode does not.
    type: bool
    default: false
  user:
    description: User to check as, by default root. Give the server's, for its rights and home.
    type: str
    default: ''
  former:
    description: The serving slot, with which a check compares.
    type: path
  allow:
    description:
      - What a check tolerates, artifacts that would no longer be found (C(any-artifact-root)) and
        a database without tables (C(no-tables)).
    type: list
    elements: str
    choices: [any-artifact-root, no-tables]
    default: []
  timeout:
    description: Timeout of a check in seconds.
    type: int
    default: 120
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Make MLflow's tables in an empty database
  mlflow_ansible.tracking.mlflow_database:
    release: "{{ mlflow_server_release }}"
    script: "{{ lookup('ansible.builtin.file', 'probe.py') }}"
    environment: {PGHOST: db.example.com, PGDATABASE: mlflow, PGUSER: owner}
    password: secret
"""

RETURN = r""""""

import json
import os
import pwd
import re
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import in_memory
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import settings_of

# Exit code of the script if the database refused its login, or it lacks a right.
NOT_LET_IN = 2
SILENT = (
    "Wanted database and artifact store to answer within {seconds} s; found that they do not; let "
    "this host through to both (security group, firewall), or fix their addresses."
)


def environment_of(given: dict) -> dict[str, str]:
    """Return the given variables, without those that name files."""
    found = {"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://"}
    found |= given["environment"] | json.loads(given["settings"] or "{}")
    found |= {"PGPASSWORD": given["password"]} if given["password"] else {}
    return {name: str(value) for name, value in found.items()}


def run(given: dict, words: list[str]) -> tuple[int, str, str]:
    """Run the script; return code, output and error.

    Only root can read root's environment; a service user's can also be read by that user.

    Raises:
        OSError, KeyError: The release or the user does not exist.
        subprocess.TimeoutExpired: It does not end in time.
    """
    user = pwd.getpwnam(given["user"]) if given["user"] else pwd.getpwuid(os.getuid())
    home, as_user = "/nonexistent", {}
    if given["user"]:
        home = user.pw_dir
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    settings = {"HOME": home, "PATH": os.defpath}
    # Nothing is written into the release, and nothing imported from the working directory.
    settings |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    with in_memory(given["script"], *map(str, given["files"].values())) as paths:
        opened = [int(Path(path).name) for path in paths]
        for file in opened:
            os.fchown(file, user.pw_uid, user.pw_gid)
            # libpq requires that only its owner can read a key.
            os.fchmod(file, 0o400)
        if not given["user"]:
            # A program started by the script can open them only through this process, which other
            # users may not inspect.
            paths = [path.replace("self", str(os.getpid())) for path in paths]
        script, *files = paths
        settings |= dict(zip(given["files"], files, strict=True)) | environment_of(given)
        done = subprocess.run(
            [f"{given['release']}/bin/python", script, *words],
            input=settings_of(Path(given["former"]) if given["former"] else None),
            env=settings,
            cwd=home if os.path.isdir(home) else "/",
            **as_user,
            umask=0o077,
            pass_fds=opened,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=given["timeout"] if given["what"] == "look" else None,
        )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def worth_a_look(environment: dict[str, str]) -> list[str]:
    """Return what a check can cover."""
    found = []
    local = re.match(r"sqlite(\+\w+)?:///([^?]*)", environment["MLFLOW_BACKEND_STORE_URI"])
    if not local or os.path.exists(local[2]):
        found.append("schema of the database")
    names = ("MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_ARTIFACTS_DESTINATION")
    artifacts = next((environment[name] for name in names if name in environment), "/")
    if not re.match("/|file:", artifacts):
        found.append("the key for S3" if artifacts.startswith("s3:") else "the artifact store")
    return found


def look(module: AnsibleModule, given: dict) -> None:
    """Check as far as possible; fail the way a run would fail."""
    unseen = worth_a_look(environment_of(given))
    if not unseen:
        return
    why, code, error = "", 0, ""
    if os.path.exists(f"{given['release']}/bin/python"):
        try:
            code, _, error = run(given, ["look", *given["allow"]])
        except (OSError, KeyError) as stopped:
            why = str(stopped)
        except subprocess.TimeoutExpired as stopped:
            # Bytes, even with text=True.
            said = (stopped.stderr or b"").decode(errors="replace")
            code, error = 1, f"{said}{SILENT.format(seconds=given['timeout'])}"
    else:
        why = "the release is not on the host yet"
    if why:
        module.warn(f"Not looked at: {' and '.join(unseen)}, as {why}.")
    elif code == NOT_LET_IN and given["may_be_made"]:
        module.warn(f"{error} A run would go on if it has made the database until then.")
    elif code:
        module.fail_json(msg=f"{error or f'Python exited {code}.'} Nothing has changed.")


def main() -> None:
    choices = ["tracking", "users", "oidc", "look"]
    allowed = ["any-artifact-root", "no-tables"]
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path", "required": True},
            "script": {"type": "str", "required": True},
            "what": {"type": "str", "choices": choices, "default": "tracking"},
            "environment": {"type": "dict", "default": {}},
            "password": {"type": "str", "default": "", "no_log": True},
            "settings": {"type": "json", "no_log": True},
            "files": {"type": "dict", "default": {}, "no_log": True},
            "may_be_made": {"type": "bool", "default": False},
            "user": {"type": "str", "default": ""},
            "former": {"type": "path"},
            "allow": {"type": "list", "elements": "str", "choices": allowed, "default": []},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["what"] == "look":
        look(module, given)
        module.exit_json(changed=False)
    if module.check_mode and not os.path.exists(f"{given['release']}/bin/python"):
        module.exit_json(changed=True)  # without a release nothing can query the database
    code, said, error = run(
        given, ["is-empty" if module.check_mode else "initialise", given["what"]]
    )
    if module.check_mode and code == NOT_LET_IN and given["may_be_made"]:
        module.warn(f"{error} A run would go on if it has made the database until then.")
        module.exit_json(changed=True)
    if code:
        module.fail_json(msg=f"{error or f'Python exited {code}.'} Nothing has changed.")
    module.exit_json(changed="initialised" in said)


if __name__ == "__main__":
    main()
