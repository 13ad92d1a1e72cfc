"""Write to an MLflow server without a single retry and count what failed.

The MLflow client retries seven times and so hides what a change of the server costs its users;
this does not. Each thread logs metrics into a run and over connections of its own; with
`--write mixed` it now and then puts and gets an artifact instead. Stops on SIGTERM, though not
before --at-least writes, or after --seconds, and prints one line of JSON.

What a thread writes is the number of its turn, so that what was acknowledged can be looked up
later: acknowledged() says what that is.

As every HTTP client it makes a connection anew that the server has closed while nothing was under
way, which is no failure; `closed` counts them. A server that closes one may have done so while a
request was on its way, and has not read it then (RFC 9112, section 9.5); it is sent again, once.
Whoever cuts off a request that is under way, or is gone, fails all the same.
"""

import argparse
import base64
import http.client
import json
import signal
import ssl
import threading
import time
import uuid
from collections import Counter
from select import select
from urllib.parse import urlsplit

# So soon the end of a connection is there that was closed before the request came. An answer takes
# longer, and so does its loss.
ON_ITS_WAY_SECONDS = 0.1
# Metrics in one call of log-batch.
BATCH = 100
# In a mixed load, every how many-th turn of a thread is an artifact.
ARTIFACT = 20

# What loads have written, the turns of each run: of metrics, for a tracking database of PostgreSQL;
# of artifacts that are whole, for Python on the host with the folder that is given.
METRICS = "SELECT run_uuid, json_agg(value::int) FROM metrics WHERE key = 'm' GROUP BY run_uuid"
STORED = """
import collections, json, pathlib, sys
found = collections.defaultdict(list)
for path in pathlib.Path(sys.argv[1]).glob("*/*"):
    if path.read_text() == path.name * 1000:
        found[path.parent.name].append(int(path.name))
print(json.dumps(found))
"""


def artifact(run: str, turn: int) -> tuple[str, bytes]:
    """Return path and content of an artifact of a mixed load."""
    return f"load/{run}/{turn}", f"{turn}".encode() * 1000


