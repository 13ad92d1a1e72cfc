"""A slip of the pen in an inventory: a setting that nobody uses, such as who is let in."""

from pathlib import Path

import pytest
import unknown_variables as tool
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(tool.Display, "warning", lambda self, text: said.append(text))
    return said


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mlflow_server_wrokers", ["mlflow_server_wrokers (mlflow_server_workers?)"]),
        ("mlflow_venv_verson", ["mlflow_venv_verson (mlflow_venv_version?)"]),
        ("aws_credentials_of_jenkins", ["aws_credentials_of_jenkins"]),
        ("mlflow_server_port", []),
        ("mlflow_server_look", []),
        ("mlflow_venv_lock", []),
        ("mlflow_venv_release", []),
        ("mlflow_bucket", []),
    ],
)
def test_a_variable_with_the_name_of_a_role_of_ours_is_known_to_it(name, found, warnings):
    """What a run has registered is no slip, and a variable of the operator's own neither."""
    assert tool.unknown_variables([name]) == found
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nginx_alowed_networks", "nginx_allowed_networks"),
        ("nginx_tsl", "nginx_tls"),
        ("firewall_enable", "firewall_enabled"),
        ("nginx_vhosts", None),
    ],
)
def test_what_may_be_the_variable_of_another_role_is_told(name, meant, warnings):
    """Many have a role nginx: theirs must not stop us, and ours must not be missed."""
    assert tool.unknown_variables([name]) == []
    assert [f"if {meant} is meant" in text for text in warnings] == ([True] if meant else [])


def test_every_role_of_ours_is_looked_at_and_no_other():
    """One that somebody has installed beside them has its own words for what it takes."""
    ours = {path.parents[1].name for path in ROOT.glob("roles/*/meta/argument_specs.yml")}
    assert set(tool.OURS + tool.SHARED) == ours


def names(value):
    """Return all keys in an inventory or a file of variables."""
    if isinstance(value, dict):
        return set(value).union(*map(names, value.values()))
    return set().union(*map(names, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    "path",
    sorted(
        [
            *ROOT.glob("molecule/*/inventory.yml"),
            *ROOT.glob("group_vars/*/*"),
            *ROOT.glob("demo/*.yml"),
        ]
    ),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_our_own_inventories_have_no_slips(path, warnings):
    """The examples above all: whoever copies one takes its slips along."""
    assert tool.unknown_variables(map(str, names(yaml.safe_load(path.read_text())))) == []
    assert warnings == []
