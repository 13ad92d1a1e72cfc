#!/usr/bin/python
"""Give nginx one site and make it serve it: checks, certificate, files and service, in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_site
short_description: One site of nginx, checked, written, enabled and loaded
description:
  - Refuses, before it changes anything, what stands in the way. Puts the former site back if nginx
    rejects the new one. What is left to do is read off the host, so the next run finishes what an
    interrupted one began.
  - Certificates and users are in files that are named by what is in them, so that another one is
    another text of the site, which is loaded, and taken back, like any other change of it.
options:
  name: {description: Name of the site and of its file., type: str, required: true}
  state:
    description: >-
      Whether there is to be such a site. C(absent) needs its name alone, and leaves nginx itself,
      other sites, the log and the audit trail.
    choices: [present, absent]
    type: str
    default: present
  content:
    description: >-
      Text of the site. C(@tls@) in it becomes the folder of C(fullchain.pem) and C(privkey.pem),
      C(@users@) the file of C(users), C(@acme@) the folder in which certbot answers.
      Needed for a site that is to be there.
    type: str
    default: ''
  listen_address: {description: IPv4 or IPv6 address in the text., type: str, required: true}
  listen_port: {description: Port in the text., type: int, required: true}
  redirect_port: {description: Second port in the text. 0 is none., type: int, default: 0}
  server_names: {description: Names in the text., type: list, elements: str, default: []}
  user_groups: {description: Groups for nginx's user., type: list, elements: str, default: []}
  tls:
    description: Where the certificate comes from.
    choices: [none, given, self_signed, acme]
    type: str
    default: none
  certificate: {description: The given one and its chain in PEM., type: str, default: ''}
  key: {description: Key of the given one in PEM., type: str, default: ''}
  subjects:
    description: Names and addresses in a certificate, or that a given one should have.
    type: list
    elements: str
    default: []
  acme_url: {description: Directory of the ACME server., type: str, default: ''}
  acme_email: {description: Who is told about the certificate., type: str, default: ''}
  acme_agree: {description: Whether the server's terms are agreed to., type: bool, default: false}
  networks: {description: Networks in the text., type: list, elements: str, default: []}
  users:
    description: Names and passwords of those who may pass.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      password: {description: Password., type: str, required: true}
  audit:
    description: Whether C(@audit@) in the text becomes a folder that is made, for root alone.
    type: bool
    default: false
  helpers:
    description: >-
      Texts by path of the programs and units that belong to the certificate and the audit
      trail. Such of the site that are not here are removed. A timer among them is started.
    type: dict
    default: {}
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
missing: {description: Packages that are not installed., type: list, returned: success}
plan:
  description: What is (to be) done, and which clients that cuts off, which is a warning, too.
  type: list
  elements: str
  returned: success
former_listen:
  description: Where the site on the host listens first, C(ADDRESS:PORT); nothing if there is none.
  type: str
  returned: success
trust:
  description: Path of what clients trust where O(tls=self_signed), else nothing.
  type: str
  returned: success
"""

import contextlib
import ctypes
import errno
import fcntl
import glob
import grp
import hashlib
import ipaddress
import os
import pwd
import re
import shutil
import socket
import ssl
import struct
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_firewalls import (
    Firewalls,
)

MARKER = "# Written by Ansible (role nginx): edits are lost.\n"
PACKAGES = ["nginx", "nginx-core", "nginx-light", "nginx-full", "nginx-extras"]
UNIT = "nginx.service"
LOAD_SECONDS = 15
HOST_NAME = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
# Of a certificate that ends: an operator is warned, one that is made here is made anew.
WARN_DAYS, RENEW_DAYS = 21, 30
# Of a CA and of what it signs. The latter is not shorter, as nothing but a run of site.yml makes
# another; it is Apple's systems alone that take 825 days at most.
SELF_SIGNED_DAYS = 3650
# Bytes for a name of a server, nginx's own bound: a line of the processor's cache, mostly.
BUCKET = 64
REQUEST = """[req]
distinguished_name = subject
x509_extensions = extensions
prompt = no
string_mask = utf8only
[subject]
CN = {name}
[extensions]
subjectKeyIdentifier = hash
"""
# Signs this site's certificates and no other CA's.
OF_A_CA = """basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
"""
# Some clients take no CA's for a server's.
OF_A_SERVER = """basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
subjectAltName = {subjects}
"""
END = "-----END CERTIFICATE-----"


# The name of that extension in a certificate: 2.5.29.35, RFC 5280.
AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("0603551d23")
# What certbot and its server say, and what to do about it.
ACME_REMEDIES = {
    "choose an account": "name one, as `account = …`, in /etc/letsencrypt/cli.ini",
    "rateLimited|too many": (
        "wait as long as it says, and try with the directory of the server's staging first"
    ),
    r"Detail: [0-9a-f]*:[0-9a-f:]+: ": (
        "take the AAAA records of these names away, or set nginx_listen_address to ::, as the "
        "server comes by IPv6"
    ),
}
ACME_REMEDY = "see that port 80 of these names reaches this host"


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


