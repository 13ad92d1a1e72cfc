"""What stands between the checks of an MLflow server with users and its handlers.

MLflow decides who may do what by one reading of a request, and carries out another: its check and
its handler parse query, body and names each in its own way. What both would read alike passes.
What they could read differently is refused here with 400 and the reason, whoever sends it.

`mlflow server` finds the apps below by entry_points.txt, MLflow's own way to add one. Each is the
app of the same name without `guarded`, with three things around it:

- Front, before everything: what is too large or deep to be parsed, pages of others, and who guesses
  passwords.
- judge, after the login and MLflow's own check, before the handler: what is ambiguous.
- Headers for the audit trail, which nginx writes and hides from clients: X-Audit-User is who is
  logged in, X-Audit-Ids what a write was about.

Looked at with MLflow 3.17.2 and mlflow-oidc-auth 11.0.2. tests/unit derives routes and fields from
MLflow's own maps, so a name or a route of FastAPI that is new and has no rule fails there.
"""

import asyncio
import fcntl
import json
import os
import re
import time
import unicodedata
import zlib
from contextlib import AsyncExitStack
from urllib.parse import parse_qsl, quote

from mlflow_ready import ready

SAFE = ("GET", "HEAD", "OPTIONS")
# Handlers below these decode JSON, whatever the type of the body is said to be.
JSON_PREFIXES = ("/api/", "/ajax-api/", "/graphql")
# Bytes that pass through as they are: an artifact is nobody's JSON.
ARTIFACTS = re.compile(r"/(ajax-)?api/2\.0/mlflow-artifacts/artifacts/")
NEW_TRACE = re.compile(r"/(ajax-)?api/3\.0/mlflow/traces")
NEW_ASSESSMENT = re.compile(r"/(ajax-)?api/3\.0/mlflow/traces/[^/]+/assessments")
# Assessments that one of a request names: itself, and the one in whose place it is.
NAMED = ("assessment_id", "overrides")
OTLP = "/v1/traces"
# What MLflow's FastAPI handles itself; the rest is Flask's.
NATIVE = (
    "/v1/",
    "/gateway/",
    "/ajax-api/3.0/jobs",
    "/ajax-api/3.0/mlflow/assistant",
    "/api/3.0/mlflow/mcp-servers",
    "/ajax-api/3.0/mlflow/mcp-servers",
)

# What a body may hold, so that a worker grows by some 200 MB at most while it is parsed and carried
# out: objects and lists of JSON, values, spans, messages of protobuf. A batch of 1,000 metrics, the
# most that MLflow takes, has 1,001 objects and 4,000 values; OpenTelemetry's collector sends 8,192
# spans at once, each of them with two messages an attribute.
MAX_CONTAINERS = 300_000
MAX_VALUES = 1_000_000
MAX_SPANS = 20_000
MAX_MESSAGES = 1_000_000
# Bytes of a compressed body of traces once it is unpacked.
MAX_UNPACKED = 16 * 1024 * 1024
# Bytes from which on a worker carries out one request at a time; others wait.
LARGE = 128 * 1024
# Headers that say who asks for what: of two, MLflow's check and its handler may take either one.
SAID_ONCE = re.compile(
    rb"(authorization|content-(type|encoding|length)|transfer-encoding|host|origin|x-mlflow-.*)$"
)

