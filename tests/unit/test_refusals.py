"""How a module ends that refuses what is wanted."""

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)


class Module:
    """An AnsibleModule that notes with what it ends."""

    said = None

    def fail_json(self, **said):
        self.said = said


def test_what_is_refused_inside_ends_the_module_in_its_words():
    """With what it answers besides, which may have changed until then."""
    module, plan = Module(), []
    with refusing(module, answer=lambda: {"plan": plan}):
        plan.append("done")
        raise Refused("Wanted this; found that; do more.")
    assert module.said == {"msg": "Wanted this; found that; do more.", "plan": ["done"]}


def test_an_error_of_the_system_is_one_for_the_operator_if_it_was_expected():
    """A full disk is; where nothing was to fail, the traceback says more."""
    module = Module()
    with refusing(module, "the server's files", lambda: {"plan": []}):
        raise OSError("No space left on device")
    message = "Wanted the server's files; found No space left on device; fix that and run again."
    assert module.said == {"msg": message, "plan": []}
    with pytest.raises(OSError), refusing(module):
        raise OSError("No space left on device")


def test_a_module_that_is_not_refused_goes_on():
    module = Module()
    with refusing(module, "the server's files"):
        pass
    assert module.said is None
