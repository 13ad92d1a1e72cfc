#!/usr/bin/python
"""Make an MLflow virtualenv for a user, who owns it and may install further packages into it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_client_virtualenv
short_description: An MLflow virtualenv that its user owns
description:
  - Makes a virtualenv, installs a hash-locked list of requirements and further packages, and sets
    environment variables for every Python started from it.
  - All that the user can write to is read and changed as that user, never as root.
  - What the user has installed or changed there stays. The list is installed again if it or the
    version of Python has changed, or MLflow is gone.
  - A folder C(.mlflow_client) in the virtualenv records the progress, so a killed run is finished
    by the next.
options:
  user: {description: Login of the user., type: str, required: true}
  path: {description: Folder of the virtualenv; C(~) is the user's home., type: str, required: true}
  requirements: {description: Text of the hash-locked list., type: str, required: true}
  packages: {description: Further packages., type: list, elements: str, default: []}
  environment: {description: Variables to set unless already set., type: dict, default: {}}
  directory: {description: Another folder to make for the user., type: str, default: ''}
  ca:
    description: >-
      Certificates in PEM, stored as C(.mlflow_client/ca-X.pem), X the start of their SHA-256.
      Once the environment names it, former files of that kind get the same text, as running
      programs may read them for days.
    type: str
    default: ''
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Make a virtualenv
  mlflow_ansible.tracking.mlflow_client_virtualenv:
    user: ada
    path: ~/mlflow
    requirements: "{{ lookup('ansible.builtin.file', 'mlflow-3.17.2.txt') }}"
    environment: {MLFLOW_TRACKING_URI: "http://mlflow.example.com:5000"}
"""

RETURN = r"""
user: {description: Login of the user., type: str, returned: success}
home: {description: Home folder of the user., type: str, returned: success}
path: {description: Path of the virtualenv., type: str, returned: success}
directory: {description: Path of the other folder., type: str, returned: success}
packages:
  description: Debian packages that it needs and that are missing.
  type: list
  elements: str
  returned: success
plan:
  description: What was done, or in check mode would be.
  type: list
  elements: str
  returned: success
  sample: [make the virtualenv, install mlflow 3.17.2, set the environment]
"""

