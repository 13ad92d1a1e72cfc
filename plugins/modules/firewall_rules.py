#!/usr/bin/python
"""Admit what is listed and nothing else, by an nftables table that rolls itself back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_rules
short_description: Inbound rules in their own table, tried before they are kept
description:
  - C(try) loads the rules and starts a timer that restores the former ones. C(confirm), called
    over a new connection, makes them permanent and stops the timer. What is left to do is read
    from the host, so the next run finishes what an interrupted one began.
options:
  step:
    description: C(remove) removes all that the other two made.
    type: str
    choices: [try, confirm, remove]
    required: true
  name: {description: Name of this set of rules., type: str, default: mlflow}
  rules:
    description: What is admitted.
    type: list
    elements: dict
    default: []
    suboptions:
      port: {description: Port., type: int, required: true}
      protocol: {description: Protocol., type: str, choices: [tcp, udp], default: tcp}
      from:
        description: Networks, or V(samenet). All if omitted, none if empty.
        type: list
        elements: str
  replaces:
    description: Names of former sets that this one replaces.
    type: list
    elements: str
    default: []
  rollback_timeout:
    description: Seconds from C(try) until the former rules are restored.
    type: int
    default: 60
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Admit clients
  mlflow_ansible.tracking.firewall_rules:
    step: try
    rules:
      - {port: 5000, from: [10.0.0.0/16]}
"""

RETURN = r"""
name: {description: Name of the set of rules., type: str, returned: success}
installed: {description: Whether nft is installed., type: bool, returned: success}
plan: {description: What is (to be) done., type: list, elements: str, returned: success}
"""

import ipaddress
import json
import os
import re
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import read, write
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.locks import hold
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.network import (
    holders,
    proc_text,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)

MARKER = "# Written by Ansible (role firewall): edits are lost.\n"
TABLE = "inet mlflow_firewall"
# Adding a table that exists is no error, deleting one that does not is.
DELETE = f"table {TABLE}\ndelete table {TABLE}\n"
NFT = "/usr/sbin/nft"
# Not unshare: on Ubuntu 25.04 and newer AppArmor removes its root rights.
# Where the kernel refuses a network namespace systemd goes on without one, so this is checked.
IS_APART = 'test "$(readlink /proc/self/ns/net)" != "$(readlink /proc/1/ns/net)"'
APART = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--property=PrivateNetwork=yes"]
UNIT = "mlflow-firewall.service"
ROLLBACK = "mlflow-firewall-rollback"
SHORTEST = 15
NOT_LOADED = 5  # systemctl's exit code
ALL = ["0.0.0.0/0", "::/0"]
# As root: loading rules takes CAP_NET_ADMIN in the host's own user and network namespaces.
# `strict` alone was seen to leave /run writable together with ProtectKernelTunables and the like.
SANDBOX = """\
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ReadOnlyPaths=/run
ProtectHome=yes
PrivateDevices=yes
PrivateMounts=yes
DevicePolicy=closed
ProtectHostname=yes
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProcSubset=pid
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_NETLINK
IPAddressDeny=any
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
UMask=0077
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""
UNIT_TEXT = f"""\
{MARKER}[Unit]
Description=Inbound rules of the MLflow host
# nftables.service empties the whole ruleset when it starts, stops or reloads, this table too.
After=nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
# In force before there is a network.
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={NFT} -f /etc/mlflow-firewall.nft
ExecReload={NFT} -f /etc/mlflow-firewall.nft
ExecStop={NFT} "table {TABLE}; delete table {TABLE}"

{SANDBOX}
[Install]
WantedBy=sysinit.target
"""


def networks(rule: dict, here: list[str]) -> list:
    """Return the networks of a rule without nested ones; `here` are the host's own."""
    found = []
    for text in ALL if rule.get("from") is None else rule["from"]:
        for name in here if text == "samenet" else [text]:
            try:
                found.append(ipaddress.ip_network(name))
            except ValueError as error:
                raise Refused(
                    "Wanted networks such as 10.0.0.0/16, or samenet, in firewall_rules; found "
                    f"{text} ({error}); correct it."
                ) from None
    return [
        network
        for version in (4, 6)
        for network in ipaddress.collapse_addresses(n for n in found if n.version == version)
    ]


