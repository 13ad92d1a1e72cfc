"""Lets the unit tests import a role's module by its name, as Ansible finds it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = sorted(str(folder) for folder in ROOT.glob("roles/*/library"))
