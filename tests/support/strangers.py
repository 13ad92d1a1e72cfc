"""What a user may ask of the server with things of their own, and the same with a stranger's.

For each route that changes something there is an honest request here. From it follow the dishonest
ones: each with one of its names or ids, or all that say the same, replaced by the other user's. A
route of MLflow's that is new and has no request fails a test in tests/unit.
"""

import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

V2, V3 = "/api/2.0/mlflow/", "/api/3.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/"
KEY = {"key": "k", "value": "v"}
METRIC = {"key": "m", "value": 1, "timestamp": 1, "step": 0}
# Of both users alike: whose it is, is said by the experiment.
SCORER = "scorer"
TIMES = dict.fromkeys(("create_time", "last_update_time"), "2026-01-01T00:00:00Z")
# Routes that have no request below.
NOT_ASKED = re.compile(
    # They read.
    r"/search$|/search-datasets$|/batchGetInfos$|get-latest-versions$|filter-correlation$"
    r"|traces/metrics$|/graphql$|/ui-telemetry$|/jobs/search$"
    # Signed links, of which there are none where artifacts pass through the server.
    r"|/presigned-(up|down)load-url$"
    # The administrator's.
    r"|/webhooks(/|$)|/workspaces(/|$)|/demo/delete$"
    # Closed: by nginx, or as the server starts no jobs.
    r"|^/gateway/|/mlflow/gateway/|/gateway-proxy$|/upload-artifact$|/create-promptlab-run$"
    r"|/demo/generate$|/assistant/|/prompt-optimization/|^/ajax-api/3.0/jobs/|/mlflow/jobs/cancel"
    r"|/issues/invoke$|/evaluate/invoke$|/scorer/invoke$"
    # By their names alone, which this or that user chooses.
    r"|/experiments/create$|/registered-models/create$|/mcp-servers$"
    # A part of an upload that is begun, by its path, as the beginning.
    r"|/mpu/complete/|/mpu/abort/"
    # By headers, and by the ids of traces inside: see test_guard.
    r"|^/v1/traces$"
)


# What a refusal by 400 says: the guard's, and MLflow's.
REFUSALS = (
    rb'"Wanted |Invalid model version source|Label schema id|server_json.name|Ambiguous request'
)
# What passes, as nothing is looked up by the id, or only what belongs to the rest of the request.
HARMLESS = {
    ("POST", "runs/log-model", "run in model_json"),
    ("POST", "traces", "trace in trace.trace_info.assessments.0.trace_id"),
    ("POST", "traces", "trace in trace.trace_info.assessments.1.trace_id"),
    ("POST", "traces/delete-traces", "trace in request_ids.0"),
    ("POST", "traces/delete-traces", "other_trace in request_ids.0"),
    ("DELETE", "traces/<trace>/assessments/<assessment>", "assessment in the path"),
    ("POST", "review-queues/items/remove", "trace in item_ids.0"),
    ("POST", "datasets/<dataset>/records", "record in records"),
    ("DELETE", "datasets/<dataset>/records", "record in dataset_record_ids.0"),
    ("POST", "datasets/<dataset>/remove-experiments", "other_experiment in experiment_ids.0"),
    # Whoever owns an experiment asks others to review in it.
    ("POST", "review-queues/get-or-create-user", "user in user"),
}
# What names a source, which has to be readable.
READING = {
    ("POST", "logged-models", "run in source_run_id"),
    ("POST", "traces/link-to-run", "trace in trace_ids.0"),
    ("POST", "model-versions/create", "model in source"),
    ("POST", "model-versions/create", "logged_model everywhere"),
}


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    body: dict | None


