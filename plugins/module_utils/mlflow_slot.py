"""What modules ask of a slot: its server, over the socket, and its probe, with its environment."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path


def ask(
    path: Path,
    method: str,
    target: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60,
) -> tuple[int, bytes]:
    """Return status and body of a server's answer to a request.

    Args:
        path: The unix socket that it listens on.
        timeout: Seconds for each step of it.

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
    """Return the settings of a slot, secret ones last, as a probe that compares takes them.

    Who deleted a file by hand, or has no slot yet, has nothing to compare with.
    """
    files = [slot / name for name in ("server.env", "secrets.env")] if slot else []
    return "\n".join(file.read_text(errors="replace") for file in files if file.exists())


def probe_command(
    instance: str, slot: Path, words: list[str], seconds: int, more: str = ""
) -> list[str]:
    """Return the command that runs a slot's probe as the service user, with its environment.

    Args:
        words: What files/probe.py is asked for.
        seconds: It is ended after these.
        more: Path of a file with environment variables that go before the slot's.
    """
    # Not the server's folder for temporary files, which each of its starts empties.
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
