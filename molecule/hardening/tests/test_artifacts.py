"""Large artifacts on their way through TLS to S3 and back: what they take of the host, and where
their bound is.
"""

import hashlib
import os
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from select import select
from ssl import TLSVersion
from threading import Event, Thread

import pytest
from api import colour
from logins import ADMIN

group = "hardening-users"

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
MB = 1_000_000
# Of the inventory.
BOUND = 2500 * 1024 * 1024
LARGE_AT_ONCE, OF_ONE_USER = 4, 2
LARGE = ["Content-Length: 2000000000", "Transfer-Encoding: chunked"]
# Seconds, on a machine that does other things, too.
SOON = 60
SPOOL = "/var/lib/mlflow/tmp"

# Prints the sum over the processes of a unit of what /proc/PID/status has under a name, in bytes.
# With `reset` what was the most is forgotten first.
MEMORY = """
import contextlib, pathlib, re, sys
unit, name, *reset = sys.argv[1:]
total = 0
for path in pathlib.Path("/proc").glob("[0-9]*/cgroup"):
    # Others' end at any time.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if f"/{unit}.service" in path.read_text():
            if reset:
                (path.parent / "clear_refs").write_text("5")
            status = (path.parent / "status").read_text()
            total += int(re.search(rf"{name}:\\s+(\\d+) kB", status)[1]) * 1024
print(total)
"""


@pytest.fixture
def admin(visitor):
    return visitor.as_(*ADMIN)


def memory(host, name, *reset):
    """Return the memory of the colour that serves, all processes together, by one of its names."""
    words = (f"mlflow-{colour(host)}", name, *reset)
    return int(host.check_output("python3 -c %s" + " %s" * len(words), MEMORY, *words))


@contextmanager
def grown(host):
    """Note by how much the memory of the server grew at most while the block runs."""
    most: dict = {}
    before = memory(host, "VmRSS", "reset")
    yield most
    most["memory"] = memory(host, "VmHWM") - before


@contextmanager
def marked(host):
    """Yield a function that tells whether a file was spooled since, if only for a moment, by the
    server or by nginx.
    """
    mark = "/run/mark-of-the-test"
    host.check_output(f"touch {mark}")
    folders = {"server": f"{SPOOL}/{colour(host)}", "nginx": "/var/lib/nginx"}
    yield lambda whose: host.check_output(f"find {folders[whose]} -newer {mark}") != ""


