"""Ask every route of an MLflow server without credentials, and tell which of them answer.

Usage: RELEASE/bin/python crawl.py > routes.json              in a release's own Python
       python crawl.py URL --routes routes.json [--ca FILE]   from anywhere

The routes are read from the release's own app, so they follow its version. For servers of tests
only: on a server that lets everybody in, this writes and deletes.
"""

import argparse
import http.client
import importlib.util
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

# What is sent for a path parameter: nothing has that name. A static file must exist to be seen.
PARAMETER = re.compile(r"<(?:[^<>:]+:)?(\w+)>|\{(\w+)(?::\w+)?\}")
NOTHING, STATIC_FILE = "probe-of-tests", "index.html"
STATIC = re.compile(r"^/(static-files|build)/")
BODY = {"POST": b"{}", "PUT": b"{}", "PATCH": b"{}", "DELETE": b"{}"}
NEITHER = (401, 403)


class Route(NamedTuple):
    """A route of the server: who serves it, its rule, its methods and its function."""

    app: str
    rule: str
    methods: list[str]
    function: str

    @property
    def path(self) -> str:
        """A path that leads to the route and names nothing that exists, but a static file."""
        value = STATIC_FILE if STATIC.match(self.rule) else NOTHING
        return PARAMETER.sub(value, self.rule)


class Answer(NamedTuple):
    """What one request was answered with; `asked` is whether for credentials.

    The status is 0 where no answer came, which is not a refusal.
    """

    method: str
    rule: str
    path: str
    status: int
    size: int
    asked: bool
    location: str
    start: str


