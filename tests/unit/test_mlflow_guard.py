"""The guard on MLflow's own Flask app: routes and fields are those of the version that is tested.

That a request of the kind is refused is shown for each route that MLflow has; the hosts show the
same behind nginx, with logins, and that real clients pass.
"""

import asyncio
import gzip
import json
import re
import zlib

import mlflow_guard as guard
import pytest
from flask import Response
from mlflow.entities import AssessmentSource, Feedback, TraceInfo, TraceLocation, TraceState
from mlflow.exceptions import MlflowException
from mlflow.gateway.config import EndpointType
from mlflow.server import app, gateway_api, handlers
from mlflow.server.fastapi_app import create_fastapi_app
from mlflow.server.handlers import get_endpoints
from mlflow.store.tracking.gateway.entities import GatewayModelConfig
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracing.constant import TraceTagKey
from mlflow.utils import mlflow_tags
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PASSED = 299
# Those that make a thing by a name, of which whoever makes it is the owner, and that give it
# another name; and those whose `name` is that of a thing that there is, or says nothing of rights.
NAMING = {
    "experiments/create",
    "experiments/update",
    "registered-models/create",
    "registered-models/rename",
    "logged-models",
    "scorers/register",
    "label-schemas/create",
    "datasets/create",
    "review-queues/create",
    "webhooks",
    "workspaces",
    "model-versions/create",
    "gateway/secrets/create",
    "gateway/model-definitions/create",
    "gateway/endpoints/create",
    "gateway/guardrails/create",
}
NOT_NAMING = {
    "gateway/endpoints/update",
    "gateway/model-definitions/update",
    "issues",
    "issues/<issue_id>",
    "label-schemas/update",
    "model-versions/delete",
    "model-versions/delete-tag",
    "model-versions/set-tag",
    "model-versions/transition-stage",
    "model-versions/update",
    "registered-models/alias",
    "registered-models/delete",
    "registered-models/delete-tag",
    "registered-models/get-latest-versions",
    "registered-models/set-tag",
    "registered-models/update",
    "review-queues/update",
    "scorers/delete",
    "webhooks/<webhook_id>",
}


def messages():
    """Return the protobuf message of each route of MLflow's, by path and method."""
    return {
        (path, method): message.DESCRIPTOR
        for path, message, methods in get_endpoints(lambda message: message)
        for method in methods
        if hasattr(message, "DESCRIPTOR")
    }


ROUTES = {
    (rule.rule, method): messages().get((rule.rule, method))
    for rule in app.url_map.iter_rules()
    for method in rule.methods - {"HEAD", "OPTIONS"}
    if rule.rule.startswith(guard.JSON_PREFIXES) and not guard.ARTIFACTS.match(rule.rule)
}
WRITES = {(path, method): found for (path, method), found in ROUTES.items() if method != "GET"}


@pytest.fixture(scope="module")
def client():
    """A client of MLflow's app, whose requests end where the handler would begin."""
    before, after = dict(app.before_request_funcs), dict(app.after_request_funcs)
    app.before_request_funcs, app.after_request_funcs = {}, {}
    guard.guard_flask(app, messages(), lambda: "ada", lambda: False)
    app.before_request(lambda: Response("passed", PASSED))
    yield app.test_client()
    app.before_request_funcs, app.after_request_funcs = before, after


