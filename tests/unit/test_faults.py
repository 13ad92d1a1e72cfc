"""The seeded faults: each patch fits the product and names a test, and what counts as caught."""

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATCHES = sorted(ROOT.glob("tests/faults/*.patch"))

loader = importlib.machinery.SourceFileLoader("faults", str(ROOT / "tools/faults"))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("faults", loader))
sys.modules["faults"] = tool  # a dataclass looks its own module up
loader.exec_module(tool)


def test_each_fault_fits_the_product_as_it_is():
    """`make faults` takes minutes and is not run at each change: this says who has to see to it."""
    assert PATCHES
    check = ["git", "apply", "--check"]
    stale = [
        patch.name for patch in PATCHES if subprocess.run([*check, patch], cwd=ROOT).returncode
    ]
    assert stale == []


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_each_fault_is_one_of_the_product_and_names_a_test_that_is_there(patch):
    """A fault in a test, or for a test that was renamed, would show nothing."""
    fault = tool.parse(patch)
    changed = re.findall(r"^\+\+\+ b/(.+)$", patch.read_text(), re.MULTILINE)
    assert changed and not [path for path in changed if path.startswith(("tests/", "molecule/"))]
    assert fault.is_tested()


def test_each_fault_is_another_one():
    """The same for one test under two names would count twice."""
    names = {}
    for patch in PATCHES:
        lines = re.findall(r"^[+-](?!\+\+ |-- ).*$", patch.read_text(), re.MULTILINE)
        names.setdefault((tool.parse(patch).test, *lines), []).append(patch.stem)
    assert [same for same in names.values() if len(same) > 1] == []


HEAD = """Why: a long
reason
Test: tests/unit/test_x.py::test_it[case]
{more}
diff --git a/roles/x b/roles/x
Why: not here any more
"""


def test_a_patch_says_what_it_is_for(tmp_path):
    patch = tmp_path / "x.patch"
    patch.write_text(HEAD.format(more=""))
    found = tool.parse(patch)
    assert (found.why, found.test) == ("a long reason", "tests/unit/test_x.py::test_it[case]")
    assert (found.function, found.scenario, found.converge) == ("test_it", "", False)
    host = "Scenario: roll\nConverge: yes\n"
    patch.write_text(HEAD.format(more=host).replace("tests/unit", "molecule/roll/tests"))
    assert (tool.parse(patch).scenario, tool.parse(patch).converge) == ("roll", True)


@pytest.mark.parametrize(
    ("this", "instead"),
    [
        ("Why: a long\nreason\n", ""),
        ("Test: ", "Tests: "),
        ("::test_it", ""),
        ("tests/unit", "molecule/roll/tests"),
        ("{more}", "Scenario: roll\n"),
        ("{more}", "Converge: yes\n"),
        ("{more}", "Scenario: roll\nConverge: no\n"),
        ("{more}", "Other: x\n"),
    ],
)
def test_a_patch_that_does_not_say_it_is_an_error(tmp_path, this, instead):
    (tmp_path / "x.patch").write_text(HEAD.replace(this, instead).format(more=""))
    with pytest.raises(ValueError, match="x.patch"):
        tool.parse(tmp_path / "x.patch")


def test_a_word_is_a_kind_of_faults_or_else_a_part_of_their_names():
    """Who asks for those of unit tests has not asked for hosts to be made anew."""

    def fault(name, scenario=""):
        return tool.Fault(Path(f"{name}.patch"), "", "", scenario, False)

    unit, roll, unit_roll = fault("drain"), fault("link", "roll"), fault("unit-of-roll", "roll")
    faults = [unit, roll, unit_roll]
    assert tool.chosen(faults, []) == faults
    assert tool.chosen(faults, ["unit"]) == [unit]
    assert tool.chosen(faults, ["roll", "link"]) == [roll, unit_roll]
    assert tool.chosen(faults, ["of", "drain"]) == [unit_roll, unit]
    with pytest.raises(ValueError, match="none by rol;"):
        tool.chosen([unit], ["rol"])


CODE = """
import pytest
def test_passes(): pass
def test_fails_once_more(): assert False
@pytest.mark.parametrize("case", [1, 2])
def test_fails(case): assert case == 1
@pytest.fixture
def broken(): assert False
def test_errs(broken): pass
@pytest.mark.skip
def test_skips(): pass
"""