def statements(rules: list[dict], here: list[str]) -> str:
    """Return the rules in nft's syntax."""
    lines = set()
    for rule in rules:
        if not 1 <= rule["port"] <= 65535:
            raise Refused(
                f"Wanted ports from 1 to 65535 in firewall_rules; found {rule['port']}; correct it."
            )
        accept = f"{rule['protocol']} dport {rule['port']} accept\n"
        found = networks(rule, here)
        for version, family in ((4, "ip"), (6, "ip6")):
            those = [network for network in found if network.version == version]
            if those and those[0].prefixlen == 0:
                lines.add(f"meta nfproto ipv{version} {accept}")
            elif those:
                lines.add(f"{family} saddr {{ {', '.join(map(str, those))} }} {accept}")
    return "".join(f"        {line}" for line in sorted(lines))


def render(ports: list[int], sets: dict[str, str], trial: bool = False) -> str:
    """Return the table in nft's syntax, to be loaded in one transaction.

    Args:
        ports: SSH ports.
        sets: Statements by name of their set.
        trial: Whether connections older than the table are admitted.
    """
    # The kernel may begin to track connections only with this table: an older one then looks new,
    # but without the SYN that a new one starts with.
    older = "        tcp flags & (fin | syn | rst | ack) != syn accept\n" if trial else ""
    ssh = f"        tcp dport {{ {', '.join(map(str, ports))} }} accept\n" if ports else ""
    jumps = "".join(f"        jump rules_{name}\n" for name in sorted(sets))
    chains = "".join(
        f"    chain rules_{name} {{\n{lines}    }}\n" for name, lines in sorted(sets.items())
    )
    return f"""\
{MARKER}{DELETE}table {TABLE} {{
    chain input {{
        # After the filters of others: what they drop stays dropped, what they admit is asked here.
        type filter hook input priority filter + 10; policy drop;
        ct state established,related accept
{older}        iif lo accept
        icmp type {{ echo-request, destination-unreachable, time-exceeded,
            parameter-problem }} accept
        icmpv6 type {{ echo-request, destination-unreachable, packet-too-big, time-exceeded,
            parameter-problem, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert,
            nd-redirect, mld-listener-query }} accept
        # Answers to DHCP that go to all, or come from an address that was not asked.
        udp sport 67 udp dport 68 accept
        ip6 saddr fe80::/10 udp dport 546 accept
{ssh}{jumps}    }}
{chains}}}
"""


def sets_of(text: str) -> dict[str, str]:
    """Return the statements in the output of `render`, by name of their set."""
    return dict(re.findall(r"(?ms)^    chain rules_(\S+) \{\n(.*?)^    \}\n", text))


