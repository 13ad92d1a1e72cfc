"""The nginx of a host: package, service and processes, and the configuration of all sites."""

from __future__ import annotations

import errno
import glob
import grp
import os
import pwd
import re
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import write
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.network import (
    bind_error,
    holders,
    proc_text,
    unit_of,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.system import package_states

MARKER = "# Written by Ansible (role nginx): edits are lost.\n"
PACKAGES = ["nginx", "nginx-core", "nginx-light", "nginx-full", "nginx-extras"]
UNIT = "nginx.service"
LOAD_SECONDS = 15
# Bytes for a server name, nginx's own default: usually one cache line of the processor.
BUCKET = 64


class Nginx:
    """The one nginx of a host.

    Args:
        run: Runs a command, given as a list, and returns (rc, stdout, stderr).
        root: Folder that stands for `/`.

    Attributes, once `look` has been called:
        installed: Whether its package is installed and configured.
        missing: Packages that are needed and not installed.
        master: Process id of the service, 0 if it does not run.
        disabled: Whether it does not start with the host.
    """

    def __init__(self, run, root: Path = Path("/")):
        self.run, self.root = run, root
        self.proc, self.etc = root / "proc", root / "etc/nginx"
        # Not owned by a site, as it applies to the names of all.
        self.sizes = self.etc / "conf.d/server_names.conf"

    def look(self, tools: list[str]) -> None:
        """Find out what is installed and what runs.

        Args:
            tools: Packages that are needed besides nginx.
        """
        states = package_states(self.run, *PACKAGES, *tools)
        nginx = {state for name, state in states.items() if name in PACKAGES}
        self.installed = "installed" in nginx and not nginx & {"unpacked", "half-configured"}
        self.missing = ["nginx"] * (not self.installed)
        self.missing += [name for name in tools if states.get(name) != "installed"]
        shown = self.run(["systemctl", "show", UNIT, "--property=MainPID,UnitFileState"])[1]
        unit = dict(line.split("=", 1) for line in shown.splitlines())
        self.master, self.disabled = int(unit["MainPID"]), unit["UnitFileState"] == "disabled"

    # Its processes. One that ends in the meantime has no sockets and no unit.

    def listening(self) -> set[tuple[IPv4Address | IPv6Address, int]]:
        """Return the addresses and ports at which the service listens."""
        return set(holders(self.proc, self.master))

    def workers(self) -> dict[int, set[int]]:
        """Return {pid: ids of its groups} of the workers that accept new connections."""
        found = {}
        for pid in (path.name for path in self.proc.iterdir() if path.name.isdigit()):
            title = proc_text(self.proc, pid, "cmdline")
            working = re.match("nginx: worker process(?! is shutting)", title)
            if working and unit_of(self.proc, pid) == UNIT:
                status = proc_text(self.proc, pid, "status")
                lines = re.findall(r"(?m)^G(?:id|roups):(.*)", status)
                found[int(pid)] = {int(number) for number in " ".join(lines).split()}
        return found

    def listens(self, at: set[tuple], groups: list[str], former=frozenset()) -> bool:
        """Return whether it listens, with workers in the groups, none of them a former one.

        Args:
            at: Addresses and ports.
            former: Process ids.
        """
        workers, gids = self.workers(), {grp.getgrnam(name).gr_gid for name in groups}
        in_groups = bool(workers) and all(gids <= theirs for theirs in workers.values())
        return in_groups and workers.keys().isdisjoint(former) and at <= self.listening()

    def user(self) -> pwd.struct_passwd:
        """Return the account of the workers."""
        setting = re.search(r"(?m)^\s*user\s+([^\s;]+)", (self.etc / "nginx.conf").read_text())
        return pwd.getpwnam(setting[1] if setting else "www-data")

    def missing_groups(self, groups: list[str]) -> list[str]:
        """Return the groups that its user is not in; they may not even exist."""
        user, gids = self.user(), {group.gr_name: group.gr_gid for group in grp.getgrall()}
        joined = os.getgrouplist(user.pw_name, user.pw_gid)
        return [name for name in groups if gids.get(name) not in joined]

    def check_port(self, at: tuple, listen: str, remedy: str) -> None:
        """Refuse an address that is not the host's, or that another process than nginx uses.

        Args:
            at: Address and port.
            listen: The same in nginx's notation.
            remedy: What to do about a port that is taken, besides choosing another.
        """
        error = 0 if at in self.listening() else bind_error(*at, dualstack=True)
        if error not in (0, errno.EADDRINUSE):
            raise Refused(
                f"Wanted nginx to listen on {listen}; found that the host says "
                f"'{os.strerror(error)}'; set nginx_listen_address to an address of the host."
            )
        # If nginx listens there at another address (0.0.0.0), a reload releases that.
        for (_, port), pid in holders(self.proc).items() if error else ():
            unit = unit_of(self.proc, pid)
            if port == at[1] and unit != UNIT:
                name = proc_text(self.proc, pid, "comm").strip()
                raise Refused(
                    f"Wanted nginx to listen on {listen}; found process {pid} ({name}, "
                    f"{unit or 'no unit'}) listening there; stop that, or choose another port"
                    f"{remedy}."
                )

    # Its configuration.

    def configuration(self, site: Path) -> dict[Path, str]:
        """Return the texts of its files by path, without comments.

        Found the way nginx does; nginx itself shows none while any has an error.

        Args:
            site: The site to leave out, along with the role's file about names.
        """
        todo, found = [self.etc / "nginx.conf"], {}
        while todo:
            path = todo.pop()
            if path in found or path in (site, self.sizes) or not path.is_file():
                continue
            found[path] = re.sub(r"#.*", "", path.read_text(errors="replace"))
            for pattern in re.findall(r"\binclude\s+[\"']?([^\s;\"']+)", found[path]):
                folder = self.root if pattern.startswith("/") else self.etc
                todo += map(Path, glob.glob(str(folder / pattern.lstrip("/"))))
        return found

    def wanted_sizes(self, site: Path, names: list[str]) -> str | None:
        """Return the text of the file that long names require, None if it is not needed.

        The directive may occur once in all files, so one that exists elsewhere stays the only one.

        Args:
            site: Path of a site whose text is ignored.
            names: Its names.
        """
        text, size = "\n".join(self.configuration(site).values()), BUCKET
        if "server_names_hash_bucket_size" in text:
            return None
        names = names + " ".join(re.findall(r"\bserver_name\s([^;]+);", text)).split()
        longest = max((len(name) for name in names if not name.startswith("~")), default=0)
        # nginx's own count: two pointers, and the name with its length, padded to a pointer.
        while size < 16 + (longest + 9) // 8 * 8:
            size *= 2
        return f"{MARKER}server_names_hash_bucket_size {size};\n" if size > BUCKET else None

    def test(self) -> tuple[int, str, str]:
        """Run nginx's test; return its exit code (0 if it passes), its files' texts and errors."""
        code, dump, output = self.run(["/usr/sbin/nginx", "-T"])
        return code, dump, "; ".join(re.findall(r"\[[a-z]+\] .*", output))

    # Changes.

    def write_sizes(self, text: str | None) -> None:
        """Write the file that `wanted_sizes` returned, or remove it."""
        if text:
            self.sizes.parent.mkdir(mode=0o755, exist_ok=True)
            write(self.sizes, text, 0o644)
        else:
            self.sizes.unlink()

    def wait(self, condition: Callable[[], bool], wanted: str) -> None:
        """Wait until a condition is met.

        Raises:
            Refused: It was not met within LOAD_SECONDS.
        """
        end = time.monotonic() + LOAD_SECONDS
        while not condition():
            if time.monotonic() > end:
                self.fail(wanted, f"not so after {LOAD_SECONDS} seconds")
            time.sleep(0.05)

    def must(self, *command: str) -> None:
        """Run a command; raise Refused if it fails."""
        code, _, output = self.run(list(command))
        if code:
            self.fail(f"`{' '.join(command)}` to succeed", output.strip())

    def fail(self, wanted: str, found: str) -> None:
        """Raise Refused, with the end of nginx's journal."""
        journal = self.run(["journalctl", f"--unit={UNIT}", "--lines=9", "--output=cat"])[1]
        raise Refused(
            f"Wanted {wanted}; found: {found}; correct what nginx's journal and "
            f"/var/log/nginx/error.log say. The journal ends with:\n{journal.strip()}"
        )
