"""The collection as its tarball installs it, for people who have nothing else of ours."""

import os
import subprocess
from pathlib import Path

import yaml
from control import ROOT

GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())
NAME = f"{GALAXY['namespace']}.{GALAXY['name']}"
# Variables of whoever runs the tests.
MINE = ("ANSIBLE_", "MOLECULE_", "AWS_", "MLFLOW_")


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing is the developer's own."""
    return {k: v for k, v in os.environ.items() if not k.startswith(MINE)} | more


def galaxy(*words, cwd: Path) -> None:
    """Run `ansible-galaxy collection`, which must succeed."""
    command = ["ansible-galaxy", "collection", *words]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def build(checkout: Path, folder: Path) -> Path:
    """Build the collection and return its tarball in a folder."""
    galaxy("build", f"--output-path={folder}", cwd=checkout)
    (tarball,) = folder.glob(f"{NAME.replace('.', '-')}-*.tar.gz")
    return tarball


def install(folder: Path) -> Path:
    """Build the collection and install it below `folder`/collections; return its tarball."""
    tarball = build(ROOT, folder)
    galaxy("install", "--offline", "--collections-path=collections", tarball, cwd=folder)
    return tarball
