"""Variables of an inventory that look like ours and are not: nobody would use them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import yaml
from ansible.utils.display import Display

ROLES = Path(__file__).resolve().parents[2] / "roles"
# Others may lie beside them.
OURS = ("aws_credentials", "mlflow_client", "mlflow_server", "mlflow_venv")
# Of a role whose name somebody else's role may have, too, only what is nearly ours is told.
SHARED = ("debian_packages", "firewall", "nginx", "postgresql")


@functools.cache
def known_variables(role: str) -> frozenset[str]:
    """Return what an operator may set of a role, and what its tasks set or register."""
    specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())
    known = {name for entry in specs["argument_specs"].values() for name in entry["options"]}
    for path in (ROLES / role / "tasks").glob("*.yml"):
        for task in yaml.safe_load(path.read_text()):
            known |= {task.get("register", "")} | set(task.get("ansible.builtin.set_fact", {}))
    return frozenset(known)


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return those of these variables that no role of ours knows though they have its name.

    Each with the one that was meant, if that can be told. What may be another role's is not
    returned but warned of.
    """
    names, found = set(names), []
    for role in OURS + SHARED:
        known = known_variables(role)
        for name in sorted(name for name in names - known if name.startswith(f"{role}_")):
            meant = get_close_matches(name, known, 1, 0.85)
            if role in OURS:
                found.append(f"{name} ({meant[0]}?)" if meant else name)
            elif meant:
                Display().warning(
                    f"mlflow-ansible does not use {name}: if {meant[0]} is meant, correct it."
                )
    return found


class FilterModule:
    """Ansible's way to find the filter."""

    def filters(self) -> dict:
        return {"unknown_variables": unknown_variables}
