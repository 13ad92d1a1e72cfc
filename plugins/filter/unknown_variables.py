"""Inventory variables that look like ours but are not, and so would have no effect."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import yaml
from ansible.utils.display import Display

ROLES = Path(__file__).resolve().parents[2] / "roles"
# Other roles may be in the same folder.
OURS = ("aws_credentials", "mlflow_client", "mlflow_server", "mlflow_venv")
# Another author's role may share these names, so only near misses are reported.
SHARED = ("debian_packages", "firewall", "nginx", "postgresql")


@functools.cache
def known_variables(role: str) -> frozenset[str]:
    """Return the variables of a role that operators may set or that its tasks set or register."""
    specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())
    known = {name for entry in specs["argument_specs"].values() for name in entry["options"]}
    for path in (ROLES / role / "tasks").glob("*.yml"):
        for task in yaml.safe_load(path.read_text()):
            known |= {task.get("register", "")} | set(task.get("ansible.builtin.set_fact", {}))
    return frozenset(known)


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return the variables that have the prefix of one of our roles but are unknown to it.

    Each with the likely intended one, if any. What may belong to another role is not returned;
    it only causes a warning.
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
