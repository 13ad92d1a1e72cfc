"""nginx's site, on a host of the imagination: every refusal, and a kill before each step."""

import contextlib
import errno
import os
import re
import shutil
import socket
import ssl
import subprocess
import types
from ipaddress import ip_address
from pathlib import Path

import nginx_site
import pytest
from nginx_site import MARKER, Refused, Site

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


FITTING = set()


def check_pair(chain, key):
    """Raise OSError if a certificate and a key do not fit; look at each pair of texts once."""
    texts = Path(chain).read_bytes(), Path(key).read_bytes()
    if texts not in FITTING:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
        FITTING.add(texts)


class Killed(BaseException):
    """SIGKILL: nothing that the code catches."""


class FakeHost:
    """Files, processes, kernel, systemd and nginx of one host, killed before its n-th action.

    As the real ones do, nginx keeps the sites and groups of its last good load, and a reload to an
    address that overlaps with one that it still has fails without a word to who asked.
    """

    def __init__(self, root: Path, monkeypatch):
        self.root, self.actions = root, []
        self.left, self.fatal = None, None
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
        monkeypatch.setattr(nginx_site, "bind_error", self.bind_error)
        monkeypatch.setattr(
            nginx_site, "served_certificate", lambda at, port, name: self.served.get(port, b"")
        )
        monkeypatch.setattr(nginx_site, "shutil", types.SimpleNamespace(rmtree=self.remove))
        groups = [types.SimpleNamespace(gr_name="mlflow", gr_gid=990)]
        monkeypatch.setattr(nginx_site.grp, "getgrall", lambda: groups if self.has_group else [])
        monkeypatch.setattr(nginx_site.grp, "getgrnam", lambda name: groups[0])
        user = types.SimpleNamespace(pw_gid=33)
        monkeypatch.setattr(nginx_site.pwd, "getpwnam", lambda name: user)
        monkeypatch.setattr(nginx_site.os, "getgrouplist", lambda name, gid: self.gids(name))
        monkeypatch.setattr(nginx_site.time, "monotonic", self.tick)
        monkeypatch.setattr(nginx_site.time, "sleep", lambda seconds: None)
        self.has_group = True

    def tick(self):
        self.clock += 1
        return self.clock

    def gids(self, user):
        return [33] + [990] * (user in self.group_members["mlflow"])

    def act(self, what):
        """Note an action, and die before it if it is the one."""
        if self.fatal and what.startswith(self.fatal):
            self.fatal = None
            raise Killed(what)
        if self.left is not None:
            if self.left == 0:
                raise Killed(what)
            self.left -= 1
        self.actions.append(what)

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

    def bind_error(self, address, port):
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
            if self.bind_error(ip_address(new[0]), new[1]):
                return
        for process in self.processes.values():
            ours = "nginx.service" in process["cgroup"]
            if ours and process["cmdline"] == "nginx: worker process":
                process["cmdline"] += " is shutting down"
        self.processes[self.master]["sockets"] = self.listens()
        text = "".join(self.sites().values())
        listens = re.findall(r":(\d+) ssl; ssl_certificate (\S+);", text)
        self.served = {int(port): nginx_site.der(Path(f).read_text()) for port, f in listens}
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


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host on which nginx runs, without a site of ours."""
    host = FakeHost(tmp_path, monkeypatch)
    host.start_nginx()
    return host


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


def test_a_listening_socket_is_read_from_proc(tmp_path):
    """The kernel writes an address as words in the machine's own byte order; a socket that does not
    listen (01) takes no port, and IPv4 in an IPv6 socket is still IPv4."""
    (tmp_path / "tcp").write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout\n"
        "   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1\n"
        "   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 222 1\n"
        "   2: 0100007F:1389 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 0 0 333 1\n"
    )
    (tmp_path / "tcp6").write_text(
        "  sl  local_address                         remote_address\n"
        "   0: 00000000000000000000000001000000:1388 00000000000000000000000000000000:0000 0A"
        " 00000000:00000000 00:00000000 00000000 0 0 444 1\n"
        "   1: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A"
        " 00000000:00000000 00:00000000 00000000 0 0 555 1\n"
    )
    assert nginx_site.listeners(tmp_path) == {
        "111": (ip_address("127.0.0.1"), 5000),
        "222": (ip_address("0.0.0.0"), 80),
        "444": (ip_address("::1"), 5000),
        "555": (ip_address("127.0.0.1"), 8080),
    }


def test_the_kernel_says_whether_an_address_is_free():
    """Only the kernel knows whether 0.0.0.0 or `::` collide with it, and which are the host's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert nginx_site.bind_error(ip_address("127.0.0.1"), port) == errno.EADDRINUSE
        assert nginx_site.bind_error(ip_address("0.0.0.0"), port) == errno.EADDRINUSE
        assert nginx_site.bind_error(ip_address("127.0.0.2"), port) == 0
        if socket.has_dualstack_ipv6():
            assert nginx_site.bind_error(ip_address("::"), port) == errno.EADDRINUSE
    assert nginx_site.bind_error(ip_address("127.0.0.1"), port) == 0
    assert nginx_site.bind_error(ip_address("192.0.2.1"), port) == errno.EADDRNOTAVAIL


def test_a_site_is_written_loaded_and_then_left_alone(host):
    """A second run that changed something would cut connections for nothing."""
    assert host.ensure() == ["site", "groups", "reload"]
    assert host.file("sites-enabled/mlflow").read_text().startswith(MARKER)
    assert host.loaded == host.sites()
    assert host.ensure() == []


def test_check_mode_tells_and_changes_nothing(host):
    """The same plan is the preflight."""
    host.actions = []
    assert host.site().plan() == ["site", "groups", "reload"]
    assert not [
        action for action in host.actions if action.split()[0] in ("/usr/sbin/usermod", "replace")
    ]


def test_check_mode_works_where_nginx_is_not_installed(host):
    """A preflight comes before the installation; nginx.conf and the group are not there yet."""
    host.packages = {"nginx": "not-installed"}
    host.processes.clear()
    host.master, host.has_group = 0, False
    host.file("nginx.conf").unlink()
    site = host.site()
    assert site.plan() == ["install", "site", "start"] and not site.installed


@pytest.mark.parametrize("state", ["unpacked", "half-configured", "config-files", "not-installed"])
def test_a_package_that_is_not_configured_is_not_installed(host, state):
    """apt has to finish what a power cut left half done."""
    host.packages = {"nginx": state}
    site = host.site()
    site.plan()
    assert not site.installed


