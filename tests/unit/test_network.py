"""Who listens on a host, and where something else still can."""

import errno
import os
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.network import (
    bind_error,
    holders,
    listeners,
    proc_text,
    reachable,
    unit_of,
)

LOCAL = ip_address("127.0.0.1")


def test_a_listening_socket_is_read_from_proc(tmp_path):
    """The kernel writes an address as words in the machine's own byte order; a socket that does not
    listen (01) takes no port, and IPv4 in an IPv6 socket is still IPv4."""
    (tmp_path / "tcp").write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout\n"
        "   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1\n"
        "   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 222 1\n"
        "   2: 0100007F:1389 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 0 0 333 1\n"
    )
    (tmp_path / "tcp6").write_text(
        "  sl  local_address                         remote_address\n"
        "   0: 00000000000000000000000001000000:1388 00000000000000000000000000000000:0000 0A"
        " 00000000:00000000 00:00000000 00000000 0 0 444 1\n"
        "   1: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A"
        " 00000000:00000000 00:00000000 00000000 0 0 555 1\n"
    )
    assert listeners(tmp_path) == {
        "111": (LOCAL, 5000),
        "222": (ip_address("0.0.0.0"), 80),
        "444": (ip_address("::1"), 5000),
        "555": (LOCAL, 8080),
    }


def test_who_holds_a_port_is_found():
    """An operator has to know which process to stop."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert holders(Path("/proc"))[LOCAL, port] == os.getpid()
        assert holders(Path("/proc"), os.getpid())[LOCAL, port] == os.getpid()
        assert (LOCAL, port) not in holders(Path("/proc"), 1)
    assert (LOCAL, port) not in holders(Path("/proc"))


def test_the_unit_of_a_process_is_its_innermost_service(tmp_path):
    """A user's manager is a service itself. What has ended, or runs in a session, has none."""
    inner = "/user.slice/user-7.slice/user@7.service/app.slice/jupyter.service"
    for pid, path in ((7, inner), (8, "/user.slice/user-7.slice/session-1.scope")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(f"0::{path}\n")
    assert [unit_of(tmp_path, pid) for pid in (7, 8, 9)] == ["jupyter.service", "", ""]


def test_what_a_process_says_need_not_be_text(tmp_path):
    """A program names itself as it likes."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/comm").write_bytes(b"Jos\xe9\n")
    assert proc_text(tmp_path, 7, "comm") == "Jos\ufffd\n"


def test_the_kernel_says_whether_an_address_is_free():
    """Only the kernel knows whether 0.0.0.0 or `::` collide with it, and which are the host's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert bind_error(LOCAL, port) == errno.EADDRINUSE
        assert bind_error(ip_address("0.0.0.0"), port) == errno.EADDRINUSE
        assert bind_error(ip_address("127.0.0.2"), port) == 0
        if socket.has_dualstack_ipv6():
            assert bind_error(ip_address("::"), port, dualstack=True) == errno.EADDRINUSE
            assert bind_error(ip_address("::"), port) == 0
    assert bind_error(LOCAL, port, dualstack=True) == 0
    assert bind_error(ip_address("192.0.2.1"), port) == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("*", "127.0.0.1"),
        (ip_address("0.0.0.0"), "127.0.0.1"),
        (ip_address("::"), "::1"),
        (ip_address("192.0.2.7"), "192.0.2.7"),
        ("localhost", "localhost"),
    ],
)
def test_what_listens_at_all_addresses_is_asked_at_one(address, found):
    """Not every system connects to 0.0.0.0."""
    assert reachable(address) == found
