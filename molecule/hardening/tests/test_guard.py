"""What a login without rights is worth: ways round MLflow's checks, and the honest one beside each.

How the guard decides is tested at every route in tests/unit; here it stands between nginx and the
release, with logins, PostgreSQL and a store.
"""

import gzip
import json
import re
import shlex
import uuid

import pytest
import testinfra
from logins import ADA, ADMIN
from mlflow.server.handlers import get_endpoints

group = "hardening-users"

API, TRACES = "/api/2.0/mlflow", "/api/3.0/mlflow/traces"
TRACES_2 = "/api/2.0/mlflow/traces/{}/tags"
OTLP = {"Content_Type": "application/json"}
# What two readers read differently.
AMBIGUOUS = (
    ("text/plain", '{"a": 1}'),
    ("application/json", '"{}"'),
    ("application/json", '{"a": 1, "a": 2}'),
)
# By nginx, or no JSON.
CLOSED = re.compile(
    "/gateway|/mlflow-artifacts/|/artifacts/presigned|/demo|promptlab|upload-artifact"
)

# Logs in, guesses, and logs in again: statuses, and seconds of the first two guesses.
GUESS = """
import base64, http.client, json, ssl, sys, time, uuid
from concurrent.futures import ThreadPoolExecutor
server, *login = sys.argv[1:]
def ask(name, password):
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(server, timeout=60, context=context)
    words = base64.b64encode(f"{name}:{password}".encode()).decode()
    path = "/api/2.0/mlflow/users/current"
    connection.request("GET", path, headers={"Authorization": "Basic " + words})
    return connection.getresponse().status
def guess(name):
    begun = time.monotonic()
    return ask(name, uuid.uuid4().hex), time.monotonic() - begun
# Each worker remembers for itself who was let in.
right = {ask(*login) for _ in range(20)}
first = [guess(login[0]), guess("nobody-of-that-name")]
with ThreadPoolExecutor(8) as pool:
    wrong = [status for status, _ in pool.map(guess, [login[0]] * 48)]
print(json.dumps({
    "right": [*right, ask(*login)], "wrong": wrong, "seconds": [each for _, each in first],
}))
"""


