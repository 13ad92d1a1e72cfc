#!/usr/bin/python
"""Set up one nginx site: checks, certificate, files and service, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_site
short_description: One nginx site, checked, written, enabled and loaded
description:
  - Checks for obstacles before any change. Restores the former site if nginx rejects the new one.
    What is left to do is read from the host, so the next run finishes what an interrupted one
    began.
  - Certificates and users are in files named by their contents, so that a new one changes the text
    of the site, which is loaded, and rolled back, like any other change of it.
options:
  name: {description: Name of the site and of its file., type: str, required: true}
  state:
    description: >-
      Whether the site is to exist. C(absent) needs only its name, and keeps nginx itself, other
      sites, the log and the audit trail.
    choices: [present, absent]
    type: str
    default: present
  content:
    description: >-
      Text of the site. C(@tls@) in it becomes the folder of C(fullchain.pem) and C(privkey.pem),
      C(@users@) the file of C(users), C(@acme@) the folder for certbot's challenges.
      Required if the site is to exist.
    type: str
    default: ''
  listen_address: {description: IPv4 or IPv6 address in the text., type: str, required: true}
  listen_port: {description: Port in the text., type: int, required: true}
  redirect_port: {description: Second port in the text. 0 for none., type: int, default: 0}
  server_names: {description: Names in the text., type: list, elements: str, default: []}
  user_groups: {description: Groups of nginx's user., type: list, elements: str, default: []}
  tls:
    description: Where the certificate comes from.
    choices: [none, given, self_signed, acme]
    type: str
    default: none
  certificate: {description: Given certificate and chain in PEM., type: str, default: ''}
  key: {description: Key of the given certificate in PEM., type: str, default: ''}
  subjects:
    description: Names and addresses of a certificate, which a given one should have.
    type: list
    elements: str
    default: []
  acme_url: {description: Directory of the ACME server., type: str, default: ''}
  acme_email: {description: Contact address for the ACME server., type: str, default: ''}
  acme_agree: {description: Whether you accept the server's terms., type: bool, default: false}
  networks: {description: Networks in the text., type: list, elements: str, default: []}
  users:
    description: Names and passwords of users who may log in.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      password: {description: Password., type: str, required: true}
  audit:
    description: Whether to make a folder for root alone and replace C(@audit@) in the text with it.
    type: bool
    default: false
  helpers:
    description: >-
      Texts, by path, of the programs and units for the certificate and the audit trail. Others
      of the site are removed. Timers are started.
    type: dict
    default: {}
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Serve the application behind a socket
  mlflow_ansible.tracking.nginx_site:
    name: app
    content: "{{ lookup('ansible.builtin.template', 'site.conf.j2') }}"
    listen_address: 127.0.0.1
    listen_port: 5000
    user_groups: [app]
"""

RETURN = r"""
name: {description: Name of the site., type: str, returned: success}
missing: {description: Packages that are not installed., type: list, returned: success}
plan:
  description: What is (to be) done, and which clients that cuts off, which is also a warning.
  type: list
  elements: str
  returned: success
former_listen:
  description: First listening C(ADDRESS:PORT) of the site on the host, empty if there is none.
  type: str
  returned: success
trust:
  description: Path of the file that clients trust if O(tls=self_signed), else empty.
  type: str
  returned: success
"""

