"""The two slots of an instance, blue and green: which one serves, and how to query one.

Imports no other file of the collection, as tests run it on hosts without Ansible.
"""

from __future__ import annotations

import http.client
import os
import socket
import stat
from pathlib import Path

COLOURS = ("blue", "green")


class Instance:
    """The paths of an instance on its host.

    Args:
        name: Its name. Units, folders and sockets follow from it.
        root: Folder that stands for `/`, for the unit tests.

    Attributes:
        config: Its folder in /etc, with the slots `wanted`, `blue` and `green`.
        current: The link to the socket of the serving colour.
    """

    def __init__(self, name: str, root: Path = Path("/")):
        self.name, self.root = name, root
        self.config = root / "etc" / name
        self.wanted = self.config / "wanted"
        self.current = self.config / "current.sock"

    def unit(self, colour: str) -> str:
        """Return the name of a colour's unit."""
        return f"{self.name}-{colour}.service"

    def unit_file(self, colour: str) -> Path:
        return self.root / "etc/systemd/system" / self.unit(colour)

    def socket(self, colour: str) -> Path:
        """Return where a colour's server listens."""
        return self.root / "run" / self.name / colour / "server.sock"

    def linked(self) -> str:
        """Return the colour that the link names, empty if it is missing or names anything else."""
        name = Path(os.readlink(self.current)).parent.name if self.current.is_symlink() else ""
        return name if name in COLOURS else ""


def other(colour: str) -> str:
    """Return the other colour."""
    return COLOURS[1 - COLOURS.index(colour)]


def tree(folder: Path) -> dict[str, tuple]:
    """Return the contents of a slot: kind, mode, owner, text or target of each path in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        what = (
            os.readlink(path)
            if stat.S_ISLNK(status.st_mode)
            else path.read_bytes()
            if stat.S_ISREG(status.st_mode)
            else None
        )
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_uid, status.st_gid, what)
    return found


def changed_at(slot: Path) -> float:
    """Return when a file of a slot was last changed, in seconds since the epoch.

    An unchanged text keeps its modification time.
    """
    return max(path.lstat().st_ctime for path in slot.iterdir() if path.is_file())


def ask(
    path: Path,
    method: str,
    target: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60,
) -> tuple[int, bytes]:
    """Return status and body of a server's response to a request.

    Args:
        path: The unix socket that it listens on.
        timeout: Seconds for each network operation.

    Raises:
        OSError, http.client.HTTPException: It does not answer.
    """
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(timeout)
    try:
        connection.sock.connect(str(path))
        connection.request(
            method, target, body, {"Content-Type": "application/json"} | (headers or {})
        )
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def settings_of(slot: Path | None) -> str:
    """Return the settings of a slot, secret ones last, in the form a comparing probe reads.

    If a file was deleted by hand, or there is no slot yet, there is nothing to compare with.
    """
    files = [slot / name for name in ("server.env", "secrets.env")] if slot else []
    return "\n".join(file.read_text(errors="replace") for file in files if file.exists())


def probe_command(
    instance: str, slot: Path, words: list[str], seconds: int, more: str = ""
) -> list[str]:
    """Return the command that runs a slot's probe as the service user, with its environment.

    Args:
        words: Arguments of files/probe.py.
        seconds: Its time limit.
        more: Path of a file with environment variables that take precedence over the slot's.
    """
    # Not the server's folder for temporary files, which is emptied at each of its starts.
    properties = [
        line.replace("%j", slot.name)
        for line in (slot / "mlflow.service").read_text().splitlines()
        if line.startswith("Environment") and not line.startswith("Environment=TMPDIR=")
    ]
    properties += [f"EnvironmentFile={more}"] if more else []
    return [
        *("systemd-run", "--quiet", "--wait", "--pipe", "--collect"),
        *(f"--uid={instance}", f"--gid={instance}"),
        "--property=WorkingDirectory=~",
        "--property=UMask=0077",
        "--property=PrivateTmp=yes",
        "--property=NoNewPrivileges=yes",
        f"--property=RuntimeMaxSec={seconds}",
        *(f"--property={text}" for text in properties),
        f"{slot}/release/bin/python",
        f"{slot}/probe.py",
        *words,
    ]
