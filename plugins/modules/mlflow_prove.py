#!/usr/bin/python
"""Prove that a running MLflow server could use its artifact store with another key."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_prove
short_description: Prove that a server could use its artifact store with another key
description:
  - Puts, gets and deletes an object as the service user, with the settings of the serving slot
    overridden by other environment variables. The running server does not change.
  - The variables are kept in memory only.
  - In check mode nothing is written to the store.
options:
  instance: {description: Name of the instance., type: str, required: true}
  environment:
    description: Environment variables that take precedence over those of the server.
    type: dict
    required: true
  timeout: {description: Timeout in seconds., type: int, default: 120}
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Prove a key before it is deployed
  mlflow_ansible.tracking.mlflow_prove:
    instance: mlflow
    environment:
      AWS_ACCESS_KEY_ID: "{{ new_key.id }}"
      AWS_SECRET_ACCESS_KEY: "{{ new_key.secret }}"
"""

RETURN = r"""
colour: {description: "The colour that serves, if any.", type: str, returned: success}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.environment import text_of
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import in_memory
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.hosts import (
    Host,
    HostedInstance,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)


def prove(instance: HostedInstance, environment: dict[str, str], seconds: int) -> None:
    """Put, get and delete an object with the serving slot's settings and some overrides.

    Raises:
        Refused: That failed, with the reason.
    """
    slot = instance.config / instance.must_serve()
    with in_memory(text_of(environment)) as (path,):
        # Read by systemd, not by this process.
        path = path.replace("self", str(os.getpid()))
        probe = instance.host.start_probe(instance.name, slot, ["artifacts"], seconds, more=path)
        said = probe.communicate()[1].strip()
    if probe.returncode:
        raise Refused(f"{said or 'The probe did not end in time.'} Nothing has changed.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "required": True},
            "environment": {"type": "dict", "required": True, "no_log": True},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    given = module.params
    instance = HostedInstance(given["instance"], Host())
    with refusing(module, f"to prove a key for {instance.name}"):
        if not module.check_mode:
            prove(instance, given["environment"], given["timeout"])
        module.exit_json(changed=False, colour=instance.serving())


if __name__ == "__main__":
    main()
