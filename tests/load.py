"""Write to an MLflow server without a single retry and count what failed.

The MLflow client retries seven times and so hides what a change of the server costs its users;
this does not. Each thread logs metrics over connections of its own and now and then puts, gets
and deletes an artifact. Stops on SIGTERM or after --seconds and prints one line of JSON.
"""

import argparse
import http.client
import json
import signal
import threading
import time
import uuid
from collections import Counter
from urllib.parse import urlsplit


class Load:
    """Counts of one load.

    Args:
        url: Address of the server, http://HOST:PORT.
        seconds: How long the load lasts at most.
    """

    def __init__(self, url: str, seconds: float):
        self.host = urlsplit(url).netloc
        self.until = time.monotonic() + seconds
        self.stopped = threading.Event()
        self.counts = Counter()
        self.errors = Counter()
        self.slowest_s = 0.0
        self.lock = threading.Lock()

    def request(self, connection, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send one request; raise OSError or HTTPException unless it is answered with 200."""
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"{method} {path.split('?')[0]}: {response.status}")
        return answer

    def api(self, connection, call: str, **fields) -> dict:
        path = f"/api/2.0/mlflow/{call}"
        return json.loads(self.request(connection, "POST", path, json.dumps(fields).encode()))

    def start_run(self) -> str:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        name = f"load-{uuid.uuid4().hex[:8]}"
        experiment = self.api(connection, "experiments/create", name=name)["experiment_id"]
        run = self.api(connection, "runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        connection.close()
        return run

    def write(self, connection, run: str, turn: int) -> None:
        if turn % 20:
            self.api(
                connection,
                "runs/log-metric",
                run_id=run,
                key="m",
                value=turn,
                timestamp=int(time.time() * 1000),
                step=turn,
            )
            return
        path = f"/api/2.0/mlflow-artifacts/artifacts/load/{run}-{threading.get_ident()}"
        sent = f"{turn}".encode() * 1000
        self.request(connection, "PUT", path, sent)
        if self.request(connection, "GET", path) != sent:
            raise http.client.HTTPException("an artifact came back changed")
        self.request(connection, "DELETE", path)

    def work(self, run: str) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        turn = 0
        while not self.stopped.is_set() and time.monotonic() < self.until:
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
                time.sleep(0.05)  # a refused connection costs nothing: do not spin
        connection.close()

    def run(self, threads: int) -> dict:
        """Load with that many threads and return the counts."""
        run = self.start_run()
        print("loading", flush=True)
        workers = [threading.Thread(target=self.work, args=(run,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return {
            "written": self.counts["written"],
            "failed": self.counts["failed"],
            "slowest_s": round(self.slowest_s, 2),
            "errors": dict(self.errors),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args()
    load = Load(options.url, options.seconds)
    signal.signal(signal.SIGTERM, lambda *_: load.stopped.set())
    print(json.dumps(load.run(options.threads)))
