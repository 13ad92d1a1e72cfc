"""What the documentation says of tests and files is true."""

import re
import textwrap
from pathlib import Path

import pytest
import unknown_variables as variables
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("roles/*/README.md")),
]
# Whose tests a page means where it names no scenario.
SCENARIO = {"security.md": "hardening", "rotation.md": "rotation", "oidc.md": "oidc"}


def functions(*patterns):
    """Return the names of the tests in some files."""
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}


def run_by(scenario):
    """Return the names of the tests that a scenario runs, or of all without one."""
    if not scenario:
        return functions("molecule/*/tests/test_*.py", "tests/testinfra/**/test_*.py")
    settings = yaml.safe_load((ROOT / f"molecule/{scenario}/molecule.yml").read_text()) or {}
    own = settings.get("verifier", {}).get("directory") == "tests"
    shared = [] if own else ["tests/testinfra/**/test_*.py"]
    return functions(f"molecule/{scenario}/tests/test_*.py", *shared)


def named(page):
    """Return the pairs of scenario and test that a page names: `scenario`: `test_a`, `test_b`."""
    found = []
    for line in page.read_text().splitlines():
        scenario = SCENARIO.get(page.name, "")
        for word, colon in re.findall(r"`([\w-]+)`(:?)", line):
            if colon and (ROOT / "molecule" / word).is_dir():
                scenario = word
            elif word.startswith("test_"):
                found.append((scenario, word))
    return found


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_claim_names_is_there(page):
    """A claim whose test was renamed, removed or moved is a claim that nobody finds checked."""
    units = functions("tests/unit/test_*.py")
    missing = {each for each in named(page) if each[1] not in run_by(each[0]) | units}
    assert missing == set()


def test_security_names_many():
    """So that a change of how they are written does not leave them unlooked at."""
    found = named(ROOT / "docs/security.md")
    assert len(found) > 30 and {scenario for scenario, _ in found} >= {"hardening", "default"}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page):
    """Who follows a page in the middle of the night does not look for what it may be called now."""
    folders = "molecule|tests|demo|docs|playbooks|roles|tools|bench|requirements"
    paths = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text()))
    paths |= set(re.findall(rf"ansible-playbook ((?:{folders})/[\w./-]+)", page.read_text()))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def keys(node):
    """Yield the keys of mappings, at any depth."""
    for each in node.values() if isinstance(node, dict) else node:
        if isinstance(each, (dict, list)):
            yield from keys(each)
    yield from node if isinstance(node, dict) else ()


def examples(page):
    """Return the examples in YAML that a page has."""
    blocks = re.findall(r"(?ms)^( *)```yaml\n(.*?)^\1```", page.read_text())
    return [yaml.safe_load(textwrap.dedent(text)) for _, text in blocks]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_variable_of_an_example_is_one_that_there_is(page):
    """Who copies an example with a former name is refused, or gets a default without a word."""
    found = {key for example in examples(page) for key in keys(example)}
    known = {name for role in variables.SHARED for name in variables.known_variables(role)}
    ours = {name for name in found if name.startswith(tuple(f"{r}_" for r in variables.SHARED))}
    assert variables.unknown_variables(found - ours) == [] and ours <= known


def test_examples_are_found():
    assert "mlflow_server_database_name" in keys(examples(ROOT / "README.md"))
