"""Who listens on this host, and where something else still can."""

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
        net: The folder of the files `tcp` and `tcp6`, as /proc/net is.
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
    """Return {(address, port): pid} of the sockets on which processes listen.

    Sockets of other users' processes are seen by root alone, those of the kernel by nobody.

    Args:
        proc: The folder of the processes, as /proc is.
        pid: The one whose sockets are wanted; all without it.
    """
    known, found = listeners(proc / "net"), {}
    # Unlike pathlib's, this glob goes on when a process ends meanwhile.
    for link in glob.glob(f"{proc}/{pid}/fd/*"):
        with contextlib.suppress(OSError):
            if at := known.get(os.readlink(link).removeprefix("socket:[").rstrip("]")):
                found[at] = int(link.split("/")[-3])
    return found


def proc_text(proc: Path, pid: int | str, file: str) -> str:
    """Return what /proc says of a process in one of its files, nothing if it has ended."""
    try:
        return (proc / str(pid) / file).read_text(errors="replace")
    except OSError:
        return ""


def unit_of(proc: Path, pid: int | str) -> str:
    """Return the service of systemd that a process belongs to, nothing if it is in none."""
    return "".join(re.findall(r"[^/\n]+\.service", proc_text(proc, pid, "cgroup"))[-1:])


def bind_error(address: IPv4Address | IPv6Address, port: int, dualstack: bool = False) -> int:
    """Return the errno with which the kernel refuses to listen there, or 0.

    Args:
        dualstack: Whether `::` stands for IPv4, too.
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
    """Return the address at which this host reaches what listens at another, or at all (`*`)."""
    everywhere = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    return everywhere.get(str(address), str(address))
