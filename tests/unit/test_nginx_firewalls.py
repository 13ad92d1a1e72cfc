"""Firewalls of others, as their programs describe them: who is let in, and what is said if nobody.

What ufw and iptables print here was recorded (ufw 0.36.2, iptables 1.8.9); firewalld's is as the
code of firewalld 1.3.3 prints it.
"""

import os
from ipaddress import ip_address

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import nginx_firewalls
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_firewalls import (
    Firewalls,
)

UFW = """\
Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), deny (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
22/tcp (OpenSSH)           ALLOW IN    Anywhere
22/tcp (OpenSSH (v6))      ALLOW IN    Anywhere (v6)
"""
ZONE = """\
public
  target: default
  icmp-block-inversion: no
  interfaces:
  sources:
  services: dhcpv6-client ssh
  ports:
  protocols:
  forward: yes
  masquerade: no
  forward-ports:
  source-ports:
  icmp-blocks:
  rich rules:

"""
TRUSTED = ZONE.replace("public", "trusted").replace("default", "ACCEPT").replace("ssh", "")
POLICY = """\
allow-host-ipv6 (active)
  priority: -15000
  target: CONTINUE
  ingress-zones: ANY
  egress-zones: HOST
  services:
  ports:
  protocols:
  masquerade: no
  forward-ports:
  source-ports:
  icmp-blocks:
  rich rules:
	rule family="ipv6" icmp-type name="neighbour-advertisement" accept
	rule family="ipv6" icmp-type name="redirect" accept

"""
SERVICES = {
    "ssh": "22/tcp",
    "dhcpv6-client": "546/udp",
    "https": "443/tcp",
    "http3": "443/udp",
    "web": "",
}
SERVICE = """\
{name}
  ports: {ports}
  protocols:
  source-ports:
  modules:
  destination:
  includes: {includes}
  helpers:
"""
# As of an image of Oracle's cloud.
ORACLE = """\
-P INPUT ACCEPT
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p udp -m udp --sport 123 -j ACCEPT
-A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-host-prohibited
"""


class Host:
    """A host with programs of firewalls, whose answers are given by command."""

    def __init__(self, root):
        self.root, self.answers, self.asked = root, {}, []

    def says(self, command, text):
        """Install a program, if need be, and have it answer a command."""
        program = self.root / command.split()[0].lstrip("/")
        os.makedirs(program.parent, exist_ok=True)
        program.touch()
        self.answers[command] = text

    def run(self, command):
        words = " ".join(command)
        self.asked.append(words)
        return (0, self.answers[words], "") if words in self.answers else (1, "", "no")

    def firewalld(self, zones=ZONE, policies=POLICY):
        command = "/usr/bin/firewall-cmd"
        self.says(f"{command} --state", "running\n")
        self.says(f"{command} --get-default-zone", "public\n")
        self.says(f"{command} --list-all-zones", TRUSTED + zones)
        self.says(f"{command} --list-all-policies", policies)
        for name, ports in SERVICES.items():
            includes = "https" if name == "web" else ""
            text = SERVICE.format(name=name, ports=ports, includes=includes)
            self.says(f"{command} --info-service={name}", text)

    def warnings(self, *ports, address="0.0.0.0"):
        return Firewalls(self.run, self.root).warnings(ip_address(address), list(ports or [443]))


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_a_host_without_a_firewall_is_asked_nothing(host):
    """A program that is not there is no failure."""
    assert host.warnings() == [] and host.asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_who_listens_for_the_host_itself_needs_no_rule(host, address):
    host.says("/usr/sbin/ufw status verbose", UFW)
    assert host.warnings(address=address) == [] and host.asked == []


def test_the_roles_own_table_is_not_spoken_of(host):
    """The role firewall lets in what is served; it says itself what it finds."""
    host.says("/usr/sbin/ufw status verbose", UFW)
    host.says("/usr/sbin/nft list table inet mlflow_firewall", "table inet mlflow_firewall {\n}\n")
    assert host.warnings() == []
    host.answers.pop("/usr/sbin/nft list table inet mlflow_firewall")
    assert len(host.warnings()) == 1


