#!/usr/bin/python
"""Tell what a host has for an MLflow instance, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_host_info
short_description: What a host has for an MLflow instance
description:
  - Reads init system, memory and cores, who owns what the instance would use, and which colour
    serves with which key and login. Changes nothing, and returns no secret.
options:
  user:
    description: Name of the service user.
    type: str
    required: true
  home:
    description: Its home, which it or root may own.
    type: path
    required: true
  config:
    description: Its folder in C(/etc), which nobody but root may own.
    type: path
    required: true
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Look at the host
  mlflow_ansible.tracking.mlflow_host_info:
    user: mlflow
    home: /var/lib/mlflow
    config: /etc/mlflow
  register: mlflow_server_look
"""

RETURN = r"""
systemd: {description: Whether systemd is the init., type: bool, returned: always}
init: {description: Command name of process 1., type: str, returned: always}
memory_mb: {description: MemTotal in MB., type: int, returned: always}
disk_mb: {description: Size in MB of the disk for the home., type: int, returned: always}
cores: {description: Processors that may be used., type: int, returned: always}
user: {description: The user that was asked for., type: str, returned: always}
has_user: {description: Whether it is there as the role makes it., type: bool, returned: always}
place: {description: "Tells this host and instance from all others.", type: str, returned: always}
foreign: {description: "What somebody else holds, a phrase each.", type: list, returned: always}
serving: {description: "The colour that the link names, or empty.", type: str, returned: always}
slots:
  description:
    - For each of wanted, blue and green that there is, C(access_key_id), C(login), and by the name
      of each file since when it has its text, in seconds of the epoch.
  type: dict
  returned: always
serves:
  description:
    - Of the slot that serves, without a secret, empty if none does - C(store), where its metadata
      are; C(holds), whether there is something in it; C(login), C(basic), C(oidc) or C(none);
      C(tls), whether it is reached by https alone.
  type: dict
  returned: always
access_key_id: {description: That of the slot that serves., type: str, returned: always}
login: {description: That of the slot that serves., type: str, returned: always}
installed:
  description: When the slot that serves was filled, in seconds of the epoch, 0 if none serves.
  type: float
  returned: always
started:
  description: When the oldest process that serves was started, in the same, 0 if there is none.
  type: float
  returned: always
others: {description: Processes of the colour that does not serve., type: list, returned: always}
instances:
  description: Whether it serves, by the name of each instance on the host.
  type: dict
  returned: always
releases_unused:
  description: Names of the releases that are beside that of the slot and in no slot.
  type: list
  returned: always
"""

import configparser
import contextlib
import grp
import os
import pwd
import re
import sqlite3
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.environment import variables
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import (
    COLOURS,
    Instance,
    changed_at,
    other,
)

GROUPS = Path("/sys/fs/cgroup")
# As the role mlflow_venv calls them.
RELEASE = re.compile(r"^[0-9].*-cp[0-9]+-[0-9a-f]{8}$")
INSTANCE = re.compile(r"mlflow(-[a-z0-9]+)*$")
# nginx's user, Debian's and nginx.org's: it stays in the group of a service user who was removed.
FRONTS = {"www-data", "nginx"}


def memory_mb(meminfo: str) -> int:
    """Return MemTotal in MB from the text of /proc/meminfo, which counts in KiB."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    return int(fields["MemTotal"].split()[0]) // 1024


def disk_mb(path: str) -> int:
    """Return the size in MB of the file system that a path, or its nearest parent, is on."""
    there = next(each for each in (Path(path), *Path(path).parents) if each.exists())
    found = os.statvfs(there)
    return found.f_blocks * found.f_frsize // 1_000_000


def owner(path: str) -> str:
    """Return the name of a path's owner, or the number of an owner without a name."""
    uid = os.lstat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def foreign(user: str, home: str, root_folders: list[str]) -> list[str]:
    """Say what anybody but root and the service user holds of an instance's places."""
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
        # Those who are added once the user is there were added on purpose.
        others = members(user) - FRONTS
        return found + [f"a group {user} with {', '.join(sorted(others))} in it"] * bool(others)
    if other_home != home:
        found.append(f"a user {user} with home {other_home}")
    return found


def members(group: str) -> set[str]:
    """Return who is in a group, or has it as the primary one; nobody if there is none."""
    try:
        found = grp.getgrnam(group)
    except KeyError:
        return set()
    return {*found.gr_mem, *(u.pw_name for u in pwd.getpwall() if u.pw_gid == found.gr_gid)}


def slot(folder: Path) -> dict:
    """Return which key and login a slot has, and since when each of its files has its text.

    What cannot be read has none: a roll refuses it, and its lines are not shown to anybody.
    """
    files = {path.name: path.lstat().st_mtime for path in folder.iterdir() if path.is_file()}
    key = configparser.RawConfigParser()
    with contextlib.suppress(configparser.Error, ValueError):
        key.read(folder / "aws_shared_credentials_file")
    return {
        "access_key_id": key.get("default", "aws_access_key_id", fallback=""),
        "login": read(folder / "database.env").get("PGUSER", ""),
        "files": files,
    }


