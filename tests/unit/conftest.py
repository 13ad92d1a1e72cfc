"""Lets the unit tests import modules, filters and scripts by name, and use Ansible's plugins."""

import sys
from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parents[2]
for folder in ("plugins/modules", "plugins/filter", "roles/*/files"):
    sys.path[:0] = sorted(str(found) for found in ROOT.glob(folder))
init_plugin_loader([str(ROOT / "collections")])
