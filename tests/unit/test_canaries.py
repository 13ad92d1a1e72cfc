"""In which forms a secret is looked for."""

import io
import json
import subprocess
import time

import canaries
import pytest

SECRET = "p@ss%/:\"w é$'"


@pytest.mark.parametrize(
    "text",
    [
        f"password is {SECRET}.",
        "postgresql://u:p%40ss%25%2F%3A%22w%20%C3%A9%24%27@host/db",
        json.dumps({"password": SECRET}),
        "Authorization: cEBzcyUvOiJ3IMOpJCc=",
    ],
)
def test_a_secret_is_found_in_every_form(text):
    """A log may show what was sent, not what the operator wrote."""
    assert canaries.in_texts({"p": SECRET, "q": "another"}, {"here": text, "there": "none"}) == [
        ("here", "p")
    ]


def test_nothing_is_found_where_nothing_is():
    """A part of a secret is not the secret."""
    assert canaries.in_texts({"p": SECRET}, {"here": SECRET[:-1]}) == []


@pytest.fixture
def search(monkeypatch):
    """Return a function that searches a host on which it sees its own word in some places."""

    def function(*places):
        def run(command, input, **_):
            sent.update(command=command, input=json.loads(input))
            hits = [(place, sent["input"]["control"]) for place in places]
            return subprocess.CompletedProcess(command, 0, json.dumps([*hits, ("/tmp/x", "p")]))

        monkeypatch.setattr(canaries.subprocess, "check_output", lambda *_, **__: "1795819170\n")
        monkeypatch.setattr(canaries.subprocess, "run", run)
        return canaries.on_host("host", {"p": SECRET}), sent

    sent: dict = {}
    return function


def test_the_search_on_a_host_names_no_secret_in_argv(search):
    """It looks at argv itself, and so would find itself."""
    found, sent = search(*canaries.CONTROLS)
    assert found == [("/tmp/x", "p")] and SECRET in sent["input"]["forms"]["p"]
    assert sent["input"]["created"] == 1795819170
    assert not [
        word for word in sent["command"] if SECRET in word or sent["input"]["control"] in word
    ]
    compile(canaries.CODE, "on the host", "exec")


@pytest.mark.parametrize(("created", "found"), [(-60, True), (60, False)])
def test_only_what_is_older_than_the_host_is_left_out(tmp_path, monkeypatch, created, found):
    """It is of the image. A bound that is too late would leave out all, and find nothing."""
    (tmp_path / "file").write_text(SECRET)
    asked = {"forms": {"p": [SECRET]}, "users": [], "allowed": [], "created": time.time() + created}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(asked)))
    names: dict = {}
    exec(canaries.CODE.rpartition("\nwith planted")[0], names)
    names["walk"](str(tmp_path), tmp_path.stat().st_dev, False)
    assert names["hits"] == ({(str(tmp_path / "file"), "p")} if found else set())


@pytest.mark.parametrize("blind", canaries.CONTROLS)
def test_a_search_that_does_not_see_what_it_has_planted_is_an_error(search, blind):
    """Else a search that looks at nothing would find no secret, and all would seem well."""
    with pytest.raises(AssertionError, match=f"blind to .*{blind}"):
        search(*[place for place in canaries.CONTROLS if place != blind])
