"""Whether an existing firewall on the host lets clients reach nginx.

Nothing is changed. Unclear cases count as admitted: after false alarms operators stop reading
warnings.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

# The table of the role firewall, which admits what is served.
TABLE = ["inet", "mlflow_firewall"]


def takes_in(text: str, port: int) -> bool:
    """Return whether a list such as `80,443`, `8000:8010/tcp` or `9000-9010/tcp` has a TCP port."""
    for word in re.split(r"[\s,]+", text):
        found = re.fullmatch(r"(\d+)(?:[:-](\d+))?(?:/(\w+))?", word)
        if found and int(found[1]) <= port <= int(found[2] or found[1]):
            if found[3] in (None, "tcp"):
                return True
    return False


def ufw_admits(status: str, port: int) -> bool:
    """Return whether ufw admits clients to a port, from the output of `ufw status verbose`."""
    if re.search(r"(?m)^Default: allow \(incoming\)", status):
        return True
    for target in re.findall(r"(?m)^(\S.*?) +(?:ALLOW|LIMIT) IN ", status):
        # As in `10.0.0.7 80,443/tcp on eth0 (Nginx Full (v6))`.
        listed = re.search(r"(?:^| )([\d,:]+)(/\w+)?(?= |$)", target)
        if listed and takes_in(listed[1], port) and listed[2] in (None, "/tcp"):
            return True
        other = re.search(r" on lo\b|/(?!tcp)[a-z]", target)
        if not listed and not other:
            return True
    return False


class Firewalls:
    """The firewalls of a host.

    Args:
        run: Runs a command, given as a list, and returns (rc, stdout, stderr).
        root: Folder that stands for `/`.
    """

    def __init__(self, run, root: Path = Path("/")):
        self.run, self.root = run, root

    def ask(self, *command: str) -> str:
        """Return a program's output, empty if it is missing or fails."""
        if not (self.root / command[0].lstrip("/")).exists():
            return ""
        code, said, _ = self.run(list(command))
        return said if code == 0 else ""

    def warnings(self, address, ports: list[int]) -> list[str]:
        """Return a sentence for each firewall that blocks some of the ports."""
        if address.is_loopback or self.ask("/usr/sbin/nft", "list", "table", *TABLE):
            return []
        if "Status: active" in (status := self.ask("/usr/sbin/ufw", "status", "verbose")):
            closed = [port for port in ports if not ufw_admits(status, port)]
            remedy = f"run `ufw allow {','.join(map(str, closed))}/tcp`"
            return self.sentences(closed, "ufw is active and", remedy)
        if "running" in self.ask("/usr/bin/firewall-cmd", "--state"):
            zones = self.zones()
            closed = [
                port
                for port in ports
                if zones and not any(self.zone_admits(zone, port) for zone in zones)
            ]
            options = " ".join(f"--add-port={port}/tcp" for port in closed)
            remedy = f"run `firewall-cmd --permanent {options}` and `firewall-cmd --reload`"
            return self.sentences(closed, "firewalld is running and", remedy)
        found = []
        programs = ["iptables"] * (address.version == 4 or address.is_unspecified)
        for program in programs + ["ip6tables"] * (address.version == 6):
            closed = [port for port in ports if not self.chain_admits(program, port)]
            listed = ",".join(map(str, closed))
            rule = f"-I INPUT -p tcp -m multiport --dports {listed} -j ACCEPT"
            remedy = f"run `{program} {rule}`, and keep that rule as the others are kept"
            what = f"the chain INPUT of {program} drops the rest and"
            found += self.sentences(closed, what, remedy)
        return found

    @staticmethod
    def sentences(ports: list[int], firewall: str, remedy: str) -> list[str]:
        """Return a warning about blocked ports, if any."""
        names = " and ".join(map(str, ports))
        many = len(ports) > 1
        return [
            f"Wanted clients to reach port{'s' * many} {names}; found that {firewall} has no rule "
            f"that lets {'them' if many else 'it'} in; {remedy}."
        ] * bool(ports)

    # firewalld.

    def zones(self) -> list[str]:
        """Return the texts of zones and policies that clients may come through."""
        default = self.ask("/usr/bin/firewall-cmd", "--get-default-zone").strip()
        found = []
        for kind in ("zones", "policies"):
            for text in self.ask("/usr/bin/firewall-cmd", f"--list-all-{kind}").split("\n\n"):
                head = text.strip().partition("\n")[0]
                # An interface without a zone is in the default one, which may not list it.
                active = "active" in head or head.split(" ")[0] == default
                to_host = re.search(r"(?m)^  egress-zones: .*\bHOST\b", text)
                if active and (kind == "zones" or to_host):
                    found.append(text)
        return found

    def zone_admits(self, text: str, port: int) -> bool:
        """Return whether a zone or policy admits clients to a port, from firewalld's text of it."""
        fields = dict(re.findall(r"(?m)^  ([\w-]+): *(.*)", text))
        if fields.get("target") == "ACCEPT" or "tcp" in fields.get("protocols", "").split():
            return True
        if takes_in(fields.get("ports", ""), port) or self.serves(fields.get("services", ""), port):
            return True
        ports = re.findall(r"(?m)\bport=([\d-]+):proto=tcp", text)
        for rule in re.findall(r"(?m)^\s+rule .*\baccept\b.*", text):
            ports += re.findall(r' port port="([\d-]+)" protocol="tcp"', rule)
            services = re.findall(r' service name="([^"]+)"', rule)
            if self.serves(" ".join(services), port):
                return True
            if not re.search(r" (port port|service name|protocol value|icmp-\w+ name)=", rule):
                return True
        return takes_in(" ".join(ports), port)

    def serves(self, services: str, port: int) -> bool:
        """Return whether one of these firewalld services, or one it includes, has the port."""
        for name in services.split():
            said = self.ask("/usr/bin/firewall-cmd", f"--info-service={name}")
            fields = dict(re.findall(r"(?m)^  ([\w-]+): *(.*)", said))
            if takes_in(fields.get("ports", ""), port):
                return True
            if self.serves(fields.get("includes", ""), port):
                return True
        return False

    # iptables.

    def chain_admits(self, program: str, port: int) -> bool:
        """Return whether iptables, or ip6tables, admits clients to a port."""
        said = self.ask(f"/usr/sbin/{program}", "-S")
        verdict = verdict_of("INPUT", said, port)
        return "-P INPUT DROP" not in said if verdict is None else verdict


