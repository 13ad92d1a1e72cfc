"""Rules on a host of the imagination: every refusal, the way back, a kill before each step."""

import json
import os
import re
from pathlib import Path

import firewall_rules
import pytest
from firewall_rules import APART, DELETE, MARKER, Firewall, Refused, render, sets_of, statements
from kills import Killable, Killed

RULES = [{"port": 5000, "protocol": "tcp", "from": ["10.0.0.0/16"]}]
OTHERS = [{"port": 5432, "protocol": "tcp", "from": None}]
OVER = {"first": "192.0.2.1 40001 192.0.2.9 22", "second": "192.0.2.1 40002 192.0.2.9 22"}


class FakeHost(Killable):
    """Files, sshd, systemd and nft of one host, killed before its n-th action.

    nft is a parser that knows only our own text: which ports the table lets in.
    """

    def __init__(self, root: Path, monkeypatch):
        super().__init__()
        self.root = root
        self.table = None
        self.states = {"mlflow-firewall.service": "inactive"}
        self.enabled = False
        self.timer = None
        self.addresses = [
            ("10.0.0.9", 16, "global"),
            ("127.0.0.1", 8, "host"),
            ("fe80::9", 64, "link"),
        ]
        self.sockets = ""
        for folder in ("etc/ufw", "etc/systemd/system", "run", "usr/sbin", f"proc/{os.getpid()}"):
            (root / folder).mkdir(parents=True)
        (root / "usr/sbin/nft").touch()
        self.sshd(22)
        self.connect("first")
        monkeypatch.setattr(firewall_rules.os, "fsync", lambda descriptor: None)
        for name in ("replace", "unlink"):
            monkeypatch.setattr(Path, name, self.counted(name, getattr(Path, name)))

    def counted(self, name, method):
        def wrapped(path, *args, **more):
            if path.is_relative_to(self.root):
                self.act(f"{name} {path.name}")
            return method(path, *args, **more)

        return wrapped

    # Processes.

    def process(self, pid, cmdline, *ports):
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "cmdline").write_text(cmdline)
        net = self.root / "proc/net"
        net.mkdir(exist_ok=True)
        table = net / "tcp"
        rows = table.read_text() if table.exists() else "header\n"
        for number, port in enumerate(ports):
            inode = pid * 100 + number
            os.symlink(f"socket:[{inode}]", folder / "fd" / str(number))
            rows += f"0: 00000000:{port:04X} 00000000:0000 0A 0 0 0 0 0 {inode} 1\n"
        table.write_text(rows)

    def sshd(self, *ports, pid=70):
        self.process(pid, "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\0", *ports)

    def connect(self, name, parent=0):
        """Have the module run over another connection, or none."""
        folder = self.root / "proc" / str(os.getpid())
        variable = f"SSH_CONNECTION={OVER[name]}\0" if name else ""
        (folder / "environ").write_text(f"A=b\0{variable}")
        (folder / "status").write_text(f"Name:\tpython\nPPid:\t{parent}\n")

    # nft and systemd.

    def load(self, text):
        if "wrong" in text:
            return 1, "", "Error: syntax error"
        ports = re.findall(r"(?m)^ .* dport \{? ?([\d, ]+?) ?\}? accept", text)
        self.table = None if text == DELETE else [text.count("!= syn"), *ports]
        return 0, "", ""

    def listed(self, table):
        rules = [{"rule": {"handle": len(self.actions), "accept": port}} for port in table]
        return json.dumps({"nftables": [{"metainfo": {}}, *rules]})

    def run(self, command, data=None):
        words = " ".join(command)
        if words.startswith("systemctl show"):
            timer = "active" if self.timer else "inactive"
            states = {"mlflow-firewall-rollback.timer": timer, "firewalld.service": "inactive"}
            states |= {"ssh.socket": "inactive"} | self.states
            blocks = [f"Id={name}\nActiveState={state}" for name, state in states.items()]
            blocks[-1] += f"\nUnitFileState={'enabled' if self.enabled else ''}"
            return 0, self.sockets + "\n\n".join(blocks) + "\n", ""
        if command[:2] == ["ip", "-json"]:
            keys = ("local", "prefixlen", "scope")
            found = [dict(zip(keys, address, strict=True)) for address in self.addresses]
            return 0, json.dumps([{"addr_info": found}]), ""
        if command[: len(APART)] == APART:
            kept = self.table
            code, _, said = self.load(data)
            listed, self.table = self.listed(self.table or []), kept
            return code, listed, said
        if "list" in command:
            return (
                (1, "", "No such file") if self.table is None else (0, self.listed(self.table), "")
            )
        self.act(words)
        if command[0] == "/usr/sbin/nft":
            return self.load(DELETE if command[1] == DELETE else Path(command[2]).read_text())
        if command[0] == "systemd-run":
            assert not self.timer, "a unit of this name is there"
            self.timer = command[-1]
        elif command[:2] == ["systemctl", "stop"]:
            if command[2].endswith(".service"):
                return 5, "", "not loaded"
            self.timer = None
        elif command[:2] == ["systemctl", "enable"]:
            self.enabled = True
        elif command[:3] == ["systemctl", "disable", "--now"]:
            self.enabled, self.table = False, None
            self.states["mlflow-firewall.service"] = "inactive"
        elif command[:2] == ["systemctl", "reload-or-restart"]:
            self.states["mlflow-firewall.service"] = "active"
            return self.load(self.file.read_text())
        else:
            assert words == "systemctl daemon-reload", words
        return 0, "", ""

    def strike(self):
        """Let the timer's time pass."""
        if self.timer:
            self.load(Path(self.timer).read_text())
            self.timer = None

    @property
    def file(self):
        return self.root / "etc/mlflow-firewall.nft"

    # What Ansible does.

    def module(self, rules=RULES, name="mlflow", timeout=60, replaces=()):
        params = {"name": name, "rules": rules, "rollback_timeout": timeout, "replaces": replaces}
        return Firewall(params, self.run, self.root)

    def try_out(self, *args, **more):
        firewall = self.module(*args, **more)
        plan = firewall.plan()
        firewall.try_out(plan)
        return plan

    def confirm(self, *args, **more):
        firewall = self.module(*args, **more)
        firewall.confirm(firewall.plan())

    def ensure(self, *args, **more):
        """Run the role."""
        self.connect("first")
        plan = self.try_out(*args, **more)
        if plan:
            self.connect("second")
            self.confirm(*args, **more)
        return plan

    def remove(self):
        firewall = self.module()
        plan = firewall.left()
        firewall.remove(plan)
        return plan

    def state(self):
        files = {
            str(path): path.read_text()
            for folder in ("etc", "run")
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
        return self.table, self.timer, self.enabled, files


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


def refusal(host, action):
    """Return the words of a refusal, after seeing that nothing was touched."""
    before = host.state()
    with pytest.raises(Refused) as refused:
        action()
    assert host.state() == before
    text = " ".join(str(refused.value).split())
    assert text.startswith("Wanted ") and "; found" in text
    return text


# The text.


@pytest.mark.parametrize(
    ("networks", "lines"),
    [
        (None, ["meta nfproto ipv4 tcp dport 80 accept", "meta nfproto ipv6 tcp dport 80 accept"]),
        ([], []),
        (["::/0"], ["meta nfproto ipv6 tcp dport 80 accept"]),
        (["10.1.0.0/16", "10.0.0.0/8"], ["ip saddr { 10.0.0.0/8 } tcp dport 80 accept"]),
        (
            ["192.0.2.7", "fd00::/8"],
            [
                "ip saddr { 192.0.2.7/32 } tcp dport 80 accept",
                "ip6 saddr { fd00::/8 } tcp dport 80 accept",
            ],
        ),
        (["samenet"], ["ip saddr { 10.0.0.0/16 } tcp dport 80 accept"]),
    ],
)
def test_a_rule_is_for_the_networks_that_it_names(networks, lines):
    """nft refuses a set in which one network lies in another; nobody is not everybody."""
    rule = {"port": 80, "protocol": "tcp", "from": networks}
    assert statements([rule, rule], ["10.0.0.0/16"]).split("\n") == [
        *(f"        {line}" for line in lines),
        "",
    ]


def test_the_sets_are_read_back_from_the_text():
    """It is the only memory of what another instance of the host lets in."""
    sets = {"mlflow": statements(RULES, []), "mlflow-b": statements(OTHERS, [])}
    assert sets_of(render([22], sets)) == sets
    assert sets_of(render([], {})) == {}


# What is let in.


def test_ssh_is_let_in_wherever_it_is(host):
    """Where sshd listens, where systemd does for it, and where the present connection came in."""
    host.sshd(2022, pid=71)
    host.process(72, "sshd: admin@pts/0\0", 6010)
    host.process(73, "/usr/bin/server\0", 8000)
    host.states["ssh.socket"] = "active"
    host.sockets = "Listen=0.0.0.0:2222 (Stream)\nListen=[::]:2222 (Stream)\n\n"
    OVER["third"] = "192.0.2.1 40003 192.0.2.9 443"
    host.connect("third")
    host.try_out()
    assert (
        "        tcp dport { 22, 443, 2022, 2222 } accept\n"
        in (host.root / "run/mlflow-firewall/trial.nft").read_text()
    )


def test_the_connection_is_known_behind_sudo(host):
    """It takes SSH_CONNECTION out of the environment; the shell before it still has it."""
    (host.root / "proc/4").mkdir()
    (host.root / "proc/4/environ").write_text(f"SSH_CONNECTION={OVER['first']}\0")
    host.connect("", parent=4)
    assert host.module().connection() == OVER["first"].split()


def test_two_sets_of_one_host_add_up(host):
    """Two instances, or a database beside a server: neither closes the other's port."""
    host.ensure()
    assert host.ensure(OTHERS, name="postgresql") == ["rules", "load"]
    assert {"5000", "5432"} <= set(host.table)
    assert host.ensure() == host.ensure(OTHERS, name="postgresql") == []
    host.ensure([], name="postgresql")
    assert "5432" not in host.table and "postgresql" not in host.file.read_text()


def test_a_set_that_another_stands_for_is_taken_away(host):
    """A database server that becomes a tracking server too: the former set would stay open."""
    host.ensure(OTHERS, name="postgresql")
    assert host.ensure(replaces=["postgresql"]) == ["rules", "load"]
    assert "5000" in host.table and "5432" not in host.table
    assert host.ensure(replaces=["postgresql"]) == []


def test_two_sets_of_one_host_are_tried_together(host):
    """Two names of the inventory that are one host: each task runs for both before the next one."""
    host.try_out()
    host.try_out(OTHERS, name="postgresql")
    host.connect("second")
    host.confirm()
    host.confirm(OTHERS, name="postgresql")
    assert {"5000", "5432"} <= set(host.table) and host.timer is None
    assert host.ensure() == host.ensure(OTHERS, name="postgresql") == []


# The trial.


def test_rules_are_tried_then_kept_and_then_left_alone(host):
    """A second run that changed something would be a risk for nothing."""
    assert host.try_out() == ["rules", "unit", "enable", "load"]
    assert host.table[0] == 1 and host.timer and not host.enabled and not host.file.exists()
    host.connect("second")
    host.confirm()
    assert host.table[0] == 0 and "5000" in host.table
    assert host.enabled and host.timer is None
    assert host.file.read_text().startswith(MARKER)
    assert host.ensure() == []


def test_rules_that_are_not_confirmed_go_back(host):
    """To none on a host that had none, to the former ones later."""
    host.try_out()
    host.strike()
    assert host.table is None
    host.ensure()
    former = host.table
    host.try_out(OTHERS)
    assert "5432" in host.table
    host.strike()
    assert host.table == former


def test_what_was_unloaded_by_hand_does_not_come_back_by_itself(host):
    """Who has stopped the unit had no rules: those are the former ones."""
    host.ensure()
    host.table = None
    host.try_out(OTHERS)
    host.strike()
    assert host.table is None


def test_a_late_confirmation_is_refused(host):
    """The connection that it came over was made under the former rules."""
    host.try_out()
    host.strike()
    host.connect("second")
    assert "raise firewall_rollback_timeout" in refusal(host, host.confirm)


def test_a_confirmation_of_other_rules_is_refused(host):
    """Only what was tried is kept."""
    host.try_out(OTHERS)
    host.connect("second")
    assert "found that 60 seconds are over" in refusal(host, host.confirm)


def test_a_confirmation_over_the_old_connection_is_refused(host):
    """It goes on under any rules, so it proves nothing."""
    host.try_out()
    assert "found the one of the trial" in refusal(host, host.confirm)


@pytest.mark.parametrize("former", [None, OTHERS])
@pytest.mark.parametrize("strikes", [True, False])
def test_a_run_killed_anywhere_goes_back_and_is_finished_by_the_next(
    tmp_path, monkeypatch, former, strikes
):
    """Whether the next one comes before the timer or after. What was not confirmed is gone then."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            if former:
                host.ensure(former)
            before, host.left = host.table, step
            try:
                host.ensure()
            except Killed:
                host.left = None
            else:
                assert step > 8
                return
            if strikes:
                host.strike()
                confirmed = host.file.exists() and "dport 5000" in host.file.read_text()
                assert host.table == before or (confirmed and "5000" in host.table)
            host.ensure()
            assert "5000" in host.table and "5432" not in host.table and host.table[0] == 0
            assert host.timer is None and host.ensure() == []


def test_a_second_run_that_is_killed_too_goes_back_as_well(tmp_path, monkeypatch):
    """It finds rules on trial with a timer, and must not leave them without one."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            host.ensure(OTHERS)
            before = host.table
            host.try_out()
            host.left = step
            try:
                host.try_out()
            except Killed:
                host.strike()
                assert host.table == before
            else:
                assert step > 4
                return


# What is refused, and what is taken away.


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"port": 0}, "ports from 1 to 65535 in firewall_rules; found 0"),
        ({"port": 65536}, "found 65536; correct it"),
        ({"port": 80, "from": ["10.0.0.1/8"]}, "found 10.0.0.1/8 (10.0.0.1/8 has host bits set)"),
        ({"port": 80, "from": ["10.0.0.0/8; drop"]}, "found 10.0.0.0/8; drop ("),
        ({"port": 80, "from": ["all"]}, "found all ("),
    ],
)
def test_a_rule_that_cannot_be_is_refused(host, rule, words):
    """nft would say where in a text that the operator has never seen."""
    rules = [*RULES, {"protocol": "tcp", "from": None} | rule]
    assert words in refusal(host, lambda: host.try_out(rules))


