"""One host with nginx, of the imagination, on which the module nginx_site is run."""

import errno
import functools
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import types
from ipaddress import ip_address
from pathlib import Path

import nginx_site
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import (
    files,
    nginx_certificates,
    nginx_server,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.certificates import der
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_server import MARKER
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from kills import Killable
from nginx_site import Site

NGINX_CONF = "user www-data;\nhttp {\n  include /etc/nginx/sites-enabled/*;\n}\n"
UNSPECIFIED = (ip_address("0.0.0.0"), ip_address("::"))
MARK = MARKER.strip()
HELPERS = {
    "/usr/local/lib/nginx-certificate-mlflow": f"#!/usr/bin/python3\n{MARK}\n",
    "/etc/systemd/system/nginx-certificate-mlflow.service": f"{MARK}\n",
    "/etc/systemd/system/nginx-certificate-mlflow.timer": f"{MARK}\n",
}


def make_pair(folder, name, *options, subjects=""):
    """Make a certificate for a name in a folder, by the machine's own openssl."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subjects = subjects or f"DNS:{name}"
    command += ["-nodes", "-subj", f"/CN={name}", "-addext", f"subjectAltName={subjects}"]
    command += ["-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem", *options]
    subprocess.run(command, check=True, capture_output=True)


@functools.cache
def pair(name, days):
    """Return a certificate for a name and its key."""
    with tempfile.TemporaryDirectory() as folder:
        make_pair(Path(folder), name, "-days", days)
        return [(Path(folder) / file).read_text() for file in ("fullchain.pem", "privkey.pem")]


def given_pair(name="a.example", days="90", key_of=None):
    """Return a certificate and a key, by default its own, as parameters of the module."""
    certificate, key = pair(name, days)
    return {"tls": "given", "certificate": certificate, "key": pair(key_of or name, days)[1]}


FITTING = set()


def check_pair(chain, key):
    """Raise OSError if a certificate and a key do not fit; look at each pair of texts once."""
    texts = Path(chain).read_bytes(), Path(key).read_bytes()
    if texts not in FITTING:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
        FITTING.add(texts)


class FakeHost(Killable):
    """Files, processes, kernel, systemd and nginx of one host, killed before its n-th action.

    nginx runs there, without a site of ours.

    As the real ones do, nginx keeps the sites and groups of its last good load, and a reload to an
    address that overlaps with one that it still has fails without a word to who asked.
    """

    def __init__(self, root: Path, monkeypatch):
        super().__init__()
        self.root = root
        self.packages = dict.fromkeys(["nginx", "openssl", "certbot", "logrotate"], "installed")
        self.enabled = True
        self.masked = False
        self.timers, self.served = set(), {}
        self.acme_answer = ""
        self.group_members = {"mlflow": []}
        self.processes = {}
        self.next_pid, self.clock = 100, 0
        self.master = 0
        self.addresses = {"127.0.0.1", "127.0.0.2", "::1", "0.0.0.0", "::"}
        for folder in ("sites-available", "sites-enabled"):
            (root / "etc/nginx" / folder).mkdir(parents=True)
        (root / "run").mkdir()
        (root / "etc/machine-id").write_text("0123456789abcdef\n")
        (root / "proc/net").mkdir(parents=True)
        (root / "etc/nginx/nginx.conf").write_text(NGINX_CONF)
        self.shown = {}
        self.show_processes()
        for name in ("write_text", "replace", "symlink_to", "unlink", "mkdir"):
            monkeypatch.setattr(Path, name, self.counted(name, getattr(Path, name)))
        # A disk that is busy makes the tests no better.
        monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)
        for module in (nginx_site, nginx_server):
            monkeypatch.setattr(module, "bind_error", self.bind_error)
        monkeypatch.setattr(
            nginx_certificates,
            "served_certificate",
            lambda at, port, name: self.served.get(port, b""),
        )
        monkeypatch.setattr(files, "shutil", types.SimpleNamespace(rmtree=self.remove))
        groups = [types.SimpleNamespace(gr_name="mlflow", gr_gid=990)]
        monkeypatch.setattr(nginx_server.grp, "getgrall", lambda: groups if self.has_group else [])
        monkeypatch.setattr(nginx_server.grp, "getgrnam", lambda name: groups[0])
        user = types.SimpleNamespace(pw_name="www-data", pw_gid=33)
        monkeypatch.setattr(nginx_server.pwd, "getpwnam", lambda name: user)
        monkeypatch.setattr(nginx_server.os, "getgrouplist", lambda name, gid: self.gids(name))
        monkeypatch.setattr(nginx_server.time, "monotonic", self.tick)
        monkeypatch.setattr(nginx_server.time, "sleep", lambda seconds: None)
        self.has_group = True
        self.start_nginx()

    def tick(self):
        self.clock += 1
        return self.clock

    def gids(self, user):
        return [33] + [990] * (user in self.group_members["mlflow"])

    def remove(self, path):
        self.act(f"rmtree {path.name}")
        shutil.rmtree(path)

    def counted(self, name, method):
        def wrapped(path, *args, **more):
            if path.is_relative_to(self.root):
                self.act(f"{name} {path.name}")
            return method(path, *args, **more)

        return wrapped

    # Processes and the kernel.

    def start(self, comm, cmdline, unit, sockets=(), groups=()):
        pid, self.next_pid = self.next_pid, self.next_pid + 1
        self.processes[pid] = {
            "comm": comm,
            "cmdline": cmdline,
            "cgroup": f"0::/system.slice/{unit}\n",
            "status": f"Uid:\t990\nGid:\t33\t33\nGroups:\t{' '.join(map(str, groups))} \n",
            "sockets": list(sockets),
        }
        self.show_processes()
        return pid

    def show_processes(self):
        """Lay the processes out as /proc shows them."""
        tables = {4: ["header"], 6: ["header"]}
        inode = 5000
        for folder in (self.root / "proc").glob("[0-9]*"):
            if int(folder.name) not in self.processes:
                folder.rename(self.root / f"gone-{folder.name}")
        for pid, process in self.processes.items():
            folder = self.root / "proc" / str(pid)
            (folder / "fd").mkdir(parents=True, exist_ok=True)
            for file in ("comm", "cmdline", "cgroup", "status"):
                if self.shown.get(folder / file) != process[file]:
                    with open(folder / file, "w") as stream:
                        stream.write(process[file])
                    self.shown[folder / file] = process[file]
            for link in os.listdir(folder / "fd"):
                os.remove(folder / "fd" / link)
            for number, (address, port) in enumerate(process["sockets"]):
                inode += 1
                os.symlink(f"socket:[{inode}]", folder / "fd" / str(number))
                packed = ip_address(address).packed
                words = [packed[at : at + 4][::-1].hex().upper() for at in range(0, len(packed), 4)]
                tables[ip_address(address).version].append(
                    f"0: {''.join(words)}:{port:04X} 0:0 0A 0 0 0 0 0 {inode} 1"
                )
        for version, name in ((4, "tcp"), (6, "tcp6")):
            with open(self.root / "proc/net" / name, "w") as stream:
                stream.write("\n".join(tables[version]) + "\n")

    def bind_error(self, address, port, dualstack):
        assert dualstack, "as nginx listens at `::` for both"
        if str(address) not in self.addresses:
            return errno.EADDRNOTAVAIL
        for process in self.processes.values():
            for other, number in process["sockets"]:
                one, two = ip_address(other), address
                if number == port and (one == two or one in UNSPECIFIED or two in UNSPECIFIED):
                    return errno.EADDRINUSE
        return 0

    # nginx and systemd.

    def sites(self):
        """Return {path: text} of nginx.conf and of what it includes."""
        enabled = sorted((self.root / "etc/nginx/conf.d").glob("*"))
        enabled += sorted((self.root / "etc/nginx/sites-enabled").iterdir())
        return {path: path.read_text() for path in [self.root / "etc/nginx/nginx.conf", *enabled]}

    def listens(self):
        found = re.findall(r"listen (\S+):(\d+)(?: ssl)?;", "".join(self.sites().values()))
        return sorted({(address.strip("[]"), int(port)) for address, port in found})

    def test(self):
        for path, text in self.sites().items():
            if "broken" in text:
                return 1, "", f"nginx: [emerg] 1#1: unknown directive in {path}:1\n"
            for folder in re.findall(r"ssl_certificate (\S+)/fullchain.pem;", text):
                try:
                    check_pair(*(f"{folder}/{name}.pem" for name in ("fullchain", "privkey")))
                except OSError as error:
                    return 1, "", f'nginx: [emerg] 1#1: cannot load "{folder}": {error}\n'
        text = re.sub("#.*", "", "".join(self.sites().values()))
        names = re.findall(r"server_name (\S+);", text)
        sizes = re.findall(r"server_names_hash_bucket_size (\d+);", text)
        if len(sizes) > 1:
            error = '"server_names_hash_bucket_size" directive is duplicate in '
            return 1, "", f"nginx: [emerg] 1#1: {error}{path}:1\n"
        # By trial, with nginx 1.22.1 on amd64, where sites share a port.
        longest = {64: 46, 128: 110, 256: 238}[int(sizes[0]) if sizes else 64]
        if any(len(name) > longest for name in names):
            error = "could not build server_names_hash, you should increase"
            return 1, "", f"nginx: [emerg] 1#1: {error} server_names_hash_bucket_size: 64\n"
        dump = "".join(f"# configuration file {path}:\n{t}\n" for path, t in self.sites().items())
        clash = [name for name in set(names) if names.count(name) > 1]
        warning = f'nginx: [warn] 1#1: conflicting server name "{clash[0]}"' if clash else ""
        return 0, dump, f"{warning} on 127.0.0.1:5000, ignored\n" if clash else ""

    def load(self):
        """Do what nginx's master does at its start and when it is reloaded."""
        had = self.processes[self.master]["sockets"]
        for new in set(self.listens()) - set(had):
            if self.bind_error(ip_address(new[0]), new[1], True):
                return
        for process in self.processes.values():
            ours = "nginx.service" in process["cgroup"]
            if ours and process["cmdline"] == "nginx: worker process":
                process["cmdline"] += " is shutting down"
        self.processes[self.master]["sockets"] = self.listens()
        text = "".join(self.sites().values())
        listens = re.findall(r":(\d+) ssl; ssl_certificate (\S+);", text)
        self.served = {int(port): der(Path(f).read_text()) for port, f in listens}
        self.start("nginx", "nginx: worker process", "nginx.service", (), self.gids("www-data"))
        self.loaded = self.sites()

    def start_nginx(self):
        if self.master:
            self.processes.clear()
        self.master = self.start("nginx", "nginx: master process nginx", "nginx.service")
        self.load()

    def run(self, command):
        words = " ".join(command)
        self.act(words)
        if command[0] == "dpkg-query":
            return 0, "".join(f"{name} {state}\n" for name, state in self.packages.items()), ""
        if words.startswith("systemctl show") and ".timer" in words:
            there = (self.root / "etc/systemd/system" / command[2]).exists()
            on = command[2] in self.timers and (there or command[2] == "certbot.timer")
            state = "ActiveState=active\nUnitFileState=enabled\n" if on else ""
            return 0, f"{state}NeedDaemonReload=no\n", ""
        if words.startswith("systemctl show"):
            state = "enabled" if self.enabled else "disabled"
            return 0, f"MainPID={self.master}\nUnitFileState={state}\n", ""
        if command == ["/usr/sbin/nginx", "-T"]:
            return self.test()
        if command[0] == "/usr/sbin/usermod":
            if not self.has_group:
                return 6, "", "usermod: group 'mlflow' does not exist"
            self.group_members["mlflow"].append(command[-1])
        elif command[:3] == ["systemctl", "enable", "--now"]:
            self.timers |= set(command[3:])
        elif command[:3] == ["systemctl", "disable", "--now"]:
            self.timers -= set(command[3:])
        elif command[:2] == ["systemctl", "enable"]:
            self.enabled = True
        elif command[0] == "openssl":
            done = subprocess.run(command, capture_output=True, text=True)
            return done.returncode, done.stdout, done.stderr
        elif command[:2] == ["certbot", "certonly"]:
            return self.certbot(dict(word.split("=", 1) for word in command if "=" in word))
        elif command[:2] == ["certbot", "delete"]:
            shutil.rmtree(self.live)
            os.remove(self.root / "etc/letsencrypt/renewal/mlflow.conf")
        elif command[:2] == ["systemctl", "start"]:
            if self.masked:
                return 1, "", "Failed to start nginx.service: Unit nginx.service is masked."
            self.start_nginx()
        elif command[:2] == ["systemctl", "reload"]:
            self.load()
        elif command[:2] in (["systemctl", "daemon-reload"], ["systemctl", "reset-failed"]):
            pass
        elif command[0] == "/usr/sbin/ufw":
            return 0, "Status: active\nDefault: deny (incoming), allow (outgoing)\n", ""
        elif command[0] == "journalctl":
            return 0, "the last words of nginx\n", ""
        else:
            raise AssertionError(f"no such command: {words}")
        return 0, "", ""

    # certbot, with a server that lets everybody have everything.

    @property
    def live(self):
        return self.root / "etc/letsencrypt/live/mlflow"

    def certbot(self, options):
        if self.acme_answer:
            return 1, "", f"  Detail: {self.acme_answer}\n"
        shutil.rmtree(self.live, ignore_errors=True)
        os.makedirs(self.live)
        make_pair(self.live, options["--domain"])
        os.makedirs(self.root / "etc/letsencrypt/renewal", exist_ok=True)
        with open(self.root / "etc/letsencrypt/renewal/mlflow.conf", "w") as stream:
            hook = options["--deploy-hook"]
            stream.write(f"server = {options['--server']}\nrenew_hook = {hook}\n")
        self.hook()
        return 0, "", ""

    def hook(self):
        """Do what the script does that certbot runs after each renewal."""
        link = self.file("tls/mlflow-acme")
        os.remove(link)
        os.symlink(self.live, link)
        self.load()

    def file(self, name):
        return self.root / "etc/nginx" / name

    def site(self, address="127.0.0.1", port=5000, names=(), more="", **given):
        host = f"[{address}]" if ":" in address else address
        server_names = "".join(f"server_name {name};" for name in names)
        tls = given.get("tls", "none") != "none"
        if tls:
            more += "ssl_certificate_key @tls@/privkey.pem;"
        if given.get("redirect_port"):
            more += f" listen {host}:{given['redirect_port']};"
        listen = f"{host}:{port}" + " ssl; ssl_certificate @tls@/fullchain.pem" * tls
        params = {
            "name": "mlflow",
            "content": f"server {{ listen {listen}; {server_names}{more} }}\n",
            "listen_address": address,
            "listen_port": port,
            "redirect_port": 0,
            "server_names": list(names),
            "user_groups": ["mlflow"],
            "tls": "none",
            "certificate": "",
            "key": "",
            "subjects": [],
            "acme_url": "https://acme.example/directory",
            "acme_email": "",
            "acme_agree": False,
            "networks": [],
            "users": [],
            "audit": False,
            "helpers": HELPERS if tls else {},
        }
        return Site(params | given, self.run, self.root)

    def ensure(self, **wanted):
        """Run the module, as Ansible would; return what it did."""
        site = self.site(**wanted)
        plan = site.plan()
        site.carry_out(plan)
        return plan


def refusal(host, **wanted):
    """Return the words of a refusal, after seeing that nothing was touched."""
    before, host.actions = host.sites(), []
    with pytest.raises(Refused) as refused:
        host.ensure(**wanted)
    assert host.sites() == before
    changes = [a for a in host.actions if not a.startswith(("dpkg", "systemctl show", "/usr/sbin"))]
    assert not changes, changes
    text = str(refused.value)
    assert text.startswith("Wanted ") and "; found" in text
    return text


SELF_SIGNED = {"tls": "self_signed", "subjects": ["B.example", "192.0.2.1", "2001:db8::1"]}
ACME = {"tls": "acme", "subjects": ["b.example"], "redirect_port": 80, "acme_agree": True}
ACME |= {"helpers": HELPERS | {"/usr/local/lib/nginx-acme-mlflow": f"#!/bin/sh\n{MARK}\n"}}


def stored(host):
    return sorted(path.name for path in host.file("tls").glob("*"))


def cut_off(host, **wanted):
    """Return whom a change of the site on the host would cut off, as the plan and warnings say."""
    site = host.site(**wanted)
    said = [sentence for sentence in site.plan() if sentence.startswith("clients ")]
    assert site.warnings == [f"{sentence}." for sentence in said]
    return said


def take_away(host):
    site = host.site()
    site.look()
    site.check_files()
    remains = site.remains()
    if remains:
        site.take_away()
    return remains


def files_of(host):
    """Return what there is of nginx's files and of what looks after them."""
    folders = [host.root / name for name in ("etc/nginx", "etc/systemd", "usr", "run")]
    return sorted(
        str(path.relative_to(host.root))
        for folder in folders
        for path in folder.rglob("*")
        if not path.is_dir()
    )
