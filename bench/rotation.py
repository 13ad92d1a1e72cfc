"""What a rotation of credentials costs clients that go on writing, and how long it takes.

    python bench/rotation.py [--rotations N] [--writes N] [--clients N]

Called by `make bench NAME=rotation`, inside the engine of tools/hosts. Tracking servers on fresh
Debian 13 hosts, reached over SSH, with one PostgreSQL server and one S3 server; moto is IAM. The
load writes metrics and artifacts through each server's nginx, over raw HTTP and without a retry.

- AWS keys, on one server and on two: writes that failed; seconds from when a server got the new
  key until S3 saw its last request with the old one; whether S3 refuses the old key afterwards;
- the database's password, on two servers: writes that failed; sessions of the old role that are
  left; whether the database refuses the old password afterwards;
- the control, which shows that the load can fail: one plain stop and start of a server;
- wall time of a rotation, for one server and for client hosts that are all changed at once.

bench/results/rotation.json has the figures. Exits with 1 if a claim does not hold.
"""

import argparse
import base64
import json
import math
import os
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path

from hosts import ROOT, WORK, Host, make_image, podman, say

sys.path.append(str(ROOT / "tests/support"))
from fleet import Fleet  # noqa: E402 - in tests/support/, where the scenario has it from
from iam import iam  # noqa: E402

RESULT = ROOT / "bench/results/rotation.json"
CLIENT_IMAGE = "localhost/mlflow-ansible/bench-client"
ROTATE_KEY = "playbooks/rotate_aws_credentials.yml"
ROTATE_PASSWORD = "playbooks/rotate_database_password.yml"
BUCKET = "rotation"
OTHER = {"mlflow_a": "mlflow_b", "mlflow_b": "mlflow_a"}
# Between two writes of one of four threads, for each server.
PAUSE_SECONDS = 0.02
# A server is ready some seconds after it has started.
CONTROL_SECONDS = 30

# Path in the results: (limit, whether it is the most or the least, what it is).
CLAIMS = {
    "aws.failed": (0, "at most", "writes that failed while AWS keys rotated"),
    "aws.refused_requests": (0, "at most", "requests of servers that S3 refused"),
    "aws.old_key_last_seen_s": (60, "at most", "seconds that the old key was still used"),
    "aws.slowest_request_s": (30, "at most", "seconds of the slowest request to S3 meanwhile"),
    "aws.old_keys_accepted": (0, "at most", "old keys that S3 accepts afterwards"),
    "database.failed": (0, "at most", "writes that failed while passwords rotated"),
    "database.old_sessions": (0, "at most", "sessions of the old role that were left"),
    "database.old_passwords_accepted": (0, "at most", "old passwords that are accepted afterwards"),
    "control.failed": (1, "at least", "writes that failed in a plain stop and start"),
}


