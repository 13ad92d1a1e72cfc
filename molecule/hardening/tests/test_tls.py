"""A server whose certificate is given: who talks to it, and what a change of it is."""

import re
import socket
import subprocess
from pathlib import Path

import pytest
from api import colour
from visitor import address_of

group = "hardening-tls"
URL = "https://hardening-tls"
PASSWORD = "canary:pass wörd"
USERS = [{"name": "ada", "password": PASSWORD}]
WATCH = "nginx-certificate-mlflow"
# It asks whether a request fails, not how many there can be.
LOAD = ("--threads=4", "--pause=0.02", f"--login=ada:{PASSWORD}")


def assert_nothing_lost(counts, say):
    say(f"while the front changed: {counts}")
    assert counts["written"] > 100 and counts["failed"] == 0, counts


@pytest.fixture
def ca(certificate):
    return certificate("hardening-tls")


# Connects as the process of a unit does: from within its cgroup, where systemd's filter is.
CONNECT = """
import os, socket, sys
unit, address = sys.argv[1:]
if unit:
    with open(f"/sys/fs/cgroup/system.slice/{unit}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
try:
    socket.create_connection((address, 80), 2)
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""


def processes(host):
    """Return what must not restart: nginx's master, and the colours' with when they started."""
    units = "nginx.service mlflow-blue.service mlflow-green.service"
    return host.check_output(f"systemctl show {units} --property=MainPID,ExecMainStartTimestamp")


def pair(folder, name, days):
    """Make another certificate for the host and return its variables."""
    folder = Path(folder)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE", "-days", str(days)]
    command += ["-keyout", folder / "key", "-out", folder / "certificate"]
    subprocess.run(command, check=True, capture_output=True)
    texts = [(folder / file).read_text() for file in ("certificate", "key")]
    return dict(zip(("nginx_tls_certificate", "nginx_tls_key"), texts, strict=True))


def test_the_real_client_logs_with_nothing_but_the_ca(control, run_logged, ca):
    """And does not without: then it would be told its parameters by anybody."""
    done = control.client(run_logged, URL, MLFLOW_TRACKING_SERVER_CERT_PATH=ca)
    assert done.returncode == 0 and "logged" in done.stdout, done.stdout
    retries = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = control.client(run_logged, URL, **retries)
    assert done.returncode != 0 and "CERTIFICATE_VERIFY_FAILED" in done.stdout


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_only_versions_without_known_holes_are_spoken(ask, ca, version):
    """The client offers all that it can, so it is the server that refuses."""
    only = {"minimum_version": version, "maximum_version": version}
    said = ask(f"{URL}/health", ca=ca, **only, ciphers="ALL:@SECLEVEL=0")
    if version in ("TLSv1", "TLSv1_1"):
        assert "alert protocol version" in said["error"].lower().replace("_", " ")
    else:
        assert (said["status"], said["version"]) == (200, version.replace("_", "."))


def test_a_cipher_of_old_is_refused(ask, ca):
    """CBC with SHA-1, which was broken time and again. The client would take it."""
    old = {"maximum_version": "TLSv1_2", "ciphers": "ECDHE-ECDSA-AES128-SHA"}
    error = ask(f"{URL}/health", ca=ca, **old)["error"]
    assert "handshake failure" in error.lower().replace("_", " ")


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("http://hardening-tls", "https://hardening-tls"),
        ("http://hardening-tls:443", "https://hardening-tls"),
    ],
)
def test_plain_http_is_redirected_with_its_method(ask, asked, answered):
    """On the port of HTTP and on that of TLS. With 301 a POST would arrive as a GET."""
    path = "/api/2.0/mlflow/runs/create?a=%2Fb"
    said = ask(f"{asked}{path}", "POST")
    assert (said["status"], said["headers"]["Location"]) == (308, answered + path)


@pytest.mark.parametrize("port", [80, 443])
@pytest.mark.parametrize("said", ["evil.example", "hardening-tls.evil.example", "HARDENING-TLS"])
def test_plain_http_is_redirected_to_no_strangers_name(ask, port, said):
    """Whatever name is asked for, on both ports: a cache that trusts the answer would lead others
    to who made the question.
    """
    answer = ask(f"http://hardening-tls:{port}/x", headers={"Host": said})
    assert (answer["status"], answer["headers"]["Location"]) == (308, f"{URL}/x")


def test_who_still_says_http_can_log(control, run_logged, ca):
    done = control.client(run_logged, "http://hardening-tls", MLFLOW_TRACKING_SERVER_CERT_PATH=ca)
    assert done.returncode == 0, done.stdout


def test_no_browser_is_bound_to_https_unasked(ask, ca):
    """HSTS holds for all ports of a name, so also for what else is there."""
    assert "Strict-Transport-Security" not in ask(f"{URL}/health", ca=ca)["headers"]


def test_the_key_is_readable_by_root_alone(host):
    found = host.check_output("find /etc/nginx/tls -name privkey.pem -printf '%m %U:%G\\n'")
    assert found == "600 0:0"
    keys = "grep -rlIE 'PRIVATE KEY' /etc/nginx /run /tmp /var/log /usr/local"
    assert host.run(f"runuser -u www-data -- {keys}").stdout == ""


def test_the_watch_over_the_certificate_is_sandboxed_and_content(host):
    """It runs as root, for the certificate is root's: so it can do next to nothing."""
    host.check_output(f"systemd-analyze security --threshold=20 {WATCH}.service")
    host.check_output(f"systemctl start {WATCH}.service")
    assert host.check_output(f"systemctl show {WATCH}.timer --property=NextElapseUSecRealtime")