class Firewall:
    """The table and the host it belongs on.

    Args:
        params: The module's parameters.
        run: Runs a command, given as a list, with `data` as its input, and returns (rc, stdout,
            stderr).
        root: Folder that stands for `/`.
    """

    def __init__(self, params: dict, run, root: Path = Path("/")):
        self.params, self.run, self.root, self.proc = params, run, root, root / "proc"
        self.file = root / "etc/mlflow-firewall.nft"
        self.unit = root / "etc/systemd/system" / UNIT
        # Gone after a reboot, like the timer.
        self.trial = root / "run/mlflow-firewall/trial.nft"
        self.former = root / "run/mlflow-firewall/former.nft"

    # State.

    def look(self) -> None:
        """Read what is installed, loaded, enabled and on trial, and systemd's ports for SSH."""
        units = [UNIT, f"{ROLLBACK}.timer", "firewalld.service", "ssh.socket"]
        properties = "--property=Id,ActiveState,UnitFileState,Listen"
        shown = self.run(["systemctl", "show", *units, properties])[1]
        blocks = [
            dict(line.split("=", 1) for line in block.splitlines())
            for block in shown.replace("\nListen=", "\n\n").split("\n\n")
            if block.startswith("Id=")
        ]
        states = {block["Id"]: block for block in blocks}
        self.active = {name for name, state in states.items() if state["ActiveState"] == "active"}
        self.enabled = states[UNIT].get("UnitFileState") == "enabled"
        self.pending = f"{ROLLBACK}.timer" in self.active
        self.installed = (self.root / NFT[1:]).exists()
        # systemd may listen on behalf of sshd.
        self.sockets = re.findall(r"^Listen=\S*?:?(\d+) \(Stream\)", shown, re.MULTILINE)

    def connection(self) -> list[str]:
        """Return the addresses and ports of the SSH connection that this runs over.

        sudo removes them from the environment, so the parent processes are searched.
        """
        pid = os.getpid()
        while pid > 1:
            for variable in proc_text(self.proc, pid, "environ").split("\0"):
                if variable.startswith("SSH_CONNECTION="):
                    return variable.partition("=")[2].split()
            parent = re.search(r"(?m)^PPid:\s*(\d+)", proc_text(self.proc, pid, "status"))
            pid = int(parent[1]) if parent else 0
        return []

    def ssh_ports(self) -> list[int]:
        """Return the ports of SSH: sshd's, and the one in use now.

        Not those that its sessions forward, which come and go.
        """
        found = {int(port) for port in self.sockets if "ssh.socket" in self.active}
        found.update(int(port) for port in self.connection()[3:])
        for folder in self.proc.glob("[0-9]*"):
            if re.match(r"sshd: .*\[listener\]", proc_text(self.proc, folder.name, "cmdline")):
                found.update(port for _, port in holders(self.proc, folder.name))
        return sorted(found)

    def own_networks(self) -> list[str]:
        """Return the networks of the host's interfaces."""
        shown = json.loads(self.run(["ip", "-json", "address"])[1])
        return [
            str(ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}").network)
            for interface in shown
            for address in interface["addr_info"]
            if address["scope"] != "host"
        ]

    def listing(self, text: str | None = None):
        """Return the table as listed by the kernel, or None; or how it would list a text.

        The text is loaded in a network namespace without traffic, which ends with the command.
        """
        show = [NFT, "--json", "--stateless", "list", "table", *TABLE.split()]
        if text is None:
            code, listed, _ = self.run(show)
            if code:
                return None
        else:
            load = ["sh", "-c", f'{IS_APART} && {NFT} -f - && exec "$@"', "sh"]
            code, listed, output = self.run([*APART, *load, *show], data=text)
            if code:
                raise Refused(
                    f"Wanted rules that nft and the kernel accept; found: {output.strip()}; "
                    "correct firewall_rules, or have a kernel with nf_tables."
                )
        found = json.loads(listed)["nftables"]
        for item in found:
            for thing in item.values():
                thing.pop("handle", None)
        return found

    # Checks.

    def check_others(self) -> None:
        """Refuse a host with another firewall manager, and files that this role did not write."""
        enabled = re.search(r"(?mi)^ENABLED=yes", read(self.root / "etc/ufw/ufw.conf") or "")
        for name, there, off in (
            ("firewalld", "firewalld.service" in self.active, "systemctl disable --now firewalld"),
            ("ufw", enabled, "ufw disable"),
        ):
            if there:
                raise Refused(
                    f"Wanted this host's inbound rules in one hand; found {name} active; list its "
                    f"rules in firewall_rules and run `{off}`, or leave firewall_enabled false."
                )
        for path in (self.file, self.unit):
            if path.is_symlink() or not (read(path) or MARKER).startswith(MARKER):
                raise Refused(
                    f"Wanted {path} to be this role's, or absent; found another's; move it away."
                )

    # Changes.

    def plan(self) -> list[str]:
        """Return what is to be done, or raise Refused. Changes nothing."""
        self.look()
        self.check_others()
        name, rules = self.params["name"], self.params["rules"]
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise Refused(
                f"Wanted letters, digits, - and _ in firewall_name; found {name}; correct it."
            )
        if self.params["rollback_timeout"] < SHORTEST:
            raise Refused(
                f"Wanted at least {SHORTEST} seconds, to connect anew in them, in "
                f"firewall_rollback_timeout; found {self.params['rollback_timeout']}; raise it."
            )
        near = any("samenet" in (rule.get("from") or []) for rule in rules)
        lines = statements(rules, self.own_networks() if near else [])
        # Another set of the same play may be on trial.
        sets = sets_of(read(self.trial if self.pending else self.file) or "")
        others = {n: sets[n] for n in sets if n not in [name, *self.params["replaces"]]}
        self.sets = others | ({name: lines} if lines else {})
        self.ports = self.ssh_ports()
        self.text = render(self.ports, self.sets)
        plan = ["rules"] * (read(self.file) != self.text)
        plan += ["unit"] * (read(self.unit) != UNIT_TEXT) + ["enable"] * (not self.enabled)
        if not self.installed:
            return ["install", *plan, "load"]
        wanted = self.listing(self.text)
        loaded = UNIT in self.active and not self.pending and self.listing() == wanted
        return plan + ["load"] * (not loaded)

    def try_out(self, plan: list[str]) -> None:
        """Load the rules, to be rolled back unless they are confirmed."""
        if not plan:
            return
        if "install" in plan:
            raise Refused("Wanted nft; found none; run `apt-get install nftables`.")
        if self.pending:
            # Left by a killed run, or the trial of another set, which this one contains.
            self.must(NFT, "-f", str(self.former))
            self.stop_timer()
        self.trial.parent.mkdir(mode=0o700, exist_ok=True)
        loaded = self.listing() is not None
        write(self.former, (loaded and read(self.file)) or DELETE, 0o644)
        text = self.over() + render(self.ports, self.sets, trial=True)
        write(self.trial, text, 0o644)
        self.must(
            *["systemd-run", "--quiet", "--collect", f"--unit={ROLLBACK}"],
            *[f"--on-active={self.params['rollback_timeout']}", "--timer-property=AccuracySec=1s"],
            *["--property=Type=oneshot", "--property=DefaultDependencies=no"],
            *[f"--property={line}" for line in SANDBOX.splitlines()],
            *[NFT, "-f", str(self.former)],
        )
        self.must(NFT, "-f", str(self.trial))

    def over(self) -> str:
        """Return a comment that names the connection this runs over."""
        return f"# tried over: {' '.join(self.connection())}\n"

    def confirm(self, plan: list[str]) -> None:
        """Make the rules on trial permanent."""
        if not plan:
            # Confirmed along with another set on trial.
            return
        seconds = self.params["rollback_timeout"]
        tried = read(self.trial) or ""
        if not self.pending or not tried.endswith(render(self.ports, self.sets, trial=True)):
            raise Refused(
                f"Wanted rules that are on trial; found that {seconds} seconds are over and the "
                "host has its former rules again; raise firewall_rollback_timeout."
            )
        if self.connection() and tried.startswith(self.over()):
            raise Refused(
                "Wanted to be confirmed over a new connection; found the one of the trial; see "
                f"that Ansible's reset_connection closes it. In {seconds} seconds the host has its "
                "former rules again."
            )
        self.unit.parent.mkdir(parents=True, exist_ok=True)
        write(self.file, self.text, 0o644)
        # From here on the timer, should it still fire, loads the confirmed rules.
        write(self.former, self.text, 0o644)
        write(self.unit, UNIT_TEXT, 0o644)
        self.must("systemctl", "daemon-reload")
        self.must("systemctl", "enable", UNIT)
        self.stop_timer()
        self.must("systemctl", "reload-or-restart", UNIT)
        shutil.rmtree(self.trial.parent)

    def left(self) -> list[str]:
        """Return what `remove` is to remove. Changes nothing."""
        self.look()
        own = (self.unit, self.file)
        paths = [path for path in own if (read(path) or "").startswith(MARKER)]
        paths += [self.trial.parent] * self.trial.parent.exists()
        table = self.installed and self.listing() is not None
        return ["timer"] * self.pending + [str(path) for path in paths] + ["table"] * table

    def remove(self, plan: list[str]) -> None:
        """Remove what `left` returned, the unit first: a reboot must not bring it back."""
        if str(self.unit) in plan:
            self.must("systemctl", "disable", "--now", UNIT)
            self.unit.unlink()
            self.must("systemctl", "daemon-reload")
        if "timer" in plan:
            self.stop_timer()
        if str(self.file) in plan:
            self.file.unlink()
        if plan and self.installed:
            self.must(NFT, DELETE)
        if str(self.trial.parent) in plan:
            shutil.rmtree(self.trial.parent)

    def stop_timer(self) -> None:
        """Stop the timer that would restore the former rules."""
        for kind in ("timer", "service"):
            # The service is unloaded without its timer, which may fire at this moment.
            self.must("systemctl", "stop", f"{ROLLBACK}.{kind}", fine=(0, NOT_LOADED))

    def must(self, *command: str, fine: tuple[int, ...] = (0,)) -> None:
        """Run a command; raise Refused unless its exit code is one of `fine`."""
        code, _, output = self.run(list(command))
        if code not in fine:
            raise Refused(
                f"Wanted `{' '.join(command[:4])}` to succeed; found: {output.strip()}; correct "
                "that and run again. A trial that was begun takes itself back."
            )


def main():
    rule = {
        "port": {"type": "int", "required": True},
        "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
        "from": {"type": "list", "elements": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["try", "confirm", "remove"], "required": True},
            "name": {"type": "str", "default": "mlflow"},
            "rules": {"type": "list", "elements": "dict", "default": [], "options": rule},
            "replaces": {"type": "list", "elements": "str", "default": []},
            "rollback_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    hold()
    firewall = Firewall(module.params, module.run_command)
    removing = module.params["step"] == "remove"
    with refusing(module):
        plan = firewall.left() if removing else firewall.plan()
        before = read(firewall.file) or ""
        if not module.check_mode:
            steps = {
                "try": firewall.try_out,
                "confirm": firewall.confirm,
                "remove": firewall.remove,
            }
            steps[module.params["step"]](plan)
    module.exit_json(
        name=module.params["name"],
        changed=bool(plan),
        plan=plan,
        installed=firewall.installed,
        diff={"before": before, "after": "" if removing else firewall.text},
    )


if __name__ == "__main__":
    main()