@pytest.fixture
def runs(ada, bob):
    """An experiment and a run of Ada's, and such of Bob's; neither has a right to the other's."""
    found = []
    for who in (ada, bob):
        experiment = who.call("experiments/create", name=uuid.uuid4().hex)["experiment_id"]
        run = who.call("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        found += [experiment, run]
    return found


def refused(answer, *texts):
    """Tell whether an answer is the guard's, with the reason in it."""
    status, body = answer
    assert status in (400, 403), answer
    message = json.loads(body)["message"]
    assert message.startswith("Wanted ") and all(text in message for text in texts), message
    return True


def test_a_run_of_anothers_cannot_be_changed_by_its_other_name(ada, bob, runs):
    """The check knew the one, the handler took the other: READ was DELETE."""
    _, his, _, own = runs
    for path, more in {
        "runs/set-tag": {"key": "k", "value": "x"},
        "runs/log-metric": {"key": "m", "value": 666, "timestamp": 2, "step": 1},
        "runs/log-parameter": {"key": "p", "value": "x"},
        "runs/log-batch": {"metrics": [{"key": "b", "value": 1, "timestamp": 1, "step": 0}]},
        "runs/update": {"run_name": "bob's", "status": "FAILED"},
        "runs/delete": {},
    }.items():
        fields = {"run_uuid": own, "runId": his} | more
        assert refused(bob.ask("POST", f"{API}/{path}", fields), "run_id", "runId")
        assert bob.status("POST", f"{API}/{path}", {"run_id": his} | more) == 403
        assert bob.status("POST", f"{API}/{path}", {"run_id": own, "run_uuid": own} | more) == 200
    status, body = ada.ask("GET", f"{API}/runs/get?run_id={his}")
    run = json.loads(body)["run"]
    assert status == 200 and run["info"]["lifecycle_stage"] == "active"
    assert not {"metrics", "params"} & set(run["data"]) and run["info"]["status"] == "RUNNING"


def test_a_model_of_anothers_cannot_be_deleted_by_a_body_of_another_type(ada, bob):
    """The check read the query, the handler the body."""
    his, own = uuid.uuid4().hex, uuid.uuid4().hex
    ada.call("registered-models/create", name=his)
    bob.call("registered-models/create", name=own)
    path, body = f"{API}/registered-models/delete", json.dumps({"name": his})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
        answer = bob.ask("DELETE", f"{path}?name={own}", body, Content_Type=kind)
        assert refused(answer) if kind != "application/json" else answer[0] == 403
    assert bob.status("DELETE", path, {"name": his}) == 403
    assert ada.status("GET", f"{API}/registered-models/get?name={his}") == 200
    # What MLflow does after it has deleted one, to take the permissions away, did not come to pass.
    half = json.dumps({"name": own, "some_id": "\ud800"})
    assert refused(bob.ask("DELETE", path, half, Content_Type="application/json"))
    assert bob.status("DELETE", path, {"name": own}) == 200


def test_nobody_owns_all_models_by_a_name(ada, bob):
    his = uuid.uuid4().hex
    ada.call("registered-models/create", name=his)
    own = bob.call("registered-models/create", name=uuid.uuid4().hex)["registered_model"]["name"]
    prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    for fields in ({"name": "*"}, {"name": "*", "tags": prompt}, {"name": "＊"}):
        assert refused(bob.ask("POST", f"{API}/registered-models/create", fields), "*")
    renamed = {"name": own, "new_name": "*"}
    assert refused(bob.ask("POST", f"{API}/registered-models/rename", renamed), "*")
    assert bob.status("GET", f"{API}/registered-models/get?name={his}") == 403
    fine = {"name": own, "new_name": f"{own}-2"}
    assert bob.status("POST", f"{API}/registered-models/rename", fine) == 200


def trace_of(who, experiment, trace="", **more):
    """Make a trace, and return its id and the answer."""
    trace = trace or f"tr-{uuid.uuid4().hex}"
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    info = {"trace_id": trace, "trace_location": place, "state": "OK"} | more
    body = {"trace": {"trace_info": info | {"request_time": "2026-01-01T00:00:00Z"}}}
    return trace, who.ask("POST", TRACES, body)


def spans(trace, **attributes):
    pairs = [{"key": key, "value": {"stringValue": text}} for key, text in attributes.items()]
    span = {"traceId": trace.removeprefix("tr-"), "spanId": "0b" * 8, "name": "x"}
    span |= {"startTimeUnixNano": "1", "endTimeUnixNano": "2", "attributes": pairs}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def test_a_trace_of_anothers_is_not_taken_by_its_id(ada, bob, runs):
    """Each reader of an experiment has the ids of its traces."""
    his, run, own, own_run = runs
    trace, (status, body) = trace_of(ada, his)
    assert status == 200, body
    assert refused(trace_of(bob, own, trace)[1], trace)
    assert trace_of(bob, own)[1][0] == 200
    # Its owner may send it again.
    assert trace_of(ada, his, trace)[1][0] == 200
    assert ada.status("GET", f"{TRACES}/{trace}") == 200
    assert bob.status("GET", f"{TRACES}/{trace}") == 403
    header = OTLP | {"X_Mlflow_Experiment_Id": own}
    assert refused(bob.ask("POST", "/v1/traces", json.dumps(spans(trace)), **header), trace)
    mine = json.dumps(spans(f"tr-{uuid.uuid4().hex}"))
    assert bob.status("POST", "/v1/traces", mine, **header) == 200
    # Nor linked to a run of hers.
    answer = bob.ask("POST", "/v1/traces", mine, X_Mlflow_Run_Id=run, **header)
    assert refused(answer, run)
    assert bob.status("POST", "/v1/traces", mine, X_Mlflow_Run_Id=own_run, **header) == 200
    packed = gzip.compress(json.dumps(spans(f"tr-{uuid.uuid4().hex}")).encode())
    assert bob.status("POST", "/v1/traces", packed, Content_Encoding="gzip", **header) == 200


def test_the_server_reads_no_place_that_a_tag_names(ada, bob, runs):
    """A trace's own tag said where the server finds its data, for whoever may read the trace."""
    his, _, own, _ = runs
    theirs, _ = trace_of(ada, his)
    place = f"mlflow-artifacts:/{his}/traces/{theirs}/artifacts"
    path = f"/api/2.0/mlflow-artifacts/artifacts/{his}/traces/{theirs}/artifacts/traces.json"
    assert ada.status("PUT", path, b'{"spans": [], "secret": "canary-spans"}') == 200
    trace, _ = trace_of(bob, own)
    tag = "mlflow.artifactLocation"
    for method, target in (("PATCH", f"{TRACES}/{trace}/tags"), ("PATCH", TRACES_2.format(trace))):
        assert refused(bob.ask(method, target, {"key": tag, "value": place}), tag)
        assert bob.status(method, target, {"key": "own", "value": place}) == 200
    assert refused(trace_of(bob, own, tags={tag: place})[1], tag)
    header = OTLP | {"X_Mlflow_Experiment_Id": own}
    forged = spans(f"tr-{uuid.uuid4().hex}", **{f"mlflow.traceTag.{tag}": place})
    assert refused(bob.ask("POST", "/v1/traces", json.dumps(forged), **header), tag)
    get = f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}"
    assert b"canary-spans" not in bob.ask("GET", get)[1]


