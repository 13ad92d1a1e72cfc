"""nginx's site, on a host of the imagination: every refusal, and a kill before each step."""

import errno
import os
import re
import socket
import types
from ipaddress import ip_address
from pathlib import Path

import nginx_site
import pytest
from nginx_site import MARKER, Refused, Site

NGINX_CONF = "user www-data;\nhttp {\n  include /etc/nginx/sites-enabled/*;\n}\n"
UNSPECIFIED = (ip_address("0.0.0.0"), ip_address("::"))


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
        self.packages = {"nginx": "installed"}
        self.enabled = True
        self.masked = False
        self.group_members = {"mlflow": []}
        self.processes = {}
        self.next_pid, self.clock = 100, 0
        self.master = 0
        self.addresses = {"127.0.0.1", "127.0.0.2", "::1", "0.0.0.0", "::"}
        for folder in ("sites-available", "sites-enabled"):
            (root / "etc/nginx" / folder).mkdir(parents=True)
        (root / "run").mkdir()
        (root / "proc/net").mkdir(parents=True)
        (root / "etc/nginx/nginx.conf").write_text(NGINX_CONF)
        self.show_processes()
        for name in ("write_text", "replace", "symlink_to", "unlink"):
            monkeypatch.setattr(Path, name, self.counted(name, getattr(Path, name)))
        monkeypatch.setattr(nginx_site, "bind_error", self.bind_error)
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
                with open(folder / file, "w") as stream:
                    stream.write(process[file])
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
        enabled = sorted((self.root / "etc/nginx/sites-enabled").iterdir())
        return {path: path.read_text() for path in [self.root / "etc/nginx/nginx.conf", *enabled]}

    def listens(self):
        found = re.findall(r"listen (\S+):(\d+);", "".join(self.sites().values()))
        return sorted({(address.strip("[]"), int(port)) for address, port in found})

    def test(self):
        for path, text in self.sites().items():
            if "broken" in text:
                return 1, "", f"nginx: [emerg] 1#1: unknown directive in {path}:1\n"
        names = re.findall(r"server_name (\S+);", "".join(self.sites().values()))
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
            return 0, " ".join(self.packages.values()), ""
        if words.startswith("systemctl show"):
            state = "enabled" if self.enabled else "disabled"
            return 0, f"MainPID={self.master}\nUnitFileState={state}\n", ""
        if command == ["/usr/sbin/nginx", "-T"]:
            return self.test()
        if command[0] == "usermod":
            if not self.has_group:
                return 6, "", "usermod: group 'mlflow' does not exist"
            self.group_members["mlflow"].append(command[-1])
        elif command[:2] == ["systemctl", "enable"]:
            self.enabled = True
        elif command[:2] == ["systemctl", "start"]:
            if self.masked:
                return 1, "", "Failed to start nginx.service: Unit nginx.service is masked."
            self.start_nginx()
        elif command[:2] == ["systemctl", "reload"]:
            self.load()
        elif command[0] == "journalctl":
            return 0, "the last words of nginx\n", ""
        else:
            raise AssertionError(f"no such command: {words}")
        return 0, "", ""

    def file(self, name):
        return self.root / "etc/nginx" / name

    def site(self, address="127.0.0.1", port=5000, names=(), more=""):
        host = f"[{address}]" if ":" in address else address
        server_names = "".join(f"server_name {name};" for name in names)
        params = {
            "name": "mlflow",
            "content": f"server {{ listen {host}:{port}; {server_names}{more} }}\n",
            "listen_address": address,
            "listen_port": port,
            "server_names": list(names),
            "user_groups": ["mlflow"],
        }
        return Site(params, self.run, self.root)

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
    assert not [action for action in host.actions if action.split()[0] in ("usermod", "replace")]


def test_check_mode_works_where_nginx_is_not_installed(host):
    """A preflight comes before the installation; nginx.conf and the group are not there yet."""
    host.packages = {"nginx": "not-installed"}
    host.processes.clear()
    host.master, host.has_group = 0, False
    host.file("nginx.conf").unlink()
    site = host.site()
    assert site.plan() == ["install", "site", "start"] and not site.installed


@pytest.mark.parametrize("state", ["unpacked", "half-configured", "config-files", ""])
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
