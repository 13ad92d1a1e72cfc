"""A copy of this repository in which an operator has hosts, choices and an encrypted vault."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from control import ROOT
from fleet import At

EXAMPLE_SECRET = "example-change-me"
SSH_CONFIG = """\
IdentityFile {folder}/key
IdentitiesOnly yes
StrictHostKeyChecking yes
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile /dev/null
"""


class Checkout:
    """The copy, and the shell in which the operator works.

    Nothing of the developer's own is in it, nor of molecule's environment.

    Args:
        folder: Where it is made.
        host: The test host, as testinfra sees it from inside, on which sshd runs.
        user: Who logs in there, and may become root.
    """

    def __init__(self, folder: Path, host, user: str):
        self.folder, self.root = folder, folder / "mlflow-ansible"
        mine = shutil.ignore_patterns(
            ".*", "__pycache__", "hosts.yml", "vault.yml", "*.aws_ec2.yml"
        )
        shutil.copytree(ROOT, self.root, symlinks=True, ignore=mine)
        self.address = host.check_output("hostname -I").split()[0]
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ANSIBLE_", "MOLECULE_", "AWS_", "MLFLOW_"))
        }
        self.environment |= {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "connections"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(folder / ".vault_password"),
        }
        self.let_in(host, user)
        self.secrets: dict[str, str] = {}

    def let_in(self, host, user: str) -> None:
        """Make a key with which the user is let in, and an `ssh` that has it, as ~/.ssh does."""
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "key"]
        subprocess.run(key, check=True)
        public = (self.folder / "key.pub").read_text()
        host.check_output(f"install --directory --owner={user} --mode=0700 ~{user}/.ssh")
        host.check_output(f"printf %s > ~{user}/.ssh/authorized_keys", public)
        host.check_output(f"chown {user}: ~{user}/.ssh/authorized_keys")
        trusted = host.file("/etc/ssh/ssh_host_ed25519_key.pub").content_string
        (self.folder / "known_hosts").write_text(f"{self.address} {trusted}\n")
        (self.folder / "ssh_config").write_text(
            SSH_CONFIG.format(folder=self.folder) + f"User {user}\n"
        )
        ssh = self.folder / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/ssh_config "$@"\n')
        ssh.chmod(0o755)

    def write(self, path: str, text: str) -> None:
        """Write a file of the operator's, by its path in the copy."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def write_hosts(self, more: str = "") -> None:
        """Copy the example of an inventory and put the test host's address there."""
        example = (self.root / "inventory/hosts.yml.example").read_text()
        self.write("inventory/hosts.yml", example.replace("192.0.2.10", self.address) + more)

    def encrypt_vault(self, group: str = "mlflow") -> None:
        """Copy a group's example of a vault, replace each secret and encrypt it."""
        path = f"group_vars/{group}/vault.yml"
        example = (self.root / f"{path}.example").read_text()
        for name in re.findall(rf"(?m)^(\w+): {EXAMPLE_SECRET}$", example):
            self.secrets[name] = f"canary-{name}: p@ss%/'\\"
            quoted = self.secrets[name].replace("'", "''")
            example = example.replace(f"{name}: {EXAMPLE_SECRET}", f"{name}: '{quoted}'")
        assert EXAMPLE_SECRET not in example
        self.write(path, example)
        (self.folder / ".vault_password").write_text("of the operator\n")
        code, said = self.run("ansible-vault", "encrypt", path)
        assert code == 0, said
        assert (self.root / path).read_text().startswith("$ANSIBLE_VAULT;")

    def run(self, *words: str, at: At | None = None) -> tuple[int, str]:
        """Run a command in the copy; return its exit code and what it said.

        Args:
            at: A point of a playbook at which something happens.
        """
        # Not a pipe: what a killed control process has started still holds its end.
        with (self.folder / "said").open("w+") as said:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=self.root,
                env=self.environment | (at.environment if at else {}),
            )
            said.seek(0)
            return done.returncode, said.read()

    def site(self, *arguments: str) -> str:
        """Run site.yml, which must succeed, and return what it says."""
        code, said = self.run("ansible-playbook", "site.yml", *arguments)
        assert code == 0, said[-8000:]
        return said

    def hang_up(self) -> None:
        """End the connections to the host."""
        for socket in (self.folder / "connections").glob("*"):
            subprocess.run(["ssh", "-O", "exit", "-S", socket, "any"], stderr=subprocess.DEVNULL)
