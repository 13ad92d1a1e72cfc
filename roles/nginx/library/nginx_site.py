#!/usr/bin/python
"""Give nginx one site and make it serve it: checks, file, groups and service in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_site
short_description: One site of nginx, checked, written, enabled and loaded
description:
  - Refuses, before it changes anything, what stands in the way. Puts the former site back if nginx
    rejects the new one. What is left to do is read off the host, so the next run finishes what an
    interrupted one began.
options:
  name: {description: Name of the site and of its file., type: str, required: true}
  content: {description: Text of the site., type: str, required: true}
  listen_address: {description: IPv4 or IPv6 address in the text., type: str, required: true}
  listen_port: {description: Port in the text., type: int, required: true}
  server_names: {description: Names in the text., type: list, elements: str, default: []}
  user_groups: {description: Groups for nginx's user., type: list, elements: str, default: []}
author: mlflow-ansible
"""

EXAMPLES = r"""
- name: Serve the application behind a socket
  nginx_site:
    name: app
    content: "{{ lookup('ansible.builtin.template', 'site.conf.j2') }}"
    listen_address: 127.0.0.1
    listen_port: 5000
    user_groups: [app]
"""

RETURN = r"""
name: {description: Name of the site., type: str, returned: success}
installed: {description: Whether nginx is installed and configured., type: bool, returned: success}
plan: {description: What is (to be) done., type: list, elements: str, returned: success}
"""

import contextlib
import errno
import fcntl
import glob
import grp
import ipaddress
import os
import pwd
import re
import socket
import struct
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MARKER = "# Written by Ansible (role nginx): edits are lost.\n"
PACKAGES = ["nginx", "nginx-core", "nginx-light", "nginx-full", "nginx-extras"]
UNIT = "nginx.service"
LOAD_SECONDS = 15


class Refused(Exception):
    """The host does not allow what is wanted."""


def listeners(net: Path) -> dict:
    """Return {inode: (address, port)} of the listening sockets in the files tcp and tcp6."""
    found = {}
    for table in filter(Path.exists, (net / "tcp", net / "tcp6")):
        for fields in map(str.split, table.read_text().splitlines()[1:]):
            if fields[3] == "0A":
                packed, port = fields[1].split(":")
                words = [int(packed[at : at + 8], 16) for at in range(0, len(packed), 8)]
                address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
                mapped = getattr(address, "ipv4_mapped", None)
                found[fields[9]] = (mapped or address, int(port, 16))
    return found


def bind_error(address, port: int) -> int:
    """Return the errno with which the kernel refuses the address and port, or 0."""
    v6 = address.version == 6
    family = socket.AF_INET6 if v6 else socket.AF_INET
    try:
        socket.create_server((str(address), port), family=family, dualstack_ipv6=v6).close()
    except OSError as error:
        return error.errno
    return 0