def place(path):
    """Return a path with a value for each of its parameters."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"of-the-path-\1", path)


def ask(client, path, method, body=None, kind="application/json", **more):
    data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
    return client.open(place(path), method=method, data=data, content_type=kind, **more)


def refusals(client, cases):
    """Return how many requests are refused, after it has been asserted that all are."""
    passed = [
        (path, method, body)
        for path, method, body, more in cases
        if ask(client, path, method, body, **more).status_code != 400
    ]
    assert not passed
    return len(cases)


def value(field, given="x"):
    """Return a value that protobuf takes for a field."""
    if field.message_type:
        found = {}
    elif field.enum_type:
        found = field.enum_type.values[0].name
    else:
        found = {8: True, 9: given, 12: ""}.get(field.type, 1)
    return [found] if field.is_repeated and not field.message_type else found


def test_an_honest_request_passes_at_every_route(client):
    """With every field of its message, as the Python client spells them, and with none."""
    for (path, method), message in WRITES.items():
        whole = {
            field.name: value(field, f"of-the-path-{field.name}")
            for field in (message.fields if message else ())
            if field.name != "run_uuid"
        }
        if NEEDS_MORE.search(path):
            continue
        for body in (whole, {}):
            answer = ask(client, path, method, body)
            assert answer.status_code == PASSED, (path, method, body, answer.text)
        assert ask(client, path, method).status_code == PASSED
    assert len(WRITES) >= 262


# A trace has to say where it belongs, and a location is refused; see below.
NEEDS_MORE = re.compile(r"api/3.0/mlflow/traces$|experiments/create$")


def test_a_field_in_its_other_spelling_is_refused_at_every_route(client):
    """MLflow's check knows run_id alone, where protobuf takes runId as well."""
    cases = []
    for (path, method), message in WRITES.items():
        for field in message.fields if message else ():
            if field.json_name == field.name:
                continue
            both = {field.name: value(field), field.json_name: value(field, "y")}
            cases.append((path, method, both, {}))
            if guard.IDENTITY.match(field.name):
                cases.append((path, method, {field.json_name: value(field)}, {}))
    assert refusals(client, cases) >= 800


def test_two_runs_in_one_request_are_refused_and_the_same_one_twice_is_not(client):
    """Clients of 2.9 say the same run by both names; the check reads one, the handler the other."""
    for path, method in WRITES:
        if not path.endswith(("runs/set-tag", "runs/log-metric", "runs/delete", "runs/update")):
            continue
        same = {"run_id": "a", "run_uuid": "a"}
        assert ask(client, path, method, same).status_code == PASSED
        assert ask(client, path, method, same | {"run_uuid": "b"}).status_code == 400
    for query in ("run_id=a&run_uuid=b", "run_id=a&run_id=b"):
        assert client.get(f"/api/2.0/mlflow/runs/get?{query}").status_code == 400
    many = client.get("/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id=a&metric_key=m")
    assert many.status_code == PASSED


def test_a_body_that_two_readers_read_differently_is_refused_at_every_route(client):
    """Of another type than JSON, which the check overlooks; JSON in JSON, which the handler
    decodes twice; a key twice; something else than an object.
    """
    body = '{"some": "x"}'
    cases = []
    for path, method in WRITES:
        cases += [(path, method, body, {"kind": kind}) for kind in ("text/plain", None, "x/a+json")]
        cases += [(path, method, json.dumps(body), {}), (path, method, "[]", {})]
        cases += [(path, method, '{"a": {"b": 1, "b": 2}}', {}), (path, method, "{", {})]
        # Half a character, which no log can write, and more levels than can be looked at.
        cases += [(path, method, r'{"some_id": "\ud800"}', {})]
        cases += [(path, method, '{"trace": ' + "[" * 5000 + "]" * 5000 + "}", {})]
    assert refusals(client, cases) >= 9 * 262
    both = r'{"some_id": "\ud83d\ude00"}'
    path = "/api/2.0/mlflow/runs/delete"
    assert ask(client, path, "POST", both).status_code == PASSED


def test_a_get_with_a_body_is_refused_at_every_route(client):
    """MLflow's handler reads it where there is no query, and its check does not."""
    cases = [(path, method, {"a": 1}, {}) for path, method in ROUTES if method == "GET"]
    assert refusals(client, cases) >= 136


def test_what_a_body_says_is_not_said_by_the_query_as_well_at_any_route(client):
    cases = [
        (path, method, {"a": 1}, {"query_string": {field.name: "x"}})
        for (path, method), message in WRITES.items()
        for field in (message.fields if message else ())
    ]
    cases += [(path, method, {"a": 1}, {"query_string": "name=x"}) for path, method in WRITES]
    assert refusals(client, cases) >= 1088