# Fields that say who or what a request is about. protobuf takes them in two spellings, run_id and
# runId; the check knows one.
IDENTITY = re.compile(r"(^|.*_)(ids?|uuid|names?|users?|uri|location|source|key|alias|version)$")
# Tags by which the server finds what it reads for whoever asks.
SERVERS_TAG = re.compile(r"(mlflow\.traceTag\.)?mlflow\..*(location|archiv\w*)$", re.IGNORECASE)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Routes that make a name. Who makes a thing is its owner, by that name.
NAMING = re.compile(r".*/(create|register|rename|logged-models|webhooks|workspaces|mcp-servers)$")
NEW_EXPERIMENT = re.compile(r"/(ajax-)?api/2\.0/mlflow/experiments/create")
# Where google-auth sends a service account's signature, and follows where the answer points.
GOOGLE_TOKENS = "https://oauth2.googleapis.com/token"
# A region, of which a provider's host name is made.
REGION = re.compile(r"[a-z0-9-]+")
DATABRICKS = re.compile(
    r"https://[a-z0-9.-]+\.((cloud|gcp)\.databricks\.com|azuredatabricks\.net)/?"
)
# Routes that read though they are no GET.
READING = re.compile(
    r".*/(search[\w-]*|batchGet\w*|get-latest-versions|metrics|calculate-filter-correlation"
    r"|presigned-download-url|graphql|ui-telemetry|check)$"
)
# What the audit trail records of a request, beside fields of identity.
RECORDED = re.compile(r"(permission|resource_type|resource_id|username|is_admin|stage|status)$")
RECORDED_CHARACTERS = 1500
# What it never records.
SECRET = re.compile(r"password|secret|token|value|credential|._key$", re.IGNORECASE)

# Wrong passwords from one address: so many at once, then one in so many seconds.
GUESSES = 10
SECONDS_A_GUESS = 6
# The answer to a wrong one takes as long whether there is such a user or not. MLflow takes 0.2 s
# for a known name on an idle machine, 0.01 s for an unknown one.
REFUSAL_SECONDS = 0.5
# Addresses and logins that are remembered at most, and seconds for which a login is.
REMEMBERED = 10_000
TRIED_SECONDS = 3600


class Refused(Exception):
    """A request that is not passed on.

    Args:
        text: What was wanted, what was found, and what to do.
        status: Of the answer.
    """

    def __init__(self, text: str, status: int = 400):
        super().__init__(text)
        self.text, self.status = text, status

    @property
    def body(self) -> bytes:
        """The answer, as MLflow's client expects an error."""
        codes = {403: "PERMISSION_DENIED", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}
        code = codes.get(self.status, "INVALID_PARAMETER_VALUE")
        return json.dumps({"error_code": code, "message": self.text}).encode()


# What judge asks of a body


def fold(key: str) -> str:
    """Return what two spellings of one field have in common."""
    return key.replace("_", "").lower()


def parse(body: bytes):
    """Return what a body of JSON says.

    Raises:
        Refused: It has a key twice, or is no JSON.
    """

    def once(pairs: list[tuple]) -> dict:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise Refused(f"Wanted each key once; found {', '.join(twice)} twice; leave one out.")
        return found

    try:
        found = json.loads(body, object_pairs_hook=once)
        if SURROGATE.search(body):
            # Half a character, which no store or log takes.
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (ValueError, RecursionError):
        raise Refused("Wanted JSON; found something else; correct the body.") from None


def check_size(body: bytes) -> None:
    """Refuse JSON that would take far more memory once it is parsed."""
    check_number(body.count(b"{") + body.count(b"["), MAX_CONTAINERS, "objects and lists")
    check_number(body.count(b","), MAX_VALUES, "values")


def check_number(found: int, most: int, what: str) -> None:
    """Refuse more of something than is taken at once."""
    if found > most:
        raise Refused(f"Wanted at most {most} {what}; found more; send them in parts.", 413)


def check_messages(body: bytes, descriptor) -> None:
    """Refuse a body of protobuf that has far more messages than one that is honest.

    An empty message takes two bytes, and some hundred once it is parsed.

    Args:
        descriptor: Of the message that the body is.
    """
    found, begun = 0, [(0, len(body), descriptor)]

    def number(at: int) -> tuple[int, int]:
        """Return a varint, and where it ends."""
        value = shift = 0
        while body[at] & 0x80 and shift < 70:
            value, shift, at = value | (body[at] & 0x7F) << shift, shift + 7, at + 1
        return value | body[at] << shift, at + 1

    while begun:
        at, end, kind = begun.pop()
        while at < end:
            key, at = number(at)
            if key & 7 == 2:
                length, at = number(at)
                field = kind.fields_by_number.get(key >> 3)
                if field and field.message_type:
                    found += 1
                    check_number(found, MAX_MESSAGES, "messages")
                    begun.append((at, min(at + length, end), field.message_type))
                at += length
            elif key & 7 == 0:
                _, at = number(at)
            elif key & 7 in (1, 5):
                at += 8 if key & 7 == 1 else 4
            else:
                raise ValueError("a group, which OpenTelemetry does not have")


