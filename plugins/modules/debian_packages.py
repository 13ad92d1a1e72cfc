#!/usr/bin/python
"""Install missing Debian packages, in one round trip and one transaction.

Ansible's module apt first installs python3-apt on the host for itself, reports nothing in check
mode if that is missing, does not finish an interrupted dpkg and does not wait for the lock of the
package lists. Each of these would take another task, with its round trip.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: debian_packages
short_description: Install missing Debian packages in one transaction
description:
  - Does nothing if all are installed. Otherwise finishes an interrupted dpkg, fetches the package
    lists if they are older than an hour or lack a package, and installs the packages without their
    recommendations. Nothing is removed, nothing but their dependencies is upgraded, and no
    configuration file of the host is replaced.
  - Waits for other holders of a lock, such as a new machine's first upgrade, for some minutes.
options:
  names: {description: Names of the packages., type: list, elements: str, required: true}
  masks:
    description:
      - Paths of unwanted files of the packages. Before the installation they become links to
        C(/dev/null), unless they exist.
    type: list
    elements: path
    default: []
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Install nginx without its default site
  mlflow_ansible.tracking.debian_packages:
    names: [nginx]
    masks: [/etc/nginx/sites-enabled/default]
"""

RETURN = r"""
plan:
  description: What was done, or in check mode would be.
  type: list
  elements: str
  returned: success
  sample: [install nginx]
"""

import os
import re
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.system import (
    HALF,
    explain,
    package_states,
    require_root,
)

LISTS_SECONDS = 3600
LOCK_SECONDS = 600
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTBUGS_FRONTEND": "none",
    "APT_LISTCHANGES_FRONTEND": "none",
    # Output is parsed here; and PostgreSQL's package creates its cluster in this encoding.
    **dict.fromkeys(["LANG", "LC_ALL"], "C.UTF-8"),
    "LANGUAGE": "",
    # dpkg refuses to work without the sbin folders.
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
KEEP = ["--force-confdef", "--force-confold"]
FINISH = ["dpkg", *KEEP, "--configure", "--pending"]
UPDATE = ["apt-get", "-qq", "update"]
INSTALL = ["apt-get", "-qq", "--option=Dpkg::Use-Pty=0"]
INSTALL += [f"--option=Dpkg::Options::={option}" for option in KEEP]
INSTALL += ["--no-install-recommends", "--no-remove", "install"]

STALE = re.compile(
    r"Unable to locate|no installation candidate|Failed to fetch|[Uu]nmet dependencies|held broken"
)
# On a newly booted machine cloud-init writes apt's sources, and installs packages itself.
FIRST_BOOT = ["timeout", str(LOCK_SECONDS), "cloud-init", "status", "--wait"]
LOCKED = re.compile(
    r"Could not get lock (?P<file>[\w/-]+)(?:\. It is held by process (?P<holder>\d+))?"
    r"|lock was locked by .*?process(?: with pid (?P<pid>\d+))?"
)
# Error messages of apt and dpkg, what they mean and what to do, the most specific first.
FAILURES = [
    (
        r"No space left on device|enough free space",
        "a full disk",
        "free some; `apt-get clean` empties /var/cache/apt/archives",
    ),
    (
        r"Temporary failure resolving|Could not (resolve|connect)|Unable to connect"
        r"|Cannot initiate|[Cc]onnection (failed|refused|timed out)|unreachable|No route to host",
        "that a source of packages cannot be reached",
        "open the way to those in /etc/apt/sources.list*, or name a proxy in /etc/apt/apt.conf.d",
    ),
    (
        r"\b(401|403|407)\s|[Cc]ertificate|NO_PUBKEY|EXPKEYSIG|not signed|not valid yet|expired",
        "a source or proxy that refuses the host, or that the host does not trust",
        "correct it, or the host's clock, certificates and keys",
    ),
    (
        r"Unable to locate package|no installation candidate",
        "no source that has them",
        "add the distribution's own to /etc/apt/sources.list.d, on Ubuntu with universe",
    ),
    (
        r"remove is disabled|[Uu]nmet dependencies|held broken packages",
        "packages of the host that do not go with them",
        "see with `apt-get install` which, and decide yourself",
    ),
    (
        r"dpkg: (error processing|dependency problems)",
        "a package that cannot be set up",
        "run `dpkg --configure --pending` and fix what it says",
    ),
]


