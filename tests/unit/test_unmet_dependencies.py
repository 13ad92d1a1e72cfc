"""Versions that the collection does not work with, found before a host is looked at."""

import json
from types import SimpleNamespace

import pytest
import unmet_dependencies as tool
from control import ROOT


def installed(version):
    """Return the files of a collection that was installed."""
    return {"MANIFEST.json": json.dumps({"collection_info": {"version": version}})}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (installed("2.0.0"), []),
        (installed("2.9.9"), []),
        ({"galaxy.yml": "version: 2.1.0-dev1"}, []),
        (installed("1.9.9"), ["fake.clouds 1.9.9 instead of >=2.0.0,<3.0.0"]),
        (installed("3.0.0"), ["fake.clouds 3.0.0 instead of >=2.0.0,<3.0.0"]),
        ({}, ["fake.clouds one without a version instead of >=2.0.0,<3.0.0"]),
        (None, ["fake.clouds none instead of >=2.0.0,<3.0.0"]),
    ],
)
def test_a_collection_of_another_version_is_named(tmp_path, monkeypatch, found, said):
    """As AWX has it, or an ansible that came with the system."""

    def import_module(name):
        assert name == "ansible_collections.fake.clouds"
        if found is None:
            raise ModuleNotFoundError(name)
        return SimpleNamespace(__path__=[str(tmp_path)])

    for name, text in (found or {}).items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(tool, "wanted", lambda _: (">=2.19.0", {"fake.clouds": ">=2.0.0,<3.0.0"}))
    monkeypatch.setattr(tool, "import_module", import_module)
    assert tool.unmet_dependencies("2.19.0") == said


@pytest.mark.parametrize(
    ("core", "fits"), [("2.18.9", False), ("2.19.0rc1", False), ("2.19.0", True), ("2.21.5", True)]
)
def test_an_ansible_core_that_is_too_old_is_named(monkeypatch, core, fits):
    monkeypatch.setattr(tool, "wanted", lambda _: (">=2.19.0", {}))
    assert (tool.unmet_dependencies(core) == []) is fits


def test_what_is_wanted_is_said_where_galaxy_reads_it():
    """In one place for a checkout, and in the same words in what its tarball has installed."""
    core, collections = tool.wanted(ROOT)
    assert core.startswith(">=") and "amazon.aws" in collections
    assert tool.unmet_dependencies("2.19.0") == [], "with this environment"