def check_spelling(given, descriptor) -> None:
    """Refuse a field of identity that is not spelled as MLflow's check knows it.

    Args:
        descriptor: Of the protobuf message that the handler makes of it.
    """
    if isinstance(given, list):
        for item in given:
            check_spelling(item, descriptor)
    if not isinstance(given, dict):
        return
    for field in descriptor.fields:
        if field.json_name != field.name and field.json_name in given:
            if field.name in given or IDENTITY.match(field.name):
                raise Refused(
                    f"Wanted the field {field.name}; found {field.json_name}; "
                    f"spell it {field.name}."
                )
        nested = field.message_type
        # The keys of a map are its sender's own, as are those of what protobuf itself defines.
        if nested is None or nested.GetOptions().map_entry:
            continue
        if not nested.full_name.startswith("google.protobuf.") and field.name in given:
            check_spelling(given[field.name], nested)


def check_once(pairs: list[tuple[str, object]], where: str) -> None:
    """Refuse two values for what the check or the handler takes for one field."""
    found: dict[str, tuple] = {}
    for key, value in pairs:
        same = {"runuuid": "runid"}.get(fold(key), fold(key))
        other, former = found.setdefault(same, (key, value))
        if (other != key and not {other, key} == {"run_id", "run_uuid"}) or former != value:
            raise Refused(
                f"Wanted one value for {other}; found {other} and {key} in {where}; leave one out."
            )


def check_path(path: dict, given: dict, where: str) -> None:
    """Refuse a field that says something else than the path does."""
    for key, value in path.items():
        for other, found in given.items():
            if fold(other) == fold(key) and found != value:
                raise Refused(
                    f"Wanted the {key} of the path, {value}, alone; found another in {where}; "
                    "leave it out."
                )


