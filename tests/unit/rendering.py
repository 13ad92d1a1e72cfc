"""What roles and playbooks say in Jinja, evaluated by Ansible; an undefined variable is fatal."""

import functools
from pathlib import Path

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

LOADER = DataLoader()


@functools.cache
def load(path: Path):
    """Return what is in a YAML file. It takes longer to read one than to use it."""
    return LOADER.load_from_file(str(path), trusted_as_template=True)


def defaults(role: Path) -> dict:
    """Return the variables of a role that nobody has set."""
    return load(role / "defaults/main.yml") | load(role / "vars/main.yml")


def templar(variables: dict) -> Templar:
    return Templar(loader=LOADER, variables=variables)


def evaluate(expression: str, variables: dict):
    """Return what an expression is with some variables."""
    return templar(variables).template(trust_as_template(f"{{{{ {expression} }}}}"))