def read(file: Path) -> dict[str, str]:
    """Return what an environment file sets; nothing if it is not there or cannot be read."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return variables(file.read_text())
    return {}


def serves(folder: Path) -> dict:
    """Return what a slot makes of its server, so that none is replaced by another unasked."""
    # In the order in which the unit reads them.
    found = read(folder / "server.env") | read(folder / "secrets.env")
    if "MLFLOW_BACKEND_STORE_URI" not in found:
        return {}
    # Without what may be a password: user info and query. As vars/main.yml has what is wanted.
    store = re.sub(
        r"://.*@|\?.*",
        lambda cut: "://" * cut[0].startswith("://"),
        found["MLFLOW_BACKEND_STORE_URI"],
    )
    if "PGHOST" in found:
        host, port, name = (found.get(key, "") for key in ("PGHOST", "PGPORT", "PGDATABASE"))
        store = f"postgresql://{host}:{port}/{name}"
    origins = found.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "").split(",")
    return {
        "store": store,
        "holds": holds(store),
        "login": "basic"
        if (folder / "mlflow_auth_config_path").exists()
        else "oidc"
        if "OIDC_DISCOVERY_URL" in found
        else "none",
        "tls": all(origin.startswith("https://") for origin in origins),
    }


def holds(store: str) -> bool:
    """Tell whether something is in a store. A database on a server is taken to have something."""
    if not re.match(r"sqlite(\+\w+)?:", store):
        return True
    path = Path("/" + store.partition(":")[2].lstrip("/"))
    counts = [
        f"(SELECT count(*) FROM {table})" for table in ("runs", "registered_models", "trace_info")
    ]
    counts.append("(SELECT count(*) FROM experiments WHERE experiment_id != 0)")
    # Without the right to write it stays as it is, whoever has it open.
    with contextlib.suppress(sqlite3.Error):
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as found:
            return found.execute(f"SELECT {' + '.join(counts)}").fetchone()[0] > 0
    return path.exists()


def processes(unit: str) -> list[int]:
    """Return the processes of a unit, by its control group: cgroups(7)."""
    command = ["systemctl", "show", "--property=ControlGroup", "--value", unit]
    group = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    for top in ("", "systemd", "unified"):
        file = GROUPS / top / group.lstrip("/") / "cgroup.procs"
        # A unit that ends meanwhile takes it along.
        with contextlib.suppress(OSError):
            return sorted(int(line) for line in file.read_text().split()) if group else []
    return []


def start(process: int) -> float | None:
    """Return when a process was started, in seconds of the epoch: proc_pid_stat(5), field 22.

    None for one that has ended since it was listed.
    """
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    ticks = status.rpartition(")")[2].split()[19]
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def serving(instance: Instance) -> dict:
    """Return what serves, and with what."""
    folders = {name: instance.config / name for name in ("wanted", *COLOURS)}
    slots = {name: slot(folder) for name, folder in folders.items() if folder.is_dir()}
    colour = instance.linked()
    found = {"serving": colour, "slots": slots, "installed": 0, "started": 0, "others": []}
    found["serves"] = serves(folders[colour]) if colour in slots else {}
    for name in ("access_key_id", "login"):
        found[name] = slots.get(colour, {}).get(name, "")
    if colour in slots:
        # Filled before the unit was started.
        found["installed"] = changed_at(folders[colour])
        starts = [start(process) for process in processes(instance.unit(colour))]
        found["started"] = min((each for each in starts if each is not None), default=0)
        found["others"] = processes(instance.unit(other(colour)))
    return found


def instances(etc: Path = Path("/etc")) -> dict[str, bool]:
    """Return whether each instance on the host serves. One that was taken away has no slot."""
    found = [path for path in etc.glob("mlflow*") if INSTANCE.match(path.name)]
    return {
        path.name: (path / "current.sock").is_symlink()
        for path in sorted(found)
        if any((path / colour).exists() for colour in COLOURS)
    }


def releases_unused(config: Path) -> list[str]:
    """Return the releases beside those of an instance that no slot of the host's names."""
    links = {}
    for link in config.parent.glob("mlflow*/*/release"):
        # A roll may replace a slot meanwhile.
        with contextlib.suppress(OSError):
            links[link] = Path(os.readlink(link))
    folders = {path.parent for link, path in links.items() if config in link.parents}
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    used = set(links.values())
    return sorted(path.name for path in found if RELEASE.search(path.name) and path not in used)


def has_user(user: str, home: str) -> bool:
    """Tell whether the service user is there, and as it was made."""
    try:
        found = pwd.getpwnam(user)
        group = grp.getgrgid(found.pw_gid).gr_name
    except KeyError:
        return False
    return (found.pw_dir, found.pw_shell, group) == (home, "/usr/sbin/nologin", user)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "config": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    user, home = module.params["user"], module.params["home"]
    config = Path(module.params["config"])
    root_folders = [config, *(config / name for name in ("wanted", *COLOURS))]
    module.exit_json(
        # The test that sd_booted(3) documents.
        systemd=Path("/run/systemd/system").is_dir(),
        init=Path("/proc/1/comm").read_text().strip(),
        memory_mb=memory_mb(Path("/proc/meminfo").read_text()),
        disk_mb=disk_mb(home),
        cores=len(os.sched_getaffinity(0)),
        user=user,
        has_user=has_user(user, home),
        place=" ".join(
            [
                # Cloned machines may have the first in common, containers the second.
                Path("/etc/machine-id").read_text().strip(),
                Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                user,
            ]
        ),
        instances=instances(config.parent),
        releases_unused=releases_unused(config),
        foreign=foreign(user, home, [str(folder) for folder in root_folders]),
        **serving(Instance(user, config.parents[1])),
    )


if __name__ == "__main__":
    main()
