"""What an instance is on its host, whatever its stores."""

import json

import pytest
from api import OTHER, SEARCH, colour, request, wait_until_served

# Asks as a browser does, and prints how the page's script came, its length so and as text, and
# how an answer of the API came.
COMPRESSED = """
import gzip, json, re, urllib.request
def get(path):
    words = {"Accept-Encoding": "gzip", "Content-Type": "application/json"}
    request = urllib.request.Request("http://127.0.0.1:5000/" + path, headers=words)
    with urllib.request.urlopen(request, timeout=60) as answer:
        encoding, body = answer.headers.get("Content-Encoding"), answer.read()
        return encoding, len(body), gzip.decompress(body) if encoding else body
page = get("")[2].decode()
encoding, sent, text = get(re.search(r'src="(static-files/[^"]*/main[^"]*)"', page).group(1))
print(json.dumps([encoding, sent, len(text), get("ajax-api/3.0/mlflow/server-info")[0]]))
"""


def test_one_colour_serves_and_starts_at_boot(host):
    """Two enabled colours would both start after a reboot; none would leave the host dead."""
    serving = colour(host)
    other = OTHER[serving]
    assert host.service(f"mlflow-{serving}").is_running
    assert host.service(f"mlflow-{serving}").is_enabled
    assert not host.service(f"mlflow-{other}").is_running
    assert host.run(f"systemctl is-enabled mlflow-{other}").stdout.strip() != "enabled"


def test_the_sandbox_is_as_tight_as_promised(host):
    """systemd's own measure: 9.2 for a bare unit, 1.2 for Debian's redis, at most 1.2 for ours."""
    done = host.run(f"systemd-analyze security --threshold=12 mlflow-{colour(host)}")
    assert done.rc == 0, done.stdout[-300:]


def test_the_service_writes_to_its_own_data_alone(host):
    """A hole in MLflow must not fill a disk, or leave something in a folder that is everybody's,
    as /run/lock is. systemd's measure of the sandbox hardly moves if that is missing."""
    folders = ["/srv/of-everybody", "/run/of-everybody"]
    pid = host.check_output(f"systemctl show --value --property=MainPID mlflow-{colour(host)}")

    def write(folder, inside=f"nsenter --target={pid} --mount "):
        done = host.run(f"{inside}runuser -u mlflow -- mktemp --tmpdir={folder} written.XXXXXX")
        if done.rc == 0:
            host.check_output("rm %s", done.stdout.strip())
        return done

    host.check_output(f"install --directory --mode=1777 {' '.join(folders)}")
    try:
        assert write("/var/lib/mlflow").rc == 0
        for folder in folders:
            assert write(folder, inside="").rc == 0, "it is everybody's"
            assert "Read-only file system" in write(folder).stderr
    finally:
        host.check_output(f"rmdir {' '.join(folders)}")


def test_only_the_front_listens(host):
    """A TCP port of MLflow's own would be a way around the front."""
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes")
    assert [row.split()[3] for row in listening.splitlines()] == ["127.0.0.1:5000"]
    assert "nginx" in listening


def test_the_service_cannot_write_what_root_acts_on(host):
    """Else a hole in MLflow would be a hole in the host. Its data is what it can write."""
    folders = "/var/lib/mlflow /etc /opt /usr"
    find = f"runuser -u mlflow -- find {folders} -writable -not -type l -print -prune"
    assert host.run(find).stdout.split() == ["/var/lib/mlflow"]


@pytest.mark.parametrize("user", ["nobody", "www-data"])
def test_nobody_else_reads_the_settings(host, user):
    """They may hold secrets. nginx's user is in the group, for the socket's sake only."""
    for slot in ("wanted", colour(host)):
        for file in ("server.env", "generated.env", "secrets.env", "sessions.env", "database.env"):
            done = host.run(f"runuser -u {user} -- cat /etc/mlflow/{slot}/{file}")
            assert done.rc != 0 and "denied" in done.stderr


def test_data_is_the_services_alone(host):
    done = host.run("runuser -u www-data -- ls /var/lib/mlflow")
    assert done.rc != 0 and "denied" in done.stderr