def things(who, name: str, without: tuple = ()) -> dict[str, str]:
    """Make one of each kind as a user, and return their ids and names.

    Args:
        who: Has `ask`, as a Visitor.
        name: Of the user; what they make is called after it.
        without: Kinds that users cannot make here.
    """

    def make(path: str, **fields) -> dict:
        status, body = who.ask("POST", path, fields)
        assert status == 200, (path, fields, body)
        return json.loads(body)

    def called(kind: str) -> str:
        return f"{kind}-of-{name}-{uuid.uuid4().hex}"

    own = {"user": name, "model": called("model"), "trace": f"tr-{uuid.uuid4().hex}"}
    own["other_trace"] = f"tr-{uuid.uuid4().hex}"
    experiment = make(f"{V2}experiments/create", name=called("experiment"), tags=[KEY])
    own["experiment"] = experiment["experiment_id"]
    experiment = make(f"{V2}experiments/create", name=called("other"))
    own["other_experiment"] = experiment["experiment_id"]
    run = make(f"{V2}runs/create", experiment_id=own["experiment"], tags=[KEY])
    own["run"] = run["run"]["info"]["run_id"]
    own["source"] = f"mlflow-artifacts:/{own['experiment']}/{own['run']}/artifacts/model"
    make(f"{V2}registered-models/create", name=own["model"], tags=[KEY])
    for _ in range(2):
        version = {"name": own["model"], "source": own["source"], "run_id": own["run"]}
        make(f"{V2}model-versions/create", **version, tags=[KEY])
    make(f"{V2}registered-models/alias", name=own["model"], alias="champion", version="1")
    fields = {"experiment_id": own["experiment"], "name": "x", "source_run_id": own["run"]}
    logged = make(f"{V2}logged-models", **fields, tags=[KEY])
    own["logged_model"] = logged["model"]["info"]["model_id"]
    for trace in ("trace", "other_trace"):
        make(f"{V3}traces", trace={"trace_info": trace_info(own[trace], own["experiment"])})
    path = f"{V3}traces/{own['trace']}/assessments"
    assessment = make(path, assessment=assessment_of(own["trace"]))["assessment"]
    own["assessment"] = assessment["assessment_id"]
    fields = {"name": called("dataset"), "experiment_ids": [own["experiment"]]}
    own["dataset"] = make(f"{V3}datasets/create", **fields)["dataset"]["dataset_id"]
    record = json.dumps([{"inputs": {"question": name}}])
    path = f"{V3}datasets/{own['dataset']}/records"
    make(path, dataset_id=own["dataset"], records=record)
    found = json.loads(who.ask("GET", f"{path}?dataset_id={own['dataset']}")[1])
    own["record"] = json.loads(found["records"])[0]["dataset_record_id"]
    make(f"{V3}scorers/register", **scorer(own))
    make(f"{V3}scorers/register", **scorer(own))
    fields = {"experiment_id": own["experiment"], "name": "x", "description": "x"}
    own["issue"] = make(f"{V3}issues", **fields, status="pending")["issue"]["issue_id"]
    schema = make(f"{V3}label-schemas/create", **schema_of(own, "x"))["label_schema"]
    own["schema"] = schema["schema_id"]
    fields = queue_of(own, "x") | {"users": [name]}
    queue = make(f"{V3}review-queues/create", **fields)["review_queue"]
    own["queue"] = queue["queue_id"]
    item = {"queue_id": own["queue"], "item_type": "TRACE", "item_ids": [own["trace"]]}
    make(f"{V3}review-queues/items/add", **item)
    if "server" not in without:
        own["server"] = f"io.github.{name}/{uuid.uuid4().hex}"
        make(f"{V3}mcp-servers", name=own["server"])
        path = f"{V3}mcp-servers/{own['server']}"
        make(
            f"{path}/versions",
            server_json={"name": own["server"], "version": "1.0.0", "description": "x"},
        )
        make(f"{path}/tags", **KEY)
        endpoint = make(f"{path}/endpoints", url="https://example.com", server_version="1.0.0")
        own["endpoint"] = endpoint["id"]
    return own


def trace_info(trace: str, experiment: str, **more) -> dict:
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    found = {"trace_id": trace, "trace_location": place, "tags": {"k": "v"}, "state": "OK"}
    return found | {"request_time": TIMES["create_time"]} | more


def assessment_of(trace: str, **more) -> dict:
    source = {"source_type": "HUMAN", "source_id": "x"}
    found = {"trace_id": trace, "assessment_name": "x", "source": source}
    return found | {"feedback": {"value": 1}} | TIMES | more


