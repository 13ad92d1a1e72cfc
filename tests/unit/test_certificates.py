"""What a certificate says, what fits to it, and which one a server has loaded."""

import contextlib
import socket
import ssl
import subprocess
import threading

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import certificates
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.certificates import (
    SSL_REQUEST,
    Certificate,
    check_pair,
    der,
    is_address,
    same_name,
    served_certificate,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Folders of certificates with a key, made by the machine's own openssl."""
    found = {}
    for name in ("one", "other"):
        found[name] = tmp_path_factory.mktemp(name)
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "30"]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", f"/CN={name}"]
        names = f"DNS:{name}.example.com,DNS:*.wild.example.com,DNS:*.0.0.1,IP:::1"
        command += ["-addext", f"subjectAltName={names}", "-out", found[name] / "fullchain.pem"]
        command += ["-keyout", found[name] / "privkey.pem"]
        subprocess.run(command, check=True, capture_output=True)
    return found


def texts(folder):
    return [(folder / name).read_text() for name in ("fullchain.pem", "privkey.pem")]


def test_the_first_certificate_of_a_chain_is_the_servers(pairs):
    """Only that one is sent as the server's; what stands before it may be openssl's remarks."""
    one, other = (texts(pairs[name])[0] for name in ("one", "other"))
    assert der(f"Subject: CN = one\n{one}{other}") == ssl.PEM_cert_to_DER_cert(one)
    with pytest.raises(ValueError):
        der("no certificate")


def test_a_certificate_says_whom_it_is_for_and_until_when(pairs, monkeypatch):
    """A star stands for one label, and never for an address."""
    found = Certificate(texts(pairs["one"])[0])
    assert found.subjects == {"one.example.com", "*.wild.example.com", "*.0.0.1", "::1"}
    for name in ("ONE.example.com.", "a.wild.example.com", "[::1]", "0:0:0:0:0:0:0:1"):
        assert found.is_for(name), name
    for name in ("two.example.com", "wild.example.com", "a.b.wild.example.com", "127.0.0.1"):
        assert not found.is_for(name), name
    assert 29.9 < found.days <= 30 and found.has_signed_itself
    later = certificates.time.time() + 31 * 86400
    monkeypatch.setattr(certificates.time, "time", lambda: later)
    assert -1.1 < Certificate(texts(pairs["one"])[0]).days < -0.9


def test_what_is_no_certificate_is_refused():
    for text in ("", "no certificate", "-----BEGIN CERTIFICATE-----\n"):
        with pytest.raises((ssl.SSLError, ValueError)):
            Certificate(text)


def test_one_name_has_several_forms():
    """A certificate and a variable may each have another."""
    assert same_name("MLflow.Example.COM.") == "mlflow.example.com"
    assert same_name(" [2001:DB8:0::1] ") == "2001:db8::1"
    assert is_address("2001:db8::1") and is_address("192.0.2.1")
    assert not is_address("[::1]") and not is_address("192.0.2.1.example.com")


def test_a_key_that_does_not_fit_is_refused(pairs, tmp_path):
    """The server would not start with it. One with a passphrase would wait for somebody to type."""
    certificate, key = texts(pairs["one"])
    check_pair(certificate, key)
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:secret"]
    subprocess.run([*command, "-in", pairs["one"] / "privkey.pem", "-out", locked], check=True)
    for wrong in (texts(pairs["other"])[1], "", locked.read_text()):
        with pytest.raises((ssl.SSLError, ValueError)):
            check_pair(certificate, wrong)


def test_a_certificate_that_only_openssl_knows_is_refused(pairs):
    """What is served could not be compared with it."""
    certificate, key = texts(pairs["one"])
    with pytest.raises(ValueError):
        check_pair(certificate.replace(" CERTIFICATE", " X509 CERTIFICATE"), key)


@contextlib.contextmanager
def serving(folder, answer=None):
    """Answer one client on a port with a certificate, as nginx does or, with an answer, PostgreSQL.

    Yields:
        The port, and what the client has said, which is whole once this ends.
    """
    said = {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")
    context.sni_callback = lambda sock, name, context: said.update(name=name)

    def serve(listening):
        plain, _ = listening.accept()
        with plain:
            if answer is not None:
                said["request"] = plain.recv(8)
                plain.sendall(answer)
            if answer == b"N":
                said["after"] = plain.recv(1)
            else:
                with context.wrap_socket(plain, server_side=True) as tls:
                    # Without a farewell this would be an SSLEOFError, which PostgreSQL logs.
                    tls.suppress_ragged_eofs = False
                    with contextlib.suppress(ssl.SSLEOFError, ConnectionError):
                        said["farewell"] = tls.recv(1) == b""

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        yield listening.getsockname()[1], said
        thread.join(30)


def test_the_certificate_that_a_server_has_loaded_is_seen(pairs):
    """It may be another than the one on disk. That nobody trusts it is not the question."""
    with serving(pairs["one"]) as (port, said):
        answer = served_certificate("0.0.0.0", port, "one.example.com")
    assert answer == der(texts(pairs["one"])[0])
    assert said["name"] == "one.example.com" and "request" not in said


def test_postgresql_is_asked_for_tls_first_and_takes_no_offence(pairs):
    """It talks another protocol until then, and logs a connection that breaks off."""
    with serving(pairs["one"], b"S") as (port, said):
        answer = served_certificate("*", port, postgresql=True)
    assert answer == der(texts(pairs["one"])[0])
    assert said == {"request": SSL_REQUEST, "name": None, "farewell": True}


def test_a_server_without_tls_has_no_certificate(pairs):
    """PostgreSQL says N with ssl off."""
    with serving(pairs["one"], b"N") as (port, said):
        assert served_certificate("127.0.0.1", port, postgresql=True) == b""
    assert said["after"] == b""
    assert served_certificate("127.0.0.1", port) == b""
