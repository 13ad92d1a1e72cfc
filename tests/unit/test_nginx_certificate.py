"""The daily look at a certificate, against a server of this process that speaks TLS."""

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading

import nginx_certificate
import pytest


def make_pair(folder, days):
    """Make a certificate in a folder, by the machine's own openssl."""
    folder.mkdir(exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=a.example", "-days", str(days)]
    command += ["-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def pair(tmp_path):
    """A certificate for 90 days, in the folder that the site names."""
    return make_pair(tmp_path / "mlflow-given-0123", 90)


@contextlib.contextmanager
def served(folder):
    """Serve what is in the folder now; yields the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with contextlib.suppress(OSError):
                context.wrap_socket(server.accept()[0], server_side=True).close()

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


def problem(tmp_path, folder, port, address="127.0.0.1"):
    """Return what the program says when it fails, as systemd starts it; nothing if it does not."""
    site = tmp_path / "site"
    site.write_text(
        f"server {{\n listen {address}:{port} ssl;\n server_name _;\n"
        f" ssl_certificate {folder}/fullchain.pem;\n}}\n"
    )
    command = [sys.executable, "-I", nginx_certificate.__file__, site]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == (done.stderr != "")
    return done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_certificate_that_is_served_and_valid_is_no_problem(tmp_path, pair, address):
    with served(pair) as port:
        assert problem(tmp_path, pair, port, address) == ""


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("mlflow-given-0123", "give a new one"), ("mlflow-self_signed-0123", "run site.yml, which")],
)
def test_a_certificate_that_ends_soon_is_told_with_what_to_do(tmp_path, name, remedy):
    """While there is time to order another."""
    folder = make_pair(tmp_path / name, 20)
    with served(folder) as port:
        said = problem(tmp_path, folder, port)
    assert said.startswith("Wanted ") and remedy in said
    assert re.search(r"ends on \d{4}-\d\d-\d\d, in 20 days", said)


def test_a_renewed_certificate_that_nginx_has_not_loaded_is_told(tmp_path, pair):
    """It serves the old one up to its end; a look at the file would say that all is well."""
    with served(pair) as port:
        make_pair(pair, 90)
        assert "run `systemctl reload nginx`" in problem(tmp_path, pair, port)


def test_a_front_that_does_not_answer_is_told(tmp_path, pair):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "see `systemctl status nginx`" in problem(tmp_path, pair, port)