def scorer(own: dict) -> dict:
    data = {"feedback_value_type": {"type": "boolean", "title": "x"}, "model": "openai:/x"}
    data |= {"instructions": "Is {{ outputs }} good?"}
    found = {"name": "x", "aggregations": None, "is_session_level_scorer": False}
    found |= {"mlflow_version": "3", "serialization_version": 1}
    text = json.dumps(found | {"instructions_judge_pydantic_data": data})
    place = {"experiment_id": own["experiment"], "name": SCORER}
    return place | {"serialized_scorer": text}


def schema_of(own: dict, name: str) -> dict:
    place = {"experiment_id": own["experiment"], "name": name}
    return place | {"type": "FEEDBACK", "title": "x", "input": {"text": {}}}


def queue_of(own: dict, name: str) -> dict:
    place = {"experiment_id": own["experiment"], "name": name}
    return place | {"queue_type": "CUSTOM", "schema_ids": [own["schema"]]}


def honest(own: dict) -> list[Asked]:
    """Return a request for each route that changes something, in an order in which all succeed."""
    experiment, run, trace = own["experiment"], own["run"], own["trace"]
    model, logged, dataset = own["model"], own["logged_model"], own["dataset"]
    in_experiment, in_run = {"experiment_id": experiment}, {"run_id": run}
    of_trace, of_model, of_queue = {"trace_id": trace}, {"name": model}, {"queue_id": own["queue"]}
    of_logged, of_dataset = {"model_id": logged}, {"dataset_id": dataset}
    first, delete = of_model | {"version": "1"}, {"key": "k"}
    item, other = of_queue | {"item_type": "TRACE"}, {"experiment_ids": [own["other_experiment"]]}
    assessment = f"{V3}traces/{trace}/assessments"
    known = assessment_of(trace, assessment_id=own["assessment"])
    instead = assessment_of(trace, assessment_name="z", overrides=own["assessment"])
    records = json.dumps([{"dataset_record_id": own["record"], "inputs": {"question": "new"}}])
    new, trace_of_new = uuid.uuid4().hex, f"tr-{uuid.uuid4().hex}"
    file, upload = f"{experiment}/files", {"path": "large", "num_parts": 1}
    name, endpoint = own.get("server", ""), own.get("endpoint", "")
    server = f"{V3}mcp-servers/{name}"
    found = [
        ("POST", f"{V2}experiments/update", in_experiment | {"new_name": new}),
        ("POST", f"{V2}experiments/set-experiment-tag", in_experiment | KEY),
        ("POST", f"{V2}experiments/delete-experiment-tag", in_experiment | delete),
        ("POST", f"{V2}runs/create", in_experiment),
        ("POST", f"{V2}runs/update", in_run | {"run_uuid": run, "run_name": "x"}),
        ("POST", f"{V2}runs/log-metric", in_run | {"run_uuid": run} | METRIC | of_logged),
        (
            "POST",
            f"{V2}runs/log-batch",
            in_run | {"metrics": [METRIC | of_logged | {"step": 1}], "tags": [KEY]},
        ),
        ("POST", f"{V2}runs/log-parameter", in_run | KEY),
        ("POST", f"{V2}runs/set-tag", in_run | {"run_uuid": run} | KEY),
        ("POST", f"{V2}runs/delete-tag", in_run | delete),
        (
            "POST",
            f"{V2}runs/log-model",
            in_run
            | {
                "model_json": json.dumps(
                    {
                        "artifact_path": "x",
                        "utc_time_created": "2026-01-01 00:00:00",
                        "flavors": {"python_function": {}},
                        "run_id": run,
                    }
                )
            },
        ),
        ("POST", f"{V2}runs/log-inputs", in_run | {"models": [of_logged]}),
        ("POST", f"{V2}runs/outputs", in_run | {"models": [of_logged | {"step": 0}]}),
        ("PUT", f"{ARTIFACTS}artifacts/{file}/file", {"content": "x"}),
        ("POST", f"{ARTIFACTS}mpu/create/{file}", upload),
        ("DELETE", f"{ARTIFACTS}artifacts/{file}/file", None),
        ("PATCH", f"{V2}traces/{trace}/tags", {"request_id": trace} | KEY),
        ("DELETE", f"{V2}traces/{trace}/tags", {"request_id": trace} | delete),
        ("PATCH", f"{V3}traces/{trace}/tags", of_trace | KEY),
        ("DELETE", f"{V3}traces/{trace}/tags", of_trace | delete),
        ("POST", f"{V2}traces", in_experiment | {"timestamp_ms": 1}),
        ("PATCH", f"{V2}traces/{trace}", {"request_id": trace, "timestamp_ms": 2, "status": "OK"}),
        (
            "POST",
            f"{V3}traces",
            {"trace": {"trace_info": trace_info(trace, experiment, assessments=[known, instead])}},
        ),
        ("POST", f"{V3}traces", {"trace": {"trace_info": trace_info(trace_of_new, experiment)}}),
        # Sent again, with nothing in it that is refused for a reason of its own.
        (
            "POST",
            f"{V3}traces",
            {"trace": {"trace_info": trace_info(own["other_trace"], experiment)}},
        ),
        ("POST", f"{V2}traces/link-to-run", in_run | {"trace_ids": [trace]}),
        ("POST", f"{V2}traces/link-prompts", of_trace | {"prompt_versions": []}),
        ("POST", f"{V2}logged-models", in_experiment | {"name": "y", "source_run_id": run}),
        ("PATCH", f"{V2}logged-models/{logged}", of_logged | {"status": "LOGGED_MODEL_READY"}),
        ("PATCH", f"{V2}logged-models/{logged}/tags", of_logged | {"tags": [KEY]}),
        ("POST", f"{V2}logged-models/{logged}/params", of_logged | {"params": [KEY]}),
        ("DELETE", f"{V2}logged-models/{logged}/tags/k", None),
        ("POST", assessment, {"assessment": assessment_of(trace, assessment_name="y")}),
        ("POST", assessment, {"assessment": instead}),
        (
            "PATCH",
            f"{assessment}/{own['assessment']}",
            {"assessment": known, "update_mask": "feedback"},
        ),
        ("POST", f"{V3}issues", in_experiment | {"name": "y", "description": "y"}),
        ("PATCH", f"{V3}issues/{own['issue']}", {"issue_id": own["issue"], "name": "y"}),
        ("POST", f"{V3}label-schemas/create", schema_of(own, "y")),
        ("PATCH", f"{V3}label-schemas/update", {"schema_id": own["schema"], "title": "y"}),
        ("POST", f"{V3}datasets/create", {"name": new, "experiment_ids": [experiment]}),
        ("PATCH", f"{V3}datasets/{dataset}/tags", of_dataset | {"tags": '{"k": "v"}'}),
        ("DELETE", f"{V3}datasets/{dataset}/tags/k", None),
        ("POST", f"{V3}datasets/{dataset}/records", of_dataset | {"records": records}),
        ("POST", f"{V3}datasets/{dataset}/add-experiments", of_dataset | other),
        ("POST", f"{V3}datasets/{dataset}/remove-experiments", of_dataset | other),
        (
            "DELETE",
            f"{V3}datasets/{dataset}/records",
            of_dataset | {"dataset_record_ids": [own["record"]]},
        ),
        ("POST", f"{V3}scorers/register", scorer(own)),
        (
            "PUT",
            f"{V3}scorers/online-config",
            in_experiment | {"name": SCORER, "sample_rate": 0.0},
        ),
        ("POST", f"{V3}review-queues/create", queue_of(own, "y")),
        ("POST", f"{V3}review-queues/get-or-create-user", in_experiment | {"user": own["user"]}),
        ("POST", f"{V3}review-queues/update", of_queue | {"name": "z"}),
        ("POST", f"{V3}review-queues/items/add", item | {"item_ids": [own["other_trace"]]}),
        (
            "POST",
            f"{V3}review-queues/items/set-status",
            item | {"item_id": trace, "status": "COMPLETE"},
        ),
        ("POST", f"{V3}review-queues/items/remove", item | {"item_ids": [trace]}),
        ("POST", f"{V2}registered-models/set-tag", of_model | KEY),
        ("DELETE", f"{V2}registered-models/delete-tag", of_model | delete),
        ("PATCH", f"{V2}registered-models/update", of_model | {"description": "x"}),
        ("POST", f"{V2}registered-models/alias", first | {"alias": "champion"}),
        ("DELETE", f"{V2}registered-models/alias", of_model | {"alias": "champion"}),
        ("POST", f"{V2}model-versions/create", of_model | {"source": own["source"]} | in_run),
        (
            "POST",
            f"{V2}model-versions/create",
            of_model | {"source": f"models:/{logged}"} | of_logged,
        ),
        ("POST", f"{V2}model-versions/create", of_model | {"source": f"models:/{model}/1"}),
        ("PATCH", f"{V2}model-versions/update", first | {"description": "x"}),
        ("POST", f"{V2}model-versions/transition-stage", first | {"stage": "Staging"}),
        ("POST", f"{V2}model-versions/set-tag", first | KEY),
        ("DELETE", f"{V2}model-versions/delete-tag", first | delete),
        ("PATCH", server, {"description": "y"}),
        ("POST", f"{server}/tags", KEY),
        ("DELETE", f"{server}/tags/k", None),
        ("POST", f"{server}/aliases", {"alias": "a", "version": "1.0.0"}),
        ("DELETE", f"{server}/aliases/a", None),
        (
            "POST",
            f"{server}/versions",
            {"server_json": {"name": name, "version": "2.0.0", "description": "x"}},
        ),
        ("PATCH", f"{server}/versions/1.0.0", {"status": "active"}),
        ("PATCH", f"{server}/versions/1.0.0", {"status": "deprecated"}),
        ("POST", f"{server}/versions/1.0.0/tags", KEY),
        ("DELETE", f"{server}/versions/1.0.0/tags/k", None),
        (
            "POST",
            f"{server}/endpoints",
            {"url": "https://example.com/2", "server_version": "1.0.0"},
        ),
        ("PATCH", f"{server}/endpoints/{endpoint}", {"url": "https://example.com/3"}),
        # What ends things, in the order in which one does not take the next one with it.
        ("DELETE", f"{assessment}/{own['assessment']}", None),
        ("POST", f"{V2}traces/delete-traces", in_experiment | {"request_ids": [trace]}),
        (
            "POST",
            f"{V3}traces/delete-traces",
            in_experiment | {"request_ids": [own["other_trace"]]},
        ),
        ("POST", f"{V3}review-queues/delete", of_queue),
        ("DELETE", f"{V3}label-schemas/delete", {"schema_id": own["schema"]}),
        (
            "DELETE",
            f"{V3}scorers/delete",
            in_experiment | {"name": SCORER, "version": 1},
        ),
        ("DELETE", f"{V3}datasets/{dataset}", None),
        ("DELETE", f"{V2}logged-models/{logged}", None),
        ("DELETE", f"{V2}model-versions/delete", first),
        ("POST", f"{V2}registered-models/rename", of_model | {"new_name": new}),
        ("POST", f"{V2}registered-models/rename", {"name": new, "new_name": model}),
        ("DELETE", f"{V2}registered-models/delete", of_model),
        ("DELETE", f"{server}/endpoints/{endpoint}", None),
        ("DELETE", f"{server}/versions/2.0.0", None),
        ("DELETE", server, None),
        ("POST", f"{V2}runs/delete", in_run),
        ("POST", f"{V2}runs/restore", in_run),
        ("POST", f"{V2}experiments/delete", in_experiment),
        ("POST", f"{V2}experiments/restore", in_experiment),
    ]
    return [Asked(*each) for each in found if name or "/mcp-servers/" not in each[1]]


