"""Inbound rules on a host that is reached over SSH: what gets in, and the way back."""

import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import testinfra
from control import ROOT
from fleet import At
from sandbox import writes

NAMES = ["firewall-debian12", "firewall-debian13"]
HERE = Path(__file__).resolve().parents[1]
LISTED, UNLISTED, OTHERS = 8001, 8002, 8003
RULES = [{"port": LISTED}, {"port": OTHERS, "from": ["192.0.2.0/24", "2001:db8::/32"]}]
LATER = [{"port": UNLISTED, "from": ["10.0.0.0/8"]}]
ROLLBACK = 15
TIMER = "systemctl is-active mlflow-firewall-rollback.timer"
TABLE = "nft list table inet mlflow_firewall"
UNIT = "mlflow-firewall.service"
# Also through nft, so that it is the role's own table that cuts off SSH. The former rules come back
# only once the test has seen enough, however busy the machine is.
SEEN = "/run/seen"
NO_SSH = rf"""#!/bin/sh
case "$*" in
*trial.nft) sed '/tcp dport {{ 22 }}/d' "$2" | /usr/sbin/nft.real -f - ;;
*former.nft) until [ -e {SEEN} ]; do sleep 0.1; done; exec /usr/sbin/nft.real "$@" ;;
*) exec /usr/sbin/nft.real "$@" ;;
esac
"""
SSH_CONFIG = """
IdentityFile {folder}/key
IdentitiesOnly yes
StrictHostKeyChecking yes
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile /dev/null
"""
CONNECT = """
import socket, sys
host, port = sys.argv[1:]
try:
    socket.create_connection((host, port), timeout=1).close()
except TimeoutError:
    sys.exit("silence")
"""


