"""Large artifacts on their way through TLS to S3 and back: what they take of the host, and where
their bound is.
"""

import hashlib
import json
import os
import socket
import ssl
import time
from contextlib import ExitStack, contextmanager

import pytest
from api import colour

group = "hardening-users"

ADMIN = ("admin", "canary-admin-password")
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
GB = 1_000_000_000
# Of the inventory.
BOUND = 2500 * 1024 * 1024
LARGE_AT_ONCE = 4

# Writes the most of memory (PSS of all processes of the unit) and of spooled bytes that it saw.
SAMPLER = """
import json, os, pathlib, sys, time
unit, spool, result = sys.argv[1:]
most = {"memory": 0, "spooled": 0}
def pss(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(text.split("\\nPss:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0
def size(path):
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0
def pids():
    for path in pathlib.Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if f"/{unit}.service" in path.read_text():
                yield path.parent.name
        except OSError:
            pass
while True:
    most["memory"] = max(most["memory"], sum(map(pss, pids())))
    spooled = sum(size(os.path.join(at, name)) for at, _, names in os.walk(spool) for name in names)
    most["spooled"] = max(most["spooled"], spooled)
    pathlib.Path(result + ".new").write_text(json.dumps(most))
    os.replace(result + ".new", result)
    time.sleep(0.3)
"""


@pytest.fixture
def admin(visitor):
    return visitor.as_(*ADMIN)


@contextmanager
def sampled(host):
    """Note what the server takes at most while the block runs, in the yielded dict after it."""
    most: dict = {}
    serving, result = colour(host), "/run/sampler.json"
    words = (f"mlflow-{serving}", f"/var/lib/mlflow/tmp/{serving}", result)
    host.check_output(
        "systemd-run --quiet --collect --unit=sampler python3 -c %s %s %s %s", SAMPLER, *words
    )
    try:
        time.sleep(1)
        yield most
    finally:
        host.check_output("systemctl stop sampler")
        most |= json.loads(host.check_output(f"cat {result}"))


def blocks(size):
    """Yield that many bytes, which no compression makes fewer."""
    block = os.urandom(8 * 1024 * 1024)
    for number in range(size // len(block) + 1):
        head = number.to_bytes(8, "big")
        yield (head + block[8:])[: size - number * len(block)]


def test_two_gigabytes_go_up_and_down_through_tls_as_they_are(host, admin, say):
    """The server spools them on the data disk and holds a small part of them in memory."""
    size, path = 2 * GB, f"{ARTIFACTS}/large.bin"
    sent = hashlib.sha256()

    def body():
        for block in blocks(size):
            sent.update(block)
            yield block

    with sampled(host) as up:
        assert admin.status("PUT", path, body(), Content_Length=str(size)) == 200
    with sampled(host) as down:
        status, returned = admin.digest(path)
    assert status == 200 and returned == sent.hexdigest()
    for way, most in (("up", up), ("down", down)):
        spooled, memory = most["spooled"] / GB, most["memory"] / GB
        say(f"2 GB {way}: at most {spooled:.2f} GB spooled, {memory:.2f} GB of memory")
    for most in (up, down):
        assert most["spooled"] < 1.1 * size and most["memory"] < 1.5 * GB
    assert host.check_output("find /var/lib/mlflow/tmp -type f") == "", "nothing is left behind"
    assert host.run("find /tmp /var/tmp /var/lib/nginx -type f -size +1M").stdout == ""
    assert admin.status("DELETE", path) in (200, 404)


@contextmanager
def upload_begun(admin, path, headers):
    """Send the head of an upload and the first bytes of its body; yield the connection."""
    plain = socket.create_connection((admin.address, admin.port), timeout=30)
    with admin.context.wrap_socket(plain, server_hostname=admin.name) as connection:
        lines = [f"PUT {path} HTTP/1.1", f"Host: {admin.name}", admin.authorization, *headers]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + b"5\r\nhello\r\n")
        yield connection


def answer(connection, seconds=2.0) -> str:
    """Return what the server says within some seconds, nothing if it waits for more."""
    connection.settimeout(seconds)
    try:
        said = b""
        while piece := connection.recv(4096):
            said += piece
    except (TimeoutError, ssl.SSLError):
        pass
    return said.decode()


def test_what_is_above_the_bound_is_refused_before_it_is_taken(host, admin):
    """In words that name the bound, and with nothing of it on the disk."""
    headers = [f"Content-Length: {BOUND + 1}"]
    with sampled(host) as most, upload_begun(admin, f"{ARTIFACTS}/huge.bin", headers) as upload:
        said = answer(upload)
    assert said.startswith("HTTP/1.1 413 ") and "2500m" in said, said
    assert most["spooled"] == 0
    assert admin.status("GET", f"{ARTIFACTS}/huge.bin") != 200


@pytest.mark.parametrize("head", ["Content-Length: 2000000000", "Transfer-Encoding: chunked"])
def test_only_a_few_large_uploads_are_spooled_at_once(admin, head):
    """So many times the bound is the most that the disk has to hold. Who is told 429 tries again,
    as MLflow's client does, and small ones are not held up.
    """
    with ExitStack() as stack:
        begun = [
            stack.enter_context(upload_begun(admin, f"{ARTIFACTS}/part-{number}", [head]))
            for number in range(LARGE_AT_ONCE + 1)
        ]
        said = [answer(upload) for upload in begun]
        assert sum("HTTP/1.1 429 " in each for each in said) == 1, said
        assert sum(each == "" for each in said) == LARGE_AT_ONCE, said
        assert admin.status("PUT", f"{ARTIFACTS}/small.bin", b"small") == 200
    until = time.monotonic() + 20
    while (status := admin.status("PUT", f"{ARTIFACTS}/b.bin", iter([b"b"]))) == 429:
        assert time.monotonic() < until, "an upload that was broken off still counts"
        time.sleep(0.5)
    assert status == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", [f"{ARTIFACTS}/x", "/api/2.0/mlflow/runs/search"])
def test_what_is_no_artifact_is_small(host, visitor, method, path):
    """MLflow holds all of it in memory before it asks who sends it, so anybody could fill that."""
    plain = socket.create_connection((visitor.address, visitor.port), timeout=30)
    with visitor.context.wrap_socket(plain, server_hostname=visitor.name) as connection:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {visitor.name}\r\nContent-Length: 100000000\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert answer(connection).startswith("HTTP/1.1 413 ")


def test_a_question_for_a_login_does_not_wait_for_a_body(visitor):
    """The body of a GET is not the question's; it would be waited for in vain."""
    started = time.monotonic()
    assert visitor.status("GET", "/static-files/index.html", b"hello") == 401
    assert time.monotonic() - started < 5
