#!/usr/bin/python
"""Tell what a host has for an MLflow instance, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_host_info
short_description: What a host has for an MLflow instance
description:
  - Reads init system, memory and cores, and who owns what the instance would use. Changes nothing.
options:
  user:
    description: Name of the service user.
    type: str
    required: true
  home:
    description: Its home, which it or root may own.
    type: path
    required: true
  root_folders:
    description: Folders that nobody but root may own.
    type: list
    elements: path
    default: []
author: mlflow-ansible
"""

EXAMPLES = r"""
- name: Look at the host
  mlflow_host_info:
    user: mlflow
    home: /var/lib/mlflow
    root_folders: [/etc/mlflow]
  register: __mlflow_server_host
"""

RETURN = r"""
systemd: {description: Whether systemd is the init., type: bool, returned: always}
init: {description: Command name of process 1., type: str, returned: always}
memory_mb: {description: MemTotal in MB., type: int, returned: always}
cores: {description: Processors that may be used., type: int, returned: always}
user: {description: The user that was asked for., type: str, returned: always}
place: {description: "Tells this host and instance from all others.", type: str, returned: always}
foreign: {description: "What somebody else holds, a phrase each.", type: list, returned: always}
"""

import os
import pwd
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def memory_mb(meminfo: str) -> int:
    """Return MemTotal in MB from the text of /proc/meminfo, which counts in KiB."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    return int(fields["MemTotal"].split()[0]) // 1024


def owner(path: str) -> str:
    """Return the name of a path's owner, or the number of an owner without a name."""
    uid = os.lstat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def foreign(user: str, home: str, root_folders: list[str]) -> list[str]:
    """Say what somebody else than root and the service user holds of an instance's places."""
    found = []
    if os.path.islink(home):
        found.append(f"{home}, a link to {os.path.realpath(home)}, which is to be named itself")
    if re.match(r"/(home|root|run|tmp|var/tmp)(/|$)", home):
        found.append(f"{home}, which the unit's sandbox hides from it")
    if os.path.isdir(home) and owner(home) == "root" and set(os.listdir(home)) - {"lost+found"}:
        found.append(f"{home}, root's and not empty")
    for path, owners in [*((path, ["root"]) for path in root_folders), (home, ["root", user])]:
        if os.path.lexists(path) and owner(path) not in owners:
            found.append(f"{path} owned by {owner(path)}")
    try:
        other_home = pwd.getpwnam(user).pw_dir
    except KeyError:
        return found
    if other_home != home:
        found.append(f"a user {user} with home {other_home}")
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "root_folders": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    module.exit_json(
        # The test that sd_booted(3) documents.
        systemd=Path("/run/systemd/system").is_dir(),
        init=Path("/proc/1/comm").read_text().strip(),
        memory_mb=memory_mb(Path("/proc/meminfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        user=module.params["user"],
        place=" ".join(
            [
                # Cloned machines may have the first in common, containers the second.
                Path("/etc/machine-id").read_text().strip(),
                Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                module.params["user"],
            ]
        ),
        foreign=foreign(**module.params),
    )


if __name__ == "__main__":
    main()
