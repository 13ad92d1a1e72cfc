"""What tests of rolls do to a host and look up on it."""

import json
import subprocess
import sys
import uuid

from api import OTHER, colour, wait_until_served
from load import STORED, acknowledged, lost

# What loads have left in a host's sqlite, the turns of each run.
IN_SQLITE = """
import collections, json, sqlite3
metrics = collections.defaultdict(list)
database = sqlite3.connect("/var/lib/mlflow/mlflow.db")
for run, value in database.execute("SELECT run_uuid, value FROM metrics WHERE key = 'm'"):
    metrics[run].append(int(value))
print(json.dumps(metrics))
"""

SLOW_UPLOAD = """
import http.client, subprocess, sys, time

def body():
    left = 20_000_000
    print("sending", flush=True)
    while subprocess.run(["bash", "-c", sys.argv[1]], stderr=subprocess.DEVNULL).returncode:
        left -= 1000
        yield b"x" * 1000
        time.sleep(0.1)
    print("changed", flush=True)
    for _ in range(80):
        left -= 1000
        yield b"x" * 1000
        time.sleep(0.1)
    yield b"x" * left

connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=600)
connection.request("PUT", "/api/2.0/mlflow-artifacts/artifacts/slow", body(),
                   {"Content-Length": "20000000"})
sys.exit(connection.getresponse().status != 200)
"""


def slow_upload(control, changed: str) -> subprocess.Popen:
    """Start to send 20 MB, and return the process once it sends.

    It is slow until a command of bash that runs here, in the host's network, exits 0; then it says
    so and is done eight seconds later, which is longer than Debian's nginx waits when it is
    stopped. Exits 0 if the server took it all.
    """
    command = control.inside(sys.executable, "-c", SLOW_UPLOAD, changed)
    upload = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert upload.stdout.readline() == "sending\n"
    return upload


def a_change() -> dict:
    """Return variables of no consequence that change a slot's settings and its unit."""
    value = uuid.uuid4().hex
    # Seconds. The test never waits that long.
    drain = 60 + int(value[:2], 16)
    return {
        "mlflow_server_drain_timeout": drain,
        "mlflow_server_environment": {"TEST_CHANGE": value},
    }


def serving_change(host) -> dict:
    """Return the change with which the process that serves was started, as a_change() does."""
    pid = host.check_output(f"systemctl show --value --property=MainPID mlflow-{colour(host)}")
    environment = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    values = [line.partition("=")[2] for line in environment if line.startswith("TEST_CHANGE=")]
    words = host.check_output(f"tr '\\0' ' ' < /proc/{pid}/cmdline").split()
    return {
        "mlflow_server_drain_timeout": int(words[words.index("--timeout-graceful-shutdown") + 1]),
        "mlflow_server_environment": {"TEST_CHANGE": values[0]} if values else {},
    }


def assert_settled(host) -> None:
    """One colour is linked, active and enabled; the other is none of these; nothing lies about."""
    wait_until_served(host)
    serving = colour(host)
    states = {
        each: host.run(f"systemctl is-active mlflow-{each}; systemctl is-enabled mlflow-{each}")
        for each in ("blue", "green")
    }
    assert states[serving].stdout.split() == ["active", "enabled"]
    other = states[OTHER[serving]].stdout.split()
    assert other[:1] in (["inactive"], ["failed"]), other
    assert "enabled" not in other
    half = "-name '.*.new' -o -name '.*.mlflow-ansible'"
    assert host.check_output(f"find /etc/mlflow /etc/systemd/system {half}") == ""


def assert_kept(host, counts: dict) -> None:
    """All that was acknowledged to a load is in the database and on the disk."""
    folder = "/var/lib/mlflow/artifacts/load"
    stored = [
        json.loads(host.check_output("python3 -c %s %s", code, folder))
        for code in (IN_SQLITE, STORED)
    ]
    for written, found in zip(acknowledged(counts), stored, strict=True):
        assert lost(written, found) == {}
