"""The front: what passes through nginx, and what is not to come of it."""

import json

import pytest
from api import SEARCH, colour, request

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
MEGABYTES = 64

# Sends an artifact of zeros, reads it back and deletes it; prints the states and the bytes read.
TRANSFER = """
import http.client, sys
path, megabytes, chunked = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "chunked"
front = http.client.HTTPConnection("127.0.0.1", 5000, timeout=120)
body = (bytes(2**20) for _ in range(megabytes))
length = {} if chunked else {"Content-Length": str(megabytes * 2**20)}
front.request("PUT", path, body, length, encode_chunked=chunked)
answer = front.getresponse()
print(answer.status)
answer.read()
front.request("GET", path)
answer = front.getresponse()
print(answer.status)
print(sum(len(block) for block in iter(lambda: answer.read(2**20), b"")))
front.request("DELETE", path)
answer = front.getresponse()
print(answer.status)
"""

# A server of this process takes the upstream's place for as long as `with upstream(...)` lasts.
STAND_IN = """
import contextlib, http.client, http.server, os, socketserver, threading
LINK, SOCKET = "/etc/mlflow/current.sock", "/run/stand-in.sock"

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

def point_to(target):
    os.symlink(target, LINK + ".new")
    os.replace(LINK + ".new", LINK)

@contextlib.contextmanager
def upstream(answer):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        do_GET = do_POST = answer
        log_message = lambda *_: None
    former = os.readlink(LINK)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)
    server = Server(SOCKET, Handler)
    os.chmod(SOCKET, 0o666)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        point_to(SOCKET)
        yield
    finally:
        point_to(former)

def plain(request, text=b"the stand-in"):
    request.send_response(200)
    request.send_header("Content-Length", str(len(text)))
    request.end_headers()
    request.wfile.write(text)

front = http.client.HTTPConnection("127.0.0.1", 5000, timeout=20)

def get(path="/health"):
    front.request("GET", path)
    return front.getresponse().read()
"""


def stand_in(host, code, *words):
    """Run code on the host in which `upstream` and `get` are known; return what it prints."""
    done = host.run("python3 -c %s" + " %s" * len(words), STAND_IN + code, *words)
    assert done.rc == 0, done.stderr
    return done.stdout


def test_port_80_stays_closed(host):
    """Whoever asked for a tracking server did not ask for a welcome page to the whole network, now
    or after the next restart of nginx."""
    host.check_output("systemctl restart nginx")
    assert host.check_output("ss --no-header --listening --tcp --numeric sport = :80") == ""
    assert request(host, *SEARCH)[0] == 200


@pytest.mark.parametrize("how", ["with its length", "chunked"])
def test_a_large_artifact_passes_without_touching_the_disk(host, how):
    """nginx's own ways are to refuse more than 1 MB and to spool the rest below /var, which a model
    of some gigabytes fills. Every file that it makes there, deleted or not, leaves its mark on the
    time of a folder."""
    before = "/run/before-the-transfer"
    host.check_output(f"touch {before}")
    path = f"{ARTIFACTS}/large.bin"
    done = host.run("python3 -c %s %s %s %s", TRANSFER, path, str(MEGABYTES), how)
    assert done.stdout.split() == ["200", "200", str(MEGABYTES * 2**20), "200"], done.stderr
    assert host.check_output(f"find /var/lib/nginx -newer {before}") == ""


def test_an_artifacts_name_arrives_as_it_was_sent(host):
    """nginx decodes and tidies paths if it is let, and a file would land under another name."""
    sent = "/a%2Fb//c%20d%2520e/../f?x=%2F&y=%C3%A9"
    code = "with upstream(lambda r: plain(r, r.path.encode())): print(get(sys.argv[1]).decode())"
    assert stand_in(host, f"import sys\n{code}", sent) == f"{sent}\n"


def test_the_upstream_learns_who_asks(host):
    """MLflow decides by Host and Origin, and makes addresses of them. What a client says about
    itself counts for nothing: it could write another's address into the log."""
    code = """
import json
with upstream(lambda r: plain(r, json.dumps(dict(r.headers)).encode())):
    front.request("GET", "/", headers={"Host": "evil.example:5000", "Origin": "http://x.example",
                                       "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "x"})
    print(front.getresponse().read().decode())
"""
    headers = json.loads(stand_in(host, code))
    assert headers["Host"] == headers["X-Forwarded-Host"] == "evil.example:5000"
    assert headers["Origin"] == "http://x.example"
    assert (headers["X-Forwarded-For"], headers["X-Forwarded-Proto"]) == ("127.0.0.1", "http")


def test_a_stream_arrives_as_it_is_sent(host):
    """A chat answer, or a log that is followed, would otherwise come in one piece at its end. The
    upstream says the second word only once the client has the first."""
    code = """
heard = threading.Event()
def answer(request):
    request.send_response(200)
    request.send_header("Content-Type", "text/event-stream")
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(b"data: first\\n\\n")
    request.wfile.flush()
    request.wfile.write(b"data: second\\n\\n" if heard.wait(10) else b"data: too late\\n\\n")
with upstream(answer):
    front.request("GET", "/")
    stream = front.getresponse()
    print(stream.readline().decode().strip())
    heard.set()
    print(stream.read().decode().strip())
"""
    assert stand_in(host, code).splitlines() == ["data: first", "data: second"]


def test_the_next_request_follows_the_link(host):
    """A roll swaps the link. A client's connection lasts through it, so nginx must not keep one of
    its own to the old colour."""
    code = """
print(get().decode())
with upstream(plain):
    print(get().decode())
print(get().decode())
"""
    assert stand_in(host, code).splitlines() == ["OK", "the stand-in", "OK"]


def test_no_idle_connection_holds_the_upstream(host):
    """A roll waits until nobody is connected to the old colour. A client that keeps its connection
    open and says nothing must not hold it up."""
    code = "get(); import subprocess; print(subprocess.getoutput('ss --no-header --unix --all'))"
    sockets = [row.split() for row in stand_in(host, code).splitlines()]
    path = f"/run/mlflow/{colour(host)}/server.sock"
    assert [row[1] for row in sockets if path in row] == ["LISTEN"]


@pytest.mark.parametrize("target", ["/run/nobody-is-here.sock", "/etc/hostname"])
def test_a_missing_upstream_is_said_clearly(host, target):
    """Whoever reads '502 Bad Gateway' does not know which of the two is broken. The code stays, for
    clients try again on it."""
    code = """
former = os.readlink(LINK)
try:
    point_to(sys.argv[1])
    front.request("GET", "/")
    answer = front.getresponse()
    print(answer.status, answer.read().decode())
finally:
    point_to(former)
"""
    answer = stand_in(host, f"import sys\n{code}", target)
    assert answer.startswith("502 nginx is up, but the service behind it does not answer")


def test_the_upstreams_own_errors_pass_unchanged(host):
    """They say more than nginx could."""
    code = """
def answer(request):
    request.send_response(502)
    request.send_header("Content-Length", "4")
    request.end_headers()
    request.wfile.write(b"mine")
with upstream(answer):
    print(get().decode())
"""
    assert stand_in(host, code) == "mine\n"


def test_a_request_is_not_sent_twice(host):
    """nginx may repeat one that broke off; a run would be made twice."""
    code = """
count = []
def answer(request):
    count.append(request.path)
    request.close_connection = True
with upstream(answer):
    front.request("POST", "/", headers={"Content-Length": "0"})
    print(front.getresponse().status, len(count))
"""
    assert stand_in(host, code) == "502 1\n"
