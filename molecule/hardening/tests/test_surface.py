"""What a server with users shows to whom: every route, published holes, and a real browser."""

import json
import os
import subprocess
import sys

import crawl
import pytest
from api import colour
from control import ROOT, Control
from logins import ADA, ADMIN, BOB

group = "hardening-users"

# Closed for everybody, so with 404 and not with the question for a login; see mlflow_server's vars.
CLOSED = (
    "/api/2.0/mlflow-artifacts/mpu/",
    "/ajax-api/2.0/mlflow-artifacts/mpu/",
    "/api/2.0/mlflow-artifacts/presigned/",
    "/ajax-api/2.0/mlflow-artifacts/presigned/",
    "/api/2.0/mlflow/artifacts/presigned-",
    "/ajax-api/2.0/mlflow/artifacts/presigned-",
    "/ajax-api/2.0/mlflow/runs/create-promptlab-run",
    "/ajax-api/2.0/mlflow/upload-artifact",
    "/ajax-api/3.0/mlflow/demo",
    "/ajax-api/3.0/mlflow/gateway",
    "/api/3.0/mlflow/gateway",
    "/gateway/",
    "/api/2.0/mlflow/users/create-ui",
    "/metrics",
    "/signup",
)
# Who asks for nothing but that a service is there, such as a load balancer.
OPEN = {"/health"}


@pytest.fixture
def url(host):
    return f"https://{host.backend.name}"


def run(control, script, *words, **environment) -> subprocess.CompletedProcess:
    """Run a script of tests/support/ in the network of the host."""
    command = control.inside(sys.executable, str(ROOT / "tests/support" / script), *words)
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_nothing_but_health_answers_without_a_login(control, host, url, self_signed):
    """Every route that the release has, Flask's and FastAPI's, with each of its methods; and what
    is closed is not even a question for a login."""
    python = f"/etc/mlflow/{colour(host)}/release/bin/python"
    answers = crawl.reached_on_host(control, python, url, self_signed)
    assert OPEN <= {each["path"] for each in answers}
    shown = [each for each in answers if each["path"] not in OPEN]
    closed = [each for each in shown if each["path"].startswith(CLOSED) and each["status"] == 404]
    assert [each for each in shown if each not in closed] == []
    paths = [each["path"] for each in closed]
    assert [each for each in CLOSED if not any(path.startswith(each) for path in paths)] == []


@pytest.mark.parametrize(
    "path",
    [
        "/static-files/index.html",
        "/static-files/../version",
        "//static-files/index.html",
        "/%73tatic-files/index.html",
        "/healthz",
        "/health/../version",
        "/readyz",
        "/ready/../version",
        "/api/3.0/mlflow/server-info",
        "/ajax-api/3.0/mlflow/server-info",
        "/api/9.9/mlflow/server-info",
        "/favicon.ico",
    ],
)
def test_what_mlflow_exempts_from_the_login_needs_one_all_the_same(visitor, path):
    """It tells the version and what the server is made of. A wrong password is no login either."""
    for whom in (visitor, visitor.as_("admin", "password1234")):
        assert whom.status("GET", path) in (401, 404), path
    if path == "/static-files/index.html" or "/3.0/mlflow/server-info" in path:
        assert visitor.as_(*BOB).status("GET", path) == 200
    assert visitor.status("POST", path, b"x") in (401, 403, 404, 405)


def test_a_load_balancer_needs_no_login_and_learns_nothing(visitor):
    """Whether requests can be sent here is all that it is told."""
    for whom in (visitor, visitor.as_("admin", "password1234")):
        status, said = whom.ask("GET", "/ready")
        assert (status, said) == (200, b"ready\n")
    assert visitor.status("POST", "/ready", b"x") == 401


@pytest.mark.parametrize("path", CLOSED)
def test_what_nobody_needs_is_closed_to_all(visitor, path):
    """Ways to have the server write files, sample data, metrics, a form for users."""
    for whom in (visitor, visitor.as_(*ADMIN)):
        assert whom.status("GET", path) == 404
        assert whom.status("POST", f"{path}/more", b"{}") in (403, 404)


def test_the_assistant_can_be_looked_at_and_not_used(visitor):
    """It runs commands on the host for whoever seems to come from it, as an SSH tunnel does."""
    assistant, admin = "/ajax-api/3.0/mlflow/assistant", visitor.as_(*ADMIN)
    assert admin.status("GET", f"{assistant}/config") == 200, "each page of the UI asks"
    for method, path in [("PUT", "config"), ("POST", "message"), ("POST", "skills/install")]:
        assert admin.status(method, f"{assistant}/{path}", {}) == 403
    assert visitor.status("GET", f"{assistant}/config") == 401