class Packages:
    """The packages of a host.

    Args:
        params: The module's parameters.
        run: Runs a command, given as a list, and returns (rc, output).
        root: Folder that stands for `/`.
    """

    def __init__(self, params: dict, run, root: Path = Path("/")):
        self.names, self.run, self.root = params["names"], run, root
        self.masks = [root / path.lstrip("/") for path in params["masks"]]

    # State.

    def missing(self) -> list[str]:
        states = package_states(self.run)
        return [name for name in dict.fromkeys(self.names) if states.get(name) != "installed"]

    def plan(self) -> list[str]:
        """Describe what there is to do."""
        half = sorted(name for name, state in package_states(self.run).items() if state in HALF)
        return [f"finish {name}" for name in half if name not in self.names] + [
            f"install {name}" for name in self.missing()
        ]

    def lists_are_old(self) -> bool:
        lists = self.root / "var/lib/apt/lists"
        if not any(lists.glob("*Release")):
            return True
        fetched = lists.stat().st_mtime
        sources = self.root / "etc/apt"
        files = [*sources.glob("sources.list"), *sources.glob("sources.list.d/*")]
        changed = max((file.lstat().st_mtime for file in files), default=0)
        return time.time() - fetched > LISTS_SECONDS or changed > fetched

    # Changes.

    def apply(self) -> list[str]:
        """Carry out the plan, and return it."""
        os.umask(0o022)
        plan, said = self.plan(), ""
        if plan:
            self.wait_for_first_boot()
            self.deadline = time.monotonic() + LOCK_SECONDS
            self.mask()
            said = self.finish()
        if missing := self.missing():
            self.install(missing, said)
        return plan

    def wait_for_first_boot(self) -> None:
        """Wait until cloud-init has ended, successfully or not, if it was started on the host.

        Goes on after LOCK_SECONDS, as cloud-init itself may have started this run.
        """
        # The folder is made at each boot with cloud-init.
        if (self.root / "run/cloud-init").is_dir() and (self.root / "usr/bin/cloud-init").exists():
            self.run(FIRST_BOOT)

    def mask(self) -> None:
        for path in self.masks:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not os.path.lexists(path):
                path.symlink_to("/dev/null")

    def finish(self) -> str:
        """Finish an interrupted dpkg, or return its errors; apt installs nothing before that."""
        code, said = self.call(FINISH)
        # A full disk may have prevented dependencies: apt installs them if it is given no name.
        return said + self.call([*INSTALL, "--fix-broken"])[1] if code else ""

    def install(self, names: list[str], said: str) -> None:
        # Errors in the lists of an unrelated source need not matter.
        old = self.lists_are_old()
        said += self.call(UPDATE)[1] if old else ""
        code, error = self.call([*INSTALL, *names])
        if STALE.search(error) and not old:
            said += self.call(UPDATE)[1]
            code, error = self.call([*INSTALL, *names])
        if code:
            said += error
            # The other lines of apt and dpkg report progress.
            errors = re.findall(r"(?m)^(?:E:|W:|dpkg| \w).*", said)
            raise explain(self.wanted(), said, FAILURES, list(dict.fromkeys(errors)))

    def call(self, command: list[str]) -> tuple[int, str]:
        """Run a command and return (rc, output). Waits for locks, as apt itself does not for all.

        Raises:
            Refused: A lock was not released in time.
        """
        while True:
            code, said = self.run(command)
            lock = LOCKED.search(said) if code else None
            if not lock:
                return code, said
            if time.monotonic() > self.deadline:
                raise Refused(
                    f"Wanted {self.wanted()}; found the lock {lock['file'] or 'of dpkg'} taken by "
                    f"{self.process(lock['holder'] or lock['pid'])} for {LOCK_SECONDS} s; wait "
                    "until that has ended, and run again."
                )
            time.sleep(2)

    def process(self, pid: str | None) -> str:
        file = self.root / "proc" / (pid or "none") / "comm"
        name = file.read_text().strip() if file.exists() else "ended"
        return f"process {pid} ({name})" if pid else "another process"

    def wanted(self) -> str:
        return f"the Debian package{'s' * (len(self.names) > 1)} {' and '.join(self.names)}"


def main():
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "masks": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )

    def run(command):
        code, out, error = module.run_command(command, environ_update=ENVIRONMENT)
        return code, out + error

    packages = Packages(module.params, run)
    with refusing(module, packages.wanted()):
        require_root()
        if not os.path.exists("/usr/bin/apt-get"):
            raise Refused(
                "Wanted a system of Debian's family; found no apt-get; take this host out of the "
                "inventory."
            )
        plan = packages.plan() if module.check_mode else packages.apply()
    module.exit_json(
        changed=bool(plan), plan=plan, diff={"before": "", "after": "".join(f"{p}\n" for p in plan)}
    )


if __name__ == "__main__":
    main()