def places(value, place=()):
    """Yield the place of each text in a body, as keys and numbers, and the text."""
    if isinstance(value, (dict, list)):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*place, step))
    elif isinstance(value, str):
        yield place, value


def changed(body: dict, where: list[tuple], mine: str, theirs: str) -> dict:
    """Return a body with one text for another in some places."""
    body = json.loads(json.dumps(body))
    for *steps, last in where:
        inner = body
        for step in steps:
            inner = inner[step]
        inner[last] = inner[last].replace(mine, theirs)
    return body


def dishonest(asked: Asked, own: dict, others: dict) -> list[tuple[str, Asked]]:
    """Return a request with one thing of another user's in each place that names a thing.

    And, where several places name the same thing, with it in all of them.

    Returns:
        The place, such as `trace in request_ids.0`, and the request.
    """
    found = []
    for kind, mine in own.items():
        theirs = others[kind]
        # Numbers of experiments are short, and part of other texts.
        named = [
            place
            for place, text in places(asked.body)
            if text == mine or (len(mine) > 9 and mine in text)
        ]
        path = re.sub(rf"(?<=/){re.escape(mine)}(?=/|$)", theirs, asked.path)
        for place in named:
            one = asked._replace(body=changed(asked.body, [place], mine, theirs))
            found.append((f"{kind} in {'.'.join(map(str, place))}", one))
        if path != asked.path:
            found.append((f"{kind} in the path", asked._replace(path=path)))
        if len(named) + (path != asked.path) > 1:
            body = changed(asked.body, named, mine, theirs)
            found.append((f"{kind} everywhere", asked._replace(path=path, body=body)))
    return found