def test_generated_secrets_are_shown_nowhere(host):
    """A process's arguments, a unit's properties and the journal can be read by many."""
    serving = colour(host)
    lines = host.check_output(f"cat /etc/mlflow/{serving}/generated.env").splitlines()
    secrets = [line.split("=", 1)[1].strip('"') for line in lines if line.startswith("MLFLOW_")]
    assert len(secrets) == 2 and all(len(secret) >= 40 for secret in secrets)
    shown = host.check_output(
        f"cat /proc/[0-9]*/cmdline | tr '\\0' ' '; systemctl show mlflow-{serving}; "
        "journalctl --no-pager"
    )
    signs = (f"{serving}/release/bin/python -m mlflow", "EnvironmentFiles=", "Started mlflow-")
    assert all(sign in shown for sign in signs)
    assert [secret for secret in secrets if secret in shown] == []


def test_a_foreign_host_name_is_refused(host):
    """A page that makes its own name resolve to this host must not reach MLflow (DNS rebinding)."""
    assert request(host, *SEARCH, "Host: evil.example")[0] == 403
    for foreign in ("evil.example:5000", "localhost.evil.example:5001", "127.0.0.1.evil.example"):
        assert request(host, *SEARCH, f"Host: {foreign}")[0] == 403, foreign
    name = host.check_output("hostname")
    # A tunnel may begin at another port.
    for own in (name, f"{name}:5000", "localhost:5000", "localhost:5001", "127.0.0.1:5001"):
        assert request(host, *SEARCH, f"Host: {own}")[0] == 200, own


def test_a_refusal_is_told_even_to_who_is_still_sending(host):
    """MLflow refuses a host name before it has read the body; a 502 instead would be a riddle."""
    code = (
        "import http.client, time\n"
        "for _ in range(20):\n"
        "    front = http.client.HTTPConnection('127.0.0.1', 5000, timeout=30)\n"
        "    front.putrequest('POST', '/api/2.0/mlflow/runs/create', skip_host=True)\n"
        "    front.putheader('Host', 'evil.example')\n"
        "    front.putheader('Content-Length', '2000')\n"
        "    front.endheaders()\n"
        "    time.sleep(0.05)\n"
        "    try: front.send(b'x' * 2000)\n"
        "    except OSError: pass\n"
        "    print(front.getresponse().status)\n"
    )
    assert set(host.check_output("python3 -c %s", code).split()) == {"403"}


def test_the_uis_own_writes_pass_and_other_pages_do_not(host):
    """Behind a proxy MLflow takes its own UI for a foreign page unless it knows its names."""
    name = host.check_output("hostname")
    search = ("/ajax-api/2.0/mlflow/experiments/search", *SEARCH[1:], f"Host: {name}:5000")
    assert request(host, *search, f"Origin: http://{name}:5000")[0] == 200
    assert request(host, *search, "Origin: http://evil.example")[0] == 403


def test_the_ui_is_there(host):
    status, body = request(host, "/", "GET", "")
    assert status == 200 and "<title>MLflow</title>" in body


def test_the_ui_comes_compressed_and_what_may_be_secret_does_not(host):
    """It is 8 MB of scripts. The length of a compressed answer tells what else is in it."""
    script, sent, text, answer = json.loads(host.check_output("python3 -c %s", COMPRESSED))
    assert (script, answer) == ("gzip", None) and sent < 0.4 * text


def test_a_killed_process_is_started_again(host):
    """SIGKILL leaves a stale socket, on which MLflow would end. SIGTERM ends it as if it were meant
    (Restart=on-failure would leave it dead). Each comes while it starts again after the one before.
    """
    unit = f"mlflow-{colour(host)}"
    restarts = f"systemctl show --value --property=NRestarts {unit}"

    def end(whom, signal):
        before = host.check_output(restarts)
        host.check_output(f"systemctl kill --kill-whom={whom} --signal={signal} {unit}")
        again = f"[ $({restarts}) -gt {before} ] && systemctl is-active {unit}"
        host.check_output(f"timeout 300 sh -c 'until {again}; do sleep 0.1; done'")

    end("main", "KILL")
    end("all", "KILL")
    end("main", "TERM")
    wait_until_served(host)


def test_spooled_artifacts_go_to_the_data_disk(host):
    """/tmp is often small or in memory, and every proxied artifact is written whole first."""
    pid = host.check_output(f"systemctl show --value --property=MainPID mlflow-{colour(host)}")
    environment = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ")
    assert f"TMPDIR=/var/lib/mlflow/tmp/{colour(host)}\n" in environment
