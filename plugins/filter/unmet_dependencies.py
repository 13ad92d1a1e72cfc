"""Whether this machine has what the collection depends on. A checkout is not installed by
ansible-galaxy, so nothing else has checked."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

HERE = Path(__file__).resolve().parents[2]


def information(folder: Path) -> Mapping:
    """Return what a collection says of itself, installed or a checkout.

    Raises:
        OSError: It says nothing.
    """
    if (manifest := folder / "MANIFEST.json").exists():
        return json.loads(manifest.read_text())["collection_info"]
    return yaml.safe_load((folder / "galaxy.yml").read_text())


def installed(name: str) -> str:
    """Return the version of the collection that Ansible would use, or what was found instead."""
    try:
        (folder, *_) = import_module(f"ansible_collections.{name}").__path__
        return str(information(Path(folder))["version"])
    except ImportError:
        return "none"
    except (OSError, KeyError):
        return "one without a version"


@functools.cache
def wanted(folder: Path) -> tuple[str, Mapping[str, str]]:
    """Return the version range of ansible-core, and those of collections by name."""
    core = yaml.safe_load((folder / "meta/runtime.yml").read_text())["requires_ansible"]
    return core, information(folder)["dependencies"]


def fits(version: str, ranges: str) -> bool:
    """Return whether a version is within ranges; not if it is none."""
    try:
        return SpecifierSet(ranges).contains(version, prereleases=True)
    except InvalidVersion:
        return False


def unmet_dependencies(core: str) -> list[str]:
    """Return what is missing, or has a version that the collection does not support.

    Args:
        core: The version of ansible-core, as in `ansible_version.full`.
    """
    range_of_core, collections = wanted(HERE)
    found = {"ansible-core": (core, range_of_core)}
    found |= {name: (installed(name), ranges) for name, ranges in collections.items()}
    return [
        f"{name} {version} instead of {ranges}"
        for name, (version, ranges) in found.items()
        if not fits(version, ranges)
    ]


class FilterModule:
    """Ansible's way to find the filter."""

    def filters(self) -> dict:
        return {"unmet_dependencies": unmet_dependencies}