class Operator:
    """Who runs the role against both hosts at once, over SSH.

    Args:
        hosts: The hosts by name, as testinfra sees them from inside.
        folder: Where he keeps his key.
    """

    def __init__(self, hosts, folder):
        self.hosts, self.folder = hosts, folder
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"]
        subprocess.run(key, check=True)
        public = (folder / "key.pub").read_text()
        for host in hosts.values():
            host.check_output("install --directory --owner=admin --mode=0700 ~admin/.ssh")
            host.check_output("printf %s > ~admin/.ssh/authorized_keys", public)
        (folder / "ssh_config").write_text(SSH_CONFIG.format(folder=folder))

    def addresses(self):
        """Return where the hosts are reached; it may change with a reboot."""
        return {name: h.check_output("hostname -I").split()[0] for name, h in self.hosts.items()}

    def start(self, *arguments, at=None, **variables):
        """Start the role and return the process; something may happen at a point of it."""
        addresses = self.addresses()
        trusted = {
            name: host.file("/etc/ssh/ssh_host_ed25519_key.pub").content_string
            for name, host in self.hosts.items()
        }
        lines = [f"{addresses[name]} {key}" for name, key in trusted.items()]
        (self.folder / "known_hosts").write_text("\n".join(lines) + "\n")
        known = {
            "ansible_user": "admin",
            "ansible_python_interpreter": "/usr/bin/python3",
            "firewall_enabled": True,
            "firewall_rules": RULES,
            "firewall_rollback_timeout": ROLLBACK,
        }
        hosts = {name: {"ansible_host": address} for name, address in addresses.items()}
        inventory = {"firewall": {"hosts": hosts, "vars": known | variables}}
        (self.folder / "inventory.json").write_text(json.dumps(inventory))
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ANSIBLE_", "MOLECULE_"))
        }
        environment |= {
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_SSH_COMMON_ARGS": f"-F {self.folder}/ssh_config",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "connections"),
        } | (at.environment if at else {})
        role = ["-i", self.folder / "inventory.json", HERE / "role.yml"]
        return subprocess.Popen(
            ["ansible-playbook", *role, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def converge(self, *arguments, **variables):
        """Run the role to its end and return what it said, in one line."""
        process = self.start(*arguments, **variables)
        said = " ".join(process.communicate()[0].split())
        assert process.returncode == 0, said
        return said

    def changed(self, *arguments, **variables):
        """Run the role and return how many of its tasks changed each host."""
        said = self.converge(*arguments, **variables)
        (count,) = {int(number) for number in re.findall(r" changed=(\d+)", said)}
        return count

    def hang_up(self):
        for socket in (self.folder / "connections").glob("*"):
            subprocess.run(["ssh", "-O", "exit", "-S", socket, "any"], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def hosts():
    return {name: testinfra.get_host(f"podman://{name}") for name in NAMES}


@pytest.fixture(scope="module")
def operator(hosts, tmp_path_factory):
    operator = Operator(hosts, tmp_path_factory.mktemp("operator"))
    yield operator
    operator.hang_up()


@pytest.fixture
def open_ports(hosts, operator):
    """Return a function that tells at which ports each host is reached from the other."""

    def function(version=4):
        addresses = operator.addresses()
        if version == 6:
            for name, host in hosts.items():
                shown = json.loads(host.check_output("ip -json -6 address show eth0 scope link"))
                addresses[name] = f"{shown[0]['addr_info'][0]['local']}%eth0"
        processes = {}
        for other, name in zip(NAMES, reversed(NAMES), strict=True):
            for port in (22, LISTED, UNLISTED, OTHERS):
                connect = ["python3", "-c", CONNECT, addresses[name], str(port)]
                processes[name, port] = subprocess.Popen(
                    ["podman", "exec", other, *connect], stderr=subprocess.PIPE, text=True
                )
        said = {at: process.communicate()[1] for at, process in processes.items()}
        assert set(said.values()) <= {"", "silence\n"}, said
        one, two = (
            [port for (at, port), text in said.items() if at == n and not text] for n in NAMES
        )
        assert one == two
        return one

    return function


def eventually(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "not so after two minutes"
        time.sleep(0.2)


def on_all(hosts, command, *args):
    """Run a command that has to succeed on each host, at once, and return what each said."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda host: host.check_output(command, *args), hosts.values()))


def traces(hosts):
    find = "find /etc /run -xdev -name '*mlflow-firewall*' 2>/dev/null; true"
    return "".join(on_all(hosts, find))


def units(hosts):
    return "".join(on_all(hosts, "systemctl list-units --all --plain --no-legend 'mlflow*'"))


def test_check_mode_tells_and_changes_nothing(hosts, operator):
    """On hosts that do not even have nft."""
    said = operator.converge("--check", "--diff")
    assert said.count(f"tcp dport {LISTED} accept") == 4 and said.count(" changed=2 ") == 2
    assert not any(host.package("nftables").is_installed for host in hosts.values())
    assert traces(hosts) == ""


def test_what_is_listed_gets_in_and_nothing_else(operator, open_ports):
    """From another host, over both IPs; a port that is listed for other networks is closed too."""
    assert open_ports() == open_ports(6) == [22, LISTED, UNLISTED, OTHERS]
    operator.converge()
    assert open_ports() == open_ports(6) == [22, LISTED]


def test_the_host_itself_and_its_own_connections_go_on(hosts):
    """Loopback, and answers to what it asked for."""
    for address in ("127.0.0.1", "::1"):
        on_all(hosts, "python3 -c %s %s %s", CONNECT, address, str(UNLISTED))
    on_all(hosts, f"getent hosts {NAMES[0]} && getent hosts {NAMES[1]}")


def test_a_second_run_looks_once_and_changes_nothing(operator):
    """A run in which nothing is new costs one round trip."""
    said = operator.converge("-vvv")
    assert said.count(" changed=0 ") == 2
    assert len(re.findall("SSH: EXEC", said)) == 2, said


def test_a_unit_of_its_own_loads_them_in_a_sandbox(hosts, operator):
    """It holds CAP_NET_ADMIN from boot on, and is root."""
    operator.converge()
    assert traces(hosts).count("/etc/mlflow-firewall.nft") == units(hosts).count(UNIT) == 2
    on_all(hosts, "systemd-analyze security --threshold=20 mlflow-firewall")
    assert [writes(host, UNIT) for host in hosts.values()] == [[], []]
    on_all(hosts, "systemctl is-enabled mlflow-firewall && ! systemctl is-enabled nftables")


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_the_operators_own_nftables_does_not_empty_the_table(hosts, how):
    """Debian's nftables.conf begins by flushing all tables, not only its own. Ours comes back with
    a job of its own, for which systemctl does not wait."""
    on_all(hosts, "systemctl start nftables && systemctl start mlflow-firewall")
    on_all(hosts, f"systemctl {how} nftables")
    eventually(lambda: all("policy drop" in host.run(TABLE).stdout for host in hosts.values()))


def test_what_was_changed_by_hand_is_put_right_and_other_tables_are_left_alone(
    hosts, operator, open_ports
):
    """A rule that nobody knows of is a hole; other tables are Docker's, or the operator's own."""
    on_all(hosts, "nft 'table ip other { chain c { tcp dport 1 counter; }; }'")
    other = on_all(hosts, "nft list table ip other")
    on_all(hosts, f"nft insert rule inet mlflow_firewall input tcp dport {UNLISTED} accept")
    assert UNLISTED in open_ports()
    assert operator.changed() > 0
    assert open_ports() == [22, LISTED]
    assert on_all(hosts, "nft list table ip other") == other


def test_a_run_that_was_killed_is_finished_by_the_next(hosts, operator, open_ports):
    """Killed while its rules are on trial; one of them is for the other host, over IPv4 alone."""
    process = operator.start(
        at=At("start", "Rules | Try", 3),
        firewall_rules=LATER,
        firewall_rollback_timeout=600,
    )
    said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, said
    on_all(hosts, TIMER)
    assert all(str(UNLISTED) in table for table in on_all(hosts, TABLE))
    operator.converge(firewall_rules=LATER)
    assert open_ports() == [22, UNLISTED] and open_ports(6) == [22]
    on_all(hosts, f"! {TIMER}")


def test_rules_that_cut_off_ssh_take_themselves_back(hosts, operator, open_ports):
    """However it came about: without a new connection the host has its former rules again."""
    operator.converge(firewall_rules=LATER)
    on_all(hosts, "mv /usr/sbin/nft /usr/sbin/nft.real && printf %s > /usr/sbin/nft", NO_SSH)
    on_all(hosts, "chmod 755 /usr/sbin/nft")
    try:
        process = operator.start()
        said = " ".join(process.communicate()[0].split())
        on_all(hosts, "systemd-analyze security --threshold=20 mlflow-firewall-rollback.service")
        assert open_ports() == [LISTED]
        on_all(hosts, f"touch {SEEN}")
        eventually(lambda: all(str(UNLISTED) in table for table in on_all(hosts, TABLE)))
    finally:
        on_all(hosts, "mv /usr/sbin/nft.real /usr/sbin/nft")
    assert process.returncode != 0
    for name in NAMES:
        assert f"Wanted a new connection to {name} under its new rules; found none" in said, said
    assert open_ports() == [22, UNLISTED]
    on_all(hosts, f"! {TIMER}")
    assert operator.changed(firewall_rules=LATER) == 0


def test_another_manager_of_rules_is_refused(hosts, operator):
    """Whoever asks it what gets in would be told half of it."""
    on_all(hosts, "systemd-run --unit=firewalld sleep 1000")
    process = operator.start()
    said = " ".join(process.communicate()[0].split())
    on_all(hosts, "systemctl stop firewalld")
    assert process.returncode != 0
    assert said.count("found firewalld active; list its rules in firewall_rules") >= 2, said


def test_after_a_reboot_all_is_as_before(hosts, operator, open_ports):
    """The rules are in force before there is a network, and after the operator's own."""
    on_all(hosts, "systemctl enable nftables")
    operator.hang_up()
    restart = ["podman", "restart", "--time=20", *NAMES]
    subprocess.run(restart, check=True, stdout=subprocess.PIPE)
    booted = "systemctl is-system-running --wait"
    eventually(lambda: all(host.run(booted).rc == 0 for host in hosts.values()))
    assert open_ports() == [22, UNLISTED] and open_ports(6) == [22]
    assert operator.changed(firewall_rules=LATER) == 0


def test_a_role_that_is_off_does_not_even_look(operator, open_ports):
    """Off is the default, for hosts whose rules are somebody else's."""
    said = operator.converge("-vvv", firewall_enabled=False)
    assert said.count(" changed=0 ") == 2 and "SSH: EXEC" not in said
    assert open_ports() == [22, UNLISTED]


def test_the_hosts_are_given_back(hosts, operator, open_ports):
    """All that the role made goes, and nothing else."""
    off = {"firewall_enabled": False, "firewall_remove": True}
    assert operator.changed(**off) == 1
    assert open_ports() == [22, LISTED, UNLISTED, OTHERS]
    assert set(on_all(hosts, "nft list tables")) == {"table inet filter"}
    assert traces(hosts) == ""
    assert units(hosts) == ""
    assert operator.changed(**off) == 0
