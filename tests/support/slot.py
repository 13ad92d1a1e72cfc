"""The probe of what serves on a host, asked there as the roll asks it."""

import json

from control import ROOT

# Runs on the host's Python: the modules' own way, with what is tried on top of the environment.
CODE = f"""{(ROOT / "plugins/module_utils/slots.py").read_text()}
import json, os, subprocess, sys

words, environment = json.loads(sys.argv[1])
instance = Instance("mlflow")
slot = instance.config / instance.linked()
more = Path("/run/mlflow-tried.env")
more.touch(0o600)
more.write_text("".join(f'{{name}}="{{value}}"\\n' for name, value in environment.items()))
with open(slot / "server.env") as former:
    done = subprocess.run(probe_command("mlflow", slot, words, 120, str(more)), stdin=former)
more.unlink()
sys.exit(done.returncode)
"""


def probe(host, *words, **environment):
    """Ask what serves, with some variables changed; return the probe's exit code and its words."""
    done = host.run("python3 -c %s %s", CODE, json.dumps([words, environment]))
    return done.rc, " ".join(done.stderr.split())
