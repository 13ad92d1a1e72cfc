"""A load tells what was acknowledged from what failed, else a lost write would pass for refused."""

import http.client
import json
import socket
import threading
import time

import pytest
from load import Load, acknowledged


def test_what_failed_was_not_acknowledged():
    """Of each run, in the JSON that it prints."""
    load = Load("http://nowhere", seconds=60, pause=0.001)
    names, reached = iter("ab"), {"a": 0, "b": 0}
    load.start_run = lambda: next(names)

    def write(connection, run, turn):
        reached[run] = turn
        if min(reached.values()) > 40:
            load.stopped.set()
        if (run, turn) in (("a", 2), ("b", 20)):
            raise OSError("refused")

    load.write = write
    counts = json.loads(json.dumps(load.run(2)))
    assert (counts["failed"], counts["written"] + 2) == (2, sum(load.counts.values()))
    metrics, artifacts = acknowledged(counts)
    assert metrics["a"][:3] == [1, 3, 4]
    assert metrics["b"][:3] == [1, 2, 3]
    for run in "ab":
        turns = counts["runs"][run]["turns"]
        wrong = counts["runs"][run]["failed"]
        assert sorted(metrics[run] + artifacts[run] + wrong) == list(range(1, turns + 1))
        assert all(turn % 20 == 0 for turn in artifacts[run])
    assert 20 not in artifacts["b"]


@pytest.fixture
def server():
    """A server that answers, closes or waits and then closes, as a list says, one a request."""
    listener, plan, asked = socket.create_server(("127.0.0.1", 0)), [], []

    def serve():
        while plan:
            connection, _ = listener.accept()
            with connection:
                while plan and (data := connection.recv(65536)):
                    asked.append(data)
                    what = plan.pop(0)
                    if what != "answer":
                        time.sleep(0.5 if what == "wait" else 0)
                        break
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def start(*what):
        plan[:] = what
        threading.Thread(target=serve, daemon=True).start()
        load = Load(f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=60)
        return load, load.connect(), asked

    yield start
    listener.close()


def test_a_request_that_was_on_its_way_when_the_server_closed_is_sent_again_once(server):
    """nginx closes idle connections at a reload; the next request may be on its way by then."""
    load, connection, asked = server("answer", "close", "answer")
    for _ in range(2):
        assert load.request(connection, "GET", "/") == b"{}"
    assert len(asked) == 3 and load.counts["closed"] == 1


@pytest.mark.parametrize(
    "plan", [("answer", "close", "close"), ("answer", "wait", "answer"), ("close", "answer")]
)
def test_a_request_that_is_cut_off_fails(server, plan):
    """By a server that goes, or loses what it has begun; and on a connection that is new."""
    load, connection, _ = server(*plan)
    with pytest.raises(http.client.RemoteDisconnected):
        for _ in range(2):
            load.request(connection, "GET", "/")