def test_what_a_path_says_is_not_said_otherwise_at_any_route(client):
    cases = []
    for path, method in ROUTES:
        for name in re.findall(r"<(?:\w+:)?(\w+)>", path):
            cases.append((path, method, None, {"query_string": {name: "other"}}))
            if method != "GET":
                cases.append((path, method, {name: "other"}, {}))
    assert refusals(client, cases) >= 172
    path = "/api/3.0/mlflow/traces/a/assessments"
    assert client.post(path, json={"assessment": {"trace_id": "b"}}).status_code == 400
    assert client.post(path, json={"assessment": {"trace_id": "a"}}).status_code == PASSED


def test_every_route_with_a_name_is_known_to_make_one_or_not():
    """A new one has to be thought about: whoever makes a name owns what is called so."""
    found = {
        path.split("/mlflow/", 1)[1]
        for (path, _), message in WRITES.items()
        if message and "/mlflow/" in path and {"name", "new_name"} & set(message.fields_by_name)
    }
    assert found == (NAMING | NOT_NAMING) & found
    assert NAMING <= found | {"gateway/secrets/create"}


@pytest.mark.parametrize("name", ["*", "＊", "a*b", " a", "a\n", "a\u200bb", "a\u202eb"])
def test_a_name_that_is_a_pattern_or_looks_like_another_is_refused(client, name):
    """The owner of the model * is the owner of all models."""
    cases = []
    for (path, method), message in WRITES.items():
        short = path.split("/mlflow/", 1)[-1]
        if message and "new_name" in message.fields_by_name:
            cases.append((path, method, {"new_name": name}, {}))
        elif message and short in NAMING and "name" in message.fields_by_name:
            cases.append((path, method, {"name": name}, {}))
    assert refusals(client, cases) >= 30


def test_a_name_in_any_language_is_taken(client):
    for name in ("Modèle n° 3 (R²)", "模型", "a/b", "👩\u200d💻", "x" * 200):
        answer = client.post("/api/2.0/mlflow/registered-models/create", json={"name": name})
        assert answer.status_code == PASSED, name


def test_a_tag_by_which_the_server_finds_what_it_reads_is_refused(client):
    """Those that MLflow's own modules know, wherever a request may say one."""
    known = {**vars(TraceTagKey), **vars(mlflow_tags)}
    tags = [tag for name, tag in known.items() if re.search("LOCATION|ARCHIV", name)]
    assert len(set(tags)) >= 4
    cases = []
    for tag in tags:
        for path, method in WRITES:
            if re.search("tag|traces|runs|models|experiments", path) and not guard.READING.match(
                path
            ):
                cases.append((path, method, {"key": tag, "value": "x"}, {}))
                cases.append((path, method, {"trace": {"a": {"tags": {tag: "x"}}}}, {}))
                cases.append((path, method, {"tags": [{"key": tag, "value": "x"}]}, {}))
    assert refusals(client, cases) >= 2415
    own = {"key": "location", "value": "x"}
    assert client.post("/api/2.0/mlflow/runs/set-tag", json=own).status_code == PASSED


def test_a_location_for_an_experiment_is_the_administrators(client, monkeypatch):
    """The server would read and write there by its own rights. Where clients go to the store
    themselves, it is theirs that count.
    """
    monkeypatch.delenv("MLFLOW_SERVE_ARTIFACTS", raising=False)
    path, location = (
        "/api/2.0/mlflow/experiments/create",
        {"name": "a", "artifact_location": "s3:x"},
    )
    assert client.post(path, json=location).status_code == 403
    assert client.post(path, json={"name": "a"}).status_code == PASSED
    monkeypatch.setenv("MLFLOW_SERVE_ARTIFACTS", "false")
    assert client.post(path, json=location).status_code == PASSED