@contextlib.contextmanager
def in_memory(*texts: str):
    """Give paths of files with these texts that are nowhere on disk."""
    descriptors = [os.memfd_create("ansible") for _ in texts]
    try:
        for descriptor, text in zip(descriptors, texts, strict=True):
            os.write(descriptor, text.encode())
        yield [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def der(text: str) -> bytes:
    """Return the first certificate of a text in PEM as it is sent over the network."""
    first = re.search(rf"(?s)-----BEGIN CERT.*?{END}", text)
    return ssl.PEM_cert_to_DER_cert(first[0] if first else "")


class Certificate:
    """What a certificate in PEM says about itself.

    Raises:
        ValueError: It is none.
    """

    def __init__(self, text: str):
        with in_memory(text) as (path,):
            # Python has no public way to read one without a connection that it is used for.
            fields = ssl._ssl._test_decode_cert(path)
        self.ends = ssl.cert_time_to_seconds(fields["notAfter"])
        self.date = time.strftime("%Y-%m-%d", time.gmtime(self.ends))
        self.days = (self.ends - time.time()) / 86400
        self.subjects = {same_name(value) for _, value in fields.get("subjectAltName", ())}
        self.has_signed_itself = fields["subject"] == fields["issuer"]

    def is_for(self, name: str) -> bool:
        """Tell whether a client that comes by a name or an address takes it: RFC 9525."""
        name = same_name(name)
        wildcard = [] if is_address(name) else [f"*.{name.partition('.')[2]}"]
        return not self.subjects.isdisjoint([name, *wildcard])


def same_name(text: str) -> str:
    """Return a name or an address in the one form of several that it may have."""
    try:
        return str(ipaddress.ip_address(text.strip().removeprefix("[").removesuffix("]")))
    except ValueError:
        return text.lower().removesuffix(".")


def is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


def check_pair(certificate: str, key: str) -> None:
    """Raise ssl.SSLError or ValueError if the two do not belong together."""
    with in_memory(certificate, key) as paths:
        # A key with a passphrase would ask for it, here and at each start of nginx.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*paths, password=lambda: "")
    der(certificate)


def served_certificate(address, port: int, name: str) -> bytes:
    """Return the certificate with which the host answers, nothing if it does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Who it is we know: it is this host. The question is which certificate it has loaded.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if address.is_unspecified:
        address = "127.0.0.1" if address.version == 4 else "::1"
    try:
        with socket.create_connection((str(address), port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=name or None) as tls:
                return tls.getpeercert(binary_form=True)
    except OSError:
        return b""


def hashed(password: str, salt: str) -> str:
    """Return a password as nginx verifies it, by the library that nginx itself asks."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    return crypt(password.encode(), f"$6${salt}".encode()).decode()


class Site:
    """A site and the host it belongs on.

    Args:
        params: The module's parameters.
        run: Runs a command, given as a list, and returns (rc, stdout, stderr).
        root: Folder that stands for `/`.
    """

    def __init__(self, params: dict, run, root: Path = Path("/")):
        self.params, self.run, self.root = params, run, root
        self.name, self.tls = params["name"], params["tls"]
        self.names, self.groups = params["server_names"], params["user_groups"]
        self.proc, self.etc = root / "proc", root / "etc/nginx"
        self.file = self.etc / "sites-available" / self.name
        self.link = self.etc / "sites-enabled" / self.name
        self.sizes = self.etc / "conf.d/server_names.conf"
        # Names the running nginx as one that has not loaded the site. Made before the site is, so
        # that a killed run leaves it; an nginx that has started since has read the site anyway.
        self.pending = root / f"run/nginx-site-{self.name}.pending"
        self.certificates, self.accounts = self.etc / "tls", self.etc / "users"
        # Signs what is served where `tls` is self_signed. Clients trust it: it is made once, and
        # stays when another value takes the place of that one.
        self.authority = self.certificates / f"{self.name}-ca"
        # What the site names where the certificate comes by ACME. Points to certbot's, or to a
        # self-signed one until that is there; certbot needs a site that serves.
        self.acme = self.certificates / f"{self.name}-acme"
        self.live = root / "etc/letsencrypt/live" / self.name
        self.renewal = root / f"etc/letsencrypt/renewal/{self.name}.conf"
        self.webroot = root / "var/lib/nginx-acme"
        self.hook = root / f"usr/local/lib/nginx-acme-{self.name}"
        self.watcher = f"nginx-certificate-{self.name}"
        self.rotation = f"nginx-audit-{self.name}"
        self.trail = root / f"var/log/nginx-audit-{self.name}"
        self.helpers = {root / path.lstrip("/"): text for path, text in params["helpers"].items()}
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
        self.warnings: list[str] = []
        self.check_access()
        self.check_tls()

    # What is refused for what was asked.

    def check_access(self) -> None:
        for network in self.params["networks"]:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise Refused(
                    "Wanted networks such as 10.0.0.0/16 in nginx_allowed_networks; found "
                    f"{network} ({error}); correct it."
                ) from None
        names = [user["name"] for user in self.params["users"]]
        bad = [name for name in names if not re.fullmatch(r"[^:\s#][^:\n]*", name)]
        bad += [name for name in names if names.count(name) > 1]
        bad += [user["name"] for user in self.params["users"] if not user["password"]]
        if bad:
            raise Refused(
                "Wanted users with a name of their own, without a colon, and with a password in "
                f"nginx_users; found otherwise for {bad[0] or 'one without a name'}; correct it."
            )
        if any("example-change-me" in user["password"] for user in self.params["users"]):
            raise Refused(
                "Wanted passwords of your own in nginx_users; found an example's; replace it."
            )

        if names and self.tls == "none" and not self.at[0][0].is_loopback:
            self.warnings.append(
                "nginx_users without nginx_tls: whoever is on the way reads the passwords, unless "
                "TLS ends before nginx."
            )

    def check_tls(self) -> None:
        if len(set(self.at)) < len(self.ports):
            raise Refused(
                "Wanted plain HTTP to be redirected from another port than nginx_listen_port; found"
                f" {self.at[0][1]} for both; set nginx_redirect_port to another, or 0 for none."
            )
        if self.tls == "given":
            self.check_given()
        elif self.tls != "none":
            self.check_subjects()
        if self.tls == "acme" and not self.params["redirect_port"]:
            raise Refused(
                "Wanted a port on which the ACME server finds its answer; found none; set "
                "nginx_redirect_port to the one that port 80 of these names leads to."
            )
        if self.tls == "acme" and not self.params["acme_agree"]:
            raise Refused(
                f"Wanted you to agree to the terms of {self.params['acme_url']}; found that you do "
                "not; read them, then set nginx_acme_agree: true."
            )

    def check_given(self) -> None:
        certificate, key = self.params["certificate"], self.params["key"]
        pair = {"nginx_tls_certificate": certificate, "nginx_tls_key": key}
        if empty := [name for name, text in pair.items() if not text.strip()]:
            raise Refused(
                "Wanted a certificate in PEM and its key, as nginx_tls is given; found no "
                f"{' and no '.join(empty)}; set it."
            )
        try:
            check_pair(certificate, key)
            given = Certificate(certificate)
        except (ssl.SSLError, ValueError) as error:
            raise Refused(
                "Wanted a certificate in PEM, its chain after it, and its key, without a passphrase"
                f"; found: {error}; correct nginx_tls_certificate or nginx_tls_key."
            ) from None
        if given.days <= 0:
            raise Refused(
                "Wanted a certificate that is valid; found that nginx_tls_certificate has expired "
                f"on {given.date}; give a new one, and its nginx_tls_key."
            )
        if given.days < WARN_DAYS:
            self.warnings.append(
                f"nginx_tls_certificate ends on {given.date}, in {given.days:.0f} days: give a new "
                "one soon."
            )
        # A load balancer may know the host by another name than clients do.
        foreign = [name for name in self.params["subjects"] if not given.is_for(name)]
        if foreign:
            self.warnings.append(
                f"nginx_tls_certificate is for {', '.join(sorted(given.subjects)) or 'no name'}, "
                f"and not for {', '.join(foreign)}: clients using that name will reject it."
            )
        # Browsers and curl get along without these.
        if not given.has_signed_itself and certificate.count("-----BEGIN CERT") == 1:
            self.warnings.append(
                "nginx_tls_certificate has no chain after it: unless a root signed it, Python's "
                "clients refuse it. Append the intermediate certificates of its authority."
            )
        if not given.has_signed_itself and AUTHORITY_KEY_IDENTIFIER not in der(certificate):
            self.warnings.append(
                "nginx_tls_certificate has no Authority Key Identifier: clients on Python 3.13 and "
                "newer refuse it. Have its authority issue one that has."
            )

    def check_subjects(self) -> None:
        subjects = self.params["subjects"]
        name = rf"(\*\.)?{HOST_NAME}"
        bad = [each for each in subjects if not (is_address(each) or re.fullmatch(name, each))]
        if self.tls == "acme":
            bad += [each for each in subjects if is_address(each) or "*" in each]
        if bad or not subjects:
            kind = "names" if self.tls == "acme" else "names and addresses"
            raise Refused(
                f"Wanted {kind} of this host for its certificate; found {', '.join(bad) or 'none'};"
                " set nginx_tls_subject_alt_names."
            )
        self.subjects = {same_name(each) for each in subjects}

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
        listens = set(self.at) <= self.listening(self.master).keys()
        return in_groups and fresh and listens and self.serves_certificate()

    def serves_certificate(self) -> bool:
        if self.tls == "none":
            return True
        file = (self.acme if self.tls == "acme" else self.pair) / "fullchain.pem"
        # Where sites share a port, nginx takes that of the name.
        name = "".join(self.names[:1]).replace("*", "name")
        name = name if re.fullmatch(HOST_NAME, name) and not is_address(name) else ""
        return file.exists() and served_certificate(*self.at[0], name) == der(file.read_text())

    def look(self) -> None:
        show = "--showformat=${Package} ${db:Status-Status}\n"
        query = ["dpkg-query", "--show", show, *PACKAGES, "openssl", "certbot", "logrotate"]
        states = dict(line.split() for line in self.run(query)[1].splitlines() if " " in line)
        nginx = {state for name, state in states.items() if name in PACKAGES}
        self.installed = "installed" in nginx and not nginx & {"unpacked", "half-configured"}
        tools = {"self_signed": ["openssl"], "acme": ["openssl", "certbot"]}.get(self.tls, [])
        tools += ["logrotate"] * self.params["audit"]
        self.missing = ["nginx"] * (not self.installed)
        self.missing += [name for name in tools if states.get(name) != "installed"]
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

    # Certificate and users.

    def choose(self) -> None:
        """Find the certificate to be served and name the users' file, hence the site's text.

        `pair` is the folder of the certificate, None if one is to be made.
        """
        self.pair = None
        if self.tls == "given":
            digest = hashlib.sha256(der(self.params["certificate"])).hexdigest()[:16]
            self.pair = self.certificates / f"{self.name}-given-{digest}"
        elif self.tls == "acme" and self.read_pair(self.live):
            self.pair = self.live
        elif self.tls == "acme" and (given := self.given_before()):
            self.pair = given
        elif self.tls != "none":
            self.pair = self.fitting()
        if self.tls == "self_signed":
            self.check_authority()
        self.lines = "".join(f"{self.account(**user)}\n" for user in self.params["users"])
        digest = hashlib.sha256(self.lines.encode()).hexdigest()[:16]
        self.passwords = self.accounts / f"{self.name}-{digest}" if self.lines else None
        self.fill()

    def fill(self) -> None:
        folder = self.acme if self.tls == "acme" else self.pair
        text = self.params["content"].replace("@tls@", str(folder or "(to be made)"))
        text = text.replace("@users@", str(self.passwords)).replace("@acme@", str(self.webroot))
        text = text.replace("@audit@", str(self.trail))
        self.content = MARKER + text
        size = self.bucket_size()
        self.wanted_sizes = f"{MARKER}{size}" if size else None

    def configuration(self) -> dict[Path, str]:
        """Return the texts of nginx's files, this site's left out, without comments, by path.

        Found as nginx does it, which itself shows none as long as there is an error in one.
        """
        todo, found = [self.etc / "nginx.conf"], {}
        while todo:
            path = todo.pop()
            if path in found or path in (self.link, self.sizes) or not path.is_file():
                continue
            found[path] = re.sub(r"#.*", "", path.read_text(errors="replace"))
            for pattern in re.findall(r"\binclude\s+[\"']?([^\s;\"']+)", found[path]):
                folder = self.root if pattern.startswith("/") else self.etc
                todo += map(Path, glob.glob(str(folder / pattern.lstrip("/"))))
        return found

    def bucket_size(self) -> str:
        """Return the directive without which nginx refuses long names, nothing without any.

        There may be one in all files, so another's stays the only one. Ours is in a file that no
        site owns, as it serves for the names of all.
        """
        text, size = "\n".join(self.configuration().values()), BUCKET
        if "server_names_hash_bucket_size" in text:
            return ""
        others = " ".join(re.findall(r"\bserver_name\s([^;]+);", text)).split()
        names = [name for name in self.names + others if not name.startswith("~")]
        # As nginx counts: two pointers, and the name with its length, filled up to a pointer.
        needed = 16 + (max(map(len, names), default=0) + 9) // 8 * 8
        while size < needed:
            size *= 2
        return f"server_names_hash_bucket_size {size};\n" if size > BUCKET else ""

    def account(self, name: str, password: str) -> str:
        """Return a line of the users' file, the same at each run on this host."""
        file = self.root / "etc/machine-id"
        seed = f"{file.read_text() if file.exists() else ''}:{self.name}:{name}"
        return f"{name}:{hashed(password, hashlib.sha256(seed.encode()).hexdigest()[:16])}"

    def read_pair(self, folder: Path, name: str = "fullchain.pem") -> Certificate | None:
        """Return the certificate in a folder, None if it or its key could not be used."""
        with contextlib.suppress(OSError, ValueError):
            texts = [(folder / file).read_text() for file in (name, "privkey.pem")]
            check_pair(*texts)
            return Certificate(texts[0])
        return None

    def listens_before(self) -> list[str]:
        """Return where the site on the host listens, ADDRESS:PORT each."""
        text = self.text() if self.link.is_symlink() else None
        return re.findall(r"\blisten (\S+:\d+)(?=[ ;])", text or "")

    def interruptions(self) -> list[str]:
        """Return which clients of the site on the host are cut off, a sentence each."""
        found, former = [], self.listens_before()
        gone = [listen for listen in former if not self.still_listens(listen)]
        if gone:
            move = "moves to" if self.listen[0] not in former else "stays at nothing but"
            found.append(
                f"clients that come to {' and '.join(gone)} are cut off, as the site {move} "
                f"{self.listen[0]}"
            )
        return found + self.strangers()

    def still_listens(self, former: str) -> bool:
        """Tell whether who comes to ADDRESS:PORT is still answered."""
        host, _, port = former.rpartition(":")
        address = ipaddress.ip_address(host.strip("[]"))
        return any(
            int(port) == number
            # `::` is all of both, which is how the site listens there.
            and (at == address or at.is_unspecified and at.version >= address.version)
            for at, number in self.at
        )

    def strangers(self) -> list[str]:
        """Return which clients do not know the certificate that is to be served, a sentence."""
        folder = self.before()
        if not folder:
            return []
        kind = re.match(rf"{re.escape(self.name)}-(given|self_signed|acme)\b", folder.name)
        pair, moves = self.read_pair(folder), kind and kind[1] != self.tls
        if self.tls == "none":
            return ["clients that come by https are cut off, as the site moves to nginx_tls: none"]
        # Others of the same kind are signed by who has signed the former.
        renews = folder not in (self.pair, self.acme) and pair and self.is_of_another(folder, pair)
        if not moves and not renews:
            return []
        remedy = f"; give them {self.trust()}, which stays the same" if self.trust() else ""
        why = f"as the site moves to nginx_tls: {self.tls}" if moves else "as another is served"
        return [f"clients that trust the former certificate alone are cut off, {why}{remedy}"]

    def is_of_another(self, folder: Path, pair: Certificate) -> bool:
        """Tell whether a certificate was not signed by the CA that signs the next one."""
        file = self.authority / "ca.pem"
        authority = file.read_text().strip() if file.exists() else ""
        ours = folder.name.startswith(f"{self.name}-self_signed-")
        return pair.has_signed_itself or ours and self.issuer(folder) != authority

    def before(self) -> Path | None:
        """Return the folder of the certificate that the site on the host names."""
        found = re.search(r"\bssl_certificate (\S+)/fullchain\.pem;", self.text() or "")
        return Path(found[1]) if found else None

    def given_before(self) -> Path | None:
        """Return the given certificate that is served until the ACME server has answered."""
        folder = Path(os.path.realpath(self.before() or ""))
        is_given = folder.name.startswith(f"{self.name}-given-")
        pair = self.read_pair(folder) if is_given else None
        return folder if pair and pair.days > 0 else None

    def issuer(self, folder: Path) -> str:
        """Return the CA's certificate after the one in a folder, nothing if it has none."""
        file = folder / "fullchain.pem"
        return file.read_text().partition(END)[2].strip() if file.exists() else ""

    def fitting(self) -> Path | None:
        """Return the certificate made here that will do, of several the one that is served."""
        file, text, found = self.authority / "ca.pem", self.text() or "", []
        authority = file.read_text().strip() if file.exists() else ""
        for folder in sorted(self.certificates.glob(f"{self.name}-self_signed-*")):
            pair, issuer = self.read_pair(folder), self.issuer(folder)
            # One that a former release has made has no CA: clients trust it while it is served, as
            # they do one whose CA's folder is gone.
            known = issuer == authority if issuer and authority else str(folder) in text
            fits = pair and pair.days > RENEW_DAYS and pair.subjects == self.subjects
            # Nobody trusts what is served until the ACME server has answered.
            if fits and (known or self.tls == "acme"):
                found.append(folder)
        served = [folder for folder in found if str(folder) in text]
        return (served + found + [None])[0]

    def check_authority(self) -> None:
        """Refuse a CA that cannot sign."""
        if self.pair or not os.path.lexists(self.authority):
            return
        found = self.read_pair(self.authority, "ca.pem")
        if not found or found.days <= RENEW_DAYS:
            fault = f"ends on {found.date}" if found else "is not whole"
            raise Refused(
                f"Wanted the CA in {self.authority} to sign another certificate; found that it "
                f"{fault}; restore the folder from a backup, or remove it: the next run makes "
                "another CA, and clients need its ca.pem."
            )

    def trust(self) -> str:
        """Return the path of what clients trust if `tls` is self_signed."""
        if self.tls != "self_signed":
            return ""
        has_none = self.pair and not self.issuer(self.pair)
        return str(self.pair / "fullchain.pem" if has_none else self.authority / "ca.pem")

    def has_certificate(self) -> bool:
        """Tell whether the files that the site names are there."""
        if self.tls == "given":
            texts = {"fullchain.pem": "certificate", "privkey.pem": "key"}
            return all(
                (self.pair / file).exists() and (self.pair / file).read_text() == self.params[text]
                for file, text in texts.items()
            )
        if self.tls == "acme":
            return bool(self.pair) and self.acme.resolve() == self.pair.resolve()
        return self.tls == "none" or bool(self.pair)

    def has_trail(self) -> bool:
        """Tell whether the folder of the audit trail is there, for its owner alone."""
        if not self.params["audit"]:
            return True
        return self.trail.is_dir() and self.trail.stat().st_mode & 0o777 == 0o700

    def has_users(self) -> bool:
        file = self.passwords
        return file is None or (file.exists() and file.read_text() == self.lines)

    def acme_is_due(self) -> bool:
        """Tell whether certbot has to be asked for another certificate than it has."""
        if self.tls != "acme":
            return False
        live, text = self.read_pair(self.live), ""
        if self.renewal.exists():
            text = self.renewal.read_text()
        settings = dict(re.findall(r"(?m)^(\w+) = (.*?),?$", text))
        asked = (settings.get("server"), settings.get("renew_hook"))
        as_wanted = asked == (self.params["acme_url"], str(self.hook))
        return not (as_wanted and live and live.days > 0 and live.subjects == self.subjects)

    def acme_is_over(self) -> bool:
        """Tell whether certbot would go on renewing what is no longer served."""
        ours = self.renewal.exists() and str(self.hook) in self.renewal.read_text()
        return self.tls != "acme" and ours

    def helper_files(self) -> list[Path]:
        """Return the files that a site may have beside nginx's."""
        units = [
            self.root / f"etc/systemd/system/{unit}.{end}"
            for unit in (self.watcher, self.rotation)
            for end in ("service", "timer")
        ]
        programs = [self.root / f"usr/local/lib/{name}" for name in (self.watcher, self.rotation)]
        return [*programs, self.hook, *units]

    def timers(self) -> list[str]:
        found = [path.name for path in self.helpers if path.suffix == ".timer"]
        return found + ["certbot.timer"] * (self.tls == "acme")

    def has_helpers(self) -> bool:
        """Tell whether programs and units are as wanted, and the timers wait."""
        for path in self.helper_files():
            if (path.read_text() if path.exists() else None) != self.helpers.get(path):
                return False
        properties = "--property=ActiveState,UnitFileState,NeedDaemonReload"
        for timer in self.timers():
            shown = self.run(["systemctl", "show", timer, properties])[1].split()
            if not {"ActiveState=active", "UnitFileState=enabled", "NeedDaemonReload=no"} <= {
                *shown
            }:
                return False
        return True

    def leftovers(self, text: str) -> list[Path]:
        """Return what certificates and users there are that neither this text nor a site names."""
        named = [text]
        for folder in (self.file.parent, self.link.parent):
            for path in folder.glob("*"):
                if path.name != self.name and path.is_file():
                    named.append(path.read_text(errors="replace"))
        if str(self.acme) in text and self.acme.is_symlink():
            named.append(os.readlink(self.acme))
        ours = (
            rf"{re.escape(self.name)}(-acme|(-(given|self_signed))?-[0-9a-f]{{16}})(\.(new|hook))?"
        )
        there = [*self.certificates.glob("*"), *self.accounts.glob("*")]
        return [
            path
            for path in sorted(there)
            if re.fullmatch(ours, path.name) and not any(str(path) in each for each in named)
        ]

    # What is refused.

    def check_ports(self) -> None:
        """Refuse an address that is not the host's, or that a process other than nginx has."""
        for variable, at, listen in zip(self.ports, self.at, self.listen, strict=True):
            error = 0 if at in self.listening(self.master) else bind_error(*at)
            if error not in (0, errno.EADDRINUSE):
                raise Refused(
                    f"Wanted nginx to listen on {listen}; found that the host says "
                    f"'{os.strerror(error)}'; set nginx_listen_address to an address of the host."
                )
            # If nginx has it at another address (0.0.0.0), it gives that up when it is reloaded.
            for (_, port), pid in self.listening().items() if error else ():
                unit = self.unit(pid)
                if port == at[1] and unit != UNIT:
                    name = self.read(pid, "comm").strip()
                    raise Refused(
                        f"Wanted nginx to listen on {listen}; found process {pid} ({name}, "
                        f"{unit or 'no unit'}) listening there; stop that, or choose another port"
                        f"{self.remedy(variable)}."
                    )

    def remedy(self, variable: str) -> str:
        return ", or none (nginx_redirect_port: 0)" if variable == "nginx_redirect_port" else ""

    def check_files(self) -> None:
        """Refuse folders that not only root can write to, and files that we did not write."""
        folders = [self.etc, self.file.parent, self.link.parent, self.certificates, self.accounts]
        folders += [self.trail] * self.params["audit"]
        for folder in filter(Path.exists, folders):
            if folder.stat().st_uid != os.geteuid() or folder.stat().st_mode & 0o022:
                raise Refused(
                    f"Wanted {folder} to be root's alone; found user {folder.stat().st_uid} and "
                    f"mode {folder.stat().st_mode & 0o777:04o}; make it root's, with mode 0755."
                )
        if self.sizes.exists() and not self.sizes.read_text().startswith(MARKER):
            raise Refused(
                f"Wanted {self.sizes} to be this role's, or absent; found another's; rename it."
            )
        foreign = self.file.is_symlink() or not (self.text() or MARKER).startswith(MARKER)
        elsewhere = os.path.lexists(self.link) and self.link.resolve() != self.file.resolve()
        if foreign or elsewhere:
            raise Refused(
                f"Wanted {self.file if foreign else self.link} to be this role's, or absent; found "
                "another's; move it away, or choose another nginx_site_name."
            )
        others = [path for path in self.helper_files() if path.exists()]
        others += [self.renewal] if self.tls == "acme" and self.renewal.exists() else []
        for path in others:
            if not any(mark in path.read_text() for mark in (MARKER.strip(), str(self.hook))):
                raise Refused(
                    f"Wanted {path} to be this role's, or absent; found another's; move it away, or"
                    " choose another nginx_site_name."
                )

    def check_configuration(self, to_be_replaced: bool = False) -> None:
        """Refuse a configuration that nginx rejects, or in which another site is in the way."""
        code, dump, output = self.run(["/usr/sbin/nginx", "-T"])
        output = "; ".join(re.findall(r"\[[a-z]+\] .*", output))
        ours = (str(self.link), f"{self.certificates}/{self.name}-", str(self.trail))
        # Long names of which another file has come to say the size, or has ceased to.
        ours += ("server_names_hash",)
        if code and to_be_replaced and any(path in output for path in ours):
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

    # What is done.

    def plan(self) -> list[str]:
        """Return what is to be done and whom it cuts off, or refuse it. Changes nothing."""
        steps, cut_off = self.steps(), self.interruptions()
        self.warnings += [f"{sentence}." for sentence in cut_off]
        ports = [port for _, port in self.at]
        self.warnings += Firewalls(self.run, self.root).warnings(self.at[0][0], ports)
        return steps + cut_off

    def steps(self) -> list[str]:
        self.look()
        self.check_ports()
        self.check_files()
        self.choose()
        files = ["certificate"] * (not self.has_certificate()) + ["users"] * (not self.has_users())
        files += ["audit"] * (not self.has_trail())
        sizes = self.sizes.read_text() if self.sizes.exists() else None
        files += ["names"] * (sizes != self.wanted_sizes)
        after = ["helpers"] * (not self.has_helpers()) + ["acme"] * self.acme_is_due()
        after += ["end acme"] * self.acme_is_over()
        after += ["sweep"] * bool(self.leftovers(self.content))
        if not self.installed:
            return ["install", *files, "site", "start", *after]
        differs = self.text() != self.content or not self.link.is_symlink()
        self.check_configuration(to_be_replaced=differs or bool(files))
        missing = bool(self.missing_groups())
        plan = files + ["site"] * differs + ["groups"] * missing + ["enable"] * self.disabled
        if not self.master:
            return [*plan, "start", *after]
        # What the link to certbot's points to has other words in it than what nginx has loaded.
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
        """Do what `plan` returned."""
        if self.missing:
            names = " ".join(self.missing)
            raise Refused(
                f"Wanted {' and '.join(self.missing)}; found none; run `apt-get install {names}`."
            )
        for name in self.missing_groups():
            self.must("/usr/sbin/usermod", "--append", "--groups", name, self.user)
        try:
            if "certificate" in plan:
                self.write_certificate()
            if "users" in plan:
                self.write_users()
            if "names" in plan:
                self.write_sizes()
            if "audit" in plan:
                self.trail.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.trail.chmod(0o700)
            if "site" in plan or self.text() != self.content:
                self.write()
        except Refused:
            self.sweep(self.text() or "")
            raise
        if "enable" in plan:
            self.must("systemctl", "enable", UNIT)
        if "start" in plan:
            self.must("systemctl", "start", UNIT)
            self.look()
            self.wait(self.serves)
        elif "reload" in plan:
            self.reload()
        self.pending.unlink(missing_ok=True)
        if "helpers" in plan:
            self.write_helpers()
        if "acme" in plan:
            self.ask_certbot()
        if "end acme" in plan:
            self.must("certbot", "delete", "--non-interactive", f"--cert-name={self.name}")
        self.sweep(self.content)

    def remains(self) -> list[Path]:
        """Return what there is of the site, and of nobody else."""
        own = [self.link, self.file, self.authority, self.pending, *self.helper_files()]
        return [path for path in own if os.path.lexists(path)] + self.leftovers("")

    def take_away(self) -> None:
        """Stop to serve the site, and remove what there is of it."""
        self.link.unlink(missing_ok=True)
        if self.installed:
            code, _, output = self.run(["/usr/sbin/nginx", "-T"])
            if code:
                self.link.symlink_to(f"../sites-available/{self.file.name}")
                output = "; ".join(re.findall(r"\[[a-z]+\] .*", output))
                raise Refused(
                    f"Wanted a configuration that nginx accepts without {self.file}; found: "
                    f"{output}; correct that. The site is still there."
                )
        if self.master:
            self.must("systemctl", "reload", UNIT)
        self.write_helpers()
        if self.acme_is_over():
            self.must("certbot", "delete", "--non-interactive", f"--cert-name={self.name}")
        # The file last: by it the next run finishes what this one does not.
        for path in sorted(self.remains(), key=self.file.__eq__):
            self.remove(path)

    def write_certificate(self) -> None:
        self.certificates.mkdir(mode=0o700, exist_ok=True)
        if self.tls == "acme":
            self.webroot.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.webroot.chmod(0o755)
        new = self.certificates / f"{self.name}-acme.new"
        if self.tls == "given":
            self.remove(new)
            new.mkdir(mode=0o700)
            self.put_file(new / "fullchain.pem", self.params["certificate"], 0o644)
            self.put_file(new / "privkey.pem", self.params["key"], 0o600)
            self.remove(self.pair)
            new.replace(self.pair)
        elif self.pair is None:
            self.pair = self.make_certificate(new)
        if self.tls == "acme" and self.acme.resolve() != self.pair.resolve():
            self.remove(new)
            new.symlink_to(self.pair)
            new.replace(self.acme)
        self.fill()

    def make_certificate(self, new: Path) -> Path:
        """Make a certificate and return its folder, which is there at once or not."""
        authority, days, signer = "", SELF_SIGNED_DAYS, []
        if self.tls == "self_signed":
            if not self.authority.exists():
                name = f"{self.name} on {socket.gethostname()}"
                self.make_pair(new, "ca.pem", name, OF_A_CA, days)
                new.replace(self.authority)
            file, key = self.authority / "ca.pem", self.authority / "privkey.pem"
            authority = file.read_text()
            # Not longer than that of its CA.
            days = min(days, int(Certificate(authority).days))
            signer = ["-CA", str(file), "-CAkey", str(key)]
        kinds = [("IP" if is_address(each) else "DNS", each) for each in sorted(self.subjects)]
        subjects = ", ".join(f"{kind}:{each}" for kind, each in kinds)
        name, extensions = same_name(self.params["subjects"][0]), OF_A_SERVER
        extensions = extensions.format(subjects=subjects)
        text = self.make_pair(new, "fullchain.pem", name, extensions, days, *signer)
        self.put_file(new / "fullchain.pem", text + authority, 0o644)
        digest = hashlib.sha256(der(text)).hexdigest()[:16]
        return new.replace(self.certificates / f"{self.name}-self_signed-{digest}")

    def make_pair(
        self, new: Path, file: str, name: str, extensions: str, days: int, *signer: str
    ) -> str:
        """Make a certificate and its key, in a folder of their own, and return the former's text.

        Args:
            new: The folder.
            file: The certificate's name in it.
            signer: Options of openssl that say who signs it; itself without any.
        """
        self.remove(new)
        new.mkdir(mode=0o700)
        config, certificate, key = (new / each for each in ("config", file, "privkey.pem"))
        # A common name has 64 characters at most.
        self.put_file(config, REQUEST.format(name=name[:64]) + extensions, 0o600)
        command = ["openssl", "req", "-x509", "-config", str(config), "-newkey", "ec", "-nodes"]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-days", str(days), *signer]
        self.must(*command, "-keyout", str(key), "-out", str(certificate))
        config.unlink()
        text = certificate.read_text()
        self.put_file(key, key.read_text(), 0o600)
        self.put_file(certificate, text, 0o644)
        return text

    def write_users(self) -> None:
        self.accounts.mkdir(mode=0o755, exist_ok=True)
        self.put_file(self.passwords, self.lines, 0o640, pwd.getpwnam(self.user).pw_gid)

    def write_sizes(self) -> None:
        if self.wanted_sizes:
            self.sizes.parent.mkdir(mode=0o755, exist_ok=True)
            self.put_file(self.sizes, self.wanted_sizes, 0o644)
        else:
            self.sizes.unlink()

    def write_helpers(self) -> None:
        """Write programs and units and start the timers; remove those that are not wanted."""
        for path in self.helper_files():
            if path not in self.helpers and path.exists():
                if path.suffix == ".timer":
                    self.must("systemctl", "disable", "--now", path.name)
                    # When it ran for the last time, which systemd keeps.
                    stamp = self.root / f"var/lib/systemd/timers/stamp-{path.name}"
                    stamp.unlink(missing_ok=True)
                path.unlink()
        for path, text in self.helpers.items():
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.put_file(path, text, 0o755 if text.startswith("#!") else 0o644)
        self.must("systemctl", "daemon-reload")
        if self.timers():
            self.must("systemctl", "enable", "--now", *self.timers())
        elif not self.helpers:
            # A certificate that nobody serves any more is no failure.
            self.run(["systemctl", "reset-failed", f"{self.watcher}.service"])

    def ask_certbot(self) -> None:
        """Get the certificate. The hook switches the link to it and reloads nginx, as later on."""
        email = self.params["acme_email"]
        command = ["certbot", "certonly", "--non-interactive", "--agree-tos", "--webroot"]
        command += [f"--email={email}"] if email else ["--register-unsafely-without-email"]
        command += [f"--webroot-path={self.webroot}", f"--cert-name={self.name}"]
        command += [f"--server={self.params['acme_url']}", f"--deploy-hook={self.hook}"]
        command += ["--force-renewal", "--renew-with-new-domains"]
        command += [f"--domain={name}" for name in self.params["subjects"]]
        code, said, error = self.run(command)
        if code:
            words = " ".join(
                re.findall(r"(?m)^\s*(?:Detail|Type|Domain|Hint): .*|.*rror.*", said + error)
            )
            remedies = [what for key, what in ACME_REMEDIES.items() if re.search(key, said + error)]
            raise Refused(
                f"Wanted a certificate for {', '.join(self.params['subjects'])} from "
                f"{self.params['acme_url']}; found: {words or error.strip()}; "
                f"{[*remedies, ACME_REMEDY][0]}, and see /var/log/letsencrypt/letsencrypt.log; the "
                "site serves with a self-signed certificate until then."
            )
        self.pair = self.live
        self.wait(self.serves)

    def sweep(self, text: str) -> None:
        for path in self.leftovers(text):
            self.remove(path)

    def remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def put_file(self, path: Path, text: str, mode: int, group: int = -1) -> None:
        """Write a file, at once or not at all."""
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            os.fchown(stream.fileno(), -1, group)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        new.replace(path)

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
        new = set(self.at) - self.listening(self.master).keys()
        if any(bind_error(*at) for at in new):
            # As from 127.0.0.1 to 0.0.0.0: nginx would bind the new address while it still has the
            # old one, and fail. So it first gives up the old one.
            self.link.unlink()
            self.must("systemctl", "reload", UNIT)
            self.wait(lambda: not any(bind_error(*at) for at in new))
            self.put(self.content)
        former = self.workers()
        self.must("systemctl", "reload", UNIT)
        self.wait(lambda: self.serves(former))

    def wait(self, condition) -> None:
        end = time.monotonic() + LOAD_SECONDS
        while not condition():
            if time.monotonic() > end:
                listen = " and ".join(self.listen)
                self.fail(f"nginx to serve {listen}", f"not so after {LOAD_SECONDS} seconds")
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
            # Not secret, but their pages do not belong in the host's journal.
            "helpers": {"type": "dict", "default": {}, "no_log": True},
        },
        required_if=[("state", "present", ["content"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    # What programs say is read here.
    module.run_command_environ_update = {"LC_ALL": "C"}
    # Two names of the inventory may be one host, with a site each. Held until this process ends.
    fcntl.flock(os.open("/run", os.O_RDONLY), fcntl.LOCK_EX)
    try:
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
    except Refused as refused:
        module.fail_json(msg=str(refused))
    for warning in site.warnings:
        module.warn(warning)
    module.exit_json(
        name=module.params["name"],
        changed=bool(plan),
        plan=plan,
        missing=site.missing,
        former_listen=former_listen,
        trust=site.trust(),
        diff={"before": before, "after": site.content},
    )


if __name__ == "__main__":
    main()
