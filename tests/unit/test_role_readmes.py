"""The roles' READMEs: each there, with the table of variables that `tools/readme` writes."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parents[1] for path in ROOT.glob("roles/*/meta/main.yml"))

loader = importlib.machinery.SourceFileLoader("readme", str(ROOT / "tools/readme"))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("readme", loader))
loader.exec_module(tool)

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


@each_role
def test_a_role_has_a_readme_with_its_variables(role):
    """Who looks a variable up finds the one of now; `tools/readme` writes the table anew."""
    readme = role / "README.md"
    assert readme.exists()
    assert readme.read_text() == tool.updated(readme)


def test_a_stale_table_is_found_and_written_anew(tmp_path, monkeypatch):
    """The check has to fail before the table, and pass after it, is written."""
    role = tmp_path / "roles/x"
    (role / "meta").mkdir(parents=True)
    (role / "README.md").write_text(f"# x\n{tool.START}\nold\n{tool.END}\nmore\n")
    (role / "meta/argument_specs.yml").write_text(
        "argument_specs: {main: {options: {"
        "x_a: {type: str, choices: [p, q], default: '', description: [One C(a|b)., 'O(x_b).']},"
        "x_b: {type: list, elements: int, default: [1], description: B(Bold).},"
        "x_c: {required: true, description: Text.}, x_d: {description: None.},"
        "x_e: {type: list, elements: dict, description: Some., options: {y: {description: Y.}}}}}}"
    )
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"found others in roles/x/README.md; run `tools/readme`"):
        tool.main(["--check"])
    tool.main([])
    tool.main(["--check"])
    assert (role / "README.md").read_text().splitlines()[3:-3] == [
        "| Variable | Type | Default | Meaning |",
        "|---|---|---|---|",
        "| `x_a` | str: `p`, `q` | `''` | One `a\\|b`. `x_b`. |",
        "| `x_b` | list of int | `[1]` | **Bold**. |",
        "| `x_c` | str | required | Text. |",
        "| `x_d` | str | – | None. |",
        "| `x_e` | list of dict | – | Some. |",
        "| `x_e[].y` | str | – | Y. |",
    ]


def test_a_readme_without_a_place_for_the_table_is_an_error(tmp_path):
    """Else a role would be left out silently."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/argument_specs.yml").write_text("argument_specs: {main: {options: {}}}")
    (tmp_path / "README.md").write_text("# x\n")
    with pytest.raises(ValueError, match="found none; add them"):
        tool.updated(tmp_path / "README.md")