def test_a_trace_is_asked_for_its_experiment(client, monkeypatch):
    """And an assessment in it for its trace."""
    seen = []

    def check(traces=None, assessments=None):
        seen.append((traces, assessments))

    monkeypatch.setattr(guard, "check_places", check)
    path = "/ajax-api/3.0/mlflow/traces"
    place = {"trace_location": {"mlflow_experiment": {"experiment_id": "7"}}}
    body = {"trace": {"trace_info": {"trace_id": "tr-1"} | place}}
    assert client.post(path, json=body).status_code == PASSED
    some = [{"assessment_id": "a-1", "overrides": "a-0"}, {"rationale": "new"}]
    body["trace"]["trace_info"]["assessments"] = some
    assert client.post(path, json=body).status_code == PASSED
    assert seen == [({"tr-1": "7"}, {}), ({"tr-1": "7"}, {"a-1": "tr-1", "a-0": "tr-1"})]
    more = {"assessment": {"assessment_name": "x", "overrides": "a-0"}}
    assert client.post(f"{path}/tr-1/assessments", json=more).status_code == PASSED
    assert seen[2:] == [(None, {"a-0": "tr-1"})]
    body["trace"]["trace_info"]["trace_id"] = "tr-1/../../x"
    for wrong in (body, {}, {"trace": 1}, {"trace": {"trace_info": []}}):
        assert client.post(path, json=wrong).status_code == 400


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """MLflow's store with two experiments, a trace in the first and an assessment in it."""
    folder = tmp_path_factory.mktemp("store")
    store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", str(folder))
    places = [store.create_experiment(name) for name in ("one", "other")]
    for trace, place in zip(("tr-1", "tr-2"), places, strict=True):
        location = TraceLocation.from_experiment_id(place)
        store.start_trace(TraceInfo(trace, location, 1, TraceState.OK))
    store.create_run(places[0], "ada", 1, [], "x")
    source = AssessmentSource("HUMAN", "ada")
    assessment = store.create_assessment(Feedback("x", value=1, source=source, trace_id="tr-1"))
    return places, assessment.assessment_id, store


def test_what_is_in_another_place_is_refused(store, monkeypatch):
    """MLflow would move it there."""
    (one, other), assessment, found = store
    monkeypatch.setattr(handlers, "_get_tracking_store", lambda: found)
    guard.check_places({"tr-1": one, "tr-2": other, "tr-new": one})
    guard.check_places({"tr-1": one}, {assessment: "tr-1", "a-new": "tr-1"})
    run = found.search_runs([one], "", 3)[0].info.run_id
    guard.check_places({"tr-1": one}, runs={run: one, "new": one})
    for traces, assessments, runs in [
        ({"tr-new": one, "tr-2": one}, None, None),
        ({"tr-1": other}, None, None),
        ({"tr-2": other}, {assessment: "tr-2"}, None),
        ({"tr-2": other}, None, {run: other}),
    ]:
        with pytest.raises(guard.Refused) as refused:
            guard.check_places(traces, assessments, runs)
        assert refused.value.status == 403


ACCOUNT = {"type": "service_account", "token_uri": guard.GOOGLE_TOKENS}
ELSEWHERE = ACCOUNT | {"token_uri": "http://169.254.169.254/"}
KEYS = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}


def vertex(account, location="europe-west1"):
    return ("vertex_ai", {"vertex_credentials": account}, {"vertex_location": location})


def bedrock(secret, mode=None, region="eu-west-1"):
    return ("bedrock", secret, {"aws_region_name": region} | ({"auth_mode": mode} if mode else {}))


@pytest.fixture
def provider(monkeypatch):
    """Return a function that makes MLflow's gateway ask a provider with a secret."""
    monkeypatch.setattr(gateway_api, "_build_endpoint_config", gateway_api._build_endpoint_config)
    guard.guard_gateway()

    def ask(provider, secret, more):
        model = GatewayModelConfig("x", provider, "x", secret, {"vertex_project": "x"} | more)
        return gateway_api._build_endpoint_config("x", model, EndpointType.LLM_V1_CHAT)

    return ask


@pytest.mark.parametrize(
    "asked",
    [
        vertex(json.dumps(ACCOUNT)),
        bedrock({"api_key": "x"}),
        bedrock(KEYS, "access_keys"),
        ("databricks", {"api_key": "x"}, {"api_base": "https://x.cloud.databricks.com"}),
        ("openai", {"api_key": "x"}, {}),
        ("ollama", {"api_key": "x"}, {}),
    ],
)
def test_a_provider_is_asked_with_a_users_own_key(provider, asked):
    assert provider(*asked).name == "x"