def test_a_stopped_and_disabled_nginx_is_started_for_good(host):
    """The site has to come back after a reboot."""
    host.processes.clear()
    host.master, host.enabled = 0, False
    assert host.ensure() == ["site", "groups", "enable", "start"]
    assert host.enabled and host.loaded == host.sites()
    assert host.ensure() == []


def test_the_old_port_is_given_up(host):
    """Two open ports would be one more than the operator knows of."""
    host.ensure()
    host.ensure(port=5001)
    assert host.processes[host.master]["sockets"] == [("127.0.0.1", 5001)]


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_an_address_that_overlaps_with_the_old_one_is_taken(host, address):
    """nginx cannot bind 0.0.0.0 while it has 127.0.0.1, and says so only in its log."""
    host.ensure()
    host.ensure(address=address)
    assert host.processes[host.master]["sockets"] == [(address, 5000)]
    host.ensure()
    assert host.processes[host.master]["sockets"] == [("127.0.0.1", 5000)]


@pytest.mark.parametrize("former", [{}, {"address": "0.0.0.0"}, {"port": 5001}, None])
def test_a_run_killed_anywhere_is_finished_by_the_next(tmp_path, monkeypatch, former):
    """A kill before each command and each change of a file, from no site and from other ones."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            host.start_nginx()
            if former is not None:
                host.ensure(**former, more="former")
                host.group_members["mlflow"].clear()
            host.left = step
            try:
                host.ensure()
            except Killed:
                host.left = None
            else:
                assert step > 5
                return
            host.ensure()
            assert host.loaded == host.sites()
            assert "listen 127.0.0.1:5000;  }" in host.loaded[host.file("sites-enabled/mlflow")]
            assert host.ensure() == []


def test_a_rejected_site_left_by_a_killed_run_is_replaced(host):
    """Otherwise correcting the variable would be refused because of what it corrects."""
    host.fatal = "symlink_to"
    with pytest.raises(Killed):
        host.ensure(more="broken")
    host.file("sites-enabled/mlflow").symlink_to("../sites-available/mlflow")
    assert "broken" in host.file("sites-enabled/mlflow").read_text()
    assert "site" in host.ensure()
    assert host.loaded == host.sites()


def test_an_nginx_that_has_restarted_since_has_loaded_the_site(host):
    """The mark of a killed run must not cause a reload for nothing."""
    host.ensure()
    host.fatal = "systemctl reload"
    with pytest.raises(Killed):
        host.ensure(more="new")
    assert host.site(more="new").plan() == ["reload"]
    host.start_nginx()
    assert host.ensure(more="new") == []


def test_workers_outside_the_group_are_replaced(host):
    """They could not reach the socket: membership counts from a worker's start on."""
    host.ensure()
    host.processes[max(host.processes)]["status"] = "Gid:\t33\nGroups:\t33\n"
    host.show_processes()
    assert host.ensure() == ["reload"]


@pytest.mark.parametrize("former", [None, "former"])
def test_what_nginx_rejects_is_taken_back(host, former):
    """A broken file on disk would stop nginx, and every other site, at the next restart."""
    if former:
        host.ensure(more=former)
    before = host.sites()
    with pytest.raises(Refused, match=r"found: \[emerg\] .*sites-enabled/mlflow:1; correct"):
        host.ensure(more="broken")
    assert host.sites() == before
    assert host.file("sites-available/mlflow").exists() is bool(former)
    assert not former or host.ensure(more=former) == []


def test_a_broken_site_of_somebody_else_is_refused(host):
    """A reload would fail, and nobody would know whose fault it is."""
    host.ensure()
    host.file("sites-enabled/other").write_text("broken")
    assert "sites-enabled/other:1; correct" in refusal(host)
    assert "sites-enabled/other:1; correct" in refusal(host, port=5001)


