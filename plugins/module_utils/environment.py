"""Environment files of a unit, as systemd reads them: EnvironmentFile= in systemd.exec(5)."""

from __future__ import annotations

import re
import shlex
import textwrap

ESCAPED = str.maketrans({character: f"\\{character}" for character in '\\"$`'})


def quoted(value: str) -> str:
    """Return a value as written in an environment file."""
    return f'"{value.translate(ESCAPED)}"'


def text_of(settings: dict, comment: str = "") -> str:
    """Return the text of an environment file.

    Args:
        settings: Values by variable name, each converted to text.
        comment: Comment at the top of the file; it is wrapped into lines here.
    """
    lines = [f"# {line}" for line in textwrap.wrap(comment, 98)]
    lines += [f"{name}={quoted(str(settings[name]))}" for name in sorted(settings)]
    return "".join(f"{line}\n" for line in lines)


def variables(text: str) -> dict[str, str]:
    """Return what an environment file sets.

    Raises:
        ValueError: A line is invalid, such as one damaged by hand.
    """
    # Within quotes shlex removes a backslash only before another one or a quote.
    plain = re.sub(r"\\(.)", lambda pair: pair[1] if pair[1] in "$`" else pair[0], text)
    return dict(word.split("=", 1) for word in shlex.split(plain, comments=True))


def legible_variables(text: str) -> dict[str, str]:
    """Return what an environment file sets in its valid lines."""
    try:
        return variables(text)
    except ValueError:
        lines = text.splitlines()
        found = map(legible_variables, lines if len(lines) > 1 else [])
        return {name: value for each in found for name, value in each.items()}
