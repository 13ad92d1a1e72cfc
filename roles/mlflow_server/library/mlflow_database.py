#!/usr/bin/python
"""Make MLflow's tables in an empty PostgreSQL database, as its owner."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_database
short_description: Make MLflow's tables in an empty PostgreSQL database
description:
  - Logs in as the owner of the database and, if MLflow's tables are not there, makes them with the
    release. A database that holds something is never changed.
  - The owner's password is kept in memory, and nowhere on the host.
options:
  release:
    description: Path of the virtualenv whose MLflow makes the tables.
    type: path
    required: true
  script:
    description: Text of the Python script that does it, C(probe.py).
    type: str
    required: true
  what:
    description:
      - Which tables, those of C(tracking), or those of users and their permissions, MLflow's own
        (C(users)) or those of mlflow-oidc-auth (C(oidc)).
    type: str
    choices: [tracking, users, oidc]
    default: tracking
  environment:
    description: How libpq finds the database and who logs in, C(PGHOST), C(PGUSER) and so on.
    type: dict
    required: true
  may_be_made:
    description: A run makes database and roles before this, which check mode does not.
    type: bool
    default: false
  password:
    description: The owner's password.
    type: str
    required: true
  ca:
    description: Text of the certificates that the server's is checked against.
    type: str
    default: ''
author: mlflow-ansible
"""

EXAMPLES = r"""
- name: Make MLflow's tables in an empty database
  mlflow_database:
    release: "{{ mlflow_server_release }}"
    script: "{{ lookup('ansible.builtin.file', 'probe.py') }}"
    environment: {PGHOST: db.example.com, PGDATABASE: mlflow, PGUSER: owner}
    password: secret
"""

RETURN = r""""""

import os
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule

# With this code the script tells that the database did not let it in.
NOT_LET_IN = 2


def run(
    release: str,
    script: str,
    what: str,
    environment: dict,
    password: str,
    ca: str,
    check: bool,
) -> tuple[int, str, str]:
    """Run the script as root, whose environment nobody else can read; return code, output, error.

    Raises:
        OSError: The release is not there.
    """
    words = [f"{release}/bin/python", "-", "is-empty" if check else "initialise", what]
    settings = {"HOME": "/nonexistent", "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    settings["MLFLOW_BACKEND_STORE_URI"] = "postgresql+psycopg2://"
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as certificates:
        certificates.write(ca)
        certificates.flush()
        if ca:
            settings["PGSSLROOTCERT"] = certificates.name
        settings |= {name: str(value) for name, value in environment.items()}
        settings["PGPASSWORD"] = password
        done = subprocess.run(words, input=script, env=settings, capture_output=True, text=True)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path", "required": True},
            "script": {"type": "str", "required": True},
            "what": {
                "type": "str",
                "choices": ["tracking", "users", "oidc"],
                "default": "tracking",
            },
            "environment": {"type": "dict", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "ca": {"type": "str", "default": ""},
            "may_be_made": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    may_be_made = given.pop("may_be_made")
    if module.check_mode and not os.path.exists(f"{given['release']}/bin/python"):
        module.exit_json(changed=True)  # nothing can ask the database before there is a release
    code, said, error = run(**given, check=module.check_mode)
    if module.check_mode and code == NOT_LET_IN and may_be_made:
        module.warn(f"{error} A run would go on if it has made the database until then.")
        module.exit_json(changed=True)
    if code:
        module.fail_json(msg=f"{error or f'Python exited {code}.'} Nothing has changed.")
    module.exit_json(changed="initialised" in said)


if __name__ == "__main__":
    main()