@pytest.mark.parametrize(
    "asked",
    [
        vertex(json.dumps(ELSEWHERE)),
        vertex("/etc/passwd"),
        vertex("{}"),
        vertex(None),
        vertex(json.dumps(ACCOUNT), "evil.example/#"),
        # The server's own keys, in each way that leads to them.
        bedrock(KEYS, "default_chain"),
        bedrock(KEYS, "anything"),
        bedrock({}),
        bedrock({}, "access_keys"),
        bedrock({"aws_access_key_id": "x"}, "access_keys"),
        bedrock({"api_key": ""}),
        ("bedrock", {}, {"auth_mode": "iam_role", "aws_role_name": "arn:aws:iam::1:role/x"}),
        ("amazon-bedrock", KEYS, {"auth_mode": "default_chain"}),
        bedrock({"api_key": "x"}, region="evil.example/#"),
        ("databricks", {}, {"api_base": "https://x.cloud.databricks.com"}),
        ("databricks", {"api_key": "x"}, {"api_base": "https://x.example/.cloud.databricks.com"}),
        ("databricks", {"api_key": "x"}, {}),
        ("sagemaker", {"api_key": "x"}, {}),
    ],
)
def test_no_provider_is_asked_with_the_servers_own_key_or_at_any_address(provider, asked):
    """Whoever may make an endpoint would use it, or read the answer of whatever is there."""
    with pytest.raises(MlflowException, match="Wanted a (key|region)"):
        provider(*asked)


def test_the_audit_trail_can_write_whatever_it_is_given():
    """An error there would come after the request is carried out, and before MLflow's own end."""
    asked = guard.Asked("POST", "/x", "", "", b"")
    asked.given = {"some_id": "\ud800", "\udfff_id": "x"}
    assert asked.ids == "some_id=%3F&%3F_id=x"


def test_what_fastapi_handles_itself_is_known():
    """A new route of its own would pass unseen: neither Flask's hook nor ours is asked."""
    paths = set(create_fastapi_app(app).openapi()["paths"])
    others = {path for path in paths if not path.startswith(guard.NATIVE)}
    assert len(paths) >= 30
    assert {path for path in others if not guard.ARTIFACTS.match(path)} <= {
        "/health",
        "/api/3.0/mlflow/server-info",
        "/ajax-api/3.0/mlflow/server-info",
    }


def test_the_audit_trail_names_who_and_what_but_no_secret(client):
    answer = client.post("/api/2.0/mlflow/runs/delete", json={"run_id": "a&b=c"})
    assert answer.headers["X-Audit-User"] == "ada"
    assert answer.headers["X-Audit-Ids"] == "run_id=a%26b%3Dc"
    tags = {"run_id": "r", "tags": [{"key": "k", "value": "private"}]}
    answer = client.post("/api/2.0/mlflow/runs/log-batch", json=tags)
    assert answer.headers["X-Audit-Ids"] == "run_id=r"
    grant = {"username": "bob", "resource_type": "experiment", "permission": "READ"}
    asked = guard.Asked("POST", "/x", "", "", b"")
    asked.given = grant | {"password": "secret", "api_key": "secret"}
    assert asked.ids == "username=bob&resource_type=experiment&permission=READ"
    searched = client.post("/api/2.0/mlflow/runs/search", json={"experiment_ids": ["1"]})
    assert "X-Audit-Ids" not in searched.headers
    assert "X-Audit-Ids" not in client.get("/api/2.0/mlflow/runs/get?run_id=a").headers


def test_nobody_reads_why_the_server_fails():
    """A database that is down cannot say who asks, and the reason has its address. Who is known
    does read it.
    """

    def app(user):
        async def fails(scope, receive, send):
            scope["state"] |= {"username": user} if user else {}
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"no server at db.internal"})

        return fails

    def ask(user):
        said = []

        async def send(message):
            said.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        asyncio.run(guard.Front(app(user), lambda *_: False)(scope, None, send))
        assert said[0]["status"] == 503
        return b"".join(message.get("body", b"") for message in said[1:])

    assert ask("ada") == b"no server at db.internal"
    nobody = json.loads(ask(""))
    assert nobody["error_code"] == "TEMPORARILY_UNAVAILABLE" and "db" not in nobody["message"]


