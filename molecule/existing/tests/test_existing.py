"""A host that is in use already is taken over by site.yml, run as README says: from a copy of the
repository, over SSH, with a vault; first killed at drawn tasks. What was there stays as it was.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import psycopg2
import pytest
import scenario
from checkout import Checkout
from control import ROOT, reached
from fleet import KILL, At

NAME = "mlflow.example.com"
LOOK = (ROOT / "molecule/existing/files/look.py").read_text()

# Of the README's team's server, what this host cannot have: RDS and S3 are other machines'.
NOT_HERE = r"(?m)^(mlflow_server_database_(host|ca)|postgresql_|mlflow_server_artifacts_|aws_).*\n"
# The host's own server is the database, and its ports are shared with the shop.
CHOICES = f"""
mlflow_server_database_host: localhost
nginx_server_names: [{NAME}]
firewall_enabled: true
mlflow_server_workers: 1
mlflow_server_users:
  - {{name: ada, password: "{{{{ vault_mlflow_password_ada }}}}"}}
"""
DATABASE = f"""
database:
  hosts:
    {NAME}:
"""

# All tasks that change something of this host, in their order, by words of their names and which of
# several of that name it is: the preflights have the first ones. Each run is killed at one of them,
# drawn as scenario.draw() says.
TASKS = [
    ("Converge | Install what is missing", 1),
    ("Server | Write settings", 2),
    ("Converge | Install what is missing", 2),
    ("Release | Make the release", 2),
    ("Database | Make the database and its roles", 1),
    ("Database | Make the database and its roles", 2),
    ("Install | Create the service group", 1),
    ("Install | Create the service user", 1),
    ("Database | Make MLflow's tables", 1),
    ("Database | Make the tables of users", 1),
    ("Configure | Write what is wanted", 1),
    ("Service | Roll", 1),
    ("Users | Make", 1),
    ("Rules | Try", 3),
    ("Rules | Try", 4),
    ("Site | Write the site", 2),
]
KILLS = 2

# What may differ of the files that were there: accounts, as a user of ours comes and nginx's is in
# its group; what is remembered of libraries; the block at the end of pg_hba.conf.
OURS = re.compile(
    r"/etc/((group|gshadow|passwd|shadow|subuid|subgid)-?|ld\.so\.cache|postgresql/17/main/pg_hba\.conf)"
)

# Ports that are served or SSH's, and the database's and the shop's own server's.
OPEN, CLOSED = [22, 80, 443], [5432, 8080]

DAY = """
import mlflow, pathlib
mlflow.set_experiment("taken over")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    mlflow.log_text("over TLS", "said.txt")
path = mlflow.MlflowClient().download_artifacts(run.info.run_id, "said.txt")
assert pathlib.Path(path).read_text() == "over TLS"
print("logged")
"""


def drawn():
    """Return where and how long after the task's begin to kill, in seconds, in order.

    Nowhere while tools/faults has seeded a fault, such as that one of these tasks is left out.
    """
    if os.environ.get("SEEDED"):
        return []
    draw = scenario.draw()
    tasks = sorted(draw.sample(TASKS, KILLS), key=TASKS.index)
    return [(word, count, draw.choice([0, 0.3])) for word, count in tasks]


def shop(address, port=80):
    """Return what a visitor of the shop gets, by the host's address."""
    with urllib.request.urlopen(f"http://{address}:{port}/", timeout=10) as answer:
        return answer.read().decode()


def orders(address):
    """Return how many orders the shop's database shows to who logs in from another machine."""
    words = {"dbname": "shop", "user": "shop", "password": "of the shop", "sslmode": "require"}
    session = psycopg2.connect(host=address, connect_timeout=5, **words)
    with contextlib.closing(session), session.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders")
        return cursor.fetchone()[0]


def changes(said):
    """Return the names of the tasks that say that they have changed something of the host."""
    return {
        task.partition("]")[0]
        for task in said.split("TASK [")[1:]
        if re.search(rf"(?m)^changed: \[{NAME}\]", task)
    }


@pytest.fixture(scope="module")
def before():
    """What prepare.yml found on the host before anything of ours was there."""
    folder = os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]
    return json.loads(Path(folder, "before.json").read_text())


@pytest.fixture(scope="module")
def after(host, taken_over):
    """The same, found now."""
    return json.loads(host.check_output("python3 -c %s", LOOK))


@pytest.fixture(scope="module")
def checkout(host, tmp_path_factory):
    """The operator's copy, with what README names under "Use it" and "A team's server"."""
    checkout = Checkout(tmp_path_factory.mktemp("operator"), host, "admin")
    readme = (checkout.root / "README.md").read_text()
    (team,) = re.findall(r"(?s)```yaml\n(mlflow_server_database_host:.*?)```", readme)
    checkout.write_hosts(DATABASE)
    checkout.write("group_vars/mlflow/main.yml", re.sub(NOT_HERE, "", team) + CHOICES)
    checkout.encrypt_vault()
    yield checkout
    checkout.hang_up()


