"""What listens on this host, and where something else still can."""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import os
import re
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

LISTEN = "0A"  # in /proc/net/tcp, see proc_pid_net(5)


def listeners(net: Path) -> dict[str, tuple[IPv4Address | IPv6Address, int]]:
    """Return {inode: (address, port)} of the listening TCP sockets.

    Args:
        net: Folder with the files `tcp` and `tcp6`, such as /proc/net.
    """
    found = {}
    for table in filter(Path.exists, (net / "tcp", net / "tcp6")):
        for fields in map(str.split, table.read_text().splitlines()[1:]):
            if fields[3] == LISTEN:
                packed, port = fields[1].split(":")
                words = [int(packed[at : at + 8], 16) for at in range(0, len(packed), 8)]
                address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
                mapped = getattr(address, "ipv4_mapped", None)
                found[fields[9]] = (mapped or address, int(port, 16))
    return found


def holders(
    proc: Path, pid: int | str = "[0-9]*"
) -> dict[tuple[IPv4Address | IPv6Address, int], int]:
    """Return {(address, port): pid} of the sockets that processes listen on.

    Only root sees the sockets of other users' processes; those of the kernel are not visible.

    Args:
        proc: Folder of the processes, such as /proc.
        pid: The process whose sockets are wanted; all by default.
    """
    known, found = listeners(proc / "net"), {}
    # Unlike pathlib's, this glob tolerates processes that end in the meantime.
    for link in glob.glob(f"{proc}/{pid}/fd/*"):
        with contextlib.suppress(OSError):
            if at := known.get(os.readlink(link).removeprefix("socket:[").rstrip("]")):
                found[at] = int(link.split("/")[-3])
    return found


def proc_text(proc: Path, pid: int | str, file: str) -> str:
    """Return the text of a file of a process in /proc, empty if it has ended."""
    try:
        return (proc / str(pid) / file).read_text(errors="replace")
    except OSError:
        return ""


def unit_of(proc: Path, pid: int | str) -> str:
    """Return the systemd service that a process belongs to, empty if none."""
    return "".join(re.findall(r"[^/\n]+\.service", proc_text(proc, pid, "cgroup"))[-1:])


def bind_error(address: IPv4Address | IPv6Address, port: int, dualstack: bool = False) -> int:
    """Return the errno of the kernel's refusal to listen there, or 0.

    Args:
        dualstack: Whether `::` includes IPv4.
    """
    v6 = address.version == 6
    family = socket.AF_INET6 if v6 else socket.AF_INET
    at = (str(address), port)
    try:
        socket.create_server(at, family=family, dualstack_ipv6=v6 and dualstack).close()
    except OSError as error:
        return error.errno
    return 0


def reachable(address: IPv4Address | IPv6Address | str) -> str:
    """Return the address at which this host reaches a listener at an address, or at all (`*`)."""
    everywhere = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    return everywhere.get(str(address), str(address))