def test_the_trail_names_what_somebody_was_refused_to_read(client):
    """Who tries one run after the other is found by that."""
    app.before_request_funcs[None].insert(0, lambda: Response("no", 403))
    read = client.get("/api/2.0/mlflow/runs/get?run_id=a")
    assert (read.status_code, read.headers["X-Audit-Ids"]) == (403, "run_id=a")


# What is around both


def passed(front, *requests, pieces=()):
    """Return the statuses of requests that are sent to a layer at once."""

    async def one(scope, body):
        told, sent = [], [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return sent.pop(0) if sent else {"type": "http.disconnect"}

        async def send(message):
            told.append(message)

        await front(scope, receive, send)
        return told[0]["status"]

    async def every():
        return await asyncio.gather(*(one(*asked) for asked in requests))

    return asyncio.run(every())


def scope(path="/api/2.0/x", method="POST", client="192.0.2.1", **headers):
    pairs = [(key.replace("_", "-").encode(), text.encode()) for key, text in headers.items()]
    found = {"type": "http", "path": path, "method": method, "headers": pairs}
    return found | {"client": (client, 1), "query_string": b""}


def application(right=b"right", seen=None):
    """Return an app that lets in one login."""

    async def app(scope, receive, send):
        login = dict(scope["headers"]).get(b"authorization")
        if seen is not None:
            seen.append(login or (await guard.read(receive)))
        status = 200 if login == right else 401
        if status == 200:
            scope["state"]["username"] = "ada"
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    monkeypatch.setattr(guard, "REFUSAL_SECONDS", 0)


def test_an_address_that_guesses_is_slowed_down_and_a_good_login_is_not():
    """Also the owner's from the same address, where they have been let in before. A login that was
    wrong before is no guess: a forgotten job with a former password shuts nobody out.
    """
    seen, clock = [], [1000.0]
    front = guard.Front(application(seen=seen), lambda *_: False)
    front.guesses = guard.Guesses(lambda: clock[0])
    right = scope(authorization="right")
    assert passed(front, (right, b"")) == [200]
    assert passed(front, *[(scope(authorization="former"), b"")] * 50) == [401] * 50
    wrong = [(scope(authorization=f"wrong {n}"), b"") for n in range(50)]
    found = passed(front, *wrong)
    assert found.count(429) == 51 - guard.GUESSES
    assert found.count(401) == guard.GUESSES - 1
    assert passed(front, (right, b"")) == [200]
    # A right one that was not seen before cannot be told from a guess, and waits.
    front.guesses.tried.clear()
    assert passed(front, (right, b"")) == [429]
    assert passed(front, (scope(authorization="right", client="192.0.2.2"), b"")) == [200]
    front.guesses.tried.clear()
    clock[0] += guard.SECONDS_A_GUESS
    assert passed(front, (right, b"")) == [200]
    # Who says no password guesses none, nor does who comes by the socket.
    assert passed(front, *[(scope(), b"")] * 20) == [401] * 20
    local = [(scope(client="", authorization=str(n)), b"") for n in range(20)]
    assert passed(front, *local) == [401] * 20


def test_many_who_log_in_at_once_from_one_address_are_all_let_in():
    """A fleet behind one address, at a server that has just started."""
    front = guard.Front(application(), lambda *_: False)
    assert passed(front, *[(scope(authorization="right"), b"")] * 100) == [200] * 100


def test_what_is_remembered_of_guesses_is_bounded(monkeypatch):
    monkeypatch.setattr(guard, "REMEMBERED", 10)
    front = guard.Front(application(), lambda *_: False)
    for number in range(100):
        asked = scope(client=f"192.0.2.{number}", authorization=str(number))
        assert passed(front, (asked, b"")) == [401]
    guesses = front.guesses
    assert len(guesses.left) == len(guesses.tried) == 10 and not guesses.under_way


def test_json_that_would_take_much_memory_is_refused_before_it_is_parsed():
    seen = []
    front = guard.Front(application(seen=seen), lambda *_: False)
    many = b"[" + b"{}," * guard.MAX_CONTAINERS + b"{}]"
    values = b"[" + b"1," * guard.MAX_VALUES + b"1,1]"
    batch = json.dumps([{"key": "k", "value": 1, "timestamp": 1, "step": 1}] * 1000).encode()
    asked = [(scope(content_length="1"), body) for body in (many, values, batch)]
    assert passed(front, *asked) == [413, 413, 401]
    assert seen == [batch]
    artifact = "/api/2.0/mlflow-artifacts/artifacts/1/x"
    assert passed(front, (scope(artifact, "PUT", content_length="1"), many)) == [401]


@pytest.mark.parametrize(
    ("path", "size", "headers", "at_once"),
    [
        ("/api/2.0/x", 10, {"content_length": "10"}, 5),
        ("/api/2.0/x", guard.LARGE, {"content_length": str(guard.LARGE)}, 1),
        ("/api/2.0/x", guard.LARGE, {"transfer_encoding": "chunked"}, 1),
        ("/v1/traces", guard.LARGE, {"content_length": str(guard.LARGE)}, 1),
        ("/v1/traces", 10, {"content_length": "10", "content_encoding": "gzip"}, 1),
        # A provider may take minutes, and an artifact passes piece by piece.
        ("/gateway/x", guard.LARGE, {"content_length": str(guard.LARGE)}, 5),
        ("/api/2.0/mlflow-artifacts/artifacts/1/x", guard.LARGE, {"content_length": "1"}, 5),
    ],
)
def test_a_worker_carries_out_one_large_request_at_a_time(path, size, headers, at_once):
    """Each may take some 200 MB, and eight of them took a worker's memory with one login."""
    inside, most = 0, 0

    async def app(scope, receive, send):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})

    front = guard.Front(app, lambda *_: False)
    asked = [(scope(path, **headers), b"x" * size)] * 5
    assert passed(front, *asked) == [200] * 5
    assert most == at_once