class Site:
    """A site and the host it belongs on.

    Args:
        params: The module's parameters.
        run: Runs a command, given as a list, and returns (rc, stdout, stderr).
        root: Folder that stands for `/`.
    """

    def __init__(self, params: dict, run, root: Path = Path("/")):
        self.content = MARKER + params["content"]
        self.names, self.groups = params["server_names"], params["user_groups"]
        self.run, self.proc, self.etc = run, root / "proc", root / "etc/nginx"
        self.file = self.etc / "sites-available" / params["name"]
        self.link = self.etc / "sites-enabled" / params["name"]
        # Names the running nginx as one that has not loaded the site. Made before the site is, so
        # that a killed run leaves it; an nginx that has started since has read the site anyway.
        self.pending = root / f"run/nginx-site-{params['name']}.pending"
        try:
            address = ipaddress.ip_address(params["listen_address"])
        except ValueError:
            raise Refused(
                "Wanted an IPv4 or IPv6 address, without brackets and port, as nginx_listen_address"
                f"; found {params['listen_address']}; correct it."
            ) from None
        self.at = (address, params["listen_port"])
        host = f"[{address}]" if address.version == 6 else address
        self.listen = f"{host}:{params['listen_port']}"

    # What is found. A process that ends meanwhile has no sockets and no unit.

    def read(self, pid, file: str) -> str:
        try:
            return (self.proc / str(pid) / file).read_text(errors="replace")
        except OSError:
            return ""

    def unit(self, pid: int) -> str:
        return "".join(re.findall(r"[^/\n]+\.service", self.read(pid, "cgroup"))[-1:])

    def listening(self, pid="[0-9]*") -> dict:
        """Return {(address, port): pid} of all sockets that listen, or of one process."""
        known, found = listeners(self.proc / "net"), {}
        for link in glob.glob(f"{self.proc}/{pid}/fd/*"):
            with contextlib.suppress(OSError):
                if at := known.get(os.readlink(link).removeprefix("socket:[").rstrip("]")):
                    found[at] = int(link.split("/")[-3])
        return found

    def workers(self) -> dict[int, set[int]]:
        """Return {pid: numbers of its groups} of nginx's workers that take new connections."""
        found = {}
        for pid in (path.name for path in self.proc.iterdir() if path.name.isdigit()):
            title = self.read(pid, "cmdline")
            if re.match("nginx: worker process(?! is shutting)", title) and self.unit(pid) == UNIT:
                lines = re.findall(r"(?m)^G(?:id|roups):(.*)", self.read(pid, "status"))
                found[int(pid)] = {int(number) for number in " ".join(lines).split()}
        return found

    def serves(self, former=frozenset()) -> bool:
        """Tell whether nginx listens, with workers in the groups, none of them a former one."""
        workers, gids = self.workers(), {grp.getgrnam(name).gr_gid for name in self.groups}
        in_groups = bool(workers) and all(gids <= groups for groups in workers.values())
        fresh = workers.keys().isdisjoint(former)
        return in_groups and fresh and self.at in self.listening(self.master)

    def look(self) -> None:
        query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ", *PACKAGES]
        states = set(self.run(query)[1].split())
        self.installed = "installed" in states and not states & {"unpacked", "half-configured"}
        show = self.run(["systemctl", "show", UNIT, "--property=MainPID,UnitFileState"])[1]
        unit = dict(line.split("=", 1) for line in show.splitlines())
        self.master, self.disabled = int(unit["MainPID"]), unit["UnitFileState"] == "disabled"

    def text(self) -> str | None:
        return self.file.read_text() if self.file.exists() else None

    def is_pending(self) -> bool:
        return self.pending.exists() and self.pending.read_text() == str(self.master)

    def missing_groups(self) -> list[str]:
        """Return the groups that nginx's user is not in; they may not even be there."""
        setting = re.search(r"(?m)^\s*user\s+([^\s;]+)", (self.etc / "nginx.conf").read_text())
        self.user = setting[1] if setting else "www-data"
        gids = {group.gr_name: group.gr_gid for group in grp.getgrall()}
        joined = os.getgrouplist(self.user, pwd.getpwnam(self.user).pw_gid)
        return [name for name in self.groups if gids.get(name) not in joined]

    # What is refused.

    def check_port(self) -> None:
        """Refuse an address that is not the host's, or that a process other than nginx has."""
        error = 0 if self.at in self.listening(self.master) else bind_error(*self.at)
        if error not in (0, errno.EADDRINUSE):
            raise Refused(
                f"Wanted nginx to listen on {self.listen}; found that the host says "
                f"'{os.strerror(error)}'; set nginx_listen_address to an address of the host."
            )
        # If nginx has it at another address (0.0.0.0), it gives that up when it is reloaded.
        for (_, port), pid in self.listening().items() if error else ():
            unit = self.unit(pid)
            if port == self.at[1] and unit != UNIT:
                holder = f"process {pid} ({self.read(pid, 'comm').strip()}, {unit or 'no unit'})"
                raise Refused(
                    f"Wanted nginx to listen on {self.listen}; found {holder} listening there; "
                    "stop that, or choose another port."
                )

    def check_files(self) -> None:
        """Refuse folders that not only root can write to, and files that we did not write."""
        for folder in filter(Path.exists, (self.etc, self.file.parent, self.link.parent)):
            if folder.stat().st_uid != os.geteuid() or folder.stat().st_mode & 0o022:
                raise Refused(
                    f"Wanted {folder} to be root's alone; found user {folder.stat().st_uid} and "
                    f"mode {folder.stat().st_mode & 0o777:04o}; make it root's, with mode 0755."
                )
        foreign = self.file.is_symlink() or not (self.text() or MARKER).startswith(MARKER)
        elsewhere = os.path.lexists(self.link) and self.link.resolve() != self.file.resolve()
        if foreign or elsewhere:
            raise Refused(
                f"Wanted {self.file if foreign else self.link} to be this role's, or absent; found "
                "another's; move it away, or choose another nginx_site_name."
            )

    def check_configuration(self, to_be_replaced: bool = False) -> None:
        """Refuse a configuration that nginx rejects, or in which another site is in the way."""
        code, dump, output = self.run(["/usr/sbin/nginx", "-T"])
        output = "; ".join(re.findall(r"\[[a-z]+\] .*", output))
        if code and to_be_replaced and str(self.link) in output:
            # A run that was killed has left what nginx rejects.
            return
        if code:
            raise Refused(
                f"Wanted a configuration that nginx accepts; found: {output}; correct that (values "
                "of this site are the variables nginx_...)."
            )
        if not re.search(r"(?m)^\s*include\s+\S*sites-enabled/\*;", dump):
            raise Refused(
                "Wanted nginx.conf to include sites-enabled/*, as the distribution's does; found "
                "that it does not; add that line to its http block."
            )
        for part in re.split(r"(?m)^# configuration file ", dump):
            file, _, text = part.partition(":\n")
            listen = rf"(?m)^[^#\n]*\blisten\s+([^\s;]+:)?{self.at[1]}\b"
            if file != str(self.link) and re.search(listen, text) and not self.names:
                raise Refused(
                    f"Wanted port {self.at[1]} for this site; found that {file} has it; choose "
                    "another nginx_listen_port, or tell the sites apart by nginx_server_names."
                )
        if f" on {self.listen}, ignored" in output:
            raise Refused(
                f"Wanted nginx_server_names that no other site has; found: {output}; choose "
                "other names, or another nginx_listen_port."
            )

    # What is done.

    def plan(self) -> list[str]:
        """Return what is to be done, or refuse it. Changes nothing."""
        self.look()
        self.check_port()
        self.check_files()
        if not self.installed:
            return ["install", "site", "start"]
        differs = self.text() != self.content or not self.link.is_symlink()
        self.check_configuration(to_be_replaced=differs)
        missing = bool(self.missing_groups())
        plan = ["site"] * differs + ["groups"] * missing + ["enable"] * self.disabled
        if not self.master:
            return [*plan, "start"]
        if differs or missing or self.is_pending() or not self.serves():
            return [*plan, "reload"]
        return plan

    def carry_out(self, plan: list[str]) -> None:
        """Do what `plan` returned."""
        if "install" in plan:
            raise Refused("Wanted nginx; found none; run `apt-get install nginx`.")
        for name in self.missing_groups():
            self.must("usermod", "--append", "--groups", name, self.user)
        if "site" in plan:
            self.write()
        if "enable" in plan:
            self.must("systemctl", "enable", UNIT)
        if "start" in plan:
            self.must("systemctl", "start", UNIT)
            self.look()
            self.wait(self.serves)
        elif "reload" in plan:
            self.reload()
        self.pending.unlink(missing_ok=True)

    def put(self, text: str) -> None:
        """Write the file, at once or not at all, and link it."""
        new = self.file.with_name(f".{self.file.name}.new")
        with new.open("w") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        new.replace(self.file)
        if not self.link.is_symlink():
            self.link.symlink_to(f"../sites-available/{self.file.name}")

    def write(self) -> None:
        """Write the site; put the former state back if nginx rejects it."""
        former, linked, pending = self.text(), self.link.is_symlink(), self.is_pending()
        self.pending.write_text(str(self.master))
        self.put(self.content)
        try:
            self.check_configuration()
        except Refused:
            if former is not None:
                self.put(former)
            if not linked:
                self.link.unlink()
            if former is None:
                self.file.unlink()
            if not pending:
                self.pending.unlink()
            raise

    def reload(self) -> None:
        """Make the running nginx load the site, and see that it did."""
        if self.at not in self.listening(self.master) and bind_error(*self.at):
            # As from 127.0.0.1 to 0.0.0.0: nginx would bind the new address while it still has the
            # old one, and fail. So it first gives up the old one.
            self.link.unlink()
            self.must("systemctl", "reload", UNIT)
            self.wait(lambda: not bind_error(*self.at))
            self.put(self.content)
        former = self.workers()
        self.must("systemctl", "reload", UNIT)
        self.wait(lambda: self.serves(former))

    def wait(self, condition) -> None:
        end = time.monotonic() + LOAD_SECONDS
        while not condition():
            if time.monotonic() > end:
                self.fail(f"nginx to serve {self.listen}", f"not so after {LOAD_SECONDS} seconds")
            time.sleep(0.05)

    def must(self, *command: str) -> None:
        code, _, output = self.run(list(command))
        if code:
            self.fail(f"`{' '.join(command)}` to succeed", output.strip())

    def fail(self, wanted: str, found: str) -> None:
        journal = self.run(["journalctl", f"--unit={UNIT}", "--lines=9", "--output=cat"])[1]
        raise Refused(
            f"Wanted {wanted}; found: {found}; correct what nginx's journal and "
            f"/var/log/nginx/error.log say. The journal ends with:\n{journal.strip()}"
        )


def main():
    text = {"type": "str", "required": True}
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            **{"name": text, "content": text, "listen_address": text},
            "listen_port": {"type": "int", "required": True},
            **{"server_names": names, "user_groups": names},
        },
        supports_check_mode=True,
    )
    # Two names of the inventory may be one host, with a site each. Held until this process ends.
    fcntl.flock(os.open("/run", os.O_RDONLY), fcntl.LOCK_EX)
    try:
        site = Site(module.params, module.run_command)
        plan, diff = site.plan(), {"before": site.text() or "", "after": site.content}
        if not module.check_mode:
            site.carry_out(plan)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(
        name=module.params["name"],
        changed=bool(plan),
        plan=plan,
        installed=site.installed,
        diff=diff,
    )


if __name__ == "__main__":
    main()