import ipaddress
import os
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import (
    beside,
    read,
    remove,
    write,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.locks import hold
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.network import bind_error
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_certificates import (
    Certificates,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_firewalls import (
    Firewalls,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_helpers import Helpers
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_server import (
    MARKER,
    UNIT,
    Nginx,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_users import Users
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)


class Site:
    """A site and the host it belongs on.

    Args:
        params: The module's parameters.
        run: Runs a command, given as a list, and returns (rc, stdout, stderr).
        root: Folder that stands for `/`.

    Attributes:
        warnings: Warnings for the operator; `plan` adds to them.

    Raises:
        Refused: The options cannot work on any host.
    """

    def __init__(self, params: dict, run, root: Path = Path("/")):
        self.params, self.nginx = params, Nginx(run, root)
        self.name, self.names, self.groups = (
            params[key] for key in ("name", "server_names", "user_groups")
        )
        self.file = self.nginx.etc / "sites-available" / self.name
        self.link = self.nginx.etc / "sites-enabled" / self.name
        # Marks the running nginx as not having loaded the site. Made before the site, so that a
        # killed run leaves it; an nginx started since then has read the site anyway.
        self.pending = root / f"run/nginx-site-{self.name}.pending"
        self.trail = root / f"var/log/nginx-audit-{self.name}"
        try:
            address = ipaddress.ip_address(params["listen_address"])
        except ValueError:
            raise Refused(
                "Wanted an IPv4 or IPv6 address, without brackets and port, as nginx_listen_address"
                f"; found {params['listen_address']}; correct it."
            ) from None
        self.ports = {"nginx_listen_port": params["listen_port"]}
        if params["redirect_port"]:
            self.ports["nginx_redirect_port"] = params["redirect_port"]
        self.at = [(address, port) for port in self.ports.values()]
        host = f"[{address}]" if address.version == 6 else address
        self.listen = [f"{host}:{port}" for port in self.ports.values()]
        self.check_networks()
        self.users = Users(self.name, params["users"], self.nginx)
        if len(set(self.at)) < len(self.ports):
            raise Refused(
                "Wanted plain HTTP to be redirected from another port than nginx_listen_port; found"
                f" {self.at[0][1]} for both; set nginx_redirect_port to another, or 0 for none."
            )
        self.certificates = Certificates(params, self.nginx)
        self.warnings = self.certificates.check()
        if params["users"] and params["tls"] == "none" and not address.is_loopback:
            self.warnings.append(
                "nginx_users without nginx_tls: anyone on the network path reads the passwords, "
                "unless TLS ends before nginx."
            )
        acme = params["tls"] == "acme"
        self.helpers = Helpers(self.name, params["helpers"], acme, self.nginx)

    def check_networks(self) -> None:
        """Refuse invalid networks, and those with host bits set."""
        for network in self.params["networks"]:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise Refused(
                    "Wanted networks such as 10.0.0.0/16 in nginx_allowed_networks; found "
                    f"{network} ({error}); correct it."
                ) from None

    # State.

    def look(self) -> None:
        """Read what is installed and what runs."""
        tools = {"self_signed": ["openssl"], "acme": ["openssl", "certbot"]}
        audit = ["logrotate"] * self.params["audit"]
        self.nginx.look(tools.get(self.params["tls"], []) + audit)

    def text(self) -> str | None:
        """Return the site on the host, None if there is none."""
        return read(self.file)

    def is_pending(self) -> bool:
        """Return whether the running nginx may not have loaded the site, after a killed run."""
        return read(self.pending) == str(self.nginx.master)

    def serves(self, former=frozenset()) -> bool:
        """Return whether nginx serves the site, without any former workers."""
        listens = self.nginx.listens(set(self.at), self.groups, former)
        return listens and self.certificates.is_served(*self.at[0], self.names)

    def choose(self) -> None:
        """Find the certificate to serve and the users' file, and thus the site's text."""
        self.certificates.choose(self.text() or "")
        self.users.choose()
        self.fill()

    def fill(self) -> None:
        """Assemble the wanted text."""
        text = self.params["content"]
        for word, path in (
            ("@tls@", self.certificates.folder() or "(to be made)"),
            ("@users@", self.users.path),
            ("@acme@", self.certificates.webroot),
            ("@audit@", self.trail),
        ):
            text = text.replace(word, str(path))
        self.content = MARKER + text
        self.sizes = self.nginx.wanted_sizes(self.link, self.names)

    def listens_before(self) -> list[str]:
        """Return the listening ADDRESS:PORT entries of the site on the host."""
        text = self.text() if self.link.is_symlink() else None
        return re.findall(r"\blisten (\S+:\d+)(?=[ ;])", text or "")

    def interruptions(self) -> list[str]:
        """Return which clients of the site on the host are cut off, one sentence each."""
        found, former = [], self.listens_before()
        gone = [listen for listen in former if not self.still_listens(listen)]
        if gone:
            move = "moves to" if self.listen[0] not in former else "stays at nothing but"
            found.append(
                f"clients that come to {' and '.join(gone)} are cut off, as the site {move} "
                f"{self.listen[0]}"
            )
        return found + self.certificates.cut_off()

    def still_listens(self, former: str) -> bool:
        """Return whether clients of ADDRESS:PORT will still be answered."""
        host, _, port = former.rpartition(":")
        address = ipaddress.ip_address(host.strip("[]"))
        return any(
            int(port) == number
            # `::` includes IPv4, as the site listens there with ipv6only=off.
            and (at == address or at.is_unspecified and at.version >= address.version)
            for at, number in self.at
        )

    def has_trail(self) -> bool:
        """Return whether the folder of the audit trail exists, for its owner alone."""
        if not self.params["audit"]:
            return True
        return self.trail.is_dir() and self.trail.stat().st_mode & 0o777 == 0o700

    def leftovers(self, text: str) -> list[Path]:
        """Return the certificates and users' files that neither this text nor a site names."""
        named, acme = [text], self.certificates.acme
        for folder in (self.file.parent, self.link.parent):
            for path in folder.glob("*"):
                if path.name not in (self.name, beside(self.file).name) and path.is_file():
                    named.append(path.read_text(errors="replace"))
        if str(acme) in text and acme.is_symlink():
            named.append(os.readlink(acme))
        ours = rf"\.?{re.escape(self.name)}(-acme|(-(given|self_signed))?-[0-9a-f]{{16}})"
        # Left by a killed run, of this or of an earlier release, that was still writing.
        ours += r"(\.(new|hook|mlflow-ansible))?"
        there = [*self.certificates.all.glob("*"), *self.users.all.glob("*")]
        return [
            path
            for path in sorted(there)
            if re.fullmatch(ours, path.name) and not any(str(path) in each for each in named)
        ]

    # Checks.

    def check_ports(self) -> None:
        """Refuse an address that is not the host's, or that another process than nginx uses."""
        for variable, at, listen in zip(self.ports, self.at, self.listen, strict=True):
            self.nginx.check_port(at, listen, self.remedy(variable))

    def remedy(self, variable: str) -> str:
        """Return what to do about a port besides choosing another, as part of a sentence."""
        return ", or none (nginx_redirect_port: 0)" if variable == "nginx_redirect_port" else ""

    def check_files(self) -> None:
        """Refuse folders not writable by root alone, and files that this role did not write."""
        folders = [self.nginx.etc, self.file.parent, self.link.parent]
        folders += [self.certificates.all, self.users.all]
        folders += [self.trail] * self.params["audit"]
        for folder in filter(Path.exists, folders):
            if folder.stat().st_uid != os.geteuid() or folder.stat().st_mode & 0o022:
                raise Refused(
                    f"Wanted {folder} to be root's alone; found user {folder.stat().st_uid} and "
                    f"mode {folder.stat().st_mode & 0o777:04o}; make it root's, with mode 0755."
                )
        sizes = self.nginx.sizes
        if not (read(sizes) or MARKER).startswith(MARKER):
            raise Refused(
                f"Wanted {sizes} to be this role's, or absent; found another's; rename it."
            )
        foreign = self.file.is_symlink() or not (self.text() or MARKER).startswith(MARKER)
        elsewhere = os.path.lexists(self.link) and self.link.resolve() != self.file.resolve()
        if foreign or elsewhere:
            raise Refused(
                f"Wanted {self.file if foreign else self.link} to be this role's, or absent; found "
                "another's; move it away, or choose another nginx_site_name."
            )
        marks = (MARKER.strip(), str(self.certificates.hook))
        acme = self.params["tls"] == "acme"
        for path in self.helpers.paths + [self.certificates.renewal] * acme:
            if not any(mark in (read(path) or MARKER) for mark in marks):
                raise Refused(
                    f"Wanted {path} to be this role's, or absent; found another's; move it away, or"
                    " choose another nginx_site_name."
                )

    def check_configuration(self, to_be_replaced: bool = False) -> None:
        """Refuse a configuration that nginx rejects, or in which another site conflicts."""
        code, dump, output = self.nginx.test()
        ours = (str(self.link), f"{self.certificates.all}/{self.name}-", str(self.trail))
        # Another file may have begun to set the size for long names, or ceased to.
        ours += ("server_names_hash",)
        if code and to_be_replaced and any(path in output for path in ours):
            # The error is in what a killed run has left.
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
            for variable, port in self.ports.items():
                listen = rf"(?m)^[^#\n]*\blisten\s+([^\s;]+:)?{port}\b"
                if file != str(self.link) and re.search(listen, text) and not self.names:
                    raise Refused(
                        f"Wanted port {port} for this site; found that {file} has it; choose "
                        f"another {variable}{self.remedy(variable)}, or tell the sites apart by "
                        "nginx_server_names."
                    )
        for variable, listen in zip(self.ports, self.listen, strict=True):
            if f" on {listen}, ignored" in output:
                raise Refused(
                    f"Wanted nginx_server_names that no other site has; found: {output}; choose "
                    f"other names, or another {variable}{self.remedy(variable)}."
                )

    # Changes.

    def plan(self) -> list[str]:
        """Return what is to be done and whom it cuts off, or raise Refused. Changes nothing."""
        steps, cut_off = self.steps(), self.interruptions()
        self.warnings += [f"{sentence}." for sentence in cut_off]
        ports = [port for _, port in self.at]
        self.warnings += Firewalls(self.nginx.run, self.nginx.root).warnings(self.at[0][0], ports)
        return steps + cut_off

    def steps(self) -> list[str]:
        """Return what is to be done, in this order, or raise Refused."""
        self.look()
        self.check_ports()
        self.check_files()
        self.choose()
        files = {
            "certificate": not self.certificates.is_there(),
            "users": not self.users.are_there(),
            "audit": not self.has_trail(),
            "names": read(self.nginx.sizes) != self.sizes,
        }
        files = [name for name, due in files.items() if due]
        after = {
            "helpers": not self.helpers.are_there(),
            "acme": self.certificates.acme_is_due(),
            "end acme": self.certificates.acme_is_over(),
            "sweep": bool(self.leftovers(self.content)),
        }
        after = [name for name, due in after.items() if due]
        if not self.nginx.installed:
            return ["install", *files, "site", "start", *after]
        differs = self.text() != self.content or not self.link.is_symlink()
        self.check_configuration(to_be_replaced=differs or bool(files))
        missing = bool(self.nginx.missing_groups(self.groups))
        plan = files + ["site"] * differs + ["groups"] * missing
        plan += ["enable"] * self.nginx.disabled
        if not self.nginx.master:
            return [*plan, "start", *after]
        # The certificate that certbot's link points to differs from the loaded one.
        if (
            differs
            or missing
            or {"certificate", "audit", "names"} & {*files}
            or self.is_pending()
            or not self.serves()
        ):
            return [*plan, "reload", *after]
        return plan + after

    def carry_out(self, plan: list[str]) -> None:
        """Carry out the plan."""
        if self.nginx.missing:
            names = " ".join(self.nginx.missing)
            raise Refused(
                f"Wanted {' and '.join(self.nginx.missing)}; found none; run "
                f"`apt-get install {names}`."
            )
        user = self.nginx.user().pw_name
        for name in self.nginx.missing_groups(self.groups):
            self.nginx.must("/usr/sbin/usermod", "--append", "--groups", name, user)
        try:
            if "certificate" in plan:
                self.certificates.write()
                self.fill()
            if "users" in plan:
                self.users.write()
            if "names" in plan:
                self.nginx.write_sizes(self.sizes)
            if "audit" in plan:
                self.trail.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.trail.chmod(0o700)
            if "site" in plan or self.text() != self.content:
                self.write()
        except Refused:
            self.sweep(self.text() or "")
            raise
        if "enable" in plan:
            self.nginx.must("systemctl", "enable", UNIT)
        if "start" in plan:
            self.nginx.must("systemctl", "start", UNIT)
            self.look()
            self.wait(self.serves)
        elif "reload" in plan:
            self.reload()
        self.pending.unlink(missing_ok=True)
        if "helpers" in plan:
            self.helpers.write()
        if "acme" in plan:
            self.certificates.ask_certbot()
            self.wait(self.serves)
        if "end acme" in plan:
            self.certificates.end_acme()
        self.sweep(self.content)

    def remains(self) -> list[Path]:
        """Return what exists of the site and belongs to it alone."""
        own = [self.link, self.file, beside(self.file), self.certificates.authority, self.pending]
        own += self.helpers.paths
        return [path for path in own if os.path.lexists(path)] + self.leftovers("")

    def take_away(self) -> None:
        """Stop serving the site, and remove what exists of it."""
        self.link.unlink(missing_ok=True)
        if self.nginx.installed:
            code, _, output = self.nginx.test()
            if code:
                self.enable()
                raise Refused(
                    f"Wanted a configuration that nginx accepts without {self.file}; found: "
                    f"{output}; correct that. The site is still there."
                )
        if self.nginx.master:
            self.nginx.must("systemctl", "reload", UNIT)
        self.helpers.write()
        if self.certificates.acme_is_over():
            self.certificates.end_acme()
        # The file last, so that the next run can finish what this one does not.
        for path in sorted(self.remains(), key=self.file.__eq__):
            remove(path)

    def sweep(self, text: str) -> None:
        """Remove what neither this text nor a site names."""
        for path in self.leftovers(text):
            remove(path)

    def enable(self) -> None:
        """Link the site into the folder that nginx reads."""
        if not self.link.is_symlink():
            self.link.symlink_to(f"../sites-available/{self.file.name}")

    def write(self) -> None:
        """Write the site; restore the former state if nginx rejects it."""
        former, linked, pending = self.text(), self.link.is_symlink(), self.is_pending()
        self.pending.write_text(str(self.nginx.master))
        write(self.file, self.content, 0o644)
        self.enable()
        try:
            self.check_configuration()
        except Refused:
            if former is not None:
                write(self.file, former, 0o644)
            if not linked:
                self.link.unlink()
            if former is None:
                self.file.unlink()
            if not pending:
                self.pending.unlink()
            raise

    def reload(self) -> None:
        """Make the running nginx load the site, and verify that it did."""
        new = set(self.at) - self.nginx.listening()
        if any(bind_error(*at, dualstack=True) for at in new):
            # As from 127.0.0.1 to 0.0.0.0: nginx would bind the new address while it still holds
            # the old one, and fail. So it first releases the old one.
            self.link.unlink()
            self.nginx.must("systemctl", "reload", UNIT)
            self.wait(lambda: not any(bind_error(*at, dualstack=True) for at in new))
            self.enable()
        former = self.nginx.workers()
        self.nginx.must("systemctl", "reload", UNIT)
        self.wait(lambda: self.serves(former))

    def wait(self, condition) -> None:
        """Wait for the effect of a reload."""
        self.nginx.wait(condition, f"nginx to serve {' and '.join(self.listen)}")


def main():
    text = {"type": "str", "required": True}
    words = {"type": "list", "elements": "str", "default": []}
    optional = {"type": "str", "default": ""}
    secret = {"type": "str", "no_log": True}
    users = {"name": text, "password": {**secret, "required": True}}
    modes = ["none", "given", "self_signed", "acme"]
    module = AnsibleModule(
        argument_spec={
            **{"name": text, "content": optional, "listen_address": text},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "listen_port": {"type": "int", "required": True},
            "redirect_port": {"type": "int", "default": 0},
            **{"server_names": words, "user_groups": words, "subjects": words, "networks": words},
            "tls": {"type": "str", "choices": modes, "default": "none"},
            **{"certificate": optional, "key": {**secret, "default": ""}},
            **{"acme_url": optional, "acme_email": optional},
            "acme_agree": {"type": "bool", "default": False},
            "users": {"type": "list", "elements": "dict", "default": [], "options": users},
            "audit": {"type": "bool", "default": False},
            # Not secret, but too long for the host's journal.
            "helpers": {"type": "dict", "default": {}, "no_log": True},
        },
        required_if=[("state", "present", ["content"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    # The output of programs is parsed.
    module.run_command_environ_update = {"LC_ALL": "C"}
    hold()
    with refusing(module):
        site = Site(module.params, module.run_command)
        if module.params["state"] == "absent":
            site.look()
            site.check_files()
            remains = [str(path) for path in site.remains()]
            if remains and not module.check_mode:
                site.take_away()
            module.exit_json(name=site.name, changed=bool(remains), plan=remains, missing=[])
        plan, before = site.plan(), site.text() or ""
        former_listen = "".join(site.listens_before()[:1])
        if not module.check_mode:
            site.carry_out(plan)
    for warning in site.warnings:
        module.warn(warning)
    module.exit_json(
        name=module.params["name"],
        changed=bool(plan),
        plan=plan,
        missing=site.nginx.missing,
        former_listen=former_listen,
        trust=site.certificates.trust(),
        diff={"before": before, "after": site.content},
    )


if __name__ == "__main__":
    main()
