"""What the documentation says of tests and files is true."""

import re
from pathlib import Path

import pytest
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