@pytest.mark.parametrize("unit", ["old.service", "user.slice"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_refused_by_its_holders_name(host, unit, address):
    """The operator has to know what to stop; nothing is stopped for them."""
    pid = host.start("python3", "python3 -m http.server", unit, [(address, 5000)])
    holder = f"process {pid} (python3, {unit if unit.endswith('service') else 'no unit'})"
    assert f"{holder} listening there; stop that, or choose another port" in refusal(host)
    assert pid in host.processes


def test_a_port_taken_by_an_nginx_that_is_not_the_services_is_refused(host):
    """It may be the one of a container, or started by hand."""
    host.start("nginx", "nginx: master process", "docker-1.scope", [("127.0.0.1", 5000)])
    assert "(nginx, no unit)" in refusal(host)


def test_an_address_of_another_host_is_refused(host):
    """nginx would not start, at the latest after the next reboot."""
    assert "set nginx_listen_address to an address of the host" in refusal(host, address="10.9.9.9")


@pytest.mark.parametrize("address", ["localhost", "[::1]", "127.0.0.1:80"])
def test_what_is_no_address_is_refused(host, address):
    """A name may mean several addresses, or another one tomorrow."""
    assert "correct it" in refusal(host, address=address)


@pytest.mark.parametrize("listen", ["127.0.0.1:5000", "5000 default_server", "[::]:5000"])
def test_a_port_of_another_site_is_refused(host, listen):
    """One of the two would get the other's requests. The message names the file."""
    host.file("sites-enabled/other").write_text(f"server {{ listen {listen}; }}")
    assert "sites-enabled/other has it" in refusal(host)


@pytest.mark.parametrize("text", ["# listen 5000;", "listen 50000;", "listen 127.0.0.1:80;"])
def test_another_sites_other_port_is_no_hindrance(host, text):
    """What was on the host stays, and does not matter."""
    host.file("sites-enabled/other").write_text(text)
    assert "site" in host.ensure()


def test_sites_with_different_names_share_an_address(host):
    """That is what names are for; equal ones nginx would ignore, with no more than a warning."""
    other = host.file("sites-enabled/other")
    other.write_text("server { listen 127.0.0.1:5000; server_name a.example; }")
    host.run(["systemctl", "reload", "nginx.service"])
    with pytest.raises(Refused, match='conflicting server name "a.example".*choose other names'):
        host.ensure(names=["a.example"])
    assert host.ensure(names=["b.example"]) == ["site", "reload"]


EC2 = "ec2-203-0-113-254.ap-southeast-2.compute.amazonaws.com"
SIZE = "server_names_hash_bucket_size"


def sizes(host):
    """Return what the role says of names."""
    file = host.file("conf.d/server_names.conf")
    return re.findall(rf"(?m)^{SIZE} (\d+);$", file.read_text()) if file.exists() else []


@pytest.mark.parametrize(
    ("length", "size"),
    [(9, None), (46, None), (47, 128), (110, 128), (111, 256), (238, 256)],
)
def test_a_long_name_is_served(host, length, size):
    """As long as nginx takes it without a word, nothing is said; EC2's own are longer."""
    name = f"{'a' * (length - 2)}.x"
    host.ensure(names=["b.x", name])
    assert sizes(host) == [str(size)] * bool(size)
    assert host.ensure(names=["b.x", name]) == []


@pytest.mark.parametrize("file", ["nginx.conf", "conf.d/names.conf", "sites-enabled/other"])
def test_a_size_for_names_that_another_file_sets_is_the_only_one(host, file):
    """A second is an error, wherever it is; a comment, such as Debian's, is none."""
    os.makedirs(host.file("conf.d"))
    text = f"user www-data;\n# {SIZE} 64;\nhttp {{\ninclude conf.d/*.conf;\n"
    host.file("nginx.conf").write_text(f"{text}include /etc/nginx/sites-enabled/*;\n}}\n")
    host.ensure(names=[EC2])
    assert sizes(host) == ["128"]
    with open(host.file(file), "a") as stream:
        stream.write(f"{SIZE} 128;\n")
    assert host.ensure(names=[EC2]) == ["names", "reload"]
    assert sizes(host) == []
    assert host.ensure(names=[EC2]) == []


def test_names_of_two_sites_need_one_size(host):
    """Also when the site that says it goes, or needs it no longer itself."""
    other = host.file("sites-enabled/other")
    other.write_text(f"{SIZE} 128;\nserver {{ listen 127.0.0.1:80; server_name {EC2}; }}")
    host.ensure(names=[f"a{EC2}"])
    assert sizes(host) == []
    other.unlink()
    assert host.ensure(names=[f"a{EC2}"]) == ["names", "reload"]
    other.write_text(f"server {{ listen 127.0.0.1:80; server_name {EC2}; }}")
    host.ensure(names=["b.example"])
    assert sizes(host) == ["128"]
    assert host.ensure(names=["b.example"]) == []
    # The site goes, and nginx still starts.
    take_away(host)
    assert sizes(host) == ["128"] and host.test()[0] == 0


def test_a_site_that_others_need_is_not_taken_away(host):
    """nginx would serve on with what it has loaded, and not start again after a reboot."""
    host.ensure()
    host.file("sites-enabled/other").write_text("broken")
    with pytest.raises(Refused, match="accepts without .*; found: .*unknown directive"):
        take_away(host)
    assert host.file("sites-enabled/mlflow").resolve() == host.file("sites-available/mlflow")


def test_a_site_of_somebody_else_is_not_taken_away(host):
    """It may have had the name before."""
    host.file("sites-available/mlflow").write_text("server {}\n")
    with pytest.raises(Refused, match="sites-available/mlflow to be this role's"):
        take_away(host)
    assert host.file("sites-available/mlflow").exists()


def test_another_ca_is_made_with_a_warning_alone_and_not_while_the_former_fits(host):
    """Its folder may have been lost in a restore; clients trust what it has signed."""
    given = {"tls": "self_signed", "subjects": ["a.example"]}
    host.ensure(**given)
    shutil.rmtree(host.file("tls/mlflow-ca"))
    assert host.ensure(**given) == []
    site = host.site(**given | {"subjects": ["b.example"]})
    assert any("clients that trust the former certificate" in step for step in site.plan())


def test_a_file_of_that_name_by_another_is_refused(host):
    """It is somebody's work."""
    host.file("sites-available/mlflow").write_text("server {}\n")
    assert "sites-available/mlflow to be this role's, or absent" in refusal(host)


def test_a_link_of_that_name_to_elsewhere_is_refused(host):
    """It is on, and it is not ours."""
    host.file("sites-enabled/mlflow").symlink_to("/dev/null")
    assert "sites-enabled/mlflow to be this role's, or absent" in refusal(host)


def test_a_folder_that_others_write_to_is_refused(host):
    """Who can write there can make root's nginx read anything."""
    host.file("sites-available").chmod(0o777)
    assert "mode 0777; make it root's" in refusal(host)


def test_an_nginx_that_does_not_read_sites_enabled_is_refused(host):
    """nginx.org's package has no such folder: the site would never be read."""
    host.file("nginx.conf").write_text("http { # include /etc/nginx/sites-enabled/*;\n}")
    assert "add that line to its http block" in refusal(host)


def test_a_missing_group_is_refused(host):
    """Before the site is written, which could not work without."""
    host.has_group = False
    with pytest.raises(Refused, match="group 'mlflow' does not exist"):
        host.ensure()
    assert not host.file("sites-enabled/mlflow").exists()


def test_a_service_that_does_not_start_is_reported_with_its_journal(host):
    """What systemctl says is rarely the cause."""
    host.processes.clear()
    host.master, host.masked = 0, True
    with pytest.raises(Refused, match="(?s)is masked.*the last words of nginx"):
        host.ensure()


@pytest.mark.parametrize("case", ["started", "first site", "changed site"])
def test_an_nginx_that_does_not_load_the_site_is_reported(host, monkeypatch, case):
    """`systemctl reload` succeeds once the signal is sent; nginx may go on with what it had."""
    if case == "changed site":
        host.ensure()
    if case == "started":
        host.processes.clear()
        host.master = 0
    monkeypatch.setattr(host, "load", lambda: None)
    with pytest.raises(Refused, match="(?s)to serve 127.0.0.1:5000; found: not so after 15 second"):
        host.ensure(more="new")


def test_a_site_that_is_there_but_not_served_is_loaded(host):
    """As after a restored backup: the files are right, and nginx does not know."""
    host.ensure()
    host.processes[host.master]["sockets"].clear()
    host.show_processes()
    assert host.ensure() == ["reload"]
    assert host.ensure() == []


def test_the_workers_of_another_nginx_do_not_count(host):
    """The one of a container shows in /proc, and is in no group of ours."""
    host.start("nginx", "nginx: worker process", "docker-1.scope")
    host.ensure()
    assert host.ensure() == []


def test_a_run_on_a_host_without_nginx_is_refused(host):
    """The module does not install it."""
    host.packages = {}
    assert "run `apt-get install nginx`" in refusal(host)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Return a function that gives certificate and key as the module's parameters."""
    made = {}

    def given(name="a.example", days="90", key_of=None):
        if (name, days) not in made:
            made[name, days] = tmp_path_factory.mktemp("pair")
            make_pair(made[name, days], name, "-days", days)
        folder = made[name, days]
        key = given(key_of)["key"] if key_of else (folder / "privkey.pem").read_text()
        return {
            "tls": "given",
            "certificate": (folder / "fullchain.pem").read_text(),
            "key": key,
        }

    return given


SELF_SIGNED = {"tls": "self_signed", "subjects": ["B.example", "192.0.2.1", "2001:db8::1"]}
ACME = {"tls": "acme", "subjects": ["b.example"], "redirect_port": 80, "acme_agree": True}
ACME |= {"helpers": HELPERS | {"/usr/local/lib/nginx-acme-mlflow": f"#!/bin/sh\n{MARK}\n"}}


def stored(host):
    return sorted(path.name for path in host.file("tls").glob("*"))


def serves(host, text):
    return host.served[5000] == nginx_site.der(text)


def test_a_given_certificate_is_served_and_replaced(host, pairs):
    """By another text of the site, and the former key does not stay behind."""
    host.ensure()
    first, second = pairs(), pairs("b.example")
    assert host.ensure(**first) == ["certificate", "site", "reload", "helpers"]
    assert serves(host, first["certificate"]) and host.ensure(**first) == []
    assert host.ensure(**second)[:-1] == ["certificate", "site", "reload", "sweep"]
    assert serves(host, second["certificate"]) and len(stored(host)) == 1


def test_a_key_is_readable_by_its_owner_alone(host, pairs):
    host.ensure(**pairs())
    (folder,) = host.file("tls").iterdir()
    assert host.file("tls").stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "privkey.pem").stat().st_mode & 0o777 == 0o600


def test_a_renewed_key_under_the_same_certificate_is_written(host, pairs):
    """As after a restored backup: what is on disk is not what was given."""
    host.ensure(**pairs())
    (folder,) = host.file("tls").iterdir()
    with open(folder / "privkey.pem", "w") as stream:
        stream.write("gone")
    assert host.ensure(**pairs()) == ["certificate", "reload"]
    assert (folder / "privkey.pem").read_text() == pairs()["key"]


def test_a_certificate_that_cannot_be_served_is_refused(host, pairs):
    """Before anything is changed: nginx would refuse to start with it, or clients to talk to it."""
    host.ensure(**pairs("b.example"))
    remedy = "correct nginx_tls_certificate or nginx_tls_key"
    assert remedy in refusal(host, **pairs(key_of="b.example"))
    assert remedy in refusal(host, **pairs() | {"certificate": "-----BEGIN"})
    assert "no nginx_tls_key; set it" in refusal(host, **pairs() | {"key": ""})
    without = refusal(host, **pairs() | {"certificate": ""})
    assert "no nginx_tls_certificate; set it" in without and pairs()["key"] not in without


def test_a_certificate_for_other_names_than_clients_come_by_is_told(host, pairs):
    """Told and not refused: a load balancer in front may come by a name of its own."""
    wildcard = pairs("*.example.com")
    assert host.site(**wildcard, subjects=["MLflow.example.com."]).warnings == []
    (warning,) = host.site(**wildcard, subjects=["example.com", "a.b.example.com"]).warnings
    assert "is for *.example.com, and not for example.com, a.b.example.com:" in warning


def test_an_expired_certificate_is_refused_and_one_that_ends_soon_is_told(host, pairs, monkeypatch):
    """On the day itself it is too late to order another."""
    assert "ends on" in host.site(**pairs(days="20")).warnings[0]
    assert host.site(**pairs()).warnings == []
    later = nginx_site.time.time() + 100 * 86400
    monkeypatch.setattr(nginx_site.time, "time", lambda: later)
    assert "has expired on" in refusal(host, **pairs())


def test_a_rejected_site_leaves_no_key_behind(host, pairs):
    """What serves is unchanged, certificate included."""
    host.ensure(**pairs())
    before = stored(host)
    with pytest.raises(Refused, match="correct that"):
        host.ensure(**pairs("b.example"), more="broken")
    assert stored(host) == before and serves(host, pairs()["certificate"])
    assert host.ensure(**pairs()) == []


def leaf(host):
    """Return the folder of the one certificate that is there beside its CA."""
    (folder,) = host.file("tls").glob("mlflow-self_signed-*")
    return folder


def is_trusted(host, ca, *names):
    """Tell whether a client that trusts what is in a file alone takes what the host serves, as
    strictly as Python 3.13 looks at it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(leaf(host) / "fullchain.pem", leaf(host) / "privkey.pem")
    assert serves(host, (leaf(host) / "fullchain.pem").read_text())
    client = ssl.create_default_context(cafile=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in names:
        buffers = [ssl.MemoryBIO(), ssl.MemoryBIO()]
        asks = client.wrap_bio(*buffers, server_hostname=name)
        answers = server.wrap_bio(*reversed(buffers), server_side=True)
        try:
            for side in (asks, answers, asks, answers):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        except ssl.SSLCertVerificationError:
            return False
    return True


def shown(file):
    """Return what openssl says of a certificate."""
    command = ["openssl", "x509", "-noout", "-text", "-in", file]
    return subprocess.run(command, capture_output=True, text=True).stdout


OTHER = SELF_SIGNED | {"subjects": ["b.example", "c.example"]}


def test_a_self_signed_certificate_is_made_once(host):
    """And left alone, as its CA is."""
    host.ensure()
    assert host.ensure(**SELF_SIGNED) == ["certificate", "site", "reload", "helpers"]
    before = stored(host)
    assert host.ensure(**SELF_SIGNED) == [] and stored(host) == before
    assert before == ["mlflow-ca", leaf(host).name]
    made = nginx_site.Certificate((leaf(host) / "fullchain.pem").read_text())
    assert made.subjects == {"b.example", "192.0.2.1", "2001:db8::1"} and made.days > 3640
    folder = host.file("tls/mlflow-ca")
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "privkey.pem": 0o600} and folder.stat().st_mode & 0o77 == 0


def test_a_name_more_cuts_off_no_client_that_trusts_the_ca(host, tmp_path):
    """By name and by address: a CA that is given to clients once, and of which the host keeps the
    same key, signs what comes later."""
    ca, kept = host.file("tls/mlflow-ca/ca.pem"), tmp_path / "kept.pem"
    host.ensure(**SELF_SIGNED)
    shutil.copy(ca, kept)
    assert is_trusted(host, kept, "b.example", "192.0.2.1", "2001:db8::1")
    assert not is_trusted(host, kept, "c.example")
    former = leaf(host)
    assert host.ensure(**OTHER) == ["certificate", "site", "reload", "sweep"]
    assert not former.exists() and ca.read_text() == kept.read_text()
    assert is_trusted(host, kept, "b.example", "c.example")
    assert not is_trusted(host, kept, "192.0.2.1")
    site = host.site(**OTHER)
    assert site.plan() == [] and site.warnings == [] and site.trust() == str(ca)


def test_a_ca_is_one_of_its_site_and_host_and_signs_no_other(host, monkeypatch):
    """Clients may trust those of several hosts; and some take no CA's certificate for a
    server's."""
    monkeypatch.setattr(nginx_site.socket, "gethostname", lambda: "ip-10-0-0-7" + "x" * 60)
    host.ensure(**SELF_SIGNED)
    said, of_a_server = (
        shown(host.file("tls/mlflow-ca/ca.pem")),
        shown(leaf(host) / "fullchain.pem"),
    )
    assert re.search(r"Subject: CN = mlflow on ip-10-0-0-7x+\n", said)
    assert re.search(r"Basic Constraints: critical\n\s+CA:TRUE, pathlen:0\n", said)
    assert re.search(r"Key Usage: critical\n\s+Certificate Sign, CRL Sign\n", said)
    assert "CA:FALSE" in of_a_server and "Issuer: CN = mlflow on ip-10-0-0-7x" in of_a_server


def test_a_certificate_that_ends_soon_is_made_anew_by_the_same_ca(host, monkeypatch):
    host.ensure(**SELF_SIGNED)
    ca = host.file("tls/mlflow-ca/ca.pem")
    monkeypatch.setattr(nginx_site, "SELF_SIGNED_DAYS", 40)
    host.ensure(**OTHER)
    before = stored(host), ca.read_text()
    later = nginx_site.time.time() + 11 * 86400
    monkeypatch.setattr(nginx_site.time, "time", lambda: later)
    assert host.site(**OTHER).plan() == ["certificate", "site", "reload", "sweep"]
    assert before == (stored(host), ca.read_text()), "a plan makes nothing"
    host.ensure(**OTHER)
    assert stored(host) != before[0] and ca.read_text() == before[1]
    assert is_trusted(host, ca, "c.example")


def test_no_certificate_outlives_its_ca(host, monkeypatch):
    """The watch looks at the former alone. Another CA is for the operator to decide, as it cuts
    off all clients."""
    host.ensure(**SELF_SIGNED)
    monkeypatch.setattr(nginx_site, "SELF_SIGNED_DAYS", 9999)
    host.ensure(**OTHER)
    ca, one = (
        nginx_site.Certificate(file.read_text())
        for file in (host.file("tls/mlflow-ca/ca.pem"), leaf(host) / "fullchain.pem")
    )
    assert one.ends <= ca.ends and one.days > 3640
    later = nginx_site.time.time() + 3625 * 86400
    monkeypatch.setattr(nginx_site.time, "time", lambda: later)
    said = refusal(host, **OTHER)
    assert f"found that it ends on {ca.date}; restore the folder from a backup, or remove" in said


@pytest.mark.parametrize("file", ["ca.pem", "privkey.pem"])
def test_a_ca_that_is_not_whole_is_never_replaced_unasked(host, file):
    """It may be in a backup; another would cut off all clients."""
    host.ensure(**SELF_SIGNED)
    folder = host.file("tls/mlflow-ca")
    os.remove(folder / file)
    assert "is not whole; restore the folder from a backup, or remove it" in refusal(host, **OTHER)
    shutil.rmtree(folder)
    host.ensure(**OTHER)
    assert is_trusted(host, folder / "ca.pem", "c.example") and host.ensure(**OTHER) == []


def test_a_ca_stays_for_who_comes_back_to_it(host, pairs):
    """Its clients need nothing new then."""
    host.ensure(**SELF_SIGNED)
    before = host.file("tls/mlflow-ca/ca.pem").read_text()
    host.ensure(**pairs())
    assert len(stored(host)) == 2
    host.ensure(**SELF_SIGNED)
    assert host.file("tls/mlflow-ca/ca.pem").read_text() == before


def serve_as_before(host):
    """Serve with a certificate that has signed itself, as a release without a CA has made it."""
    folder = host.file("tls/mlflow-self_signed-0123456789abcdef")
    os.makedirs(folder)
    os.chmod(folder.parent, 0o700)
    subjects = "DNS:b.example,IP:192.0.2.1,IP:2001:db8::1"
    extensions = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature")
    more = [word for each in extensions for word in ("-addext", each)]
    make_pair(folder, "b.example", "-days", "3650", *more, subjects=subjects)
    # Found by the module only where a site names it already.
    with open(host.file("sites-available/mlflow"), "w") as stream:
        text = host.site(**SELF_SIGNED).params["content"].replace("@tls@", str(folder))
        stream.write(MARKER + text)
    os.symlink("../sites-available/mlflow", host.file("sites-enabled/mlflow"))
    host.ensure(**SELF_SIGNED)
    assert stored(host) == [folder.name]
    return folder


@pytest.fixture
def of_a_former_release(host):
    return serve_as_before(host)


def test_a_certificate_of_a_former_release_stays_as_long_as_it_fits(
    host, of_a_former_release, tmp_path
):
    """Its clients trust it, and no CA. Another needs one, and says so beforehand."""
    former, ca = of_a_former_release, host.file("tls/mlflow-ca/ca.pem")
    site = host.site(**SELF_SIGNED)
    assert site.plan() == [] and site.warnings == [] and stored(host) == [former.name]
    assert site.trust() == str(former / "fullchain.pem")
    assert is_trusted(host, site.trust(), "b.example", "192.0.2.1")
    site = host.site(**OTHER)
    *steps, cut_off = site.plan()
    assert steps == ["certificate", "site", "reload", "sweep"]
    assert cut_off == (
        "clients that trust the former certificate alone are cut off, as another is served; give "
        f"them {ca}, which stays the same"
    )
    assert site.warnings == [f"{cut_off}."]
    assert site.trust() == str(ca) and stored(host) == [former.name]
    host.ensure(**OTHER)
    assert stored(host) == ["mlflow-ca", leaf(host).name] and not former.exists()
    assert is_trusted(host, ca, "c.example")


def test_a_certificate_of_a_former_release_moves_to_a_ca_when_it_ends(
    host, of_a_former_release, monkeypatch
):
    later = nginx_site.time.time() + 3625 * 86400
    with monkeypatch.context() as patch:
        patch.setattr(nginx_site.time, "time", lambda: later)
        site = host.site(**SELF_SIGNED)
        assert site.plan()[:-1] == ["certificate", "site", "reload", "sweep"] and site.warnings


def test_a_move_to_a_ca_that_is_taken_back_leaves_the_former_certificate(host, of_a_former_release):
    """And what was made of the CA by then is what later runs use."""
    with pytest.raises(Refused, match="correct that"):
        host.ensure(**OTHER, more="broken")
    assert stored(host) == ["mlflow-ca", of_a_former_release.name]
    before = host.file("tls/mlflow-ca/ca.pem").read_text()
    site = host.site(**SELF_SIGNED)
    assert site.plan() == [] and site.trust().startswith(str(of_a_former_release))
    host.ensure(**OTHER)
    assert host.file("tls/mlflow-ca/ca.pem").read_text() == before


def test_what_is_served_until_an_acme_server_answers_needs_no_ca(host):
    """Nobody is given it, and its key would stay. Nor is it kept for those who are given one."""
    host.acme_answer, made = "no", set()
    for _ in range(2):
        with pytest.raises(Refused):
            host.ensure(**ACME)
        made.add(leaf(host).name)
    assert len(made) == 1 and stored(host) == ["mlflow-acme", *made]
    wanted = SELF_SIGNED | {"subjects": ACME["subjects"]}
    host.ensure(**wanted)
    assert is_trusted(host, host.file("tls/mlflow-ca/ca.pem"), "b.example")
    assert stored(host) == ["mlflow-ca", leaf(host).name] and host.ensure(**wanted) == []


@pytest.mark.parametrize("subjects", [[], ["a b"], ["a\nb"], ["x.example, DNS:y"]])
def test_what_is_no_name_is_no_subject(host, subjects):
    assert "set nginx_tls_subject_alt_names" in refusal(host, tls="self_signed", subjects=subjects)


def test_what_looks_after_the_certificate_comes_and_goes_with_it(host, pairs):
    """A timer that is left behind would complain every day about what nobody serves."""
    timer = "nginx-certificate-mlflow.timer"
    host.ensure(**pairs())
    assert host.timers == {timer}
    host.timers.clear()
    assert host.ensure(**pairs()) == ["helpers"] and host.timers == {timer}
    assert host.ensure()[:-1] == ["site", "reload", "helpers", "sweep"]
    assert host.timers == set() and stored(host) == [] and host.ensure() == []
    assert not [path for path in HELPERS if (host.root / path[1:]).exists()]


def cut_off(host, **wanted):
    """Return whom a change of the site on the host would cut off, as the plan and warnings say."""
    site = host.site(**wanted)
    said = [sentence for sentence in site.plan() if sentence.startswith("clients ")]
    assert site.warnings == [f"{sentence}." for sentence in said]
    return said


@pytest.mark.parametrize(
    ("former", "wanted", "said"),
    [
        (("127.0.0.1", 5000), ("0.0.0.0", 443), "127.0.0.1:5000"),
        (("0.0.0.0", 5000), ("127.0.0.1", 5000), "0.0.0.0:5000"),
        (("::", 5000), ("0.0.0.0", 5000), "[::]:5000"),
        (("::1", 5000), ("0.0.0.0", 5000), "[::1]:5000"),
        (("127.0.0.1", 5000), ("0.0.0.0", 5000), ""),
        (("127.0.0.1", 5000), ("::", 5000), ""),
        (("::1", 5000), ("::", 5000), ""),
    ],
)
def test_a_move_says_beforehand_whom_it_cuts_off(host, former, wanted, said):
    """To another address or port; an address that takes in the former one cuts off nobody."""
    assert cut_off(host, address=former[0], port=former[1]) == []
    assert host.site().listens_before() == []
    host.ensure(address=former[0], port=former[1])
    name = f"[{wanted[0]}]" if ":" in wanted[0] else wanted[0]
    assert cut_off(host, address=wanted[0], port=wanted[1]) == [
        f"clients that come to {said} are cut off, as the site moves to {name}:{wanted[1]}"
    ] * bool(said)
    assert cut_off(host, address=former[0], port=former[1]) == []
    site = host.site(address=wanted[0], port=wanted[1])
    assert site.listens_before()[0].endswith(f":{former[1]}")


def test_a_redirect_that_is_given_up_says_so(host, pairs):
    """Some come by it; those who come by TLS do so as before."""
    host.ensure(**pairs(), redirect_port=80)
    assert host.site().listens_before() == ["127.0.0.1:5000", "127.0.0.1:80"]
    assert cut_off(host, **pairs()) == [
        "clients that come to 127.0.0.1:80 are cut off, as the site stays at nothing but "
        "127.0.0.1:5000"
    ]


def test_what_another_site_listens_to_is_not_this_ones(host):
    host.file("sites-enabled/other").write_text("server { listen 127.0.0.1:80; }")
    assert cut_off(host) == [] and host.site().listens_before() == []


def test_a_firewall_that_lets_nobody_in_is_warned_of(host, pairs):
    """At each run, as nobody else says why clients do not come. It may be for a load balancer."""
    os.makedirs(host.root / "usr/sbin")
    os.mknod(host.root / "usr/sbin/ufw")
    for _ in range(2):
        site = host.site("0.0.0.0", 443, redirect_port=80, **pairs())
        site.carry_out(site.plan())
        (warning,) = site.warnings
        assert "reach ports 443 and 80; found that ufw is active" in warning
    assert site.plan() == []
    site = host.site(**pairs())
    site.plan()
    assert not [warning for warning in site.warnings if "ufw" in warning]


FORMER = "clients that trust the former certificate alone are cut off"


def test_another_kind_of_certificate_says_beforehand_who_does_not_know_it(host, pairs):
    """Clients that were given one to trust take no other."""
    assert cut_off(host, **SELF_SIGNED) == []
    host.ensure(**SELF_SIGNED)
    assert cut_off(host, **OTHER) == []
    assert cut_off(host, **pairs()) == [f"{FORMER}, as the site moves to nginx_tls: given"]
    assert cut_off(host) == [
        "clients that come by https are cut off, as the site moves to nginx_tls: none"
    ]
    host.ensure(**pairs())
    assert cut_off(host, **pairs()) == []
    assert cut_off(host, **ACME) == [f"{FORMER}, as the site moves to nginx_tls: acme"]
    assert cut_off(host, **SELF_SIGNED) == [
        f"{FORMER}, as the site moves to nginx_tls: self_signed; give them "
        f"{host.file('tls/mlflow-ca/ca.pem')}, which stays the same"
    ]


def test_a_given_certificate_that_has_signed_itself_is_known_to_who_was_given_it(host, pairs):
    """Of one that a CA has signed another is no stranger."""
    host.ensure(**pairs())
    assert cut_off(host, **pairs("b.example")) == [f"{FORMER}, as another is served"]
    host.ensure(**SELF_SIGNED)
    signed = {
        "tls": "given",
        "certificate": (leaf(host) / "fullchain.pem").read_text(),
        "key": (leaf(host) / "privkey.pem").read_text(),
    }
    host.ensure(**signed)
    assert cut_off(host, **pairs("b.example")) == []
    host.ensure(**ACME)
    assert cut_off(host, **ACME) == []


TRAIL = {
    "/usr/local/lib/nginx-audit-mlflow": f"{MARK}\n",
    "/etc/systemd/system/nginx-audit-mlflow.service": f"{MARK}\n",
    "/etc/systemd/system/nginx-audit-mlflow.timer": f"{MARK}\n",
}


def test_the_audit_trail_stays_when_it_is_turned_off(host):
    """Who turns it off must not take away what he did before. Root alone reads it."""
    wanted = {"audit": True, "helpers": TRAIL, "more": "access_log @audit@/audit.log;"}
    folder = host.root / "var/log/nginx-audit-mlflow"
    assert host.ensure(**wanted) == ["audit", "site", "groups", "reload", "helpers"]
    assert folder.stat().st_mode & 0o777 == 0o700 and host.ensure(**wanted) == []
    assert f"access_log {folder}/audit.log;" in host.file("sites-enabled/mlflow").read_text()
    assert host.timers == {"nginx-audit-mlflow.timer"}
    folder.chmod(0o755)
    assert host.ensure(**wanted) == ["audit", "reload"]
    assert folder.stat().st_mode & 0o777 == 0o700
    host.ensure()
    assert host.timers == set() and folder.exists() and host.ensure() == []


def test_a_missing_logrotate_is_told_beforehand(host):
    """Without it the trail would fill the disk."""
    del host.packages["logrotate"]
    site = host.site(audit=True)
    site.plan()
    assert site.missing == ["logrotate"]


def test_a_program_of_that_name_by_another_is_refused(host, pairs):
    """It is somebody's work."""
    file = host.root / "etc/systemd/system/nginx-certificate-mlflow.service"
    os.makedirs(file.parent)
    with open(file, "w") as stream:
        stream.write("[Service]")
    assert f"Wanted {file} to be this role's, or absent" in refusal(host, **pairs())


def test_certbots_certificate_takes_the_place_of_a_self_signed_one(host):
    """The server asks a site that serves; so one that serves has to be there first."""
    plan = ["certificate", "site", "groups", "reload", "helpers", "acme"]
    assert host.ensure(**ACME) == plan
    assert serves(host, (host.live / "fullchain.pem").read_text())
    assert stored(host) == ["mlflow-acme"]
    assert "certbot.timer" in host.timers and host.ensure(**ACME) == []


def test_a_renewal_changes_nothing_that_the_next_run_would_undo(host):
    host.ensure(**ACME)
    make_pair(host.live, "b.example")
    host.hook()
    assert host.site(**ACME).plan() == []


def test_a_renewed_certificate_that_nginx_has_not_loaded_is_loaded(host):
    """As when certbot was killed before it said so."""
    host.ensure(**ACME)
    make_pair(host.live, "b.example")
    assert host.ensure(**ACME) == ["reload"]


def test_a_given_certificate_is_served_until_the_acme_server_answers(host, pairs):
    """Clients that trust it would otherwise lose it to a slip in the DNS."""
    given = pairs("b.example")
    host.ensure(**given)
    host.acme_answer = "192.0.2.1: Connection refused"
    for _ in range(2):
        with pytest.raises(nginx_site.Refused, match="Wanted a certificate for b.example"):
            host.ensure(**ACME)
        assert serves(host, given["certificate"])
    host.acme_answer = ""
    host.ensure(**ACME)
    assert not serves(host, given["certificate"])


@pytest.mark.parametrize("change", [{"subjects": ["c.example"]}, {"acme_url": "https://other"}])
def test_another_name_or_server_is_another_certificate(host, change):
    host.ensure(**ACME)
    assert host.ensure(**ACME | change) == ["acme"]
    assert host.ensure(**ACME | change) == []


def test_a_server_that_gives_none_is_reported_and_the_site_serves(host):
    host.acme_answer = "192.0.2.1: Connection refused"
    with pytest.raises(Refused, match="Connection refused; see that port 80 of these names"):
        host.ensure(**ACME)
    assert host.served[5000]
    host.acme_answer = ""
    assert host.ensure(**ACME) == ["acme"]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Please choose an account", "cli.ini, and see"),
        ("Error creating new order :: too many certificates already issued", "wait as long as"),
        ("2001:db8::1: Invalid response: 404", "AAAA"),
    ],
)
def test_what_an_acme_server_says_leads_to_what_to_do(host, said, remedy):
    """Port 80 is open in each of these cases."""
    host.acme_answer = said
    with pytest.raises(Refused, match=remedy):
        host.ensure(**ACME)


