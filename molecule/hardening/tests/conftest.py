"""What the tests of a server with users have in common."""

import ssl

import pytest
from visitor import Visitor


@pytest.fixture
def visitor(host):
    """Somebody who comes to the host over TLS, without a login."""
    return Visitor(host.backend.name)


@pytest.fixture
def self_signed(visitor, tmp_path):
    """The path of a file with the certificate that the host has made for itself."""
    path = tmp_path / "ca.pem"
    certificates = visitor.context.get_ca_certs(binary_form=True)
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, certificates)))
    return str(path)
