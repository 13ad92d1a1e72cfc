"""What the toolkit costs and gives, compared with the tutorial by hand, in one run.

    python bench/provision.py [--runs N] [--rounds N] [--seconds S]

Called by `make bench NAME=provision`, inside the engine of tools/hosts. Both sides start from equal
fresh Debian 13 hosts and take turns. Four claims, each a ratio or a count of this run alone:

- provisioning: seconds from a bare host until GET /health is answered, site.yml over SSH with
  Ansible and nginx included, against bench/tutorial.sh with its sqlite and local files;
- the second site.yml: seconds, and commands that the host's sshd was asked to run, each a round
  trip: every module is one, and so is the search for Python;
- memory at rest, on one and the same PostgreSQL server: PSS of all processes of the server, nginx's
  included, against those of the tutorial's command;
- throughput on that PostgreSQL: answered calls of log-metric and of log-batch, 16 clients, the
  other server frozen. The ratio is the lower one of the two kinds.

Figures are medians; bench/results/provision.json has the single ones as well. Exits with 1 if a
claim does not hold.
"""

import argparse
import collections
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

import matplotlib
from hosts import PORT, ROOT, WORK, Host, make_image, output, podman, say

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402 - after the choice of what it draws with

RESULT = ROOT / "bench/results/provision.json"
PLOT = ROOT / "docs/provision.png"
VERSION = "3.17.2"
CLIENTS = 16

# Name in the results: (limit, whether it is the most or the least, what it is).
CLAIMS = {
    "ratio": (0.5, "at most", "time to a served MLflow, ours of the tutorial's"),
    "second_run_s": (7, "at most", "seconds of the second site.yml"),
    "module_runs": (16, "at most", "round trips of the second site.yml"),
    "memory_ratio": (0.3, "at most", "memory at rest, ours of the tutorial's"),
    "throughput_ratio": (1, "at least", "calls a second, ours of the tutorial's"),
}


def start_tutorial(host: Host, log: str, *options: str) -> float:
    """Do the tutorial on a host and return the seconds until it serves.

    Args:
        log: Name of the file that takes what it says.
        options: For `mlflow server`.
    """
    podman("cp", str(ROOT / "bench/tutorial.sh"), f"{host.name}:/root/tutorial.sh")
    # A unit of its own tells its processes from all others.
    command = ["podman", "exec", host.name, "systemd-run", "--unit=tutorial", "--collect",
               "--quiet", "--pipe", "--wait", "--setenv=HOME=/root",
               f"--setenv=MLFLOW_VERSION={VERSION}", "sh", "/root/tutorial.sh",
               *options]  # fmt: skip
    path = WORK / f"{log}.log"
    begun = time.monotonic()
    with path.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    host.wait_until_served(process, path)
    return time.monotonic() - begun


def start_ours(host: Host, log: str, inventory: dict | None = None) -> tuple[float, str]:
    """Run site.yml against a host; return the seconds until it serves, and what site.yml said.

    Args:
        log: Name of the file that takes that.
        inventory: More of it, besides the host's own variables.
    """
    variables = host.variables | {
        "mlflow_venv_version": VERSION,
        "mlflow_server_listen_address": "0.0.0.0",
        "mlflow_server_port": PORT,
        "mlflow_server_public_names": [host.address],
        "mlflow_server_allow_anonymous": True,
    }
    groups = {"mlflow": {"hosts": {host.name: variables}}} | (inventory or {})
    (WORK / "hosts.json").write_text(json.dumps(groups))
    path = WORK / f"{log}.log"
    command = ["ansible-playbook", f"--inventory={WORK / 'hosts.json'}", "site.yml"]
    environment = {
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        # A connection that an earlier run has left open would be a present to this one.
        "ANSIBLE_SSH_CONTROL_PATH_DIR": tempfile.mkdtemp(prefix="ssh-"),
    }
    begun = time.monotonic()
    with path.open("w") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | environment,
        )
        code = process.wait()
    if code:
        sys.exit(f"Wanted site.yml to succeed; found rc {code}:\n{path.read_text()[-3000:]}")
    host.wait_until_served(process, path)
    return time.monotonic() - begun, path.read_text()


def tasks(said: str) -> list[str]:
    """Return the tasks that took longest, as `seconds  task`, of what profile_tasks said."""
    lines = re.findall(r"(?m)^(\S.*?) -+ +([\d.]+)s$", said)
    return [f"{float(seconds):6.2f}  {task}" for task, seconds in lines[:12]]