import contextlib
import hashlib
import json
import os
import pwd
import re
import shutil
import ssl
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.accounts import (
    as_user,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import (
    write,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.locks import (
    locked,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.pythons import (
    dotted,
    require_python,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.system import (
    execute,
    explain,
    require_debian,
    require_packages,
    require_root,
)

PYTHON = "/usr/bin/python3"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# Seconds to wait for another run in the virtualenv.
LOCK_SECONDS = 900
# This module's folder in the virtualenv, for its progress and temporary files.
OURS = ".mlflow_client"
# Read by every Python started from the virtualenv: site.py runs its lines.
SETTINGS = "mlflow_client.pth"
# General, as the machine decides which index pip uses.
FAILURES = [
    (
        "",
        "an error",
        "fix what it says (index and proxy are those of pip on that machine, /etc/pip.conf), then "
        "run again",
    )
]


def settings_text(environment: dict) -> str:
    """Return the line that sets these variables unless they are already set."""
    words = [f"os.environ.setdefault({ascii(k)}, {ascii(str(v))})" for k, v in environment.items()]
    return "; ".join(["import os", *words]) + "\n"


def pins(requirements: str) -> str:
    """Return a list of requirements without its hashes, as constraints for further packages."""
    return "".join(f"{line}\n" for line in re.findall(r"^[^\s#-][^\\\n]*", requirements, re.M))


def locked_version(requirements: str) -> str:
    found = re.search(r"^mlflow==([\w.]+)\s", requirements, re.M)
    if not found:
        raise Refused(
            "Wanted requirements that name mlflow with its version; found none such in "
            "mlflow_client_requirements; point it to a list of `make lock`."
        )
    return found[1]


class Virtualenv:
    """The virtualenv as seen by its user; runs as that user.

    Args:
        params: The module's parameters, `path` and `directory` absolute.
        account: The user's name, `pw_name`, and home, `pw_dir`.
        python: The interpreter.
    """

    def __init__(self, params: dict, account, python: str = PYTHON):
        self.params, self.account, self.python = params, account, python
        self.path = Path(params["path"])
        self.state_file = self.path / OURS / "state.json"
        self.keep_open = ()
        self.version = locked_version(params["requirements"])
        self.digest = hashlib.sha256(params["requirements"].encode()).hexdigest()
        self.check_home()
        self.check_ca()
        self.packages = []
        self.python_version = self.find_python()
        self.site = self.path / f"lib/python{self.python_version}/site-packages"

    # State.

    def check_home(self):
        home = Path(self.account.pw_dir)
        if not (home.is_dir() and os.access(home, os.W_OK | os.X_OK)):
            raise Refused(
                f"Wanted a home of {self.account.pw_name} that is theirs to write to; found none "
                f"such at {home}; make it (`mkhomedir_helper {self.account.pw_name}`), or choose "
                "another mlflow_client_user."
            )

    def check_ca(self):
        text = self.params["ca"]
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.ca = self.path / OURS / f"ca-{digest}.pem" if text else None
        try:
            if text:
                ssl.create_default_context(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise Refused(
                f"Wanted certificates in PEM in mlflow_client_ca; found otherwise: {error}; "
                "correct it."
            ) from None

    def find_python(self) -> str:
        """Return the version of the interpreter, and note missing Debian packages."""
        code = (
            "import importlib.util as u, sys; "
            "print(*sys.version_info[:2], int(bool(u.find_spec('ensurepip'))))"
        )
        try:
            said = subprocess.run(
                [self.python, "-I", "-S", "-c", code], capture_output=True, text=True
            ).stdout.split()
            *version, complete = map(int, said)
        except (OSError, ValueError):
            version, complete = [], 0
        remedy = (
            "upgrade the machine to Debian 12, Ubuntu 24.04 or newer, or take it out of the "
            "inventory"
        )
        require_python(tuple(version), self.python, remedy)
        self.packages += ["python3-venv"] * (not complete)
        self.packages += ["ca-certificates"] * (not os.path.exists(CA_BUNDLE))
        return dotted(tuple(version))

    def state(self) -> dict:
        """Return the recorded progress; raise Refused if the folder was not made by this module."""
        if (self.path / OURS).is_dir():
            with contextlib.suppress(OSError, ValueError):
                return json.loads(self.state_file.read_text())
            return {}
        if self.path.exists() and not (self.path.is_dir() and not os.listdir(self.path)):
            raise Refused(
                f"Wanted {self.path} to be empty, or made by this role; found it to be "
                "something else; choose another mlflow_client_virtualenv, or move it away."
            )
        return {}

    def is_whole(self) -> bool:
        """Return whether Python and pip exist; what the user has deleted is made again."""
        return (self.path / "bin/python").exists() and (self.site / "pip/__main__.py").exists()

    def plan(self) -> list[str]:
        """Describe what there is to do."""
        state, plan = self.state(), []
        if state.get("python") != self.python_version or not self.is_whole():
            state = {}
            plan.append("make the virtualenv")
        has_mlflow = any(self.site.glob("mlflow-*.dist-info/INSTALLER"))
        if state.get("requirements") != self.digest or not has_mlflow:
            state = {}
            plan.append(f"install mlflow {self.version}")
        if state.get("packages", []) != self.params["packages"]:
            plan.append(f"install {', '.join(self.params['packages']) or 'nothing further'}")
        if self.ca and not (self.ca.exists() and self.ca.read_text() == self.params["ca"]):
            plan.append("keep the server's certificate")
        wanted = settings_text(self.params["environment"])
        if self.params["environment"] and (self.settings() != wanted or self.former_cas()):
            plan.append("set the environment")
        if self.params["directory"] and not Path(self.params["directory"]).is_dir():
            plan.append(f"make {self.params['directory']}")
        return plan

    def former_cas(self) -> list[Path]:
        """Return the files with former certificates, which running programs still use."""
        text, files = self.params["ca"], (self.path / OURS).glob("ca-*.pem")
        return [file for file in files if self.ca not in (None, file) and file.read_text() != text]

    def settings(self) -> str:
        with contextlib.suppress(OSError):
            return (self.site / SETTINGS).read_text()
        return ""

    # Changes.

    def apply(self) -> list[str]:
        """Carry out the plan, and return it."""
        if not self.plan():
            return []
        require_packages(self.packages)
        os.umask(0o022)
        (self.path / OURS).mkdir(parents=True, exist_ok=True)
        with locked(self.path / OURS, LOCK_SECONDS, self.refusal) as lock:
            # What a killed run has started still holds the lock until it ends.
            self.keep_open = (lock,)
            # Another run may have done it in the meantime.
            plan, state = self.plan(), self.state()
            if "make the virtualenv" in plan:
                state = self.make(state)
            if f"install mlflow {self.version}" in plan:
                exact = ["--no-deps", "--require-hashes", "--only-binary=:all:"]
                self.note(state, requirements="", packages=[])
                self.install(exact, requirement=self.params["requirements"])
                self.note(state, requirements=self.digest)
            if state.get("packages", []) != self.params["packages"]:
                if self.params["packages"]:
                    wanted = "".join(f"{package}\n" for package in self.params["packages"])
                    constraint = pins(self.params["requirements"])
                    self.install([], requirement=wanted, constraint=constraint)
                self.note(state, packages=self.params["packages"])
            if "keep the server's certificate" in plan:
                self.put(self.ca, self.params["ca"])
            if "set the environment" in plan:
                self.put(self.site / SETTINGS, settings_text(self.params["environment"]))
                for file in self.former_cas():
                    self.put(file, self.params["ca"])
            if self.params["directory"]:
                Path(self.params["directory"]).mkdir(parents=True, exist_ok=True)
        return plan

    def refusal(self, holder: str) -> str:
        return (
            f"Wanted {self.path} for ourselves; found another run at work in it for "
            f"{LOCK_SECONDS} s ({holder}); wait for it, or end it."
        )

    def make(self, state: dict) -> dict:
        """Make the virtualenv itself, and return the new progress."""
        if state == {"making": True}:
            # Left by a killed run, and not used yet.
            for entry in self.path.iterdir():
                if entry.is_symlink() or entry.is_file():
                    entry.unlink()
                elif entry.name != OURS:
                    shutil.rmtree(entry)
        if not state:
            self.note(state, making=True)
        self.must("a virtualenv", [self.python, "-I", "-m", "venv", self.path])
        state = {}
        self.note(state, python=self.python_version)
        return state

    def note(self, state: dict, **further):
        """Record the progress."""
        state |= further
        self.put(self.state_file, json.dumps(state))

    def put(self, file: Path, text: str):
        """Write a file that every program on the machine may read."""
        write(file, text, 0o644)

    def install(self, options: list, **lists: str):
        """Let pip install the lists, from the index configured on this machine."""
        # pip writes INSTALLER last: a package without it was left by a killed run.
        for half in self.site.glob("*.dist-info"):
            if not (half / "INSTALLER").exists():
                shutil.rmtree(half)
        # /tmp may be small, or in memory.
        work = self.path / OURS / "tmp"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for name, text in lists.items():
            (work / f"{name}.txt").write_text(text)
            options = [*options, f"--{name}", work / f"{name}.txt"]
        env = {
            **{"TMPDIR": str(work), "PIP_NO_CACHE_DIR": "1", "PIP_NO_INPUT": "1"},
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **{"PIP_USER": "0", "REQUESTS_CA_BUNDLE": CA_BUNDLE},
        }
        # Compiled at the first import, which costs the user some seconds once.
        command = [self.path / "bin/python", "-I", "-m", "pip", "install", "--no-compile"]
        try:
            self.must("pip to install the packages", [*command, *options], env)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def must(self, wanted: str, command: list, env: dict | None = None):
        """Run a command; raise Refused if it fails."""
        done = execute(command, {**os.environ, **(env or {})}, self.keep_open)
        if done.returncode:
            said = done.stderr.strip() or done.stdout
            raise explain(f"{wanted} in {self.path}", said, FAILURES)


def find_account(user: str):
    """Return the account of a user; raise Refused if there is none."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise Refused(
            f"Wanted mlflow_client_user to be a login on this machine; found no user {user}; "
            "create it, or correct the name."
        ) from None


def absolute(path: str, home: str) -> str:
    """Return a path with the user's home for a leading `~`."""
    return os.path.normpath(re.sub(r"^~(?=/|$)", lambda _: home, path)) if path else ""


def main():
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "path": {"type": "str", "required": True},
            # Not a secret, but its hundreds of lines do not belong in the host's journal.
            "requirements": {"type": "str", "required": True, "no_log": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "environment": {"type": "dict", "default": {}},
            "directory": {"type": "str", "default": ""},
            "ca": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    with refusing(module):
        require_root()
        require_debian(
            remedy="take this machine out of the inventory, or install Debian 12 or newer on it"
        )
        account = find_account(params["user"])
        params |= {name: absolute(params[name], account.pw_dir) for name in ("path", "directory")}

        def work():
            virtualenv = Virtualenv(params, account)
            plan = virtualenv.plan() if module.check_mode else virtualenv.apply()
            return {"packages": virtualenv.packages, "plan": plan}

        result = as_user(account, f"to make the virtualenv as {account.pw_name}", work)
    module.exit_json(
        changed=bool(result["plan"]),
        user=params["user"],
        home=account.pw_dir,
        path=params["path"],
        directory=params["directory"],
        **result,
    )


if __name__ == "__main__":
    main()
