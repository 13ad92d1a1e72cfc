"""What the probes take for the proof of a hole, and that each one says where it is from."""

import json
import socket
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import probes
import pytest
from probes import Answer

PASSWD = b"root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/bin/false\n"


@pytest.mark.parametrize(
    ("answer", "proof"),
    [
        (Answer(200, PASSWD), True),
        (Answer(200, b"a:x:1:1::/:/x\n" + PASSWD), True),
        (Answer(500, PASSWD), False),
        (Answer(200, b"Invalid path: /etc/passwd"), False),
        (Answer(200, b"chroot:x:0:0"), False),
        (Answer(0, b"timed out"), False),
    ],
)
def test_passwd_is_proven_by_its_content(answer, proof):
    """A 200 alone says nothing: many servers answer anything with their start page."""
    assert probes.is_passwd(answer) is proof


@pytest.mark.parametrize(
    ("body", "proof"),
    [
        ({"files": [{"path": "passwd", "is_dir": False}]}, True),
        ({"files": [{"path": "model"}]}, False),
        ({"files": ["passwd"]}, False),
        ({}, False),
        ([], False),
    ],
)
def test_a_listing_is_proven_by_a_file_of_etc(body, proof):
    """An empty listing is what a safe server may give as well."""
    assert probes.lists_etc(Answer(200, json.dumps(body).encode())) is proof


@pytest.mark.parametrize(
    ("answer", "proof"),
    [
        (Answer(200, b'{"experiments": []}'), True),
        (Answer(200, b"{}"), True),
        (Answer(200, b"<!doctype html>"), False),
        (Answer(200, b"OK"), False),
        (Answer(401, b'{"experiments": []}'), False),
        (Answer(200, b""), False),
    ],
)
def test_data_is_proven_by_an_answer_of_the_api(answer, proof):
    """The start page and /health answer 200 too."""
    assert probes.is_data(answer) is proof


def test_a_request_is_heard_by_its_own_word_alone():
    """Else one probe would be proven by another one's request."""
    with probes.listen() as listener:
        (bait, word), (_, another) = listener.bait(), listener.bait()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(bait)
        assert listener.caught(word) and not listener.caught(another)


def test_each_probe_cites_what_it_is_of():
    """So that a reader finds the hole."""
    for function, ids, *_ in probes.PROBES:
        assert ids and all(each.startswith(("CVE-", "GHSA-", "CWE-", "mlflow#")) for each in ids), (
            function
        )


class Refusing(BaseHTTPRequestHandler):
    """Refuses all; knows no login."""

    status = 401

    def handle_one_request(self):
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def target():
    """Return a function that gives a target whose server answers all with one status."""
    with ExitStack() as stack:

        def function(status, **login):
            handler = type("Handler", (Refusing,), {"status": status})
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            listener = stack.enter_context(probes.listen())
            url = f"http://127.0.0.1:{server.server_address[1]}"
            return probes.Target(url, listener=listener, **login)

        yield function


@pytest.mark.parametrize(("status", "holes"), [(401, False), (404, False), (200, True)])
def test_who_refuses_all_has_no_hole(target, status, holes):
    """And who lets all in has some; the listener of requests stays silent."""
    found = probes.look(target(status))
    assert any(finding.found for finding in found) is holes
    assert not [f for f in found if f.found and f.name.startswith(("file_", "list_", "request_"))]


def test_a_server_that_is_not_there_has_not_been_asked():
    """A closed port refuses all, and so would seem to have no hole."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gone = probes.Target(f"http://127.0.0.1:{port}")
    for ask in (gone.check, lambda: probes.look(gone)):
        with pytest.raises(probes.Unanswered, match="refused"):
            ask()


def test_who_is_taken_for_nobody_has_not_asked_as_a_user(target):
    """With a wrong password all is refused, and what the user could do is not seen."""
    unknown = target(401, user="bob", password="wrong")
    for ask in (unknown.check, lambda: probes.look(unknown)):
        with pytest.raises(probes.Unanswered, match="401"):
            ask()
    target(200, user="bob", password="right").check()