def state(who, own: dict) -> dict[str, dict]:
    """Return what a user sees of their own things, by path."""
    experiment, model, queue = own["experiment"], own["model"], own["queue"]
    paths = [
        f"{V2}experiments/get?experiment_id={experiment}",
        f"{V2}runs/get?run_id={own['run']}",
        f"{V2}artifacts/list?run_id={own['run']}",
        f"{V2}registered-models/get?name={model}",
        f"{V2}model-versions/get?name={model}&version=1",
        f"{V2}model-versions/get?name={model}&version=2",
        f"{V2}logged-models/{own['logged_model']}",
        f"{V3}traces/{own['trace']}",
        f"{V3}traces/{own['other_trace']}",
        f"{V3}datasets/{own['dataset']}",
        f"{V3}datasets/{own['dataset']}/records",
        f"{V3}scorers/list?experiment_id={experiment}",
        f"{V3}scorers/versions?experiment_id={experiment}&name={SCORER}",
        f"{V3}issues/{own['issue']}",
        f"{V3}label-schemas/list?experiment_id={experiment}",
        f"{V3}review-queues/list?experiment_id={experiment}",
        f"{V3}review-queues/items/list?queue_id={queue}",
        *([f"{V3}mcp-servers/{own['server']}"] if "server" in own else []),
    ]
    found = {path: who.ask("GET", path) for path in paths}
    assert {status for status, _ in found.values()} == {200}, found
    said = {path: json.loads(body) for path, (_, body) in found.items()}
    # MLflow notes here which versions were made of it; whoever may read it may make some.
    tags = said[f"{V2}logged-models/{own['logged_model']}"]["model"]["info"]["tags"]
    tags[:] = [tag for tag in tags if tag["key"] != "mlflow.modelVersions"]
    return said