def test_who_is_slow_or_fails_holds_up_no_large_request():
    """Neither before the body is there, nor while the answer is taken, nor by an error."""
    right, large = scope(content_length="1"), b"x" * guard.LARGE

    async def run():
        taken = asyncio.Event()

        async def app(scope, receive, send):
            if b"x-fail" in dict(scope["headers"]):
                raise ValueError
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def never():
            await asyncio.Event().wait()

        async def ask(asked, receive=None, send=None):
            async def whole():
                return {"type": "http.request", "body": large, "more_body": False}

            async def take(message):
                taken.set()

            await front(asked, receive or whole, send or take)

        front = guard.Front(app, lambda *_: False)
        silent = asyncio.create_task(ask(right, receive=never))
        reader = asyncio.create_task(ask(right, send=lambda message: never()))
        await asyncio.sleep(0)
        with pytest.raises(ValueError):
            await ask(scope(content_length="1", x_fail="1"))
        await ask(right)
        assert taken.is_set()
        silent.cancel(), reader.cancel()

    async def within_a_moment():
        await asyncio.wait_for(run(), 20)

    asyncio.run(within_a_moment())


def test_a_header_that_says_who_asks_for_what_is_said_once():
    """MLflow's check and its handler may take another one of two than the guard."""
    front = guard.Front(application(), lambda *_: False)
    once = scope()["headers"]
    for name in (b"x-mlflow-experiment-id", b"content-type", b"content-encoding", b"origin"):
        asked = scope() | {"headers": [*once, (name, b"a"), (name, b"b")]}
        assert passed(front, (asked, b"")) == [400]
    twice = scope() | {"headers": [*once, (b"accept", b"a"), (b"accept", b"b")]}
    assert passed(front, (twice, b"")) == [401]


def test_a_foreign_page_is_refused_at_every_path():
    front = guard.Front(application(), lambda origin, method: origin != "https://own.example")
    paths = ("/graphql", "/v1/traces", "/gateway/x", "//api/2.0/x", "/")
    foreign = [(scope(path, origin="https://evil.example"), b"") for path in paths]
    assert passed(front, *foreign) == [403] * len(paths)
    assert passed(front, (scope(origin="https://own.example"), b"")) == [401]