def test_a_name_that_nft_would_read_as_something_else_is_refused(host):
    assert "firewall_name; found a b" in refusal(host, lambda: host.try_out(name="a b"))


def test_a_time_in_which_nobody_can_connect_is_refused(host):
    """Every run would go back."""
    assert "at least 15 seconds" in refusal(host, lambda: host.try_out(timeout=5))


def test_other_managers_are_refused(host):
    """Whoever asks them what gets in would be told half of it."""
    host.states = {"firewalld.service": "active"} | host.states
    assert "`systemctl disable --now firewalld`" in refusal(host, host.try_out)
    host.states["firewalld.service"] = "inactive"
    (host.root / "etc/ufw/ufw.conf").write_text("# ufw\nENABLED=yes\n")
    assert "found ufw active" in refusal(host, host.try_out)
    (host.root / "etc/ufw/ufw.conf").write_text("ENABLED=no\n")
    host.ensure()


def test_files_of_others_are_left_alone(host):
    host.file.write_text("table inet mine {}\n")
    assert f"Wanted {host.file} to be this role's" in refusal(host, host.try_out)
    assert host.remove() == []


def test_rules_that_the_kernel_does_not_take_are_refused(host, monkeypatch):
    """Before they are loaded."""
    monkeypatch.setattr(firewall_rules, "statements", lambda rules, here: "        wrong\n")
    assert "found: Error: syntax error; correct firewall_rules" in refusal(host, host.try_out)


def test_without_nft_there_is_a_plan_but_nothing_is_done(host):
    """A preflight comes before the installation."""
    (host.root / "usr/sbin/nft").unlink()
    assert host.module().plan() == ["install", "rules", "unit", "enable", "load"]
    assert "run `apt-get install nftables`" in refusal(host, host.try_out)
    assert host.remove() == []


def test_what_differs_on_the_host_is_seen(host):
    """By hand, or by who flushes the ruleset."""
    host.ensure()
    host.table.append("8080")
    assert host.ensure() == ["load"]
    host.table = None
    assert host.ensure() == ["load"]
    host.enabled = False
    assert host.ensure() == ["enable"]


def test_a_removal_killed_anywhere_is_finished_by_the_next(tmp_path, monkeypatch):
    """A trial that is on at the time included; what is not the role's stays."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            host.ensure()
            host.try_out(OTHERS)
            host.left = step
            try:
                host.remove()
            except Killed:
                host.left = None
                host.strike()
            else:
                assert step > 4
                return
            host.remove()
            assert host.table is None and host.timer is None and not host.enabled
            assert not host.file.exists() and host.remove() == []
            assert not list(host.root.rglob("*mlflow-firewall*"))
