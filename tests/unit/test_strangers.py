"""No route of MLflow that changes something lacks a request in tests/support/strangers.py."""

import re
from collections import defaultdict

import pytest
import strangers
from mlflow.server import app
from mlflow.server.fastapi_app import create_fastapi_app

OWN = {"user": "bob", "run": "run-of-bob", "trace": "trace-of-bob"}
OTHERS = {"user": "ada", "run": "run-of-ada", "trace": "trace-of-ada"}


@pytest.fixture(scope="module")
def routes():
    """Path and method of each route that MLflow has under /api and /v1, without parameters."""
    found = {(rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods}
    for path, methods in create_fastapi_app(app).openapi()["paths"].items():
        found |= {(path, method.upper()) for method in methods}
    return {(path, method) for path, method in found if method not in ("GET", "HEAD", "OPTIONS")}


def test_every_route_that_changes_something_is_asked(routes):
    """A new one has to be thought about: whose thing does it change, and who is asked?"""
    requests = strangers.honest(defaultdict(lambda: "x", server="x", endpoint="x"))
    asked = {(request.path.replace("/api/", "/ajax-api/"), request.method) for request in requests}
    asked |= {(request.path, request.method) for request in requests}
    unasked = [
        (path, method)
        for path, method in routes
        if not strangers.NOT_ASKED.search(path)
        and not any(
            re.fullmatch(re.sub(r"<[^>]+>|\{[^}]+\}", "[^/]+", path), where)
            or re.fullmatch(re.sub(r"<path:[^>]+>|\{[^}]+\}", ".+", path), where)
            for where, how in asked
            if how == method
        )
    ]
    assert not unasked
    assert len(routes) >= 300


def test_each_name_in_a_request_is_replaced_alone_and_all_at_once():
    body = {"run_id": "run-of-bob", "traces": ["trace-of-bob"], "text": '{"run": "run-of-bob"}'}
    asked = strangers.Asked("POST", "/api/x/run-of-bob", body)
    found = dict(strangers.dishonest(asked, OWN, OTHERS))
    assert set(found) == {
        "run in run_id",
        "run in text",
        "run in the path",
        "run everywhere",
        "trace in traces.0",
    }
    assert found["trace in traces.0"].body == body | {"traces": ["trace-of-ada"]}
    assert found["run in the path"] == asked._replace(path="/api/x/run-of-ada")
    whole = found["run everywhere"]
    assert "run-of-bob" not in str(whole) and "trace-of-bob" in str(whole)
    assert asked.body == body