def test_certbot_does_not_go_on_with_what_is_no_longer_served(host, pairs):
    """Its renewals would fail every day from then on."""
    host.ensure(**ACME)
    assert "end acme" in host.ensure(**pairs())
    assert not host.live.exists() and len(stored(host)) == 1 and host.ensure(**pairs()) == []


def test_a_certificate_of_certbots_that_is_not_ours_is_refused(host):
    os.makedirs(host.root / "etc/letsencrypt/renewal")
    with open(host.root / "etc/letsencrypt/renewal/mlflow.conf", "w") as stream:
        stream.write("server = x\n")
    assert "to be this role's, or absent" in refusal(host, **ACME)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"redirect_port": 0}, "set nginx_redirect_port"),
        ({"acme_agree": False}, "set nginx_acme_agree: true"),
        ({"subjects": ["192.0.2.1"]}, "set nginx_tls_subject_alt_names"),
        ({"subjects": ["*.example.com"]}, "set nginx_tls_subject_alt_names"),
    ],
)
def test_what_certbot_could_not_get_is_refused(host, change, remedy):
    assert remedy in refusal(host, **ACME | change)


def test_a_missing_certbot_is_told_beforehand(host):
    """The playbook installs it; a run without it changes nothing."""
    del host.packages["certbot"]
    site = host.site(**ACME)
    site.plan()
    assert site.missing == ["certbot"]
    assert "run `apt-get install certbot`" in refusal(host, **ACME)


