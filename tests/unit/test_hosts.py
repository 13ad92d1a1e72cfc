"""What a roll asks of its host: what works, who is connected, what a probe is given."""

import contextlib
import http.server
import socket
import socketserver
import threading
from pathlib import Path

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import hosts
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.hosts import (
    Host,
    HostedInstance,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused

SEARCH = "/api/2.0/mlflow/experiments/search"


@pytest.mark.parametrize(
    ("line", "is_old"),
    [
        ("7f00-7f01 r--p 00000000 00:2f 1 /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)", True),
        ("7f00-7f01 r--p 00000000 00:2f 1 /usr/lib/x86_64-linux-gnu/libssl.so.3", False),
        ("7f00-7f01 rw-s 00000000 00:01 1 /dev/zero (deleted)", False),
        ("7f00-7f01 r--p 00000000 00:2f 1 /opt/mlflow/releases/x/lib/a.so (deleted)", False),
    ],
)
def test_a_library_that_was_replaced_is_known_by_what_is_mapped(monkeypatch, line, is_old):
    monkeypatch.setattr(Host, "command", lambda *_: "17\n")
    monkeypatch.setattr(Path, "read_text", lambda _: f"55-56 r--p 0 0 0 /x\n{line}\n5-6 r 0\n")
    assert Host().has_old_libraries("mlflow-blue.service") is is_old


def test_the_last_lines_of_the_journal_are_shown(monkeypatch):
    """They have the error that a traceback ends with. The journalctl of Debian 12 gives the first
    ones if it is asked for a number of lines since a time.
    """
    lines = [f"line {number}" for number in range(100)]

    def command(host, *words):
        number = [int(word.partition("=")[2]) for word in words if word.startswith("--lines=")]
        return "\n".join(lines[: number[0]] if number else lines) + "\n"

    monkeypatch.setattr(Host, "command", command)
    said = Host().journal("mlflow-blue.service", 0).splitlines()
    assert said == lines[-40:]


def test_connections_are_those_open_or_waiting(tmp_path):
    """Listening sockets and other paths in /proc/net/unix are not clients."""
    path = tmp_path / "server.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    host = Host()
    assert host.connections(path) == 0
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    assert host.connections(path) == 1, "not accepted yet, but it must not be cut off"
    accepted, _ = server.accept()
    assert host.connections(path) == 1
    for end in (accepted, client):
        end.close()
    assert host.connections(path) == 0
    server.close()


@contextlib.contextmanager
def server(path, statuses):
    """Serve MLflow's two answers that readiness asks for on a unix socket."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(statuses.get((self.command, self.path), 404))
            self.end_headers()
            self.wfile.write(b"because")

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    with socketserver.UnixStreamServer(str(path), Answer) as serves:
        threading.Thread(target=serves.serve_forever, args=[0.01]).start()
        yield
        serves.shutdown()


@pytest.mark.parametrize(
    ("health", "search", "why"),
    [
        (200, 200, ""),
        (200, 401, ""),
        (503, 200, "/health answered 503: b'because'"),
        (200, 500, f"{SEARCH} answered 500: b'because'"),
        (200, 403, f"{SEARCH} answered 403: b'because'"),
    ],
)
def test_ready_is_who_answers_and_whose_database_does(tmp_path, health, search, why):
    """/health is a constant of MLflow's: a server without its database gives it, too."""
    statuses = {("GET", "/health"): health, ("POST", SEARCH): search}
    with server(tmp_path / "server.sock", statuses):
        assert Host().answers(tmp_path / "server.sock") == why


def test_a_name_is_refused_by_whoever_answers_403(tmp_path):
    """401 is the question for a login."""
    asked = f"{SEARCH}?max_results=1"
    for status, refused in ((200, ""), (401, ""), (403, "b:443")):
        path = tmp_path / f"{status}.sock"
        with server(path, {("GET", asked): status}):
            assert Host().refused_name(path, ["b:443", "c"]) == refused


def test_who_does_not_answer_is_not_ready(tmp_path):
    """A socket that a killed server left behind is there, but nobody listens on it."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "server.sock"))
    left.close()
    assert "/health did not answer" in Host().answers(tmp_path / "server.sock")


def test_a_probe_compares_with_the_secret_settings_too(tmp_path, monkeypatch):
    """Else, with the address of the database among the secrets, artifacts are left behind."""
    monkeypatch.setattr(hosts, "probe_command", lambda *_: ["sh", "-c", "cat >&2"])
    (tmp_path / "server.env").write_text('MLFLOW_ARTIFACTS_DESTINATION="s3://a/b"\n')
    (tmp_path / "secrets.env").write_text('MLFLOW_BACKEND_STORE_URI="mysql://ä:canary@db/x"\n')
    probe = Host().start_probe("mlflow", tmp_path, ["database"], 9, former=tmp_path)
    said = probe.communicate()[1]
    assert 'DESTINATION="s3://a/b"' in said and '"mysql://ä:canary@db/x"' in said
    assert Host().start_probe("mlflow", tmp_path, ["artifacts"], 9).communicate()[1] == ""


def test_what_serves_is_linked_or_alone_active(tmp_path, monkeypatch):
    """A link that was lost stops no server: the one that runs is it. Of two nobody can tell."""
    instance = HostedInstance("mlflow", Host(), tmp_path)
    instance.config.mkdir(parents=True)
    states = dict.fromkeys(["mlflow-blue.service", "mlflow-green.service"], "inactive")
    monkeypatch.setattr(Host, "show", lambda _, unit: {"ActiveState": states[unit]})
    assert instance.serving() == "" and instance.is_idle("blue")
    with pytest.raises(Refused, match="Wanted a server mlflow that serves; found none; run site"):
        instance.must_serve()
    states["mlflow-green.service"] = "active"
    assert instance.serving() == instance.must_serve() == "green"
    states["mlflow-blue.service"] = "active"
    assert instance.serving() == ""
    instance.current.symlink_to("/run/mlflow/blue/server.sock")
    assert instance.serving() == "blue"


def test_a_command_that_fails_is_refused_with_what_it_said():
    with pytest.raises(Refused, match="Wanted 'sh -c .*' to succeed; found exit code 3: out; fix"):
        Host().command("sh", "-c", "echo out; exit 3")
    assert Host().command("echo", "in") == "in\n"