def provision(runs: int, raw: dict) -> Host:
    """Measure provisioning and the second run; return a host on which the tutorial was done."""
    for number in range(1, runs + 1):
        say(f"Provisioning, {number} of {runs}: the tutorial by hand")
        tutorial = Host("tutorial")
        sqlite = ["--backend-store-uri", "sqlite:///mlflow.db"]
        raw["tutorial_s"].append(start_tutorial(tutorial, "tutorial", *sqlite))
        tutorial.run("systemctl", "stop", "tutorial")

        say(f"Provisioning, {number} of {runs}: site.yml, then site.yml again")
        ours = Host("ours")
        seconds, said = start_ours(ours, "first")
        raw["ours_s"].append(seconds)
        raw["first_run_tasks"].append(tasks(said))
        before = ours.commands()
        seconds, said = start_ours(ours, "second")
        if not re.search(rf"(?m)^{ours.name} .* changed=0 ", said):
            sys.exit(f"Wanted changed=0 of the second site.yml; found:\n{said[-3000:]}")
        raw["second_run_s"].append(seconds)
        raw["second_run_tasks"].append(tasks(said))
        raw["module_runs"].append(ours.commands() - before)
    return tutorial


def start_both_on_postgresql(tutorial: Host) -> Host:
    """Start both sides on one PostgreSQL server, a database each, and return the host of ours.

    Args:
        tutorial: A host on which the tutorial was done.
    """
    say("Both on one PostgreSQL server")
    password = secrets.token_hex(16)
    database, ours = Host("database"), Host("ours")
    networks = {"postgresql_allowed_networks": ["samenet"]}
    variables = {
        "mlflow_server_database_host": database.address,
        "mlflow_server_database_owner_password": password,
        "mlflow_server_database_logins": [{"name": "ours", "password": password}],
    }
    groups = {"database": {"hosts": {database.name: database.variables | networks}}}
    start_ours(ours, "postgresql", groups | {"all": {"vars": variables}})
    for statement in (
        f"CREATE ROLE tutorial LOGIN PASSWORD '{password}'",
        "CREATE DATABASE tutorial OWNER tutorial",
    ):
        database.run("runuser", "--user=postgres", "--", "psql", "--quiet", "-c", statement)
    # `postgresql://`, as the tutorial has it, asks for a driver that it does not install.
    uri = f"postgresql+psycopg2://tutorial:{password}@{database.address}/tutorial"
    start_tutorial(tutorial, "tutorial-postgresql", "--backend-store-uri", uri)
    return ours


def load(host: Host, kind: str, seconds: float, *options: str) -> float:
    """Load a server with calls of one kind and return how many it answered a second."""
    said = output(sys.executable, str(ROOT / "tests/support/load.py"), host.url, f"--write={kind}",
                  f"--seconds={seconds}", f"--threads={CLIENTS}", *options)  # fmt: skip
    counts = json.loads(said.splitlines()[-1])
    if counts["failed"]:
        sys.exit(f"Wanted every call answered by {host.name}; found {counts['errors']}.")
    return counts["written"] / counts["seconds"]


def compare(tutorial: Host, ours: Host, rounds: int, seconds: float, raw: dict) -> None:
    """Measure memory and throughput of both sides.

    Args:
        rounds: How often each side is loaded with each kind of call.
        seconds: How long each time.
    """
    say("Memory at rest")
    raw["tutorial_bytes"].append(tutorial.memory("tutorial.service"))
    raw["ours_bytes"].append(ours.memory("mlflow-blue.service", "nginx.service"))

    podman("pause", tutorial.name, ours.name)
    # The first round is the warming up.
    for number in range(rounds + 1):
        say(f"Throughput, {number} of {rounds}" if number else "Throughput, warming up")
        for kind in ("metric", "batch"):
            for side, host in (("tutorial", tutorial), ("ours", ours)):
                podman("unpause", host.name)
                rate = load(host, kind, seconds if number else 3)
                podman("pause", host.name)
                if number:
                    raw[f"{side}_{kind}_per_s"].append(rate)