def test_ufw_that_lets_nobody_in_is_reported_with_what_to_do(host):
    host.says("/usr/sbin/ufw status verbose", UFW)
    # Its own rules in iptables, which are not reported again.
    host.says("/usr/sbin/iptables -S", "-P INPUT DROP\n-A INPUT -j ufw-before-input\n")
    assert host.warnings(443) == [
        "Wanted clients to reach port 443; found that ufw is active and has no rule that lets it "
        "in; run `ufw allow 443/tcp`."
    ]
    assert host.warnings(443, 80) == [
        "Wanted clients to reach ports 443 and 80; found that ufw is active and has no rule that "
        "lets them in; run `ufw allow 443,80/tcp`."
    ]


def test_ufw_that_is_off_says_nothing(host):
    host.says("/usr/sbin/ufw status verbose", "Status: inactive\n")
    assert host.warnings() == []
    host.says("/usr/sbin/ufw status verbose", UFW.replace("deny (incoming)", "allow (incoming)"))
    assert host.warnings() == []


@pytest.mark.parametrize(
    ("rule", "admits"),
    [
        ("443                        ALLOW IN    Anywhere                  ", True),
        ("443/tcp                    ALLOW IN    Anywhere                  ", True),
        ("443/tcp                    LIMIT IN    Anywhere                  ", True),
        ("80,443/tcp                 ALLOW IN    Anywhere                  ", True),
        ("80,443/tcp (Nginx Full)    ALLOW IN    Anywhere                  ", True),
        ("80,443/tcp (Nginx Full (v6)) ALLOW IN    Anywhere (v6)             ", True),
        ("400:500/tcp                ALLOW IN    Anywhere                  ", True),
        ("443/tcp                    ALLOW IN    10.0.0.0/8                ", True),
        ("Anywhere                   ALLOW IN    10.1.0.0/16               ", True),
        ("Anywhere on eth1           ALLOW IN    Anywhere                  ", True),
        ("443/tcp on eth1            ALLOW IN    Anywhere                   # the lab", True),
        ("443/tcp (v6) on eth1       ALLOW IN    Anywhere (v6)              # the lab", True),
        ("10.0.0.7 443               ALLOW IN    Anywhere                  ", True),
        ("10.0.0.7                   ALLOW IN    Anywhere                  ", True),
        ("443/tcp                    DENY IN     Anywhere                  ", False),
        ("443/udp                    ALLOW IN    Anywhere                  ", False),
        ("443                        ALLOW OUT   Anywhere                  ", False),
        ("Anywhere                   ALLOW OUT   Anywhere                  ", False),
        ("10.0.0.9 443/tcp           ALLOW FWD   Anywhere                  ", False),
        ("Anywhere on lo             ALLOW IN    Anywhere                  ", False),
        ("Anywhere (v6) on lo        ALLOW IN    Anywhere (v6)             ", False),
        ("Anywhere/esp               ALLOW IN    Anywhere/esp              ", False),
        ("8000:8100/tcp              ALLOW IN    Anywhere                  ", False),
        ("10.0.0.7 6000              ALLOW IN    Anywhere                  ", False),
    ],
)
def test_a_rule_of_ufws_lets_in_or_not(host, rule, admits):
    """Any that names the port, or none, is enough, from wherever: who it is for is not known."""
    host.says("/usr/sbin/ufw status verbose", f"{UFW}{rule}\n")
    assert (host.warnings() == []) is admits


def test_firewalld_that_lets_nobody_in_is_reported_with_what_to_do(host):
    """Nor does a zone that nothing comes through, such as trusted."""
    host.firewalld()
    assert host.warnings(443, 80) == [
        "Wanted clients to reach ports 443 and 80; found that firewalld is running and has no rule "
        "that lets them in; run `firewall-cmd --permanent --add-port=443/tcp --add-port=80/tcp` "
        "and `firewall-cmd --reload`."
    ]