def route(path: str, own: dict) -> str:
    """Return a path without what is a user's in it."""
    for kind, mine in own.items():
        path = re.sub(rf"(?<=/){re.escape(mine)}(?=/|$)", f"<{kind}>", path)
    return re.sub("/api/[23].0/mlflow[^/]*/", "", path)


def passed(who, own: dict, others: dict) -> set[tuple[str, str, str]]:
    """Ask for each thing of another's, and return what neither MLflow nor the guard refused.

    Returns:
        Method, route and place of each, such as `("POST", "runs/create", "run in run_id")`.
    """
    requests = [(asked, each) for asked in honest(own) for each in dishonest(asked, own, others)]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda each: who.ask(*each[1][1]), requests)
        found = list(zip(requests, answers, strict=True))
    assert len(found) >= 150
    return {
        (asked.method, route(asked.path, own), place)
        for (asked, (place, _)), (status, body) in found
        if not (status in (403, 404) or (status == 400 and re.search(REFUSALS, body)))
    }


def refused(who, own: dict) -> dict[tuple[str, str], tuple]:
    """Ask for everything with the user's own things, and return the answers that were no success.

    Returns:
        Status and body by method and route.
    """
    found = [(asked, who.ask(*asked)) for asked in honest(own)]
    return {
        (asked.method, route(asked.path, own)): answer
        for asked, answer in found
        if answer[0] != 200
    }


def different(before: dict, after: dict) -> list[tuple]:
    """Return what two states differ in."""
    return [(path, before[path], after[path]) for path in before if before[path] != after[path]]