class Bench:
    """The hosts, and what the operator has in the vault.

    Args:
        rotations: How often each kind of credential rotates in a series.
        writes: How many writes a series has at least.
    """

    def __init__(self, rotations: int, writes: int):
        self.rotations, self.writes = rotations, writes
        self.stores = Host("stores")
        self.servers: list[Host] = []
        self.clients: list[Host] = []
        self.key = ("AKIABENCHKEY00000000", secrets.token_urlsafe(30))
        self.passwords = {name: secrets.token_urlsafe(30) for name in OTHER}
        self.fleet = Fleet(str(WORK / "rotation.json"), [], self.stores.name)
        # Connections of an earlier run would be a present to this one.
        self.fleet.environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = tempfile.mkdtemp(prefix="ssh-")

    def write_inventory(self) -> None:
        """Write the inventory of the hosts that there are, with the vault's present secrets."""
        server = {
            "mlflow_server_database_host": self.stores.address,
            "mlflow_server_database_owner_password": self.passwords["mlflow_a"],
            "mlflow_server_database_logins": [
                {"name": name, "password": password} for name, password in self.passwords.items()
            ],
            "mlflow_server_secret_environment": {
                "MLFLOW_CRYPTO_KEK_PASSPHRASE": "bench" * 8,
                "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.b64encode(b"bench---" * 4).decode(),
            },
            "mlflow_server_artifacts_destination": f"s3://{BUCKET}/mlflow",
        }
        client = {"mlflow_client_user": "ada", "aws_credentials_probe_uri": f"s3://{BUCKET}/ada"}
        stores = self.stores.variables | {
            "postgresql_allowed_networks": ["samenet"],
            "s3_buckets": [BUCKET],
            "s3_first_key": {"id": self.key[0], "secret": self.key[1]},
        }
        certificate = WORK / f"{self.stores.name}.pem"
        every = {
            "test_certificates": str(WORK),
            "aws_credentials_mode": "static",
            "aws_credentials_access_key_id": self.key[0],
            "aws_credentials_secret_access_key": self.key[1],
            "aws_credentials_iam_user": "mlflow",
            "aws_credentials_endpoint_url": f"https://{self.stores.name}:9000",
            "aws_credentials_ca": f"{{{{ lookup('ansible.builtin.file', '{certificate}') }}}}",
        }
        groups = {
            "mlflow": {host.name: host.variables | server for host in self.servers},
            "mlflow_clients": {host.name: host.variables | client for host in self.clients},
            "database": {self.stores.name: stores},
            "s3": {self.stores.name: stores},
        }
        inventory = {name: {"hosts": hosts} for name, hosts in groups.items() if hosts}
        text = json.dumps(inventory | {"all": {"vars": every}})
        Path(self.fleet.inventory).write_text(text)
        self.fleet.servers = [host.name for host in self.servers]

    def make_stores(self) -> None:
        self.write_inventory()
        self.fleet.succeed("molecule/shared/certificates.yml")
        self.fleet.succeed("molecule/shared/s3_with_changing_keys.yml", "--become")

    def make_server(self, name: str) -> None:
        self.servers.append(Host(name))
        self.write_inventory()
        self.fleet.succeed("site.yml")

    def load(self):
        """Load the servers, until each has its part of the writes.

        The pauses leave the machine, which is all the hosts and the operator's too, some of its
        cores: what takes long then does so because of the rotation.
        """
        each = math.ceil(self.writes / len(self.servers))
        return self.fleet.load(f"--at-least={each}", f"--pause={PAUSE_SECONDS * len(self.servers)}")

    def rotate(self, playbook: str) -> float:
        """Run a playbook with what is in the vault now and return the seconds that it took."""
        self.write_inventory()
        begun = time.monotonic()
        self.fleet.succeed(playbook)
        return time.monotonic() - begun

    def rotate_key(self, account) -> float:
        """Give everything a new key and return the seconds that it took."""
        self.key = account.make_key()
        account.wait_for_s3()
        return self.rotate(ROTATE_KEY)

    def rotate_keys(self, account) -> dict:
        """Rotate AWS keys under load, and return what came of it."""
        fleet, result = self.fleet, {"hosts": len(self.servers), "rotations": self.rotations}
        walls, seen, accepted, begun = [], [], 0, time.time()
        with self.load() as counts:
            for number in range(1, self.rotations + 1):
                say(f"AWS keys, {len(self.servers)} server(s): {number} of {self.rotations}")
                old = self.key
                walls.append(self.rotate_key(account))
                seen += [fleet.old_key_last_seen(host, old[0]) for host in fleet.servers]
                account.wait_for_s3()
                accepted += fleet.s3.answer_to(*old, BUCKET) != "InvalidAccessKeyId"
                account.delete_key(old[0])
        stopped_at = [fleet.s3.address_of(host) for host in fleet.servers]
        requests = [each for each in fleet.s3.requests(begun) if each.address in stopped_at]
        return result | {
            "writes": counts["written"] + counts["failed"],
            "failed": counts["failed"],
            "old_key_last_seen_s": round(max(seen), 2),
            "old_keys_accepted": accepted,
            "refused_requests": sum(each.status == 403 for each in requests),
            "slowest_request_s": round(max(each.seconds for each in requests), 2),
            "wall_s": [round(wall, 1) for wall in walls],
        }

    def rotate_passwords(self) -> dict:
        """Rotate the database's password under load, and return what came of it."""
        fleet, walls, sessions, accepted = self.fleet, [], 0, 0
        with self.load() as counts:
            for number in range(1, self.rotations + 1):
                say(f"Database, {len(self.servers)} server(s): {number} of {self.rotations}")
                old = fleet.serving(fleet.servers[0])["login"]
                password = self.passwords[old]
                self.passwords[OTHER[old]] = secrets.token_urlsafe(30)
                walls.append(self.rotate(ROTATE_PASSWORD))
                sessions += fleet.sessions(old)
                accepted += fleet.can_log_in(old, password)
        return {
            "hosts": len(self.servers),
            "rotations": self.rotations,
            "writes": counts["written"] + counts["failed"],
            "failed": counts["failed"],
            "old_sessions": sessions,
            "old_passwords_accepted": accepted,
            "wall_s": [round(wall, 1) for wall in walls],
        }

    def stop_and_start(self) -> dict:
        """Stop and start each server under load, and return what came of it."""
        say("The control: a plain stop and start")
        with self.fleet.load() as counts:
            for host in self.fleet.servers:
                unit = f"mlflow-{self.fleet.look(host)['serving']}"
                self.fleet.on(host, "systemctl", "stop", unit)
                self.fleet.on(host, "systemctl", "start", unit)
            time.sleep(CONTROL_SECONDS)
        return {"writes": counts["written"] + counts["failed"], "failed": counts["failed"]}

    def rotate_clients(self, account, count: int) -> float:
        """Give clients a new key, all at once, and return the seconds that it took."""
        say(f"{count} clients")
        for host in self.servers:
            podman("rm", "--force", "--time=0", host.name)
        self.servers = []
        first = Host("client")
        first.run("useradd", "--create-home", "--shell=/bin/bash", "ada")
        self.clients = [first]
        self.write_inventory()
        self.fleet.succeed("playbooks/client.yml")
        podman("commit", "--quiet", first.name, CLIENT_IMAGE)
        podman("rm", "--force", "--time=0", first.name)
        self.clients = [Host(f"client-{number}", CLIENT_IMAGE) for number in range(count)]
        seconds = self.rotate_key(account)
        for host in self.clients:
            if self.key[0] not in host.run("cat", "/home/ada/.aws/credentials"):
                sys.exit(f"Wanted the new key on {host.name}; found another.")
        return seconds