def test_firewalld_that_does_not_answer_says_nothing(host):
    host.firewalld()
    host.answers.pop("/usr/bin/firewall-cmd --list-all-zones")
    host.answers.pop("/usr/bin/firewall-cmd --list-all-policies")
    assert host.warnings() == []
    host.answers.pop("/usr/bin/firewall-cmd --state")
    assert host.warnings() == []


RULE = 'rich rules:\n\trule family="ipv4" source address="10.0.0.0/8" '


@pytest.mark.parametrize(
    ("before", "after", "admits"),
    [
        ("  ports:", "  ports: 443/tcp", True),
        ("  ports:", "  ports: 80/tcp 400-500/tcp", True),
        ("  ports:", "  ports: 443/udp 444-500/tcp", False),
        ("  source-ports:", "  source-ports: 443/tcp", False),
        ("services:", "services: https", True),
        ("services:", "services: web", True),
        ("services:", "services: http3", False),
        ("protocols:", "protocols: tcp", True),
        ("default", "ACCEPT", True),
        ("default", "DROP", False),
        ("forward-ports:", "forward-ports:\n\tport=443:proto=tcp:toport=8443:toaddr=", True),
        ("rich rules:", f'{RULE}port port="443" protocol="tcp" accept', True),
        ("rich rules:", f'{RULE}port port="400-500" protocol="tcp" accept', True),
        ("rich rules:", f'{RULE}service name="https" accept', True),
        ("rich rules:", f"{RULE}accept", True),
        ("rich rules:", f'{RULE}port port="443" protocol="udp" accept', False),
        ("rich rules:", f'{RULE}port port="80" protocol="tcp" accept', False),
        ("rich rules:", f'{RULE}service name="ssh" accept', False),
        ("rich rules:", f"{RULE}reject", False),
    ],
)
def test_a_zone_of_firewallds_lets_in_or_not(host, before, after, admits):
    """The default one, as interfaces that are in no zone do not show there; and an active one."""
    zone = ZONE.replace(before, after, 1)
    host.firewalld(zone)
    assert (host.warnings() == []) is admits
    host.firewalld(ZONE + zone.replace("public", "dmz (active)"))
    assert (host.warnings() == []) is admits
    host.firewalld(ZONE + zone.replace("public", "dmz"))
    assert len(host.warnings()) == 1


def test_a_policy_of_firewallds_lets_in(host):
    """One for what goes to the host; others are for what goes through it."""
    policy = POLICY.replace("  ports:", "  ports: 443/tcp").replace("allow-host-ipv6", "web")
    host.firewalld(policies=POLICY + policy)
    assert host.warnings() == []
    host.firewalld(policies=POLICY + policy.replace("HOST", "docker"))
    assert len(host.warnings()) == 1


def test_iptables_that_let_nobody_in_are_reported_with_what_to_do(host):
    host.says("/usr/sbin/iptables -S", ORACLE)
    host.says("/usr/sbin/ip6tables -S", ORACLE)
    (said,) = host.warnings(443, 80)
    assert said == (
        "Wanted clients to reach ports 443 and 80; found that the chain INPUT of iptables drops "
        "the rest and has no rule that lets them in; run `iptables -I INPUT -p tcp -m multiport "
        "--dports 443,80 -j ACCEPT`, and keep that rule as the others are kept."
    )
    assert host.asked == ["/usr/sbin/iptables -S"] * 2
    (said,) = host.warnings(address="2001:db8::1")
    assert "run `ip6tables -I INPUT" in said
    assert len(host.warnings(address="::")) == 2