@pytest.fixture(scope="module")
def taken_over(host, checkout, request):
    """The host after runs of site.yml that were killed, and one that was not; what that one said.

    Whoever uses what was there before notices none of them.
    """
    refused = checkout.run("ansible-playbook", "site.yml", "--check")
    checkout.write("group_vars/database/main.yml", "postgresql_listen_addresses: ['*']\n")
    open_to_all = reached(checkout.address, *OPEN, *CLOSED)
    assert orders(checkout.address) == 1000
    changed = set()
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    for word, count, seconds in drawn():
        at = At("start", word, count, f"(sleep {seconds}; {KILL}) &")
        code, said = checkout.run("ansible-playbook", "site.yml", at=at)
        last = re.findall(r"TASK \[(.*)\]", said)[-1]
        with capture.global_and_fixture_disabled():
            print(f"\nsite.yml killed {seconds} s after '{word}' began, in '{last}'", flush=True)
        assert code == -9, said[-8000:]
        changed |= changes(said)
        assert shop(checkout.address) == "The shop is open.\n"
    said = checkout.site()
    changed |= changes(said)
    return {"refused": refused, "reached": open_to_all, "said": said, "changed": changed}


def test_what_would_cut_off_the_shop_is_refused(taken_over):
    """With the defaults its clients would no longer reach its database. The run has changed nothing
    yet, and says what to set."""
    code, said = taken_over["refused"]
    assert code == 2, said
    found = "found shop in one that listens on * port 5432; set postgresql_listen_addresses: ['*']"
    assert found in " ".join(said.split())


def test_runs_are_killed_at_each_task_that_changes_something(taken_over):
    """One that is new would never be drawn, and nobody would know."""
    words = [word for word, _ in TASKS]
    assert len(taken_over["changed"]) > 5
    assert [name for name in taken_over["changed"] if not any(w in name for w in words)] == []


def test_what_was_there_is_as_it_was(before, after):
    """To the byte, with mode and owner, and no process was started anew."""
    files = {path: after["files"].get(path) for path in before["files"]}
    changed = {path for path, found in before["files"].items() if files[path] != found}
    assert [path for path in sorted(changed) if not OURS.fullmatch(path)] == []
    assert "/etc/passwd" in changed, "a look that sees no change at all is none"
    for what in ("services", "database", "answers", "crontab"):
        assert after[what] == before[what]


def test_access_to_the_database_is_added_to_and_nothing_else(before, after, host):
    """The shop's rule comes first, as before."""
    text = host.file("/etc/postgresql/17/main/pg_hba.conf").content
    theirs, _, ours = text.partition(b"# BEGIN Ansible")
    path = "/etc/postgresql/17/main/pg_hba.conf"
    mode, owner, digest = before["files"][path].split()
    assert hashlib.sha256(theirs).hexdigest() == digest
    assert after["files"][path].split()[:2] == [mode, owner]
    assert re.findall("(?m)^host.*", ours.decode()) == ["hostssl all all samehost scram-sha-256"]


def test_the_last_message_says_how_a_client_comes(checkout, taken_over, tmp_path):
    """Typed as it is printed: the certificate is fetched, and the real client logs in over TLS by
    the name, at the port that the shop has too."""
    (said,) = re.findall(r"(?s)Next, on a client:\n(.*?PASSWORD=…)\n", taken_over["said"])
    lines = "\n".join(line.strip() for line in said.splitlines())
    login = "export MLFLOW_TRACKING_USERNAME=ada MLFLOW_TRACKING_PASSWORD=$PASSWORD"
    shell, count = re.subn("(?m)^export MLFLOW_TRACKING_USERNAME=.*", login, lines)
    assert count == 1, lines
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{checkout.address} {NAME}\n")
    script = tmp_path / "day.py"
    script.write_text(DAY)
    known = f"mount --bind {hosts} /etc/hosts && cd {tmp_path} && {shell}\npython {script}"
    environment = checkout.environment | {"PASSWORD": checkout.secrets["vault_mlflow_password_ada"]}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", known],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert done.returncode == 0 and "logged" in done.stdout, f"{shell}\n{done.stdout}"


def test_only_ssh_and_what_is_served_is_reached(checkout, taken_over):
    """Of all that listens; before, the database and the shop's own server were reached as well."""
    assert taken_over["reached"] == [*OPEN, *CLOSED]
    assert reached(checkout.address, *OPEN, *CLOSED) == OPEN


def test_a_second_run_from_an_inventory_elsewhere_changes_nothing(checkout, taken_over):
    """README: with group_vars beside it. Whatever the killed runs have left is finished. Without
    pipelining, as where sudo wants a terminal or over Systems Manager.
    """
    elsewhere = checkout.folder / "elsewhere"
    shutil.copytree(checkout.root / "group_vars", elsewhere / "group_vars")
    shutil.copy(checkout.root / "inventory/hosts.yml", elsewhere)
    checkout.environment["ANSIBLE_PIPELINING"] = "false"
    said = checkout.site(f"--inventory={elsewhere / 'hosts.yml'}")
    del checkout.environment["ANSIBLE_PIPELINING"]
    assert re.findall(rf"(?m)^{NAME} .*? changed=(\d+)", said) == ["0"], said


def test_the_firewall_gives_the_host_back(checkout, taken_over):
    """Off by default, it is taken away by the command of its README."""
    said = checkout.site("-e", "firewall_enabled=false", "-e", "firewall_remove=true")
    assert re.findall(rf"(?m)^{NAME} .*? changed=(\d+)", said) == ["1"], said
    assert reached(checkout.address, *OPEN, *CLOSED) == [*OPEN, *CLOSED]
    assert orders(checkout.address) == 1000