def acknowledged(counts: dict) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return the turns of each run that a server has said it had written.

    Args:
        counts: What the load printed.

    Returns:
        Those of metrics, each with its turn as value and step, and those of artifacts.
    """
    metrics, artifacts, every = {}, {}, counts["artifact_every"]
    for run, found in counts["runs"].items():
        turns = [turn for turn in range(1, found["turns"] + 1) if turn not in found["failed"]]
        artifacts[run] = [turn for turn in turns if every and not turn % every]
        metrics[run] = [turn for turn in turns if turn not in artifacts[run]]
    return metrics, artifacts


def lost(written: dict[str, list[int]], found: dict[str, list[int]]) -> dict[str, set[int]]:
    """Return the turns of each run that were acknowledged and are not there.

    Raises:
        AssertionError: None was acknowledged.
    """
    assert any(written.values()), "nothing was written"
    missing = {run: set(turns) - set(found.get(run, [])) for run, turns in written.items()}
    return {run: turns for run, turns in missing.items() if turns}


class Load:
    """Counts of one load.

    Args:
        url: Address of the server, http://HOST:PORT or https://HOST:PORT.
        seconds: How long the load lasts at most.
        kind: What is written: `metric`, `batch`, or `mixed` for metrics and artifacts.
        at_least: How many writes there are at least, unless the time is over.
        pause: Seconds between two writes of a thread.
        login: NAME:PASSWORD, sent with each request; nothing if empty.
        ca: File with certificates to trust.
    """

    def __init__(
        self,
        url: str,
        seconds: float,
        kind: str = "mixed",
        at_least: int = 0,
        pause: float = 0,
        login: str = "",
        ca: str | None = None,
    ):
        self.url = urlsplit(url)
        self.tls = ssl.create_default_context(cafile=ca) if self.url.scheme == "https" else None
        self.headers = {"Content-Type": "application/json"}
        if login:
            self.headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        self.seconds = seconds
        self.at_least, self.pause = at_least, pause
        self.artifact_every = ARTIFACT if kind == "mixed" else 0
        self.write = {"metric": self.metric, "batch": self.batch, "mixed": self.mixed}[kind]
        # By run: the last turn, and those that failed.
        self.turns: dict[str, dict] = {}
        self.stopped = threading.Event()
        self.counts = Counter()
        self.errors = Counter()
        self.slowest_s = 0.0
        self.lock = threading.Lock()

    def connect(self) -> http.client.HTTPConnection:
        if self.tls:
            return http.client.HTTPSConnection(self.url.netloc, timeout=60, context=self.tls)
        return http.client.HTTPConnection(self.url.netloc, timeout=60)

    def close(self, connection) -> None:
        """Close a connection that the server has closed."""
        connection.close()
        with self.lock:
            self.counts["closed"] += 1

    def request(self, connection, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send one request; raise OSError or HTTPException unless it is answered with 200."""
        if connection.sock and select([connection.sock], [], [], 0)[0]:
            self.close(connection)

        def send():
            connection.request(method, path, body, self.headers)
            return connection.getresponse()

        used, sent = connection.sock is not None, time.monotonic()
        try:
            response = send()
        except (ConnectionError, ssl.SSLEOFError):
            if not used or time.monotonic() - sent > ON_ITS_WAY_SECONDS:
                raise
            self.close(connection)
            response = send()
        answer = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"{method} {path.split('?')[0]}: {response.status}")
        return answer

    def api(self, connection, call: str, **fields) -> dict:
        path = f"/api/2.0/mlflow/{call}"
        return json.loads(self.request(connection, "POST", path, json.dumps(fields).encode()))

    def start_run(self) -> str:
        connection = self.connect()
        name = f"load-{uuid.uuid4().hex[:8]}"
        experiment = self.api(connection, "experiments/create", name=name)["experiment_id"]
        run = self.api(connection, "runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        connection.close()
        return run

    def fresh(self, key: str, turn: int) -> dict:
        return {"key": key, "value": turn, "timestamp": int(time.time() * 1000), "step": turn}

    def metric(self, connection, run: str, turn: int) -> None:
        self.api(connection, "runs/log-metric", run_id=run, **self.fresh("m", turn))

    def batch(self, connection, run: str, turn: int) -> None:
        metrics = [self.fresh(f"m{number}", turn) for number in range(BATCH)]
        self.api(connection, "runs/log-batch", run_id=run, metrics=metrics)

    def mixed(self, connection, run: str, turn: int) -> None:
        if turn % ARTIFACT:
            self.metric(connection, run, turn)
            return
        name, content = artifact(run, turn)
        path = f"/api/2.0/mlflow-artifacts/artifacts/{name}"
        self.request(connection, "PUT", path, content)
        if self.request(connection, "GET", path) != content:
            raise http.client.HTTPException("an artifact came back changed")

    def is_enough(self) -> bool:
        writes = self.counts["written"] + self.counts["failed"]
        return self.stopped.is_set() and writes >= self.at_least

    def work(self, run: str) -> None:
        connection = self.connect()
        turn, failed = 0, []
        while time.monotonic() < self.until and not self.is_enough():
            turn += 1
            begun = time.monotonic()
            try:
                self.write(connection, run, turn)
                failure = None
            except (OSError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
                connection.close()
            with self.lock:
                self.counts["failed" if failure else "written"] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
                if failure:
                    self.errors[failure] += 1
            if failure:
                failed.append(turn)
                time.sleep(0.05)  # a refused connection costs nothing: do not spin
            if self.pause:
                time.sleep(self.pause)
        connection.close()
        self.turns[run] = {"turns": turn, "failed": failed}

    def run(self, threads: int) -> dict:
        """Load with that many threads and return the counts."""
        runs = [self.start_run() for _ in range(threads)]
        print("loading", flush=True)
        begun = time.monotonic()
        self.until = begun + self.seconds
        workers = [threading.Thread(target=self.work, args=(run,)) for run in runs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return {
            "written": self.counts["written"],
            "failed": self.counts["failed"],
            "closed": self.counts["closed"],
            "seconds": round(time.monotonic() - begun, 2),
            "slowest_s": round(self.slowest_s, 2),
            "errors": dict(self.errors),
            "runs": self.turns,
            "artifact_every": self.artifact_every,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--write", choices=["mixed", "metric", "batch"], default="mixed")
    parser.add_argument("--at-least", type=int, default=0, metavar="WRITES")
    parser.add_argument("--pause", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--login", default="", metavar="NAME:PASSWORD")
    parser.add_argument("--ca", metavar="FILE")
    options = parser.parse_args()
    load = Load(
        options.url,
        options.seconds,
        options.write,
        options.at_least,
        options.pause,
        options.login,
        options.ca,
    )
    signal.signal(signal.SIGTERM, lambda *_: load.stopped.set())
    print(json.dumps(load.run(options.threads)))
