"""Lets the unit tests import a role's module by its name, and use Ansible's own plugins."""

import sys
from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = sorted(str(folder) for folder in ROOT.glob("roles/*/library"))
init_plugin_loader()
