"""A key is tried before it is put anywhere: with what serves, and nothing changes."""

import json
from pathlib import Path

import mlflow_prove
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.hosts import (
    HostedInstance,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused


class FakeHost:
    """A host that notes what its probe was asked for and given, and answers for it."""

    def __init__(self):
        self.returncode, self.said = 0, ""
        self.given = None

    def show(self, unit):
        return {"ActiveState": "inactive"}

    def start_probe(self, instance, slot, words, seconds, former=None, more=""):
        # By another process, as systemd does: not by /proc/self.
        assert more.startswith(f"/proc/{mlflow_prove.os.getpid()}/fd/")
        self.given = instance, slot.name, words, seconds, former, Path(more).read_text()
        return self

    def communicate(self):
        return None, self.said


@pytest.fixture
def instance(tmp_path):
    instance = HostedInstance("mlflow", FakeHost(), tmp_path)
    instance.config.mkdir(parents=True)
    return instance


def test_a_key_is_proven_with_what_serves_and_nothing_changes(instance, tmp_path):
    """A rotation asks each host before it changes the first: with the slot's own settings, and the
    new key on top of them, quoted as systemd reads it."""
    with pytest.raises(Refused, match="Wanted a server mlflow that serves; found none"):
        mlflow_prove.prove(instance, {}, 60)
    instance.current.symlink_to("/run/mlflow/blue/server.sock")
    before = sorted(tmp_path.rglob("*"))
    mlflow_prove.prove(instance, {"AWS_SECRET_ACCESS_KEY": 'a"b$c\\d'}, 60)
    text = 'AWS_SECRET_ACCESS_KEY="a\\"b\\$c\\\\d"\n'
    assert instance.host.given == ("mlflow", "blue", ["artifacts"], 60, None, text)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("code", "said", "refusal"),
    [
        (
            1,
            "Wanted to put; found denied; give the right.\n",
            "give the right. Nothing has changed",
        ),
        (143, "", "The probe did not end in time. Nothing has changed"),
    ],
)
def test_a_key_that_is_refused_is_refused_with_the_reason(instance, code, said, refusal):
    instance.current.symlink_to("/run/mlflow/blue/server.sock")
    instance.host.returncode, instance.host.said = code, said
    with pytest.raises(Refused, match=refusal):
        mlflow_prove.prove(instance, {"AWS_ACCESS_KEY_ID": "new"}, 60)


@pytest.mark.parametrize("check", [True, False])
def test_check_mode_puts_nothing_anywhere(monkeypatch, capsys, check):
    """And no run shows the key."""
    asked = []
    monkeypatch.setattr(HostedInstance, "linked", lambda _: "blue")
    monkeypatch.setattr(mlflow_prove, "prove", lambda *given: asked.append(given[1:]))
    environment = {"AWS_SECRET_ACCESS_KEY": "canary"}
    given = {"instance": "mlflow", "environment": environment, "_ansible_check_mode": check}
    given["_ansible_inject_invocation"] = True
    with patch_module_args(given), pytest.raises(SystemExit):
        mlflow_prove.main()
    said = capsys.readouterr().out
    assert asked == ([] if check else [(environment, 120)])
    assert json.loads(said)["colour"] == "blue" and not json.loads(said)["changed"]
    assert "canary" not in said