def test_what_is_ambiguous_is_refused_at_every_route_whoever_asks(visitor):
    """The administrator passes MLflow's checks, but for one of names. So what refuses
    him is the guard, at nearly each route that changes something, behind nginx.
    """
    admin, asked, by_guard = visitor.as_(*ADMIN), 0, 0
    for path, message, methods in get_endpoints(lambda message: message):
        if not hasattr(message, "DESCRIPTOR") or CLOSED.search(path):
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"of-\1", path)
        for method in set(methods) - {"GET"}:
            kind, body = AMBIGUOUS[asked % len(AMBIGUOUS)]
            status, said = admin.ask(method, path, body, Content_Type=kind)
            assert status == 400, (method, path, body, said)
            asked, by_guard = asked + 1, by_guard + (b"Wanted" in said)
    assert by_guard >= 150 and asked - by_guard <= 4


@pytest.mark.parametrize("path", ["/gateway/x/mlflow/invocations", "/gateway/mlflow/v1/models"])
def test_the_server_asks_nobody_for_a_user(bob, path):
    """A user's model may be at any address that the server reaches, and its answer was shown."""
    assert bob.status("POST", path, {"messages": []}) == 404
    for version in ("/api/3.0", "/ajax-api/3.0"):
        secret = {"secret_name": "x", "secret_value": {"api_key": "x"}, "provider": "openai"}
        assert bob.status("POST", f"{version}/mlflow/gateway/secrets/create", secret) == 404


def test_a_foreign_page_is_refused_where_mlflow_does_not_look(bob):
    for path in ("/graphql", "/v1/traces"):
        answer = bob.ask("POST", path, {"query": "{__typename}"}, Origin="https://evil.example")
        assert answer[0] == 403, path


def test_a_small_request_does_not_take_much_memory(bob, runs):
    """Objects without content take 3 bytes each in a request and 72 in a worker; what is packed
    takes a thousandth.
    """
    many = b"[" + b"{}," * 1_000_000 + b"{}]"
    for who in (bob, bob.as_()):
        answer = who.ask("POST", f"{API}/runs/log-batch", many, Content_Type="application/json")
        assert answer[0] == 413, answer
    header = OTLP | {"X_Mlflow_Experiment_Id": runs[2], "Content_Encoding": "gzip"}
    packed = gzip.compress(b'{"a": "' + b"x" * 50_000_000 + b'"}')
    assert bob.status("POST", "/v1/traces", packed, **header) == 413


def test_who_guesses_is_slowed_down_and_who_logs_in_right_is_not(host, ada, bob):
    """By address, that of another host here. An answer to a wrong password takes as long for an
    unknown name. Who comes from elsewhere, or was let in before, is not slowed down.
    """
    guesser = testinfra.get_host("podman://hardening-tls")
    command = ["python3", "-c", GUESS, host.backend.name, *ADA]
    found = json.loads(guesser.check_output(" ".join(map(shlex.quote, command))))
    assert found["right"] == [200, 200], found
    assert found["wrong"].count(401) < 30 and found["wrong"].count(429) > 10, found
    assert min(found["seconds"]) >= 0.5, found
    assert bob.whoami() and ada.whoami()


def test_the_trail_of_a_refusal_is_not_shown_to_clients(bob, runs):
    """The headers that the audit log is made from stop at nginx."""
    with bob.request("POST", f"{API}/runs/delete", {"run_id": runs[1]}) as response:
        assert response.status == 403
        assert not [name for name in response.headers if name.lower().startswith("x-audit")]