def blocks(size):
    """Yield that many bytes, which no compression makes fewer."""
    block = os.urandom(8 * 1024 * 1024)
    for number in range(size // len(block) + 1):
        head = number.to_bytes(8, "big")
        yield (head + block[8:])[: size - number * len(block)]


def test_a_large_artifact_goes_up_and_down_through_tls_as_it_is(host, admin, say):
    """The server spools it on the data disk and holds a small part of it in memory."""
    path = f"{ARTIFACTS}/large.bin"
    # Above 2^31 something may overflow, but that takes two minutes.
    size = (2200 if os.environ.get("TEST_ALL") else 300) * MB
    sent = hashlib.sha256()

    def body():
        for block in blocks(size):
            sent.update(block)
            yield block

    with grown(host) as up, marked(host) as spooled:
        assert admin.status("PUT", path, body(), Content_Length=str(size)) == 200
        assert spooled("server") and not spooled("nginx")
    with grown(host) as down, marked(host) as spooled:
        assert admin.digest(path) == (200, sent.hexdigest())
        assert spooled("server") and not spooled("nginx")
    ways = {"up": up["memory"] // MB, "down": down["memory"] // MB}
    say(
        f"{size // MB} MB {', '.join(f'{way}: {mb} MB more of memory' for way, mb in ways.items())}"
    )
    assert max(ways.values()) < 150
    assert host.check_output(f"find {SPOOL} -type f") == "", "nothing is left behind"
    assert admin.status("DELETE", path) in (200, 404)


@contextmanager
def upload_begun(user, path, headers):
    """Send the head of an upload and the first bytes of its body; yield the connection."""
    plain = socket.create_connection((user.address, user.port), timeout=30)
    # By a later one a server has more to say after the handshake, which is no answer.
    user.context.maximum_version = TLSVersion.TLSv1_2
    with user.context.wrap_socket(plain, server_hostname=user.name) as connection:
        lines = [f"PUT {path} HTTP/1.1", f"Host: {user.name}", *headers]
        lines += [user.authorization] if user.login else []
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + b"5\r\nhello\r\n")
        yield connection


@contextmanager
def going_on(uploads):
    """Send a little more of each upload now and then while the block runs, as who stalls is out."""
    over = Event()

    def send():
        while not over.wait(2):
            for upload in uploads:
                with suppress(OSError):
                    upload.sendall(b"5\r\nhello\r\n")

    thread = Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def place_of(user) -> str:
    """Return where a user may put artifacts: into an experiment of his own."""
    made = user.call("experiments/create", name=f"large-{os.urandom(4).hex()}")
    return f"{ARTIFACTS}/{made['experiment_id']}"


def refused(uploads) -> list:
    """Return which of the uploads are answered although they go on, once one of them is."""
    return select(uploads, [], [], SOON)[0]


def until_taken(user, path) -> int:
    """Upload a large artifact, and again as long as the answer is 429; return the last status."""
    until = time.monotonic() + SOON
    while (status := user.status("PUT", path, iter([b"b"]))) == 429:
        assert time.monotonic() < until, "an upload that was broken off still counts"
        time.sleep(0.1)
    return status


def answer(connection) -> tuple[int, str]:
    """Return status and body of what the server says."""
    connection.settimeout(SOON)
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.read().decode()


def test_what_is_above_the_bound_is_refused_before_it_is_taken(host, admin):
    """In words that name the bound, and with nothing of it on the disk."""
    headers = [f"Content-Length: {BOUND + 1}"]
    with marked(host) as spooled:
        with upload_begun(admin, f"{ARTIFACTS}/huge.bin", headers) as upload:
            status, said = answer(upload)
        assert status == 413 and "2500m" in said, said
        assert not spooled("server") and not spooled("nginx")
        assert admin.status("PUT", f"{ARTIFACTS}/small.bin", b"small") == 200
        assert spooled("server"), "what is taken is seen there"
    assert admin.status("GET", f"{ARTIFACTS}/huge.bin") != 200


def test_no_file_of_the_service_grows_above_the_bound(host):
    """Nor does an artifact that comes from S3. PostgreSQL has what may grow."""
    show = f"systemctl show --value --property=ControlGroup mlflow-{colour(host)}"
    files = f"sed 's|.*|/proc/&/limits|' /sys/fs/cgroup$({show})/cgroup.procs"
    limits = host.check_output(f"grep --no-filename 'Max file size' $({files})")
    assert {tuple(line.split()[3:5]) for line in limits.splitlines()} == {(str(BOUND), str(BOUND))}
    assert len(limits.splitlines()) > 2


@pytest.mark.parametrize("head", LARGE)
def test_only_a_few_large_uploads_are_spooled_at_once(host, admin, ada, bob, head):
    """So many times the bound is the most that the disk has to hold. Who is told 429 tries again,
    as MLflow's client does, and small ones are not held up.
    """
    users = [admin, ada, bob]
    places = [place_of(user) for user in users]
    with ExitStack() as stack:
        begun = [
            stack.enter_context(
                upload_begun(users[number // 2], places[number // 2] + f"/{number}", [head])
            )
            for number in range(LARGE_AT_ONCE + 1)
        ]
        over = refused(begun)
        assert [answer(upload)[0] for upload in over] == [429]
        others = [upload for upload in begun if upload not in over]
        with going_on(others):
            count = f"find {SPOOL}/{colour(host)} -type f | wc -l"
            host.check_output(
                f"timeout {SOON} sh -c 'until [ $({count}) = {LARGE_AT_ONCE} ]; do sleep 0.1; done'"
            )
            assert admin.status("PUT", f"{ARTIFACTS}/small.bin", b"small") == 200
        assert select(others, [], [], 0)[0] == []
    assert until_taken(admin, f"{ARTIFACTS}/b.bin") == 200


@pytest.mark.parametrize("head", LARGE)
def test_nobody_without_a_login_takes_a_place(visitor, admin, head):
    """Else whoever reaches the server keeps a team from storing its models, with four connections.
    He is asked for a login at once, however much he still has to send.
    """
    with ExitStack() as stack:
        begun = [
            stack.enter_context(upload_begun(visitor, f"{ARTIFACTS}/{number}", [head]))
            for number in range(LARGE_AT_ONCE + 1)
        ]
        assert [answer(upload)[0] for upload in begun] == [401] * len(begun)
        assert admin.status("PUT", f"{ARTIFACTS}/b.bin", iter([b"b"])) == 200


def test_one_user_does_not_take_all_places(ada, bob):
    """By a loop gone wrong, or because he wants to."""
    place, other = place_of(bob), place_of(ada)
    with ExitStack() as stack:
        begun = [
            stack.enter_context(upload_begun(bob, f"{place}/{number}", LARGE[:1]))
            for number in range(OF_ONE_USER + 1)
        ]
        assert [answer(upload)[0] for upload in refused(begun)] == [429]
        assert ada.status("PUT", f"{other}/b.bin", iter([b"b"])) == 200
    assert until_taken(bob, f"{place}/b.bin") == 200


def test_an_upload_that_stalls_loses_its_place(bob):
    """A machine that was put to sleep would hold up the others until the evening, and so would who
    sends nothing on purpose. The connections stay open from the client's side.
    """
    place = place_of(bob)
    with ExitStack() as stack:
        begun = [
            stack.enter_context(upload_begun(bob, f"{place}/{number}", LARGE[:1]))
            for number in range(OF_ONE_USER + 1)
        ]
        # By then the others have their places.
        assert len(refused(begun)) == 1
        assert until_taken(bob, f"{place}/b.bin") == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("path", "bound"),
    [(f"{ARTIFACTS}/x", 10 * MB - 1), ("/api/2.0/mlflow/runs/search", 16 * 1024 * 1024)],
)
def test_what_is_no_artifact_is_small(host, visitor, method, path, bound):
    """MLflow holds all of it in memory before it asks who sends it, so anybody could fill that."""
    assert visitor.status(method, path, bytes(bound)) in (401, 404, 405)
    plain = socket.create_connection((visitor.address, visitor.port), timeout=30)
    with visitor.context.wrap_socket(plain, server_hostname=visitor.name) as connection:
        length = f"Content-Length: {bound + 1}"
        head = f"{method} {path} HTTP/1.1\r\nHost: {visitor.name}\r\n{length}\r\n\r\n"
        connection.sendall(head.encode())
        assert answer(connection)[0] == 413


def test_a_question_for_a_login_does_not_wait_for_a_body(visitor):
    """The body of a GET is not the question's; it would be waited for in vain, longer than the
    visitor does.
    """
    assert visitor.status("GET", "/static-files/index.html", b"hello") == 401


def test_nothing_is_left_behind_after_a_stop(host, admin):
    """Orphans would go on writing, a stale socket would keep the next start from working, and what
    an upload that was under way has spooled would fill the disk until then.
    """
    serving = colour(host)
    unit, spooled = f"mlflow-{serving}", f"find {SPOOL}/{serving} -type f"
    path = f"{ARTIFACTS}/under-way.bin"
    with upload_begun(admin, path, ["Content-Length: 2000000000"]):
        host.check_output(
            f"timeout {SOON} sh -c 'until [ -n \"$({spooled})\" ]; do sleep 0.1; done'"
        )
        # It is waited for, and in the end not any more.
        host.check_output(f"systemctl stop --no-block {unit}")
        host.check_output(f"systemctl kill --signal=KILL {unit}")
        host.check_output(f"systemctl stop {unit}")
    try:
        assert host.run("pgrep --uid mlflow").rc == 1
        assert not host.file(f"/run/mlflow/{serving}").exists
        assert host.run(spooled).stdout == ""
    finally:
        host.check_output(f"systemctl start {unit}")
        until = time.monotonic() + 120
        while admin.status("GET", "/health") != 200:
            assert time.monotonic() < until, "it does not start again"
            time.sleep(0.2)