def reaches(address) -> bool:
    """Tell whether a client gets a connection to nginx from another machine."""
    try:
        socket.create_connection((address, 443), timeout=2).close()
    except TimeoutError:
        return False
    return True


def test_a_firewall_that_admits_nobody_is_reported(control, host):
    """The run would end well, and every client wait for an answer. Others' rules are left alone."""
    address = address_of(host.backend.name)
    host.check_output("apt-get update && apt-get install --yes ufw && ufw --force enable")
    try:
        said = control.settled()
        assert "Wanted clients to reach ports 443 and 80; found that ufw is active" in said, said
        assert "run `ufw allow 443,80/tcp`" in said, said
        assert not reaches(address)
        host.check_output("ufw allow 80,443/tcp")
        assert "Wanted clients to reach" not in control.settled()
        assert reaches(address)
    finally:
        host.check_output("ufw --force reset; ufw disable; apt-get purge --yes ufw")


def test_a_wrong_key_is_refused_and_what_serves_is_unchanged(control, host, ask, ca, tmp_path):
    before = processes(host), host.check_output("ls -lR --time-style=full-iso /etc/nginx")
    said = control.refuse(nginx_tls_key=pair(tmp_path, "hardening-tls", 90)["nginx_tls_key"])
    assert "correct nginx_tls_certificate or nginx_tls_key" in said, said
    assert "PRIVATE KEY" not in said
    after = processes(host), host.check_output("ls -lR --time-style=full-iso /etc/nginx")
    assert before == after and ask(f"{URL}/health", ca=ca)["status"] == 200


CHANGED = {}


@pytest.fixture
def changed(control, host, tmp_path_factory, ca):
    """The server with a certificate of short life, users and networks; once for all that follow.

    Returns:
        The path of the new certificate and of the file with both, what site.yml said, the
        processes before and after, and what a load found meanwhile.
    """
    if not CHANGED:
        folder = tmp_path_factory.mktemp("changed")
        before, new = processes(host), pair(folder, "hardening-tls", 20)
        both = folder / "both"
        both.write_text(Path(ca).read_text() + new["nginx_tls_certificate"])
        with control.load(*LOAD, f"--ca={both}", url=URL) as counts:
            code, said = control.playbook(
                "-vvv",
                "--diff",
                **new,
                mlflow_server_authentication="front",
                nginx_users=USERS,
                nginx_allowed_networks=["127.0.0.0/8", "10.0.0.0/8"],
                nginx_closed_prefixes=["/ajax-api/"],
                nginx_hsts_max_age=86400,
            )
        assert code == 0, said
        key = (folder / "key").read_text()
        CHANGED.update(ca=folder / "certificate", both=both, said=said, key=key)
        CHANGED.update(before=before, after=processes(host), counts=counts)
    return CHANGED


def test_a_changed_certificate_users_and_networks_cost_no_request(changed, say):
    """Whoever is logging goes on, over the connection that was there or over another."""
    assert_nothing_lost(changed["counts"], say)


def test_another_site_and_port_of_nginx_cost_no_request(changed, control, host, ask, say):
    """Those of another instance, say. Who logs to this one has no part in it."""
    site = {"name": "other", "listen_address": "127.0.0.1"}
    text = "server {\n    listen 127.0.0.1:%s;\n    return 200 other;\n}\n"
    with control.load(*LOAD, f"--ca={changed['both']}", url=URL) as counts:
        for port in (5001, 5002):
            content = {"listen_port": port, "content": text % port}
            assert control.module("nginx_site", **site, **content)["changed"]
            assert ask(f"http://127.0.0.1:{port}/")["body"] == "other"
    assert_nothing_lost(counts, say)
    assert ask("http://127.0.0.1:5001/")["error"], "the former port is closed"


def test_a_changed_certificate_is_served_and_nothing_restarts(changed, ask, host):
    said = ask(f"{URL}/health", ca=changed["ca"])
    assert said["status"] == 200
    assert said["certificate"].strip() == changed["ca"].read_text().strip()
    assert changed["before"] == changed["after"]
    assert len(host.check_output("ls /etc/nginx/tls").split()) == 1, "the former key is gone"