@pytest.mark.parametrize("user", ["", "bob"])
def test_no_published_hole_is_found(control, visitor, url, self_signed, say, user):
    """With the harmless requests of public scanners, by nobody and by a user without rights."""
    login = [f"--user={user}"] if user else []
    others = []
    if user:
        owner = visitor.as_(*ADA)
        experiment = owner.call("experiments/create", name=f"of-ada-{os.urandom(4).hex()}")
        made = owner.call("runs/create", experiment_id=experiment["experiment_id"])
        theirs = {"experiment_id": experiment["experiment_id"]}
        others = [f"--others={json.dumps(theirs | {'run_id': made['run']['info']['run_id']})}"]
    words = (url, f"--ca={self_signed}", *login, *others)
    done = run(control, "probes.py", *words, MLFLOW_TRACKING_PASSWORD=BOB[1])
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(findings) > 15, done.stderr
    assert [each["name"] for each in findings if each["evidence"] == "nothing to ask"] == []
    assert [each for each in findings if each["found"]] == []
    say(f"{len(findings)} probes as {user or 'nobody'}: 0 holes")


def test_the_same_probes_find_holes_in_an_open_old_server(control, say):
    """The positive control: where there are holes they are found."""
    elsewhere = Control(control.inventory, "hardening-open")
    done = run(elsewhere, "probes.py", "http://127.0.0.1:5000")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    found = [each["name"] for each in findings if each["found"]]
    assert "file_by_source_of_a_model_version" in found, done.stdout + done.stderr
    assert len(found) > 5, found
    say(f"MLflow of 2023, open: {len(found)} holes: {', '.join(found)}")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:443"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://hardening-users"},
        {"Origin": "null"},
        {"X_Forwarded_Host": "evil.example", "Origin": "https://evil.example"},
    ],
)
def test_a_foreign_page_is_refused_even_with_a_login(visitor, headers):
    """A browser sends its user's password along, whatever page makes it ask (DNS rebinding)."""
    search = ("POST", "/ajax-api/2.0/mlflow/experiments/search", {"max_results": 1})
    assert visitor.as_(*ADMIN).status(*search, **headers) == 403


HEADERS = {
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/metrics", 404),
        ("GET", "/version", 200),
        ("PUT", "/ajax-api/3.0/mlflow/assistant/config", 403),
    ],
)
def test_browsers_are_told_how_far_to_trust_a_page(visitor, method, path, status):
    """Of MLflow's answers and nginx's own alike, each once: some browsers ignore one that is there
    twice. Scripts come from the server alone, and no other's page is around it.
    """
    with visitor.as_(*ADMIN).request(method, path) as answer:
        headers = answer.headers
    assert answer.status == status
    assert {name: headers.get_all(name) for name in HEADERS} == {n: [v] for n, v in HEADERS.items()}
    (policy,) = headers.get_all("Content-Security-Policy")
    assert "default-src 'self'" in policy and "frame-ancestors 'self'" in policy


def test_a_trace_can_be_shown_in_a_notebook(visitor):
    """By the one page of MLflow's that is made to be shown within others."""
    path = "/static-files/lib/notebook-trace-renderer/index.html"
    with visitor.as_(*ADMIN).request("GET", path) as answer:
        assert answer.status == 200
        assert "X-Frame-Options" not in answer.headers
        assert "Content-Security-Policy" not in answer.headers


@pytest.mark.parametrize("port", ["", ":443"])
def test_the_uis_own_posts_pass(visitor, port):
    """Among them the data of charts, which CORS breaks behind other proxies."""
    origin = {"Host": f"{visitor.name}{port}", "Origin": f"https://{visitor.name}{port}"}
    admin = visitor.as_(*ADMIN)
    search = ("POST", "/ajax-api/2.0/mlflow/experiments/search", {"max_results": 1})
    assert admin.status(*search, **origin) == 200
    search = "mlflowSearchRuns(input: {experimentIds: []}) { runs { info { runId } } }"
    query = {"query": f"query {{ {search} }}"}
    assert admin.status("POST", "/graphql", query, **origin) == 200


def test_a_browser_logs_in_and_sees_a_run_with_its_chart(control, host, visitor, url, self_signed):
    """Over TLS that it trusts, with no error in its console; the picture is the documentation's.

    And downloads an artifact, which lies in S3, from the server: the browser may not reach S3.
    """
    ada = visitor.as_(*ADA)
    name = f"forecast-{os.urandom(3).hex()}"
    experiment = ada.call("experiments/create", name=name)["experiment_id"]
    run_id = ada.call("runs/create", experiment_id=experiment, run_name="first")["run"]["info"][
        "run_id"
    ]
    for step in range(20):
        fields = {"value": 1 / (step + 1), "timestamp": 1700000000000 + step, "step": step}
        ada.call("runs/log-metric", run_id=run_id, key="loss", **fields)
    path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run_id}/artifacts/said.txt"
    assert ada.status("PUT", path, b"what was said") == 200
    ada.call("registered-models/create", name=name)
    ada.call("model-versions/create", name=name, source=f"runs:/{run_id}/model", run_id=run_id)
    picture = ROOT / ".cache/login.png"
    done = run(
        control,
        "browser.py",
        url,
        f"--experiment={experiment}",
        f"--run={run_id}",
        "--metric=loss",
        f"--model={name}",
        "--artifact=said.txt",
        f"--ca={self_signed}",
        "--user=ada",
        f"--picture={picture}",
        MLFLOW_TRACKING_PASSWORD="canary-ada: p@ss%/'\"",
    )
    assert done.returncode == 0, done.stdout[:2000] + done.stderr[-2000:]
    assert json.loads(done.stdout)["downloaded"] == "what was said"
    assert picture.stat().st_size > 20_000
