#!/usr/bin/python
"""Make MLflow's tables in an empty PostgreSQL database, or look whether a server would work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_database
short_description: Make MLflow's tables in an empty PostgreSQL database, or look
description:
  - Logs in as the owner of the database and, if MLflow's tables are not there, makes them with the
    release. A database that holds something is never changed.
  - Or looks, with the settings of a server that is not there yet, at its databases and its artifact
    store, as far as that can be asked without a change.
  - Passwords and files are kept in memory, and nowhere on the host.
options:
  release:
    description: Path of the virtualenv whose MLflow does it.
    type: path
    required: true
  script:
    description: Text of the Python script that does it, C(probe.py).
    type: str
    required: true
  what:
    description:
      - Which tables, those of C(tracking), or those of users and their permissions, MLflow's own
        (C(users)) or those of mlflow-oidc-auth (C(oidc)). C(look) makes none.
    type: str
    choices: [tracking, users, oidc, look]
    default: tracking
  environment:
    description: How libpq finds the database and who logs in, C(PGHOST), C(PGUSER) and so on.
    type: dict
    default: {}
  password:
    description: The password for that.
    type: str
    default: ''
  settings:
    description:
      - All variables of a server, to look with. As one text, since of a secret value each
        occurrence in an error would be crossed out, such as a 2.
    type: json
  files:
    description: Texts of files, by the variables that name their paths, such as C(PGSSLROOTCERT).
    type: dict
    default: {}
  may_be_made:
    description: A run makes database and roles before this, which check mode does not.
    type: bool
    default: false
  user:
    description: Who looks, by default root. The rights and the home of the server's user count.
    type: str
    default: ''
  former:
    description: Slot that serves, with which a look compares.
    type: path
  allow:
    description:
      - What a look lets pass, artifacts that would not be found any more (C(any-artifact-root)) and
        a database without tables (C(no-tables)).
    type: list
    elements: str
    choices: [any-artifact-root, no-tables]
    default: []
  timeout:
    description: Seconds within which a look must end.
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

# With this code the script tells that the database did not let it in, or not with every right.
NOT_LET_IN = 2
SILENT = (
    "Wanted database and artifact store to answer within {seconds} s; found that they do not; let "
    "this host through to both (security group, firewall), or fix their addresses."
)


def environment_of(given: dict) -> dict[str, str]:
    """Return the variables that are given, without those that name files."""
    found = {"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://"}
    found |= given["environment"] | json.loads(given["settings"] or "{}")
    found |= {"PGPASSWORD": given["password"]} if given["password"] else {}
    return {name: str(value) for name, value in found.items()}


def run(given: dict, words: list[str]) -> tuple[int, str, str]:
    """Run the script; return code, output and error.

    Root's environment nobody else can read, and a service user's only itself.

    Raises:
        OSError, KeyError: The release or the user is not there.
        subprocess.TimeoutExpired: It does not end.
    """
    user = pwd.getpwnam(given["user"]) if given["user"] else pwd.getpwuid(os.getuid())
    home, as_user = "/nonexistent", {}
    if given["user"]:
        home = user.pw_dir
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    settings = {"HOME": home, "PATH": os.defpath}
    # Nothing is written beside the release, and nothing imported from where it is started.
    settings |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    with in_memory(given["script"], *map(str, given["files"].values())) as paths:
        opened = [int(Path(path).name) for path in paths]
        for file in opened:
            os.fchown(file, user.pw_uid, user.pw_gid)
            # libpq wants a key to be its owner's alone.
            os.fchmod(file, 0o400)
        if not given["user"]:
            # A program that the script starts has them by this process alone, which another user
            # may not look into.
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
    """Return what there is that a look could find wrong."""
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
    """Look as far as possible; fail with what a run would fail with."""
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
            # Bytes, whatever was asked for.
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
        module.exit_json(changed=True)  # nothing can ask the database before there is a release
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
