"""What tests do from the control side: run playbooks, run clients in a host's network."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Molecule asks for colours, which stand in the middle of phrases that a test looks for; and -vvv
# alone does not show the arguments of modules any more.
ANSIBLE = {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_INJECT_INVOCATION": "1"}


def reached(address: str, *ports: int) -> list[int]:
    """Return at which of these ports an address is reached from here, which is another machine."""
    found = []
    for port in ports:
        with suppress(OSError):
            socket.create_connection((address, port), timeout=2).close()
            found.append(port)
    return found


class Control:
    """The control side of one test host.

    Args:
        inventory: Path of the scenario's inventory.
        name: Name of the host in it, and of its container.
        arguments: For every playbook.
    """

    def __init__(self, inventory: str, name: str, *arguments: str):
        self.inventory = inventory
        self.name = name
        self.arguments = arguments

    def start(self, *arguments: str, playbook: str = "site.yml", **variables):
        """Start a playbook against the host and return the process."""
        return subprocess.Popen(
            [
                "ansible-playbook",
                f"--inventory={self.inventory}",
                f"--limit={self.name}",
                f"--extra-vars={json.dumps(variables)}",
                *self.arguments,
                *arguments,
                str(ROOT / playbook),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | ANSIBLE,
        )

    def playbook(self, *arguments: str, **variables) -> tuple[int, str]:
        """Run a playbook to its end; return its exit code and what it said, in one line.

        YAML folds long messages; a test looks for phrases in them.
        """
        process = self.start(*arguments, **variables)
        said = process.communicate()[0]
        return process.returncode, " ".join(said.split())

    def converge(self, **variables) -> str:
        """Run site.yml, which must succeed, and return its output."""
        code, said = self.playbook(**variables)
        assert code == 0, said
        return said

    def settled(self, **variables) -> str:
        """Run site.yml, which must find nothing to change on the host, and return its output.

        It always says changed=0 of the control side.
        """
        said = self.converge(**variables)
        assert re.findall(rf" {self.name} : ok=\d+ changed=(\d+) ", said) == ["0"], said
        return said

    def refuse(self, **variables) -> str:
        """Run site.yml, which must fail, and return what it says."""
        code, said = self.playbook(**variables)
        assert code != 0, f"it was not refused: {said}"
        return said

    def module(self, name: str, /, **options) -> dict:
        """Run one module of ours, which must succeed, and return what it answers."""
        command = ["ansible", f"--inventory={self.inventory}", self.name]
        command += [
            f"--module-name=mlflow_ansible.tracking.{name}",
            f"--args={json.dumps(options)}",
        ]
        env = os.environ | ANSIBLE | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.partition(" => ")[2])

    def podman(self, *arguments: str) -> str:
        """Run podman and return its output."""
        return subprocess.run(
            ["podman", *arguments], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    def inside(self, *command: str) -> list[str]:
        """Return a command that runs here, with this machine's files, in the host's network.

        So that a client can reach what listens on the host's loopback address only, as it would
        through an SSH tunnel, and other hosts by their names.
        """
        form = "--format={{.State.Pid}} {{.ResolvConfPath}}"
        pid, resolv_conf = self.podman("inspect", form, self.name).split()
        resolve = f"mount --bind {resolv_conf} /etc/resolv.conf"
        names = ["unshare", "--mount", "sh", "-c", f'{resolve} && exec "$@"', "sh"]
        return ["nsenter", f"--net=/proc/{pid}/ns/net", *names, *command]

    def client(self, script: Path, url: str = "http://127.0.0.1:5000", **environment: str):
        """Run a script with the real MLflow client against the host; return the process."""
        return subprocess.run(
            self.inside(sys.executable, str(script)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"MLFLOW_TRACKING_URI": url} | environment,
        )

    @contextmanager
    def load(self, *options: str, url: str = "http://127.0.0.1:5000"):
        """Load the server while the block runs; the counts stand in the yielded dict after it."""
        counts: dict = {}
        command = self.inside(sys.executable, str(ROOT / "tests/support/load.py"), url, *options)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "loading\n"
            try:
                yield counts
            finally:
                process.send_signal(signal.SIGTERM)
                counts.update(json.loads(process.stdout.read()))
