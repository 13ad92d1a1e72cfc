"""What a crawl without credentials takes for a refusal, and for an open door."""

import crawl
import pytest


def answer(status, location="", asked=False):
    return crawl.Answer("GET", "/x", "/x", status, 0, asked, location, "")


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/api/2.0/mlflow/jobs/<job_id>", "/api/2.0/mlflow/jobs/probe-of-tests"),
        ("/a/<path:artifact_path>", "/a/probe-of-tests"),
        ("/a/{artifact_path:path}", "/a/probe-of-tests"),
        ("/m/{name:path}/versions/{version}", "/m/probe-of-tests/versions/probe-of-tests"),
        ("/models/{endpoint}:generate", "/models/probe-of-tests:generate"),
        ("/static-files/<path:path>", "/static-files/index.html"),
    ],
)
def test_a_rule_becomes_a_path(rule, path):
    """Flask and FastAPI write parameters in two ways; a static file must be one that exists."""
    assert crawl.Route("", rule, ["GET"], "").path == path


def test_only_refusals_are_not_open():
    """An error of the server's own, or no answer at all, is not a refusal."""
    statuses = [200, 204, 302, 400, 422, 500, 0]
    refusals = [401, 403, 404, 405]
    found = crawl.opened([answer(status) for status in statuses + refusals])
    assert [each.status for each in found] == statuses


def test_a_redirect_is_a_refusal_only_to_the_login():
    """Another one may be an address that the caller is let into."""
    to_login, elsewhere = answer(302, "https://host/login?next=/x"), answer(302, "/x/login/y")
    assert crawl.opened([to_login, elsewhere]) == [elsewhere]


def test_what_is_not_found_was_reached():
    """Behind the login even an unknown path asks for credentials first."""
    found = crawl.reached([answer(401), answer(403), answer(404), answer(405)])
    assert [each.status for each in found] == [404, 405]
