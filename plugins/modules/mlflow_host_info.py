#!/usr/bin/python
"""Return the state of a host for an MLflow instance, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_host_info
short_description: The state of a host for an MLflow instance
description:
  - Reads init system, memory and cores, the owners of what the instance would use, and which
    colour serves with which key and login. Changes nothing, and returns no secret.
options:
  user:
    description: Name of the service user.
    type: str
    required: true
  home:
    description: Its home, which must be owned by it or by root.
    type: path
    required: true
  config:
    description: Its folder in C(/etc), which must be owned by root.
    type: path
    required: true
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Read the state of the host
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
cores: {description: Usable processors., type: int, returned: always}
user: {description: The option O(user)., type: str, returned: always}
has_user: {description: Whether it exists as the role makes it., type: bool, returned: always}
place: {description: "Unique to this host and instance.", type: str, returned: always}
foreign: {description: "What other users own, one phrase each.", type: list, returned: always}
serving: {description: "The colour that the link names, or empty.", type: str, returned: always}
slots:
  description:
    - For each existing slot of wanted, blue and green, C(access_key_id), C(login), and by the name
      of each file when its text was last changed, in seconds since the epoch.
  type: dict
  returned: always
serves:
  description:
    - Facts of the serving slot, without secrets, empty if none serves - C(store), where its
      metadata are; C(holds), whether that is not empty; C(login), C(basic), C(oidc) or C(none);
      C(tls), whether it is reached by https only.
  type: dict
  returned: always
access_key_id: {description: That of the serving slot., type: str, returned: always}
login: {description: That of the serving slot., type: str, returned: always}
installed:
  description: When the serving slot was filled, in seconds since the epoch, 0 if none serves.
  type: float
  returned: always
started:
  description: When the oldest serving process was started, likewise, 0 if there is none.
  type: float
  returned: always
others: {description: Processes of the idle colour., type: list, returned: always}
instances:
  description: Whether each instance on the host serves, by name.
  type: dict
  returned: always
releases_unused:
  description: Names of the releases in the same folder that no slot uses.
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
# As named by the role mlflow_venv.
RELEASE = re.compile(r"^[0-9].*-cp[0-9]+-[0-9a-f]{8}$")
INSTANCE = re.compile(r"mlflow(-[a-z0-9]+)*$")
# nginx's user, Debian's and nginx.org's: it stays in the group of a removed service user.
FRONTS = {"www-data", "nginx"}


def memory_mb(meminfo: str) -> int:
    """Return MemTotal in MB from the text of /proc/meminfo, which is in KiB."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    return int(fields["MemTotal"].split()[0]) // 1024


def disk_mb(path: str) -> int:
    """Return the size in MB of the file system of a path, or of its nearest existing parent."""
    there = next(each for each in (Path(path), *Path(path).parents) if each.exists())
    found = os.statvfs(there)
    return found.f_blocks * found.f_frsize // 1_000_000


def owner(path: str) -> str:
    """Return the name of a path's owner, or its uid if it has no name."""
    uid = os.lstat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def foreign(user: str, home: str, root_folders: list[str]) -> list[str]:
    """Return what others than root and the service user own of an instance's paths."""
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
        # Members added after the user was made were added on purpose.
        others = members(user) - FRONTS
        return found + [f"a group {user} with {', '.join(sorted(others))} in it"] * bool(others)
    if other_home != home:
        found.append(f"a user {user} with home {other_home}")
    return found


def members(group: str) -> set[str]:
    """Return the members of a group, also by primary group; empty if it does not exist."""
    try:
        found = grp.getgrnam(group)
    except KeyError:
        return set()
    return {*found.gr_mem, *(u.pw_name for u in pwd.getpwall() if u.pw_gid == found.gr_gid)}


def slot(folder: Path) -> dict:
    """Return a slot's key and login, and when the text of each of its files was changed.

    A file that cannot be parsed yields nothing and is never shown; a roll refuses it.
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
    """Return what an environment file sets; empty if it does not exist or cannot be read."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return variables(file.read_text())
    return {}


def serves(folder: Path) -> dict:
    """Return the facts of a slot's server that must not change unasked."""
    # In the order in which the unit reads them.
    found = read(folder / "server.env") | read(folder / "secrets.env")
    if "MLFLOW_BACKEND_STORE_URI" not in found:
        return {}
    # Without user info and query, which may hold a password. vars/main.yml forms it the same way.
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
    """Return whether a store has contents. A database on a server is assumed to have."""
    if not re.match(r"sqlite(\+\w+)?:", store):
        return True
    path = Path("/" + store.partition(":")[2].lstrip("/"))
    counts = [
        f"(SELECT count(*) FROM {table})" for table in ("runs", "registered_models", "trace_info")
    ]
    counts.append("(SELECT count(*) FROM experiments WHERE experiment_id != 0)")
    # Read-only, so it stays unchanged even while a server has it open.
    with contextlib.suppress(sqlite3.Error):
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as found:
            return found.execute(f"SELECT {' + '.join(counts)}").fetchone()[0] > 0
    return path.exists()


def processes(unit: str) -> list[int]:
    """Return the processes of a unit, from its control group: cgroups(7)."""
    command = ["systemctl", "show", "--property=ControlGroup", "--value", unit]
    group = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    for top in ("", "systemd", "unified"):
        file = GROUPS / top / group.lstrip("/") / "cgroup.procs"
        # It vanishes with a unit that ends in the meantime.
        with contextlib.suppress(OSError):
            return sorted(int(line) for line in file.read_text().split()) if group else []
    return []


def start(process: int) -> float | None:
    """Return when a process was started, in seconds since the epoch: proc_pid_stat(5), field 22.

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
    """Return which colour serves, and with what."""
    folders = {name: instance.config / name for name in ("wanted", *COLOURS)}
    slots = {name: slot(folder) for name, folder in folders.items() if folder.is_dir()}
    colour = instance.linked()
    found = {"serving": colour, "slots": slots, "installed": 0, "started": 0, "others": []}
    found["serves"] = serves(folders[colour]) if colour in slots else {}
    for name in ("access_key_id", "login"):
        found[name] = slots.get(colour, {}).get(name, "")
    if colour in slots:
        # A slot is filled before its unit is started.
        found["installed"] = changed_at(folders[colour])
        starts = [start(process) for process in processes(instance.unit(colour))]
        found["started"] = min((each for each in starts if each is not None), default=0)
        found["others"] = processes(instance.unit(other(colour)))
    return found


def instances(etc: Path = Path("/etc")) -> dict[str, bool]:
    """Return whether each instance on the host serves. A removed one has no slot."""
    found = [path for path in etc.glob("mlflow*") if INSTANCE.match(path.name)]
    return {
        path.name: (path / "current.sock").is_symlink()
        for path in sorted(found)
        if any((path / colour).exists() for colour in COLOURS)
    }


def releases_unused(config: Path) -> list[str]:
    """Return the releases in an instance's releases folder that no slot on the host uses."""
    links = {}
    for link in config.parent.glob("mlflow*/*/release"):
        # A roll may replace a slot in the meantime.
        with contextlib.suppress(OSError):
            links[link] = Path(os.readlink(link))
    folders = {path.parent for link, path in links.items() if config in link.parents}
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    used = set(links.values())
    return sorted(path.name for path in found if RELEASE.search(path.name) and path not in used)


def has_user(user: str, home: str) -> bool:
    """Return whether the service user exists as the role made it."""
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
                # Cloned machines may share the first, containers the second.
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
