"""The picture of what calls what is drawn from the source, so it is as the source is."""

import importlib.machinery
import importlib.util

import pytest
from control import ROOT

loader = importlib.machinery.SourceFileLoader("architecture", str(ROOT / "tools/architecture"))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("architecture", loader))
loader.exec_module(tool)


def test_the_picture_is_up_to_date(capsys):
    """A newcomer trusts it; `tools/architecture` draws it anew."""
    tool.main(["--check"])


def test_a_stale_picture_is_found_and_drawn_anew(tmp_path, monkeypatch):
    """The check has to fail before the picture, and pass after it, is drawn."""
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n{tool.START}\nold\n{tool.END}\nmore\n")
    monkeypatch.setattr(tool, "PAGE", page)
    with pytest.raises(SystemExit, match="found another; run `tools/architecture`"):
        tool.main(["--check"])
    tool.main([])
    tool.main(["--check"])
    assert page.read_text().endswith(f"{tool.END}\nmore\n")


def test_who_calls_whom_is_found():
    """One of each kind; a changed way to call would leave an empty picture."""
    found = set(tool.edges())
    assert (("playbook", "mlflow"), ("role", "mlflow_server")) in found
    assert (("role", "mlflow_server"), ("module", "mlflow_roll")) in found
    assert (("module", "nginx_site"), ("shared", "nginx_firewalls")) in found
    assert len(found) > 40