def summary(raw: dict, ours: Host) -> dict:
    """Return the results: medians, ratios and what was compared."""
    median = {name: statistics.median(raw[name]) for name in raw if not name.endswith("tasks")}

    def ratio(name: str) -> float:
        return median[f"ours_{name}"] / median[f"tutorial_{name}"]

    return {
        "ratio": round(ratio("s"), 3),
        "ours_s": round(median["ours_s"], 1),
        "tutorial_s": round(median["tutorial_s"], 1),
        "second_run_s": round(median["second_run_s"], 2),
        "module_runs": median["module_runs"],
        "memory_ratio": round(ratio("bytes"), 3),
        "throughput_ratio": round(min(ratio("metric_per_s"), ratio("batch_per_s")), 3),
        "runs": {
            name: [round(value, 2) if isinstance(value, float) else value for value in values]
            for name, values in raw.items()
        },
        "versions": versions(ours),
        "cores": os.cpu_count(),
    }


def versions(host: Host) -> dict:
    """Return the versions of all that was measured."""

    def package(name: str, on: Host = host) -> str:
        return on.run("dpkg-query", "--show", "--showformat=${Version}", name)

    return {
        "mlflow": VERSION,
        "ansible": version("ansible"),
        "python": host.run("python3", "-c", "import platform; print(platform.python_version())"),
        "debian": host.run("cat", "/etc/debian_version"),
        "systemd": package("systemd"),
        "nginx": package("nginx"),
    }


def draw(raw: dict) -> None:
    """Draw both sides' medians, and each run as a dot."""
    panels = [
        ("Bare host to served, s", "s", 1),
        ("Memory at rest, MB", "bytes", 1e-6),
        ("log-metric, calls/s", "metric_per_s", 1),
        ("log-batch, calls/s", "batch_per_s", 1),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(11, 3.4), layout="constrained")
    for axis, (title, name, factor) in zip(axes, panels, strict=True):
        for place, side in enumerate(("tutorial", "ours")):
            values = [value * factor for value in raw[f"{side}_{name}"]]
            bars = axis.bar(place, statistics.median(values), color=("#b0b0b0", "#0194e2")[place])
            axis.bar_label(bars, fmt="%.0f", padding=3)
            axis.plot([place] * len(values), values, "k.", markersize=3)
        axis.set_title(title, fontsize=10)
        axis.set_xticks((0, 1), ("tutorial", "site.yml"))
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=120)


def show(results: dict) -> None:
    """Print where the time goes, then the medians as a table."""
    raw = results["runs"]
    for name, title in (("first", "the first site.yml"), ("second", "the second site.yml")):
        say(f"Where the time of {title} goes, s")
        print(*raw[f"{name}_run_tasks"][-1], sep="\n")
    say("Medians")
    print(f"{'':28}{'tutorial':>10}{'ours':>10}")
    for title, name, factor in (
        ("bare host to served, s", "s", 1),
        ("memory at rest, MB", "bytes", 1e-6),
        ("log-metric, calls/s", "metric_per_s", 1),
        ("log-batch, calls/s", "batch_per_s", 1),
    ):
        pair = [statistics.median(raw[f"{side}_{name}"]) * factor for side in ("tutorial", "ours")]
        print(f"{title:28}{pair[0]:10.1f}{pair[1]:10.1f}")
    say("Claims")
    for name, (limit, bound, title) in CLAIMS.items():
        held = "holds" if holds(results, name) else "DOES NOT HOLD"
        print(f"{name:18}{results[name]:8g}  {bound} {limit:g}: {held}  ({title})")


def holds(results: dict, name: str) -> bool:
    limit, bound, _ = CLAIMS[name]
    return results[name] <= limit if bound == "at most" else results[name] >= limit


def main(runs: int, rounds: int, seconds: float) -> None:
    raw = collections.defaultdict(list)
    try:
        make_image()
        tutorial = provision(runs, raw)
        ours = start_both_on_postgresql(tutorial)
        compare(tutorial, ours, rounds, seconds, raw)
        podman("unpause", ours.name)
        results = summary(raw, ours)
    finally:
        for name in ("tutorial", "ours", "database"):
            podman("rm", "--force", "--ignore", "--time=0", f"bench-{name}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    draw(raw)
    show(results)
    for name in (name for name in CLAIMS if not holds(results, name)):
        limit, bound, title = CLAIMS[name]
        sys.exit(
            f"Wanted {name} ({title}) {bound} {limit:g}; found {results[name]:g}; see above where "
            "the time goes, and run it again if the machine was busy."
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="of the provisioning (3)")
    parser.add_argument("--rounds", type=int, default=5, help="of the load (5)")
    parser.add_argument("--seconds", type=float, default=10, help="of each load (10)")
    main(**vars(parser.parse_args()))