@pytest.mark.parametrize(
    ("rule", "admits"),
    [
        ("-p tcp -m tcp --dport 443 -j ACCEPT", True),
        ("-p tcp -m tcp --dport 400:500 -j ACCEPT", True),
        ('-p tcp -m multiport --dports 80,443 -m comment --comment "the web" -j ACCEPT', True),
        ("-s 10.0.0.0/8 -p tcp -m tcp --dport 443 -j ACCEPT", True),
        ("-s 10.0.0.0/8 -j ACCEPT", True),
        ("! -i lo -p tcp -j ACCEPT", True),
        ("-i eth1 -j ACCEPT", True),
        ("-p tcp -m state --state NEW -m tcp --dport 443 -j ACCEPT", True),
        ("-p tcp -m tcp ! --dport 22 -j ACCEPT", True),
        ("-j services", True),
        ("-p tcp -m tcp --dport 443 -g services", True),
        ("-j ACCEPT", True),
        ("-i lo -j ACCEPT", False),
        ("-p udp -m udp --dport 443 -j ACCEPT", False),
        ("-p tcp -m tcp --dport 80 -j ACCEPT", False),
        ("-p tcp -m tcp --dport 22 -j services", False),
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", False),
        ("-p tcp -m tcp --dport 443 -j LOG", False),
        ('-p tcp -m comment --comment "the \\"web\\"" -m tcp --dport 443 -j ACCEPT', True),
        ("-j nowhere", False),
        ("-j itself", False),
    ],
)
@pytest.mark.parametrize("end", ["-P INPUT DROP", "-j DROP", "-p tcp -j REJECT", "-j the_end"])
def test_a_rule_of_iptables_lets_in_or_not(host, rule, admits, end):
    """Before a chain's end, or in a chain that it leads to; what comes after the end does not
    count."""
    chains = (
        "-N services\n-A services -p tcp -m tcp --dport 443 -j ACCEPT\n-N itself\n"
        '-A itself -j itself\n-A the_end -m comment --comment "all of it" -j DROP\n'
    )
    late = "-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT\n"
    if end.startswith("-P"):
        said = f"{end}\n{chains}-A INPUT {rule}\n"
    else:
        said = f"-P INPUT ACCEPT\n{chains}-A INPUT {rule}\n-A INPUT {end}\n{late}"
    host.says("/usr/sbin/iptables -S", said)
    assert (host.warnings() == []) is admits


@pytest.mark.parametrize(
    "said",
    [
        "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n",
        "-P INPUT ACCEPT\n-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd\n"
        "-A f2b-sshd -s 192.0.2.1/32 -j REJECT\n-A f2b-sshd -j RETURN\n",
        "-P INPUT ACCEPT\n-A INPUT -s 192.0.2.1/32 -j DROP\n-A INPUT -p udp -j DROP\n",
        "-P INPUT DROP\n-A INPUT -j X\n-A X -s 10.0.0.0/8 -j RETURN\n-A X -j DROP\n"
        "-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT\n"
        "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n",
        '-P INPUT DROP\n-A INPUT -m comment --comment "unbalanced -j ACCEPT\n-A INPUT -j ACCEPT\n',
        "",
    ],
)
def test_iptables_that_keep_out_a_few_say_nothing(host, said):
    """Nor do those that cannot be read."""
    host.says("/usr/sbin/iptables -S", said)
    assert host.warnings() == []


def test_what_is_asked_changes_nothing(host):
    """As it is asked in check mode, too."""
    host.firewalld()
    host.says("/usr/sbin/ufw status verbose", "Status: inactive\n")
    host.says("/usr/sbin/iptables -S", ORACLE)
    host.warnings(443, address="::")
    reads = (" status verbose", " -S", " --state", " --list-", " --get-", " --info-", " list table")
    assert host.asked and all(any(word in asked for word in reads) for asked in host.asked)
    assert all(asked.startswith("/usr/") for asked in host.asked)


@pytest.mark.parametrize(
    ("text", "port", "there"),
    [
        ("80,443", 443, True),
        ("8000:8010", 8010, True),
        ("8000-8010/tcp", 8000, True),
        ("8000-8010/tcp", 8011, False),
        ("4430", 443, False),
        ("443/udp", 443, False),
        ("https", 443, False),
        ("", 443, False),
    ],
)
def test_a_list_has_a_port_or_not(text, port, there):
    assert nginx_firewalls.takes_in(text, port) is there
