"""Lets the unit tests import a role's modules and scripts by name, and use Ansible's plugins."""

import sys
from pathlib import Path

import ansible.module_utils
from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parents[2]
for kind in ("library", "files", "filter_plugins"):
    sys.path[:0] = sorted(str(folder) for folder in ROOT.glob(f"roles/*/{kind}"))
ansible.module_utils.__path__ += [str(folder) for folder in ROOT.glob("roles/*/module_utils")]
init_plugin_loader()