def test_traces_are_unpacked_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(guard, "MAX_UNPACKED", 1000)
    raw = zlib.compressobj(wbits=-15)
    for encoding, packed in [
        ("gzip", gzip.compress(b"x" * 1000)),
        ("deflate", zlib.compress(b"x" * 1000)),
        ("deflate", raw.compress(b"x" * 1000) + raw.flush()),
    ]:
        assert guard.unpack(packed, encoding) == b"x" * 1000
    for encoding, packed, status in [
        ("gzip", gzip.compress(b"x" * 1001), 413),
        ("gzip", b"no", 400),
        ("gzip", gzip.compress(b"x" * 100)[:-1], 400),
        ("br", b"no", 400),
        ("deflate", zlib.compress(b"x" * 100_000), 413),
    ]:
        with pytest.raises(guard.Refused) as refused:
            guard.unpack(packed, encoding)
        assert refused.value.status == status


def test_traces_of_far_too_many_parts_are_refused(monkeypatch):
    """An empty message takes two bytes on the way, a span some kilobytes in the worker."""
    monkeypatch.setattr(guard, "check_places", lambda *_, **__: None)
    request = ExportTraceServiceRequest()
    some = request.resource_spans.add().scope_spans.add().spans
    for _ in range(8192):
        span = some.add(trace_id=b"x" * 16, name="x")
        for number in range(20):
            span.attributes.add(key=f"k{number}").value.string_value = "value"
    honest, kind = request.SerializeToString(), "application/x-protobuf"
    assert len(honest) > 2 * guard.MAX_MESSAGES
    guard.check_spans(honest, kind, "1")
    for _ in range(guard.MAX_SPANS):
        some.add(trace_id=b"x" * 16)
    for body in (request.SerializeToString(), b"\x0a\x00" * (guard.MAX_MESSAGES + 1)):
        with pytest.raises(guard.Refused) as refused:
            guard.check_spans(body, kind, "1")
        assert refused.value.status == 413
    for broken in (honest[:-1], honest + b"\x0b", b"\xff" * len(honest)):
        with pytest.raises(guard.Refused) as refused:
            guard.check_spans(broken, kind, "1")
        assert refused.value.status == 400


def spans(trace="0a" * 16, **attributes):
    pairs = [{"key": key, "value": {"stringValue": text}} for key, text in attributes.items()]
    span = {"traceId": trace, "spanId": "0b" * 8, "name": "x", "attributes": pairs}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


def test_spans_are_asked_for_the_experiment_of_their_trace(monkeypatch):
    """Else whoever knows a trace's id may add to what its owner reads."""
    seen = []
    monkeypatch.setattr(guard, "check_places", lambda traces, runs: seen.append((traces, runs)))
    headers = {"content_type": "application/json", "x_mlflow_experiment_id": "7"}
    native = guard.Native(application())
    asked = [(scope("/v1/traces", **headers), spans())]
    packed = scope("/v1/traces", content_encoding="gzip", **headers)
    asked += [(packed, gzip.compress(spans("0c" * 16)))]
    for one in asked:
        one[0]["state"] = {}
    assert passed(native, *asked) == [401, 401]
    assert seen == [({"tr-" + "0a" * 16: "7"}, None), ({"tr-" + "0c" * 16: "7"}, None)]
    to_run = scope("/v1/traces", **headers, x_mlflow_run_id="r") | {"state": {}}
    assert passed(native, (to_run, spans())) == [401]
    assert seen[2:] == [({"tr-" + "0a" * 16: "7"}, {"r": "7"})]
    tag = scope("/v1/traces", **headers) | {"state": {}}
    forged = spans(**{"mlflow.traceTag.mlflow.artifactLocation": "file:///etc"})
    assert passed(native, (tag, forged), (tag, b"{"), (tag, b"\xff")) == [400, 400, 400]


def test_a_large_upload_is_not_read_by_the_guard():
    """It passes as it comes, piece by piece."""
    seen = []
    native = guard.Native(application(seen=seen))
    path = "/api/2.0/mlflow-artifacts/artifacts/1/x"
    assert passed(native, (scope(path, "PUT"), b"{not json")) == [401]
    assert seen == [b"{not json"]
