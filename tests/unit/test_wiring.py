"""Which database is a tracking server's, who administers it where, what nobody would use, and what
a host lets in."""

from pathlib import Path

import pytest
import rendering
import yaml

VARS = Path(__file__).resolve().parents[2] / "playbooks/vars"
DATABASE, FIREWALL = VARS / "database.yml", VARS / "firewall.yml"
FRONT = VARS / "front.yml"
SERVER = {
    "inventory_hostname": "server",
    "groups": {"database": ["db"]},
    "hostvars": {"server": {}, "db": {"ansible_host": "10.0.0.5"}},
    "mlflow_server_database_host": "db",
    "mlflow_server_database_port": 5432,
    "mlflow_server_database_name": "mlflow",
    "postgresql_admin_password": "",
}


def wired(name, file=DATABASE, **more):
    return rendering.evaluate(name, SERVER | more | rendering.load(file))


@pytest.mark.parametrize(
    ("host", "groups", "worker", "place"),
    [
        ("db", {"database": ["db"]}, "db", "db:5432/mlflow"),
        ("10.0.0.5", {"database": ["db"]}, "db", "db:5432/mlflow"),
        ("localhost", {"database": ["server"]}, "server", "server:5432/mlflow"),
        ("rds.example.com", {"database": ["db"]}, "server", "rds.example.com:5432/mlflow"),
        ("rds.example.com", {}, "server", "rds.example.com:5432/mlflow"),
    ],
)
def test_a_database_is_administered_on_its_host_or_from_the_server(host, groups, worker, place):
    """And two servers know from the place that they share it, whatever each calls it."""
    more = {"mlflow_server_database_host": host, "groups": groups}
    assert wired("__database_worker", **more) == worker
    assert wired("__database_place", **more) == place


@pytest.mark.parametrize(
    ("host", "password", "ours"),
    [("db", "", True), ("rds", "secret", True), ("rds", "", False), ("", "secret", False)],
)
def test_a_database_without_an_administrator_is_left_to_others(host, password, ours):
    more = {"mlflow_server_database_host": host, "postgresql_admin_password": password}
    assert wired("__database_is_ours", **more) is ours


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ({"database": ["db"]}, ["postgresql_port", "postgresql_ca"]),
        ({"database": ["server"]}, ["postgresql_ca"]),
    ],
)
def test_what_the_operator_sets_and_nobody_heeds_is_found(groups, found):
    """The playbook's variables go before his. The port of a host's own server is that server's."""
    his = {"postgresql_ca": "x", "postgresql_port": 5433, "postgresql_admin_user": "x"}
    hostvars = SERVER["hostvars"] | {"server": his}
    assert wired("__database_overridden", groups=groups, hostvars=hostvars) == found


@pytest.mark.parametrize(
    ("host", "more", "wanted"),
    [
        ("server", {}, [{"port": 5000}]),
        ("server", {"nginx_redirect_port": 80}, [{"port": 5000}, {"port": 80}]),
        ("db", {}, [{"port": 5000}, {"port": 5432, "from": ["10.0.0.0/16"]}]),
        (
            "db",
            {"hostvars": {"db": {"postgresql_port": 5433}}},
            [{"port": 5000}, {"port": 5433, "from": ["10.0.0.0/16"]}],
        ),
    ],
)
def test_a_host_lets_in_what_its_groups_serve(host, more, wanted):
    """The tutorial's security group. `samehost` is no network: it comes over loopback."""
    known = {
        "inventory_hostname": host,
        "mlflow_server_port": 5000,
        "postgresql_allowed_networks": ["10.0.0.0/16", "samehost"],
    }
    rules = wired("__rules_of_tracking + __rules_of_database", FIREWALL, **known | more)
    assert rules == wanted


@pytest.mark.parametrize(
    ("authentication", "asks"),
    [("none", False), ("front", False), ("basic", True), ("oidc", True)],
)
def test_a_large_upload_is_asked_for_its_login_where_there_are_users(authentication, asks):
    """Where there are none the path at which it is asked is not there either."""
    more = {"mlflow_server_authentication": authentication}
    assert wired("nginx_upload_asks_login", FRONT, **more) is asks


def test_a_host_without_a_firewall_is_not_even_asked():
    """Off is the default, and must not cost a round trip."""
    calls = []
    for file in ("playbooks/mlflow.yml", "playbooks/database.yml", "roles/firewall/tasks/main.yml"):
        waiting = list(rendering.load(VARS.parents[1] / file))
        while waiting:
            task = waiting.pop()
            waiting += task.get("tasks", []) + task.get("block", [])
            role = task.get("ansible.builtin.import_role", {})
            of_firewall = role.get("name", "").endswith(".firewall")
            if (of_firewall and role.get("tasks_from") == "preflight") or (
                task.get("ansible.builtin.import_tasks") == "preflight.yml"
            ):
                calls.append(task["when"])
    assert len(calls) == 3
    for call in calls:
        first = call[0] if isinstance(call, list) else call
        assert first == "firewall_enabled | bool or firewall_remove | bool"


def test_what_the_database_has_said_of_its_logins_outlives_what_is_skipped():
    """A task that is skipped overwrites what it would register: a new host then took a login that
    rests. A role that is included, and not imported, is skipped as a whole.
    """
    play = yaml.safe_load((VARS.parent / "mlflow.yml").read_text())[0]
    (users,) = (task for task in play["tasks"] if task["name"] == "Database of users")
    assert "ansible.builtin.include_role" in users


def test_a_rotation_tries_a_key_with_the_python_of_the_clients_virtualenv():
    """Where the inventory does not name that, it is where the role mlflow_client makes it."""
    roles = VARS.parents[1] / "roles"
    default = rendering.load(roles / "mlflow_client/defaults/main.yml")["mlflow_client_virtualenv"]
    wanted = wired("aws_credentials_probe_python", VARS / "key_holders.yml")
    assert wanted == f"{default}/bin/python"
