"""What the guard in front of MLflow's checks costs, on one host in one run.

    python bench/guard.py [--rounds N] [--seconds S]

Called by `make bench NAME=guard`, inside the engine of tools/hosts. site.yml makes a server with
TLS, users and PostgreSQL. Its unit is started in turns as it is and with MLflow's own app in the
place of the guarded one, and each is loaded with calls of log-metric by a user, 16 clients. The
claim is the ratio of the medians; bench/results/guard.json has the single figures as well. Exits
with 1 if it does not hold.
"""

import argparse
import json
import os
import secrets
import ssl
import statistics
import subprocess
import sys
import time
import urllib.request

from hosts import ROOT, WORK, Host, make_image, podman, say
from provision import CLIENTS, load

RESULT = ROOT / "bench/results/guard.json"
LEAST = 0.97
UNIT = "/etc/systemd/system/mlflow-blue.service"


class Server(Host):
    """A host that is served over TLS."""

    url = property(lambda self: f"https://{self.address}")

    def is_served(self) -> bool:
        # The certificate is the host's own.
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5, context=context) as answer:
                return answer.status == 200
        except OSError:
            return False

    def start(self, app: str) -> None:
        """Start the server with an app."""
        self.run("sed", "-i", f"s/--app-name [a-z-]*/--app-name {app}/", UNIT)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "restart", "mlflow-blue")
        until = time.monotonic() + 120
        while not self.is_served():
            if time.monotonic() > until:
                sys.exit(f"Wanted {app} served within 120 s; found that it is not.")
            time.sleep(0.2)


def make_server(user: str, password: str) -> Server:
    """Return a server with a user, made by site.yml."""
    host = Server("guard")
    secret = secrets.token_hex(16)
    variables = host.variables | {
        "mlflow_server_listen_address": "0.0.0.0",
        "mlflow_server_port": 443,
        "mlflow_server_public_names": [host.address],
        "nginx_tls": "self_signed",
        "mlflow_server_authentication": "basic",
        "mlflow_server_admin_password": secrets.token_hex(16),
        "mlflow_server_users": [{"name": user, "password": password}],
        "mlflow_server_database_host": "localhost",
        "mlflow_server_database_owner_password": secret,
        "mlflow_server_database_logins": [{"name": "login", "password": secret}],
    }
    groups = {name: {"hosts": {host.name: variables}} for name in ("mlflow", "database")}
    inventory = WORK / "guard.json"
    inventory.write_text(json.dumps(groups))
    command = ["ansible-playbook", f"--inventory={inventory}", "site.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"Wanted site.yml to succeed; found:\n{done.stdout[-3000:]}")
    return host


def main(rounds: int, seconds: float) -> None:
    raw: dict[str, list[float]] = {"guarded-basic-auth": [], "basic-auth": []}
    user, password = "bench", secrets.token_hex(16)
    try:
        make_image()
        say("A server with users")
        host = make_server(user, password)
        certificate = WORK / "guard.pem"
        certificate.write_text(host.run("cat", "/etc/nginx/tls/mlflow-ca/ca.pem"))
        # The first round is the warming up.
        for number in range(rounds + 1):
            say(f"Throughput, {number} of {rounds}" if number else "Throughput, warming up")
            # Each is first as often as second.
            for app in sorted(raw, reverse=bool(number % 2)):
                host.start(app)
                options = (f"--login={user}:{password}", f"--ca={certificate}")
                load(host, "metric", 3, *options)
                rate = load(host, "metric", seconds if number else 3, *options)
                if number:
                    raw[app].append(round(rate, 1))
    finally:
        podman("rm", "--force", "--ignore", "--time=0", "bench-guard")
    guarded, plain = (statistics.median(raw[app]) for app in raw)
    results = {
        "ratio": round(guarded / plain, 3),
        "guarded_per_s": guarded,
        "plain_per_s": plain,
        "runs": raw,
        "clients": CLIENTS,
        "cores": os.cpu_count(),
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    held = "holds" if results["ratio"] >= LEAST else "DOES NOT HOLD"
    print(
        f"log-metric with the guard, of that without: {results['ratio']}, at least {LEAST}: {held}"
    )
    if results["ratio"] < LEAST:
        sys.exit(f"Wanted a ratio of at least {LEAST}; found {results['ratio']}; see {RESULT}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    main(options.rounds, options.seconds)
