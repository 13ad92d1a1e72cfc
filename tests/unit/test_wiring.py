"""Which database is a tracking server's, who administers it where, and what nobody would heed."""

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

WIRING = Path(__file__).resolve().parents[2] / "playbooks/vars/database.yml"
SERVER = {
    "inventory_hostname": "server",
    "groups": {"database": ["db"]},
    "hostvars": {"server": {}, "db": {"ansible_host": "10.0.0.5"}},
    "mlflow_server_database_host": "db",
    "mlflow_server_database_port": 5432,
    "mlflow_server_database_name": "mlflow",
    "postgresql_admin_password": "",
}


def wired(name, **more):
    loader = DataLoader()
    known = loader.load_from_file(str(WIRING), trusted_as_template=True)
    templar = Templar(loader=loader, variables=SERVER | more | known)
    return templar.template(trust_as_template(f"{{{{ {name} }}}}"))


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
    assert wired("database_worker", **more) == worker
    assert wired("database_place", **more) == place


@pytest.mark.parametrize(
    ("host", "password", "ours"),
    [("db", "", True), ("rds", "secret", True), ("rds", "", False), ("", "secret", False)],
)
def test_a_database_without_an_administrator_is_left_to_others(host, password, ours):
    more = {"mlflow_server_database_host": host, "postgresql_admin_password": password}
    assert wired("database_is_ours", **more) is ours


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
    assert wired("database_overridden", groups=groups, hostvars=hostvars) == found
