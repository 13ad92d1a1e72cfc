"""Environment files of a unit. A lookup of a template would copy all variables, 0.1 s a file."""

from __future__ import annotations

import textwrap

ESCAPED = str.maketrans({character: f"\\{character}" for character in '\\"$`'})


def systemd_environment(settings: dict, comment: str = "Managed by Ansible.") -> str:
    """Return an environment file as systemd reads it: EnvironmentFile= in systemd.exec(5).

    Args:
        settings: Values by the names of the variables, each taken for text.
        comment: What the file says of itself; lines are made of it here.
    """
    lines = [f"# {line}" for line in textwrap.wrap(comment, 98)]
    lines += [f'{name}="{str(settings[name]).translate(ESCAPED)}"' for name in sorted(settings)]
    return "".join(f"{line}\n" for line in lines)


class FilterModule:
    """Ansible asks for the filters here."""

    def filters(self):
        return {"systemd_environment": systemd_environment}
