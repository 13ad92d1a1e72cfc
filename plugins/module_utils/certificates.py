"""What a certificate says, which key matches it, and which one a server has loaded."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import struct
import time
from ipaddress import IPv4Address, IPv6Address

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import in_memory
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.network import reachable

END = "-----END CERTIFICATE-----"
# SSLRequest of PostgreSQL's protocol, which the server answers with S or N.
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def der(text: str) -> bytes:
    """Return the first certificate of a PEM text in DER, as sent over the network.

    Raises:
        ValueError: There is none.
    """
    first = re.search(rf"(?s)-----BEGIN CERT.*?{END}", text)
    return ssl.PEM_cert_to_DER_cert(first[0] if first else "")


class Certificate:
    """The contents of a certificate in PEM.

    Attributes:
        ends: When it expires, in seconds since 1970.
        date: The day on which it expires, YYYY-MM-DD in UTC.
        days: Days left until then, as a float; negative if it has expired.
        subjects: Names and addresses that it is for.
        has_signed_itself: Whether it is self-signed.

    Raises:
        ssl.SSLError, ValueError: It is not a certificate.
    """

    def __init__(self, text: str):
        with in_memory(text) as (path,):
            # Python has no public way to read a certificate outside a connection.
            fields = ssl._ssl._test_decode_cert(path)
        self.ends = ssl.cert_time_to_seconds(fields["notAfter"])
        self.date = time.strftime("%Y-%m-%d", time.gmtime(self.ends))
        self.days = (self.ends - time.time()) / 86400
        self.subjects = {same_name(value) for _, value in fields.get("subjectAltName", ())}
        self.has_signed_itself = fields["subject"] == fields["issuer"]

    def is_for(self, name: str) -> bool:
        """Return whether a client that uses a name or an address accepts it: RFC 9525."""
        name = same_name(name)
        wildcard = [] if is_address(name) else [f"*.{name.partition('.')[2]}"]
        return not self.subjects.isdisjoint([name, *wildcard])


def same_name(text: str) -> str:
    """Return a name or an address in its canonical form."""
    try:
        return str(ipaddress.ip_address(text.strip().removeprefix("[").removesuffix("]")))
    except ValueError:
        return text.lower().removesuffix(".")


def is_address(text: str) -> bool:
    """Tell whether a text is an IPv4 or IPv6 address, without brackets."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


def check_pair(certificate: str, key: str) -> None:
    """Check that a certificate and a key in PEM match, without writing them to disk.

    Raises:
        ssl.SSLError, ValueError: They do not, or one is invalid, or the key has a passphrase.
    """
    with in_memory(certificate, key) as paths:
        # A key with a passphrase would prompt for it, here and at each start of the server.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*paths, password=lambda: "")
    der(certificate)


def served_certificate(
    address: IPv4Address | IPv6Address | str, port: int, name: str = "", postgresql: bool = False
) -> bytes:
    """Return the certificate with which this host answers, in DER; empty if it does not.

    Args:
        address: Where the server listens; for all (`0.0.0.0`, `::`, `*`) loopback is asked.
        name: Server name to ask for, where several share the port.
        postgresql: Whether it is PostgreSQL, which has to be asked for TLS first.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The peer is known to be this host; the question is which certificate it has loaded.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((reachable(address), port), timeout=10) as plain:
            if postgresql:
                plain.sendall(SSL_REQUEST)
                if plain.recv(1) != b"S":
                    return b""
            with context.wrap_socket(plain, server_hostname=name or None) as tls:
                certificate = tls.getpeercert(binary_form=True)
                if postgresql:
                    # Otherwise the server logs a broken connection.
                    with contextlib.suppress(OSError):
                        tls.unwrap()
                return certificate
    except OSError:
        return b""