def test_no_secret_is_shown_at_the_highest_verbosity(changed, host):
    """Neither the key, in any of its lines, nor a password, nor its hash."""
    (hashed,) = re.findall(r"\$6\$\S+", host.check_output("cat /etc/nginx/users/*"))
    secrets = [*changed["key"].splitlines()[1:-1], PASSWORD, "canary", hashed]
    assert [secret for secret in secrets if secret in changed["said"]] == []


def test_a_certificate_that_ends_soon_is_told_by_the_run_and_by_systemd(changed, host):
    """Whoever watches failed units learns of it three weeks before the users do."""
    assert "nginx_tls_certificate ends on" in changed["said"]
    assert host.run(f"systemctl start {WATCH}.service").rc != 0
    assert WATCH in host.check_output("systemctl --failed --plain --no-legend")
    journal = host.check_output(f"journalctl --unit={WATCH} --output=cat --lines=20")
    assert re.search(r"found that \S+ ends on \S+, in (19|20) days; give a new one", journal)


def test_a_name_and_its_password_are_asked_for(changed, ask):
    """But for the path that a load balancer looks at."""
    ca, page = changed["ca"], f"{URL}/version"
    assert ask(page, ca=ca)["status"] == 401
    assert ask(page, ca=ca, user="ada:wrong")["status"] == 401
    assert ask(page, ca=ca, user=f"ada:{PASSWORD}")["status"] == 200
    assert ask(f"{URL}/health", ca=ca)["status"] == 200
    assert ask(f"{URL}/health/", ca=ca)["status"] == 401


def test_the_real_client_logs_with_its_name_and_password(changed, control, run_logged):
    own = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    own["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(changed["ca"])
    done = control.client(run_logged, URL, **own)
    assert done.returncode == 0, done.stdout


def test_passwords_are_hashes_that_only_nginx_can_read(changed, host):
    found = host.check_output("find /etc/nginx/users -type f -printf '%m %u:%g\\n'")
    assert found == "640 root:www-data"
    assert "canary" not in host.check_output("cat /etc/nginx/users/*")


def test_a_closed_prefix_is_not_there_for_anybody(changed, ask):
    path = "/ajax-api/3.0/mlflow/server-info"
    assert ask(URL + path, ca=changed["ca"], user=f"ada:{PASSWORD}")["status"] == 404


def test_browsers_are_bound_to_https_once_the_operator_says_so(changed, ask):
    """Also by an answer that is an error."""
    for path in ("/health", "/version", "/ajax-api/x"):
        headers = ask(URL + path, ca=changed["ca"])["headers"]
        assert headers["Strict-Transport-Security"] == "max-age=86400"


def test_a_second_run_makes_no_other_hashes(changed, control, host, ask):
    """Then everything goes back, and of another network nobody is let in."""
    ca, key = (changed["ca"].read_text(), changed["key"])
    again = {"nginx_tls_certificate": ca, "nginx_tls_key": key, "nginx_users": USERS}
    again |= {"mlflow_server_authentication": "front"}
    again |= {"nginx_closed_prefixes": ["/ajax-api/"], "nginx_hsts_max_age": 86400}
    files = host.check_output("cat /etc/nginx/users/*")
    control.converge(**again, nginx_allowed_networks=["192.0.2.0/24"])
    assert host.check_output("cat /etc/nginx/users/*") == files
    assert ask(f"{URL}/version", ca=changed["ca"], user=f"ada:{PASSWORD}")["status"] == 403
    assert ask(f"{URL}/health", ca=changed["ca"])["status"] == 200


def test_all_of_it_goes_away_with_its_variables(changed, control, host, ask, ca):
    control.converge()
    control.settled()
    assert ask(f"{URL}/version", ca=ca)["status"] == 200
    assert host.check_output("ls -A /etc/nginx/users") == ""
    assert len(host.check_output("ls -A /etc/nginx/tls").split()) == 1
    host.check_output(f"systemctl start {WATCH}.service")


def test_an_opened_gateway_reaches_no_metadata_service(host, ask, ca):
    """A user may have it ask any address, and reads the answer; there, clouds hand out keys. A
    stand-in answers at the address, as nginx does at all of the host's.
    """
    models = ask(f"{URL}/gateway/mlflow/v1/models", ca=ca)
    assert models["status"] == 200, "it is open"
    address, unit = "169.254.169.254", f"mlflow-{colour(host)}.service"
    host.check_output(f"ip address add {address}/32 dev lo")
    try:
        connect = f"python3 -c %s %s {address}"
        assert host.check_output(connect, CONNECT, "") == "connected"
        assert host.check_output(connect, CONNECT, unit) == "TimeoutError"
    finally:
        host.check_output(f"ip address delete {address}/32 dev lo")