def verdict_of(chain: str, said: str, port: int, depth: int = 0) -> bool | None:
    """Return whether a chain admits clients to a port, None if it does not decide.

    Args:
        said: All rules, as `iptables -S` prints them.
    """
    partly = False
    for line in re.findall(rf"(?m)^-A {re.escape(chain)} (.*)$", said):
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if "--comment" in words:
            said_at = words.index("--comment")
            del words[said_at - 2 : said_at + 2]
        at = next((at for at, word in enumerate(words) if word in ("-j", "-g")), None)
        if at is None or not concerns(words[:at], port):
            continue
        # Applies to all clients of this port.
        of_all = not set(words[:at]) - {"-p", "tcp", "-m"}
        target = words[at + 1]
        if target == "ACCEPT":
            return True
        if target == "RETURN":
            # Back to the calling chain. Rules after this one no longer apply to all clients.
            if of_all:
                return None
            partly = True
            continue
        if target in ("DROP", "REJECT"):
            verdict = False
        else:
            verdict = verdict_of(target, said, port, depth + 1) if depth < 9 else None
        if verdict or (verdict is False and of_all and not partly):
            return verdict
    return None


def concerns(conditions: list[str], port: int) -> bool:
    """Return whether a client's new connection to a TCP port may match a rule."""
    for before, option, value in zip(["", *conditions], conditions, conditions[1:], strict=False):
        if before == "!":
            continue
        if option == "-i" and value == "lo":
            return False
        if option == "-p" and value not in ("tcp", "all"):
            return False
        if option in ("--ctstate", "--state") and "NEW" not in value:
            return False
        if option in ("--dport", "--dports") and not takes_in(value, port):
            return False
    return True