def check_name(name) -> None:
    """Refuse a name that is a pattern, or that looks like another one."""
    if not isinstance(name, str):
        return
    plain = unicodedata.normalize("NFKC", name)
    if "*" in plain:
        raise Refused(
            f"Wanted a name without *, which stands for all names; found {name}; choose another."
        )
    # U+200D joins emoji.
    hidden = [c for c in name if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")]
    if name != name.strip() or set(hidden) - {"\u200d"}:
        raise Refused(
            "Wanted a name that differs from others to the eye; found one that begins or ends with "
            "a space, or has characters that cannot be seen; choose another."
        )


def check_tags(given) -> None:
    """Refuse a tag by which the server finds what it reads."""
    if isinstance(given, list):
        for item in given:
            check_tags(item)
    if not isinstance(given, dict):
        return
    keys = [*given, *([given["key"]] if isinstance(given.get("key"), str) else [])]
    for key in keys:
        if SERVERS_TAG.match(key):
            raise Refused(f"Wanted tags of your own; found {key}, the server's; leave it out.")
    for value in given.values():
        check_tags(value)


class Asked:
    """A request, as the adapters below see it.

    Args:
        descriptor: Of the message that the handler makes of the body, if it makes one.
        parameters: What MLflow takes from the path.
    """

    def __init__(self, method, path, query, kind, body, descriptor=None, parameters=None):
        self.method, self.path, self.query = method, path, query
        self.kind, self.body = kind, body
        self.descriptor, self.parameters = descriptor, parameters or {}
        self.given: dict = {}

    @property
    def writes(self) -> bool:
        return self.method not in SAFE and not READING.match(self.path)

    @property
    def ids(self) -> str:
        """What the request is about, for the audit trail: as in a query string, `-` if nothing."""
        noted: dict[str, str] = {}

        def look(given, depth: int) -> None:
            for key, value in given.items() if isinstance(given, dict) else ():
                if isinstance(value, dict) and depth:
                    look(value, depth - 1)
                elif IDENTITY.match(key) or RECORDED.match(key):
                    if isinstance(value, list) and all(isinstance(one, str) for one in value):
                        value = ",".join(value[:20])
                    if isinstance(value, (str, int)) and not SECRET.search(key):
                        noted.setdefault(key, str(value)[:250])

        look(self.parameters, 0)
        look(dict(parse_qsl(self.query)), 0)
        look(self.given, 3)
        # A request is carried out by now: to fail here would keep MLflow from what it does after.
        pairs = (
            f"{quote(key, errors='replace')}={quote(value, safe=':/@', errors='replace')}"
            for key, value in noted.items()
        )
        return "&".join(pairs)[:RECORDED_CHARACTERS] or "-"


def judge(asked: Asked) -> None:
    """Refuse what MLflow's check and its handler could read differently.

    Raises:
        Refused: With the reason.
    """
    try:
        check(asked)
    except RecursionError:
        raise Refused("Wanted fewer levels of JSON; found very many; send less at once.") from None


def check(asked: Asked) -> None:
    """Do what judge does, for JSON of any depth that Python can parse."""
    query = parse_qsl(asked.query, keep_blank_values=True)
    identity = [(key, value) for key, value in query if IDENTITY.match(key) and key[-1:] != "s"]
    check_once(identity, "the query")
    check_path(asked.parameters, dict(query), "the query")
    if not asked.body:
        return
    if asked.method in SAFE:
        raise Refused(f"Wanted no body in a {asked.method}; found one; put it into the query.")
    if asked.kind.split(";")[0].strip().lower() != "application/json":
        raise Refused(
            f"Wanted a body of application/json; found {asked.kind or 'none said'}; say its type."
        )
    given = parse(asked.body)
    if not isinstance(given, dict):
        raise Refused("Wanted an object of JSON; found something else; do not encode it twice.")
    asked.given = given
    if asked.descriptor:
        check_spelling(given, asked.descriptor)
    if query:
        fields = [field.name for field in asked.descriptor.fields] if asked.descriptor else []
        known = set(map(fold, [*fields, *given]))
        for key, _ in query:
            if fold(key) in known or IDENTITY.match(key):
                raise Refused(
                    f"Wanted {key} in the body alone; found it in the query; leave it out."
                )
    check_once(list(given.items()), "the body")
    check_path(asked.parameters, given, "the body")
    if isinstance(given.get("assessment"), dict):
        check_path(asked.parameters, given["assessment"], "the body")
    if not asked.writes:
        return
    if NAMING.match(asked.path):
        check_name(given.get("name"))
    check_name(given.get("new_name"))
    check_tags(given)


# What exists already


def check_places(
    traces: dict | None = None, assessments: dict | None = None, runs: dict | None = None
) -> None:
    """Refuse what exists already, in another place than the one it is sent to.

    Args:
        traces: Experiment by id of the trace.
        assessments: Trace by id of the assessment.
        runs: Experiment by id of the run.
    """
    if not (traces or assessments or runs):
        return
    from mlflow.server.handlers import _get_tracking_store
    from mlflow.store.tracking.dbmodels.models import SqlAssessments, SqlRun, SqlTraceInfo

    with _get_tracking_store().ManagedSessionMaker() as session:

        def misplaced(wanted: dict | None, key, place) -> list[str]:
            """Return the ids that are in another place than the wanted one."""
            found = session.query(key, place).filter(key.in_(list(wanted))).all() if wanted else ()
            return [known for known, where in found if str(where) != wanted[known]]

        found = {
            "trace": misplaced(traces, SqlTraceInfo.request_id, SqlTraceInfo.experiment_id),
            "assessment": misplaced(
                assessments, SqlAssessments.assessment_id, SqlAssessments.trace_id
            ),
            "run": misplaced(runs, SqlRun.run_uuid, SqlRun.experiment_id),
        }
    for kind, ids in found.items():
        if ids:
            raise Refused(
                f"Wanted a {kind} that belongs to what the request names; found {ids[0]}, which "
                "belongs to another; leave it out.",
                403,
            )


def check_new_trace(given: dict) -> None:
    """Refuse to make a trace, or an assessment in it, that is another's."""
    found = [given]
    for key in ("trace", "trace_info", "trace_location", "mlflow_experiment"):
        nested = found[-1].get(key)
        if not isinstance(nested, dict):
            raise Refused(f"Wanted {key} in a trace; found none; say where it belongs.")
        found.append(nested)
    trace = str(found[2].get("trace_id"))
    # Its artifacts are in a folder of that name.
    if ".." in trace or trace.startswith("/"):
        raise Refused(f"Wanted the id of a trace; found {trace}; leave dots and slashes out.")
    inner = found[2].get("assessments")
    places = {trace: str(found[4].get("experiment_id"))}
    check_places(places, assessments_of(trace, inner if isinstance(inner, list) else []))


def assessments_of(trace: str, given: list) -> dict[str, str]:
    """Return the trace of each assessment that is named in some of a request."""
    found = [one.get(key) for one in given if isinstance(one, dict) for key in NAMED]
    return {str(each): trace for each in found if each}


def unpack(body: bytes, encoding: str) -> bytes:
    """Return a body of traces as it was before it was compressed.

    Raises:
        Refused: It is compressed in another way, or larger than MAX_UNPACKED.
    """
    for bits in {"gzip": (31,), "deflate": (15, -15)}.get(encoding, ()):
        worker = zlib.decompressobj(bits)
        try:
            found = worker.decompress(body, MAX_UNPACKED)
        except zlib.error:
            continue
        if worker.unconsumed_tail:
            text = f"Wanted at most {MAX_UNPACKED} bytes of traces; found more; send them in parts."
            raise Refused(text, 413)
        if worker.eof:
            return found
    raise Refused(f"Wanted gzip or deflate; found {encoding}, or a broken body; send it plain.")


def check_spans(body: bytes, kind: str, experiment: str, run: str = "") -> None:
    """Refuse spans for traces or a run of another experiment, or with a tag of the server's."""
    from google.protobuf.json_format import Parse
    from mlflow.server.otel_api import _convert_otlp_json_ids_to_base64
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest()
    try:
        if kind.split(";")[0].strip() == "application/json":
            check_size(body)
            parse(body)
            Parse(_convert_otlp_json_ids_to_base64(body), message, ignore_unknown_fields=True)
        else:
            # Each takes two bytes at least.
            if len(body) > 2 * MAX_MESSAGES:
                check_messages(body, message.DESCRIPTOR)
            message.ParseFromString(body)
    except Refused:
        raise
    except Exception:
        raise Refused("Wanted spans of OpenTelemetry; found something else.") from None
    places = {}
    scopes = [scope for resource in message.resource_spans for scope in resource.scope_spans]
    check_number(sum(len(scope.spans) for scope in scopes), MAX_SPANS, "spans")
    for scope in scopes:
        for span in scope.spans:
            places[f"tr-{int.from_bytes(span.trace_id, 'big'):032x}"] = experiment
            check_tags({attribute.key: None for attribute in span.attributes})
    check_places(places, runs={run: experiment} if run else None)


# Whom the AI gateway asks


def check_provider(provider: str, config) -> None:
    """Refuse to ask a provider with the server's own credentials, or at anybody's host.

    Args:
        provider: As MLflow calls it.
        config: What MLflow has made of a user's secret: a model of mlflow.gateway.
    """
    has_key, region = True, None
    if provider == "bedrock":
        aws = vars(config.aws_config)
        has_key = aws.get("aws_bearer_token") or (
            aws.get("aws_access_key_id") and aws.get("aws_secret_access_key")
        )
        region = aws["aws_region"]
    elif provider == "vertex_ai":
        region = config.vertex_location
        try:
            account = json.loads(config.vertex_credentials)
            has_key = account["type"] == "service_account" and account["token_uri"] == GOOGLE_TOKENS
        except (ValueError, TypeError, KeyError):
            has_key = False
    elif provider == "databricks":
        # It says itself where its tokens come from.
        has_key = DATABRICKS.fullmatch(config.host or "") and (
            config.token or (config.client_id and config.client_secret)
        )
    elif provider == "litellm":
        has_key = False
    if not has_key:
        raise Refused(
            f"Wanted a key for {provider} in the secret; found none that is whole, so that the "
            "server's own would be used; give a key or a token, or for vertex_ai a service account "
            f"with the token_uri {GOOGLE_TOKENS}."
        )
    if region and not REGION.fullmatch(region):
        raise Refused(f"Wanted a region of {provider}; found {region}; correct it.")


def guard_gateway() -> None:
    """Have each provider checked when it is asked, whenever its secret was written."""
    from mlflow.exceptions import MlflowException
    from mlflow.server import gateway_api

    build = gateway_api._build_endpoint_config

    def checked(*args, **kwargs):
        found = build(*args, **kwargs)
        provider = found.model.provider
        try:
            check_provider(getattr(provider, "value", provider), found.model.config)
        except Refused as refused:
            raise MlflowException.invalid_parameter_value(refused.text) from None
        return found

    gateway_api._build_endpoint_config = checked


# The adapters: Flask, FastAPI, and what is around both


def guard_flask(app, routes: dict, user_of, is_admin) -> None:
    """Have a Flask app's requests judged after those who have registered before.

    Args:
        routes: Descriptor of the handler's message by rule and method.
        user_of: Returns who is logged in, or nothing.
        is_admin: Tells whether they may do everything.
    """
    from flask import Response, g, request

    def before():
        rule = request.url_rule.rule if request.url_rule else ""
        if not request.path.startswith(JSON_PREFIXES) or ARTIFACTS.match(request.path):
            body, kind = b"", ""
        else:
            body, kind = request.get_data(cache=True), request.content_type or ""
        g.asked = Asked(
            request.method,
            request.path,
            request.query_string.decode("latin-1"),
            kind,
            body,
            routes.get((rule, request.method)),
            request.view_args,
        )
        try:
            judge(g.asked)
            if NEW_TRACE.fullmatch(request.path) and g.asked.writes:
                check_new_trace(g.asked.given)
            elif NEW_ASSESSMENT.fullmatch(request.path) and g.asked.writes:
                named = [g.asked.given.get("assessment")]
                check_places(assessments=assessments_of(request.view_args["trace_id"], named))
            elif NEW_EXPERIMENT.fullmatch(request.path) and g.asked.given.get("artifact_location"):
                # The server reads and writes below it, with its own rights, for whoever owns it.
                if os.environ.get("MLFLOW_SERVE_ARTIFACTS") != "false" and not is_admin():
                    raise Refused(
                        "Wanted an experiment without artifact_location, as artifacts pass through "
                        "the server; found one; leave it out, or ask an administrator.",
                        403,
                    )
        except Refused as refused:
            return Response(refused.body, refused.status, mimetype="application/json")

    def after(response):
        user = user_of()
        if user:
            response.headers["X-Audit-User"] = quote(user)
            asked, refused = g.get("asked"), response.status_code == 403
            if asked is None and (refused or request.method not in SAFE):
                # Refused by MLflow's own check, before it came here.
                query = request.query_string.decode("latin-1")
                asked = Asked(request.method, request.path, query, "", b"", None, request.view_args)
                found = request.get_json(silent=True) if request.is_json else None
                asked.given = found if isinstance(found, dict) else {}
            if asked is not None and (asked.writes or refused):
                response.headers["X-Audit-Ids"] = asked.ids
        return response

    app.before_request(before)
    app.after_request(after)


async def read(receive) -> bytes:
    """Return the whole body of an ASGI request."""
    pieces, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


def replay(body: bytes, receive):
    """Return a `receive` that says a body once, and then what the client says."""
    said = False

    async def again():
        nonlocal said
        if said:
            return await receive()
        said = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def answer(send, refused: Refused, headers: tuple = ()) -> None:
    """Send a refusal."""
    length = str(len(refused.body)).encode()
    fixed = [(b"content-type", b"application/json"), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": refused.status, "headers": fixed})
    await send({"type": "http.response.body", "body": refused.body})


class Native:
    """Judges requests that FastAPI handles itself: the innermost of its layers, after the login."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(NATIVE) or ARTIFACTS.match(path):
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        body = await read(receive)
        kind = headers.get(b"content-type", b"").decode("latin-1")
        query = scope.get("query_string", b"").decode("latin-1")
        spans = path.startswith(OTLP)
        asked = Asked(scope["method"], path, query, kind, b"" if spans else body)
        scope.setdefault("state", {})["asked"] = asked
        try:
            judge(asked)
            if spans and body:
                experiment = headers.get(b"x-mlflow-experiment-id", b"").decode("latin-1")
                asked.parameters = {"experiment_id": experiment}
                if encoding := headers.get(b"content-encoding", b"").decode("latin-1").lower():
                    body = unpack(body, encoding)
                    packed = (b"content-encoding", b"content-length")
                    kept = [one for one in scope["headers"] if one[0] not in packed]
                    length = (b"content-length", str(len(body)).encode())
                    scope = scope | {"headers": [*kept, length]}
                run = headers.get(b"x-mlflow-run-id", b"").decode("latin-1")
                await asyncio.to_thread(check_spans, body, kind, experiment, run)
        except Refused as refused:
            return await answer(send, refused)
        await self.app(scope, replay(body, receive), send)


class Guesses:
    """How many guesses each address has left, and which logins are none as they were tried before.

    Args:
        now: Tells the time in seconds.
    """

    def __init__(self, now=time.monotonic):
        self.now = now
        self.left: dict[str, tuple[float, float]] = {}
        self.tried: dict[int, float] = {}
        self.under_way: dict[str, list[int]] = {}

    def room(self, address: str) -> float:
        """Return how many guesses an address has left."""
        left, since = self.left.get(address, (GUESSES, 0))
        return min(GUESSES, left + (self.now() - since) / SECONDS_A_GUESS)

    def is_none(self, login: bytes) -> bool:
        """Tell whether a login was tried before: good or wrong, nothing is learned from it."""
        return self.tried.get(hash(login), 0) > self.now()

    async def begin(self, address: str, login: bytes) -> bool:
        """Tell whether a login is to be tried.

        As many are tried at once as the address has guesses left; more wait.
        """
        while not self.is_none(login):
            room = self.room(address)
            if room < 1:
                return False
            if len(set(self.under_way.get(address, ())) - {hash(login)}) < room:
                break
            await asyncio.sleep(0.05)
        self.under_way.setdefault(address, []).append(hash(login))
        return True

    def end(self, address: str, login: bytes, good: bool | None) -> None:
        """Remember how a login ended that was begun, if that is known."""
        self.under_way[address].remove(hash(login))
        if not self.under_way[address]:
            del self.under_way[address]
        if good is None:
            return
        if not good and not self.is_none(login):
            self.left[address] = self.room(address) - 1, self.now()
        self.tried[hash(login)] = self.now() + TRIED_SECONDS
        for known in (self.left, self.tried):
            while len(known) > REMEMBERED:
                del known[next(iter(known))]


class Front:
    """The outermost layer, before anybody is asked who they are.

    Args:
        app: The ASGI app behind it.
        blocked: Tells whether a page of an origin may not send a request of a method.
    """

    def __init__(self, app, blocked):
        self.app, self.blocked = app, blocked
        self.guesses = Guesses()
        self.large = asyncio.Lock()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = time.monotonic()
        headers = dict(scope["headers"])
        login = headers.get(b"authorization", b"")
        # An IPv6 host has a /64 for itself. Who comes by the socket, without nginx, has none.
        address = ":".join((scope.get("client") or ("",))[0].split(":")[:4])
        counts = login and address
        # What each layer adds to it is the same dictionary for all of them.
        state = scope.setdefault("state", {})
        good, instead = None, False
        turn = AsyncExitStack()

        async def note(message) -> None:
            nonlocal good, instead
            if instead:
                return
            if message["type"] == "http.response.start":
                await turn.aclose()
                sent = list(message["headers"])
                named = dict(sent)
                user = state.get("username")
                if user and b"x-audit-user" not in named:
                    sent.append((b"x-audit-user", quote(user).encode()))
                    query = scope.get("query_string", b"").decode("latin-1")
                    asked = state.get("asked") or Asked(
                        scope["method"], scope["path"], query, "", b""
                    )
                    if asked.writes or message["status"] == 403:
                        sent.append((b"x-audit-ids", asked.ids.encode()))
                if message["status"] >= 500 and not user and b"x-audit-user" not in named:
                    # What failed names hosts inside, and nobody knows who asks.
                    instead = True
                    text = "Wanted an answer; found that the server has none now; try again later."
                    return await answer(send, Refused(text, message["status"]))
                message = message | {"headers": sent}
                if message["status"] == 401:
                    good = False
                    if login:
                        await asyncio.sleep(max(0, begun + REFUSAL_SECONDS - time.monotonic()))
                elif user or b"x-audit-user" in named:
                    good = True
            await send(message)

        if counts and not await self.guesses.begin(address, login):
            wait = (b"retry-after", str(SECONDS_A_GUESS).encode())
            text = "Wanted a right password; found many wrong ones from your address; wait."
            return await answer(send, Refused(text, 429), (wait,))
        try:
            await self.pass_on(scope, headers, receive, note, turn)
        except Refused as refused:
            await answer(note, refused)
        except ConnectionError:
            pass
        finally:
            await turn.aclose()
            if counts:
                self.guesses.end(address, login, good)

    async def pass_on(self, scope, headers: dict, receive, send, turn: AsyncExitStack) -> None:
        """Have a request carried out, if nothing about it is to be refused.

        Args:
            turn: Closed with its answer; holds the turn of a large request until then.
        """
        names = [name for name, _ in scope["headers"] if SAID_ONCE.match(name)]
        if twice := sorted({name.decode() for name in names if names.count(name) > 1}):
            raise Refused(f"Wanted each header once; found {twice[0]} twice; leave one out.")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and self.blocked(origin, scope["method"]):
            raise Refused("Wanted a page of this server; found one of another.", 403)
        sends = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        path = scope["path"]
        # Artifacts pass as they come.
        if sends and not ARTIFACTS.match(path):
            body = await read(receive)
            # Spans are looked at once their sender is known.
            if not path.startswith(OTLP):
                check_size(body)
            receive = replay(body, receive)
            # A provider's answer may take minutes.
            if not path.startswith("/gateway/"):
                if len(body) >= LARGE or b"content-encoding" in headers:
                    await turn.enter_async_context(self.large)
        await self.app(scope, receive, send)


def guarded(app, user_of, is_admin):
    """Return an ASGI app with the guard around it.

    Args:
        app: The FastAPI app that has MLflow's Flask app in it.
        user_of: Returns who is logged in, inside a request of Flask.
        is_admin: Tells whether they may do everything.
    """
    from mlflow.server import app as flask_app
    from mlflow.server.handlers import get_endpoints
    from mlflow.server.security_utils import get_allowed_origins_from_env, should_block_cors_request
    from starlette.middleware import Middleware

    routes = {
        (path, method): message.DESCRIPTOR
        for path, message, methods in get_endpoints(lambda message: message)
        for method in methods
        if hasattr(message, "DESCRIPTOR")
    }
    if not routes:
        raise RuntimeError("Wanted MLflow's routes and their messages; found none.")
    guard_flask(flask_app, routes, user_of, is_admin)
    guard_gateway()
    app.user_middleware.append(Middleware(Native))
    origins = get_allowed_origins_from_env()
    front = Front(app, lambda origin, method: should_block_cors_request(origin, method, origins))
    return ready(front)


def basic_auth():
    """Return MLflow's basic-auth app with the guard around it."""
    from flask import g
    from mlflow.server.auth import create_app, sender_is_admin

    # Each worker makes the tables and the administrator if there are none: one after the other.
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        app = create_app()
    return guarded(app, lambda: g.get("mlflow_authenticated_user"), sender_is_admin)


def oidc_auth():
    """Return the app of mlflow-oidc-auth with the guard around it."""
    from flask import request
    from mlflow_oidc_auth.app import app
    from mlflow_oidc_auth.entities.auth_context import AUTH_CONTEXT_KEY

    def context():
        return request.environ.get(AUTH_CONTEXT_KEY)

    return guarded(app, lambda: context() and context().username, lambda: context().is_admin)