@pytest.fixture(autouse=True)
def plain_pytest(monkeypatch):
    """Let each pytest that is started here start without plugins, in a third of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def report(tmp_path, code):
    (tmp_path / "test_x.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "test_x.py"]
    subprocess.run([*command, "-p", "no:cacheprovider"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    return tmp_path / "report.xml"


def test_only_a_test_that_ran_and_failed_has_caught_a_fault(tmp_path):
    """What was not collected, was left out, or could not be imported, has not."""
    assert tool.verdict(tmp_path / "none.xml", "test_fails") == tool.NOT_RUN
    found = report(tmp_path, CODE)
    assert {name: tool.verdict(found, f"test_{name}") for name in ("passes", "fails", "errs")} == {
        "passes": tool.SURVIVED,
        "fails": tool.CAUGHT,
        "errs": tool.CAUGHT,
    }
    assert tool.verdict(found, "test_skips") == tool.verdict(found, "test_not_there")
    assert tool.verdict(found, "test_not_there") == tool.NOT_RUN
    broken = report(tmp_path, "import no_such_module\n" + CODE)
    assert tool.verdict(broken, "test_fails") == tool.NOT_RUN


def small(folder):
    """Make a checkout with one role and its test; return the folder of its faults."""
    for name in ("roles", "tests/unit", "tests/faults", ".cache", ".venv/bin"):
        (folder / name).mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / "roles/x.py").write_text("x = 1\ny = 1\n")
    code = "import sys; sys.path.insert(0, 'roles'); import x\ndef test_x(): assert x.x == 1\n"
    (folder / "tests/unit/test_x.py").write_text(code)
    return folder / "tests/faults"


def patch(old, new):
    """Return a fault in the second line of the role."""
    body = f"--- a/roles/x.py\n+++ b/roles/x.py\n@@ -1,2 +1,2 @@\n{old}\n{new}\n"
    return (
        "Why: so\nTest: tests/unit/test_x.py::test_x\n\ndiff --git a/roles/x.py b/roles/x.py\n"
        + body
    )


def test_a_fault_that_no_test_notices_or_that_does_not_apply_is_an_error(
    tmp_path, monkeypatch, capfd
):
    """And the checkout is as before whatever the tool does, as it works in a copy."""
    faults = small(tmp_path)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "CACHE", tmp_path / ".cache")
    (faults / "seen.patch").write_text(patch("-x = 1\n+x = 2", " y = 1"))
    (faults / "overlooked.patch").write_text(patch(" x = 1", "-y = 1\n+y = 2"))
    (faults / "stale.patch").write_text(patch("-x = 3\n+x = 2", " y = 1"))
    with pytest.raises(SystemExit) as ended:
        tool.main(["unit"])
    assert ended.value.code == 1
    assert "faults: 1 caught, 1 survived, 1 does not apply\n" in capfd.readouterr().out
    assert (tmp_path / "roles/x.py").read_text() == "x = 1\ny = 1\n"
    assert list((tmp_path / ".cache").iterdir()) == []
    (tmp_path / "roles/x.py").write_text("x = 0\ny = 1\n")
    with pytest.raises(SystemExit) as ended:
        tool.main(["seen"])
    assert ended.value.code == 1
    assert "faults: 0 caught, 0 survived, 1 fails without it\n" in capfd.readouterr().out


def test_what_fails_on_what_another_fault_has_left_is_not_caught(tmp_path, monkeypatch, capfd):
    """Hosts stay from one fault to the next. So each test has to pass just before its fault."""
    faults = small(tmp_path)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "CACHE", tmp_path / ".cache")
    monkeypatch.setattr(tool, "steps", lambda scenario: ["create", "converge"])
    (tmp_path / "tests/testinfra").mkdir()
    code = "def test_first(): ...\ndef test_second(): ...\n"
    (tmp_path / "tests/testinfra/test_x.py").write_text(code)
    for name in ("first", "second"):
        text = patch("-x = 1\n+x = 2", " y = 1").replace("unit/test_x", "testinfra/test_x")
        text = text.replace("::test_x", f"::test_{name}\nScenario: roll")
        (faults / f"{name}.patch").write_text(text)
    # What the tests say, one after the other.
    results = ["", "<failure/>", "<failure/>"]
    done = []

    def molecule(copy, verb, scenario, **more):
        done.append(verb)
        if verb == "verify":
            name, result = more["PYTEST_ADDOPTS"].split()[1], results.pop(0)
            text = f'<testsuites><testcase name="{name}">{result}</testcase></testsuites>'
            copy.report.write_text(text)
        return True

    monkeypatch.setattr(tool.Product, "molecule", molecule)
    with pytest.raises(SystemExit):
        tool.main(["roll"])
    assert "faults: 1 caught, 0 survived, 1 fails without it\n" in capfd.readouterr().out
    steps = ["create", "converge", "verify", "verify", "converge", "verify", "destroy"]
    assert done == steps


def test_a_test_that_is_not_there_is_named(tmp_path, monkeypatch):
    """pytest would run none at all, and each fault would seem to have a broken test."""
    faults = small(tmp_path)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    text = patch("-x = 1\n+x = 2", " y = 1").replace("::test_x", "::test_y")
    (faults / "mistyped.patch").write_text(text)
    with pytest.raises(ValueError, match="found no such test; correct .*mistyped.patch"):
        tool.main([])