def test_a_port_of_the_redirect_that_is_taken_is_refused(host, pairs):
    """With the way out: the redirect is a kindness, not what was asked for."""
    host.start("apache2", "apache2", "apache2.service", [("0.0.0.0", 80)])
    said = refusal(host, **pairs(), redirect_port=80)
    assert "(apache2, apache2.service)" in said and "nginx_redirect_port: 0" in said
    host.file("sites-enabled/other").write_text("server { listen 8080; }")
    said = refusal(host, **pairs(), redirect_port=8080)
    assert "sites-enabled/other has it" in said and "nginx_redirect_port: 0" in said
    assert "0 for none" in refusal(host, **pairs(), redirect_port=5000)


def test_both_ports_are_given_up(host, pairs):
    host.ensure(**pairs(), redirect_port=80)
    assert host.processes[host.master]["sockets"] == [("127.0.0.1", 80), ("127.0.0.1", 5000)]
    host.ensure()
    assert host.processes[host.master]["sockets"] == [("127.0.0.1", 5000)]


USERS = [{"name": "ada", "password": "p@ss:ß"}, {"name": "bob", "password": "b"}]


def test_users_are_kept_as_hashes_that_stay_the_same(host, monkeypatch):
    """A salt by chance would be a change at each run; one salt for all would tell equals."""
    user = types.SimpleNamespace(pw_gid=os.getgid())
    monkeypatch.setattr(nginx_site.pwd, "getpwnam", lambda name: user)
    more = "auth_basic_user_file @users@;"
    host.ensure()
    assert host.ensure(users=USERS, more=more) == ["users", "site", "reload"]
    (file,) = host.file("users").iterdir()
    lines = dict(line.split(":") for line in file.read_text().splitlines())
    assert file.stat().st_mode & 0o777 == 0o640
    for entry in USERS:
        salt = lines[entry["name"]].split("$")[2]
        assert nginx_site.hashed(entry["password"], salt) == lines[entry["name"]]
    assert len({line.split("$")[2] for line in lines.values()}) == 2
    assert host.ensure(users=USERS, more=more) == []
    assert host.ensure(users=USERS[:1], more=more) == ["users", "site", "reload", "sweep"]
    assert len(list(host.file("users").iterdir())) == 1
    host.ensure()
    assert list(host.file("users").iterdir()) == []


