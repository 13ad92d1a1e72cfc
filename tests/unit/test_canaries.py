"""In which forms a secret is looked for."""

import json

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


def test_the_search_on_a_host_names_no_secret_in_argv():
    """It looks at argv itself, and so would find itself."""
    assert "asked" in canaries.CODE and SECRET not in canaries.CODE
    compile(canaries.CODE, "on the host", "exec")
