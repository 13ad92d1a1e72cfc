"""Argument specs and defaults of all roles say the same, so that either can be believed."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parents[1] for path in ROOT.glob("roles/*/meta/main.yml"))

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def load(file):
    return yaml.safe_load(file.read_text()) or {}


def entry_points(role):
    return load(role / "meta/argument_specs.yml")["argument_specs"]


def options(role):
    """Return the options of all entry points."""
    return {
        name: o for entry in entry_points(role).values() for name, o in entry["options"].items()
    }


def test_there_are_roles_to_look_at():
    """A moved folder would make the other tests pass without a look."""
    assert {"mlflow_venv"} <= {role.name for role in ROLES}


@each_role
def test_defaults_and_specs_are_equal(role):
    """The spec is what the README shows and Ansible checks, the default is what happens."""
    specified = {name: o["default"] for name, o in options(role).items() if "default" in o}
    assert load(role / "defaults/main.yml") == specified


@each_role
def test_a_variable_says_what_it_is(role):
    """Type and meaning of every one; one without a default is required or may be left out."""
    for name, option in options(role).items():
        assert name.startswith(f"{role.name}_"), name
        assert option.get("description") and option.get("type"), name
        assert not (option.get("required") and "default" in option), name
        if option["type"] == "list":
            assert "elements" in option, name


@each_role
def test_a_default_is_among_the_choices(role):
    """A role that refuses its own default would refuse everybody."""
    for name, option in options(role).items():
        templated = "{{" in str(option.get("default"))  # Ansible itself checks the result
        if "choices" in option and "default" in option and not templated:
            assert option["default"] in option["choices"], name


@each_role
def test_an_entry_point_lists_what_is_its_own(role):
    """Or all of main's, if a playbook begins with it. Half of them would pass for a check."""
    specs = entry_points(role)
    assert specs.get("preflight", specs["main"])["options"] == specs["main"]["options"]
    for name in specs.keys() - {"main", "preflight"}:
        shared = [o for o in specs["main"]["options"] if o in specs[name]["options"]]
        assert all(specs[name]["options"][o] == specs["main"]["options"][o] for o in shared)
        assert len(shared) in (0, len(specs["main"]["options"])), name
        assert (role / f"tasks/{name}.yml").exists(), name


@each_role
def test_a_variable_is_used(role):
    """A variable that nothing reads promises what does not happen."""
    files = [
        p
        for d in ("tasks", "templates", "vars", "defaults", "handlers")
        for p in role.glob(f"{d}/*")
    ]
    text = "\n".join(re.sub(r"^\w+:", "", p.read_text(), flags=re.MULTILINE) for p in files)
    assert [name for name in options(role) if name not in text] == []
