"""Somebody who comes to a tracking server from outside, over TLS, with or without a login."""

import base64
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

# What is not answered without a login.
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def address_of(container: str) -> str:
    """Return the address of a test host."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    command = ["podman", "inspect", f"--format={form}", container]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Visitor:
    """A visitor of one host.

    Args:
        name: Name of the host, which its certificate has to have.
        login: Name and password; none is anonymous.
        port: TCP port.
    """

    def __init__(self, name: str, login: tuple[str, str] | None = None, port: int = 443):
        self.name, self.login, self.port = name, login, port
        self.address = address_of(name)
        # From now on no other is taken, whoever has signed it.
        self.certificate = ssl.get_server_certificate((self.address, port), timeout=30)
        self.context = ssl.create_default_context(cadata=self.certificate)
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN

    def as_(self, *login: str) -> "Visitor":
        """Return the same visitor with a login, or without one."""
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__ | {"login": login or None}
        return other

    def ask(self, method: str, path: str, body=None, **headers: str) -> tuple[int, bytes]:
        """Return status and body of a request; headers with _ for -, a dict as body is JSON."""
        with self.request(method, path, body, **headers) as response:
            return response.status, response.read()

    def digest(self, path: str) -> tuple[int, str]:
        """Return status and SHA-256 of what is at a path, however large."""
        found = hashlib.sha256()
        with self.request("GET", path) as response:
            while block := response.read(1024 * 1024):
                found.update(block)
            return response.status, found.hexdigest()

    @contextmanager
    def request(self, method: str, path: str, body=None, **headers: str):
        """Send a request and yield the response."""
        connection = http.client.HTTPSConnection(self.name, self.port, timeout=120)
        plain = socket.create_connection((self.address, self.port), timeout=120)
        connection.sock = self.context.wrap_socket(plain, server_hostname=self.name)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.login:
            sent |= dict([self.authorization.split(": ", 1)])
        if isinstance(body, dict):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, sent)
            yield connection.getresponse()
        finally:
            connection.close()

    @property
    def authorization(self) -> str:
        """The header that says who the visitor is."""
        words = base64.b64encode(":".join(self.login or ()).encode()).decode()
        return f"Authorization: Basic {words}"

    def status(self, method: str, path: str, body=None, **headers: str) -> int:
        return self.ask(method, path, body, **headers)[0]

    def call(self, api: str, method: str = "POST", **fields) -> dict:
        """Call MLflow's API, which must succeed, and return its answer."""
        status, body = self.ask(method, f"/api/2.0/mlflow/{api}", fields)
        assert status == 200, body
        return json.loads(body)

    def whoami(self) -> dict | None:
        """Return whom the server takes the visitor for, None if for nobody."""
        status, body = self.ask("GET", "/api/2.0/mlflow/users/current")
        # A worker that still remembers the password of a user who is gone finds no such user.
        assert status in (200, 401, 404), (status, body)
        return json.loads(body)["user"] if status == 200 else None


def anonymous(host: str, address: str = "") -> int | None:
    """Return how a search without a login is answered by a host, None if not at all."""
    # Whichever certificate it has.
    context = ssl._create_unverified_context()
    address = address or address_of(host)
    connection = http.client.HTTPSConnection(address, timeout=60, context=context)
    try:
        connection.request("GET", SEARCH, headers={"Host": host})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@contextmanager
def watched(host: str):
    """Search without a login while the block runs; the answers are in the yielded list."""
    seen, over, address = [], threading.Event(), address_of(host)

    def watch():
        while not over.wait(0.1):
            seen.append(anonymous(host, address))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield seen
        finally:
            over.set()
        # Whatever has ended it before, so that nobody takes an early end for silence.
        watching.result()
