"""docs/refused.md has what an operator reads when something is refused, word for word."""

import ast
import functools
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/refused.md"
YAML = ("roles/*/tasks/*.yml", "playbooks/**/*.yml")
PYTHON = ("plugins/*/*.py", "roles/*/files/*.py")
# What stands for a value, on the page and in what is collected here.
VALUE = "…"


def plain(text):
    """Return a text in one line, each value in it as one sign."""
    return re.sub(r"\s+", " ", re.sub(r"(?s)\{\{.*?\}\}", VALUE, text)).strip()


def of_python(node):
    """Yield the strings of a syntax tree, those that are put together as one."""
    text = joined(node)
    if text is not None:
        yield plain(text)
    values = [part for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
    inner = values if text is not None else ast.iter_child_nodes(node)
    for child in inner:
        yield from of_python(child)


def joined(node):
    """Return the text of a string, an f-string or a sum of them; None of anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(VALUE if joined(part) is None else joined(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [joined(node.left), joined(node.right)]
        if parts != [None, None]:
            return "".join(VALUE if part is None else part for part in parts)
    return None


def of_yaml(node):
    """Yield the texts with which rules and tasks refuse."""
    if isinstance(node, list):
        for each in node:
            yield from of_yaml(each)
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("otherwise", "fail_msg"):
                yield plain(value)
            elif key == "ansible.builtin.fail":
                yield plain(value["msg"])
            else:
                yield from of_yaml(value)


@functools.cache
def strings():
    """Return the strings in the project's Python files."""
    files = [path for pattern in PYTHON for path in sorted(ROOT.glob(pattern))]
    return [text for path in files for text in of_python(ast.parse(path.read_text()))]


@functools.cache
def messages():
    """Return what somebody is shown when something is refused: the project's own texts."""
    files = [path for pattern in YAML for path in sorted(ROOT.glob(pattern))]
    found = [text for path in files for text in of_yaml(yaml.safe_load(path.read_text()))]
    found += [text for text in strings() if text.startswith("Wanted ")]
    site = (ROOT / "roles/nginx/templates/site.conf.j2").read_text()
    found += [plain(text) for text in re.findall(r'return \d+ "(.*)\\n";', site)]
    # The rest is put together of what a task or a function was given.
    return sorted({text for text in found if words(text)})


@functools.cache
def texts():
    """Return all strings of the project in which a message, or a part of one, can be."""
    return [*messages(), *strings()]


@functools.cache
def texts_of_mlflow():
    """Return the source of what MLflow itself may answer."""
    root = Path(find_spec("mlflow").origin).parent
    files = ("server/security_utils.py", "server/auth/__init__.py", "server/handlers.py")
    return [(root / name).read_text() for name in (*files, "exceptions.py")]


def words(text):
    """Return the letters of a message beside those that each has."""
    return re.sub(r"\b(Wanted|found)\b|\W", "", text)


@functools.cache
def rows():
    """Return the rows of the page's tables: the messages in the first cell, and the others."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| it says", "| they see")):
            first, *more = re.split(r"(?<!\\)\|", line.strip("|\n"))
            quotes = [text.strip() for _, text in re.findall(r"(`+)(.+?)\1(?!`)", first)]
            found.append((quotes, [cell.strip() for cell in more]))
    return found


QUOTES = [quote for quotes, _ in rows() for quote in quotes]


@pytest.mark.parametrize("quote", QUOTES)
def test_a_message_on_the_page_is_one_that_there_is(quote):
    """Else an operator looks for words that nobody says any more, and others find nothing."""
    if quote.startswith("Wanted "):
        # Some are put together: the function that does it says "Wanted".
        starts = (quote, quote.removeprefix("Wanted "))
        assert any(text.startswith(starts) for text in texts())
    else:
        assert any(quote in text for text in [*texts(), *texts_of_mlflow()])


@pytest.mark.parametrize("message", messages())
def test_a_message_that_there_is_has_a_row(message):
    """Who adds a refusal says here why it is one, in the words that an operator searches for."""
    assert any(message.startswith(quote) for quote in QUOTES)


def test_the_messages_are_found():
    """In rules, assertions and tasks that fail, in Python and in nginx's site."""
    assert len(messages()) > 230
    for known in (
        "Wanted a port from 1 to 65535; found",
        "Wanted at least one host in the group …; found",
        "Wanted a new connection to … under its new rules; found none in … seconds",
        "Wanted … MB of free memory to start another colour; found … MB; free some, set",
        "nginx is up, but the service behind it does not answer.",
    ):
        assert any(message.startswith(known) for message in messages())


def test_each_row_says_why_and_what_to_do():
    """With words that are its own: one that fits everything would hide that a row is missing."""
    assert [quotes for quotes, more in rows() if len(more) != 2 or not all(more)] == []
    assert [quote for quote in QUOTES if len(words(quote)) < 7] == []
    assert [quote for quote in QUOTES if QUOTES.count(quote) > 1] == []