def routes() -> list[Route]:
    """Return every route of a release's app for servers with users; to be called in its Python.

    That is mlflow-oidc-auth where the release has it, else MLflow's basic-auth. With Prometheus and
    artifacts on, which add routes, and with a database of its own.
    """
    has_oidc = importlib.util.find_spec("mlflow_oidc_auth") is not None
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "auth.ini")
        with open(config, "w") as file:
            file.write(
                "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
                f"database_uri = sqlite:///{folder}/auth.db\n"
                "admin_username = admin\nadmin_password = not-the-default-one\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            )
        os.environ |= {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": folder,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
            "MLFLOW_AUTH_CONFIG_PATH": config,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests' crawl",
            "OIDC_USERS_DB_URI": f"sqlite:///{folder}/oidc.db",
            "SECRET_KEY": "of the tests' crawl",
            # Both spellings: the server's own and that of prometheus_client.
            "prometheus_multiproc_dir": folder,
            "PROMETHEUS_MULTIPROC_DIR": folder,
        }
        from mlflow.server import app as flask_app

        if has_oidc:
            from mlflow_oidc_auth.app import app as served
        else:
            from mlflow.server.auth import create_app

            served = create_app(flask_app)
        return routes_of(served, flask_app)


def routes_of(served, flask_app) -> list[Route]:
    """Return the routes of an app, a FastAPI app before one of Flask."""
    from fastapi import routing

    # A newer FastAPI keeps what was included as a tree.
    contexts = getattr(routing, "iter_route_contexts", iter)(served.routes)
    found = []
    for context in contexts:
        methods = getattr(context, "methods", None)
        if getattr(context, "endpoint", None) is not None:
            kinds = sorted(methods) if methods else ["WEBSOCKET"]
            name = f"{context.endpoint.__module__}.{context.endpoint.__name__}"
            found.append(Route("fastapi", context.path, kinds, name))
    for rule in flask_app.url_map.iter_rules():
        found.append(Route("flask", rule.rule, sorted(rule.methods), rule.endpoint))
    return found


class Crawl:
    """Requests to one server, each over a connection that its thread keeps.

    Args:
        url: Address of the server, http or https.
        ca: File with the certificate that signed the server's.
        headers: Sent with each request, such as credentials.
        timeout: Seconds to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        ca: str | None = None,
        headers: dict | None = None,
        timeout: float = 20,
    ):
        self.url = urlsplit(url)
        self.timeout = timeout
        self.tls = ssl.create_default_context(cafile=ca) if self.url.scheme == "https" else None
        self.headers = {"Content-Type": "application/json"} | (headers or {})
        self.own = threading.local()

    def connection(self) -> http.client.HTTPConnection:
        if not getattr(self.own, "connection", None):
            kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
            options = {"context": self.tls} if self.tls else {}
            self.own.connection = kind(
                self.url.hostname, self.url.port, timeout=self.timeout, **options
            )
        return self.own.connection

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        """Return the response and its body; the path is sent as it is.

        A kept connection that has ended is made anew. An underscore in a header's name is a dash.
        """
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        for attempt in (1, 2):
            connection = self.connection()
            try:
                connection.request(method, path, body, sent)
                response = connection.getresponse()
                return response, response.read()
            except (http.client.HTTPException, OSError) as error:
                connection.close()
                if attempt == 2 or isinstance(error, TimeoutError):
                    raise

    def answer(self, method: str, route: Route) -> Answer:
        try:
            response, body = self.ask(method, route.path, BODY.get(method))
        except TimeoutError as error:
            return Answer(method, route.rule, route.path, 0, 0, False, "", f"no answer: {error}")
        return Answer(
            method,
            route.rule,
            route.path,
            response.status,
            len(body),
            response.status == 401 or response.getheader("WWW-Authenticate") is not None,
            response.getheader("Location", ""),
            body[:200].decode(errors="replace"),
        )

    def all(self, found: list[Route], threads: int = 8) -> list[Answer]:
        """Ask each route with each of its methods."""
        asked = {
            (method, route.path): (method, route)
            for route in found
            for method in route.methods
            if method != "WEBSOCKET"
        }
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda question: self.answer(*question), asked.values()))


def is_redirect_to_login(answer: Answer, login: str) -> bool:
    return 300 <= answer.status < 400 and urlsplit(answer.location).path == login


def opened(answers: list[Answer], login: str = "/login") -> list[Answer]:
    """Return what was answered with more than a refusal: 401, 403, 404, 405, go to the login."""
    refusals = (*NEITHER, 404, 405)
    return [
        answer
        for answer in answers
        if answer.status not in refusals and not is_redirect_to_login(answer, login)
    ]


def reached(answers: list[Answer], login: str = "/login") -> list[Answer]:
    """Return what somebody was let into, though it may have found nothing there.

    Stricter than `opened`: behind the login even an unknown path is 401, so a 404 or a 405 is the
    word of a route that was reached, or of a front that has closed the path.
    """
    return [
        answer
        for answer in answers
        if answer.status not in NEITHER and not is_redirect_to_login(answer, login)
    ]


def reached_on_host(control, python: str, url: str, ca: str) -> list[dict]:
    """Return what is reached without a login of all the routes of a host's release.

    Args:
        control: The control side of the host.
        python: Path of the release's Python there.
        url: Address of the server, as seen from the host's network.
        ca: File with the certificate that signed the server's.
    """
    with open(__file__) as code:
        command = ["podman", "exec", "--interactive", control.name, python, "-"]
        listed = subprocess.run(command, stdin=code, capture_output=True, text=True)
    assert len(json.loads(listed.stdout or "[]")) > 400, listed.stderr[-2000:]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(listed.stdout)
        file.flush()
        words = [__file__, url, f"--routes={file.name}", f"--ca={ca}"]
        command = control.inside(sys.executable, *words)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", help="without it, the routes of this Python's MLflow")
    parser.add_argument("--routes", metavar="FILE")
    parser.add_argument("--ca", metavar="FILE")
    options = parser.parse_args()
    if not options.url:
        json.dump([route._asdict() for route in routes()], sys.stdout)
        sys.exit()
    with open(options.routes) as file:
        listed = [Route(**route) for route in json.load(file)]
    for answer in reached(Crawl(options.url, options.ca).all(listed)):
        print(json.dumps(answer._asdict()))
