"""The Pythons and architectures for which the locked lists have wheels (tools/lock)."""

from __future__ import annotations

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused

OLDEST, NEWEST = (3, 11), (3, 14)
MACHINES = ["x86_64", "aarch64"]


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def require_python(version: tuple[int, ...], name: str, remedy: str) -> None:
    """Refuse a Python that the locked lists do not cover.

    Args:
        version: Its version, empty if it does not run.
        name: The operator's name for it.
        remedy: What to do about it.

    Raises:
        Refused: It is not covered.
    """
    if not OLDEST <= version[:2] <= NEWEST:
        raise Refused(
            f"Wanted Python {dotted(OLDEST)} to {dotted(NEWEST)} as {name}; found "
            f"{dotted(version) or 'none that runs'}; {remedy}."
        )