def test_passwords_without_tls_are_warned_of(host, pairs):
    """Not refused: TLS may end at a load balancer."""
    assert "reads the passwords" in host.site("0.0.0.0", users=USERS).warnings[0]
    assert host.site(users=USERS).warnings == []
    assert host.site("0.0.0.0", users=USERS, **pairs()).warnings == []


@pytest.mark.parametrize(
    "users",
    [
        [{"name": "a:b", "password": "x"}],
        [{"name": "", "password": "x"}],
        [{"name": "a", "password": ""}],
        [USERS[0], USERS[0]],
        [{"name": "a", "password": "example-change-me"}],
    ],
)
def test_users_that_nobody_could_be_are_refused(host, users):
    said = refusal(host, users=users)
    assert "nginx_users" in said and "p@ss" not in said


def test_what_is_no_network_is_refused(host):
    """nginx takes 10.0.0.1/8 for what may not have been meant, with a warning."""
    assert "nginx_allowed_networks; found 10.0.0.1/8" in refusal(host, networks=["10.0.0.1/8"])
    host.ensure(networks=["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])


@pytest.mark.parametrize("former", [None, serve_as_before])
def test_a_ca_killed_anywhere_is_finished_and_never_made_twice(tmp_path, monkeypatch, former):
    """Between its key, itself and what it signs: clients may be given it as soon as it is there."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            host.start_nginx()
            if former:
                former(host)
            ca = host.file("tls/mlflow-ca/ca.pem")
            host.left = step
            try:
                host.ensure(**OTHER)
            except Killed:
                host.left = None
            else:
                assert step > 5
                return
            before = ca.read_text() if ca.exists() else None
            host.ensure(**OTHER)
            assert before in (None, ca.read_text())
            assert stored(host) == ["mlflow-ca", leaf(host).name]
            assert is_trusted(host, ca, "c.example") and host.ensure(**OTHER) == []
            assert sorted(path.name for path in ca.parent.iterdir()) == ["ca.pem", "privkey.pem"]


@pytest.mark.parametrize("mode", ["given", "self_signed", "acme", "none"])
def test_a_change_of_certificate_killed_anywhere_is_finished(tmp_path, monkeypatch, pairs, mode):
    """From a given one to each of the others, and no key is left on the way."""
    wanted = {"given": pairs("b.example"), "self_signed": SELF_SIGNED, "acme": ACME, "none": {}}
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            host.start_nginx()
            host.ensure(**pairs())
            host.left = step
            try:
                host.ensure(**wanted[mode])
            except Killed:
                host.left = None
            else:
                assert step > 5
                return
            host.ensure(**wanted[mode])
            assert host.loaded == host.sites() and host.ensure(**wanted[mode]) == []
            count = {"none": 0, "self_signed": 2}.get(mode, 1)
            assert len(stored(host)) == count, stored(host)
            assert not list(root.glob("etc/**/*.new"))


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


def test_a_site_is_taken_away_and_others_are_left_alone(tmp_path, monkeypatch):
    """Killed anywhere, the next run finishes: nothing listens for it, and no timer looks for it."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            host.start_nginx()
            other = host.file("sites-available/other")
            other.write_text("server { listen 127.0.0.1:8080; }\n")
            host.file("sites-enabled/other").symlink_to("../sites-available/other")
            before = files_of(host)
            host.ensure(tls="self_signed", subjects=["a.example"], helpers=HELPERS)
            assert len(files_of(host)) > len(before) + 5
            host.left = step
            try:
                take_away(host)
            except Killed:
                host.left = None
            else:
                host.left = None
                assert step > 5
                assert take_away(host) == []
                return
            take_away(host)
            assert files_of(host) == before
            assert host.timers == set()
            assert host.loaded == host.sites()
            assert host.listens() == [("127.0.0.1", 8080)]


@pytest.mark.parametrize(
    ("extension", "chain", "warned"),
    [
        ("authorityKeyIdentifier=keyid", True, []),
        ("authorityKeyIdentifier=keyid", False, ["has no chain after it"]),
        ("authorityKeyIdentifier=none", True, ["has no Authority Key Identifier"]),
    ],
)
def test_what_python_refuses_of_a_given_certificate_is_reported(
    host, tmp_path, extension, chain, warned
):
    """Whoever looks with a browser or curl finds nothing wrong with it."""
    ca, leaf = tmp_path / "ca", tmp_path / "leaf"
    for folder in (ca, leaf):
        folder.mkdir()
    make_pair(ca, "ca")
    signed = ["-CA", ca / "fullchain.pem", "-CAkey", ca / "privkey.pem", "-addext", extension]
    make_pair(leaf, "a.example", *signed)
    certificate = (leaf / "fullchain.pem").read_text()
    certificate += (ca / "fullchain.pem").read_text() * chain
    given = {"tls": "given", "certificate": certificate, "subjects": ["a.example"]}
    site = host.site(**given, key=(leaf / "privkey.pem").read_text())
    assert len(site.warnings) == len(warned), site.warnings
    assert all(words in said for words, said in zip(warned, site.warnings, strict=True))
