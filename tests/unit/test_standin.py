"""The stand-in is installed like MLflow, and serves on its tables."""

from importlib.metadata import version

import yaml
from control import ROOT
from standin.build import build, head


def test_the_same_sources_make_the_same_release(tmp_path):
    """Its lock is a digest of the wheel: one that changes would make each run another release."""
    for folder in ("a", "b"):
        build(tmp_path / folder)
    first, second = (sorted((tmp_path / folder).iterdir()) for folder in ("a", "b"))
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_its_schema_is_that_of_the_mlflow_whose_tables_it_uses():
    """The revision is read here, the tables are made on the host."""
    defaults = yaml.safe_load((ROOT / "roles/mlflow_venv/defaults/main.yml").read_text())
    assert version("mlflow-skinny") == defaults["mlflow_venv_version"]
    assert head()