def total(series: list[dict]) -> dict:
    """Return the figures of all series as one: sums, and the worst of what is no sum."""
    names = ("writes", "failed", "rotations", "old_keys_accepted", "refused_requests")
    worst = ("hosts", "old_key_last_seen_s", "slowest_request_s")
    return {name: sum(each[name] for each in series) for name in names} | {
        name: max(each[name] for each in series) for name in worst
    }


def holds(results: dict, name: str) -> bool:
    limit, bound, _ = CLAIMS[name]
    value = figure(results, name)
    return value <= limit if bound == "at most" else value >= limit


def figure(results: dict, name: str) -> float:
    part, _, key = name.partition(".")
    return results[part][key]


def main(rotations: int, writes: int, clients: int) -> None:
    try:
        make_image()
        bench = Bench(rotations, writes)
        say("Stores, and a server")
        bench.make_stores()
        bench.make_server("one")
        with iam(bench.fleet.s3, *bench.key) as account:
            bench.fleet.environment |= account.environment
            wall = {"one_server": round(bench.rotate_key(account), 1)}
            for name in list(account.status().keys() - {bench.key[0]}):
                account.delete_key(name)
            series = [bench.rotate_keys(account)]
            say("Another server")
            bench.make_server("two")
            series.append(bench.rotate_keys(account))
            database = bench.rotate_passwords()
            control = bench.stop_and_start()
            wall[f"{clients}_clients"] = round(bench.rotate_clients(account, clients), 1)
    finally:
        names = ("stores", "one", "two", "client", *(f"client-{n}" for n in range(clients)))
        podman("rm", "--force", "--ignore", "--time=0", *(f"bench-{name}" for name in names))
    results = {
        "aws": total(series) | {"series": series},
        "database": database,
        "control": control,
        "wall_s": wall
        | {
            "one_server_under_load": statistics.median(series[0]["wall_s"]),
            "two_servers_under_load": statistics.median(series[1]["wall_s"]),
            "password_two_servers_under_load": statistics.median(database["wall_s"]),
        },
        "cores": os.cpu_count(),
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    say("Wall times, s")
    for name, seconds in results["wall_s"].items():
        print(f"{name:34}{seconds:8.1f}")
    say("Claims")
    for name, (limit, bound, title) in CLAIMS.items():
        held = "holds" if holds(results, name) else "DOES NOT HOLD"
        print(f"{name:34}{figure(results, name):8g}  {bound} {limit:g}: {held}  ({title})")
    for name in (name for name in CLAIMS if not holds(results, name)):
        limit, bound, title = CLAIMS[name]
        sys.exit(
            f"Wanted {name} ({title}) {bound} {limit:g}; found {figure(results, name):g}; see "
            f"{RESULT}."
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotations", type=int, default=4)
    parser.add_argument("--writes", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=10)
    options = parser.parse_args()
    main(options.rotations, options.writes, options.clients)
