"""Which Pythons are admitted, and what the operator of another one reads."""

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.pythons import (
    require_python,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused


@pytest.mark.parametrize("version", [(3, 11), (3, 11, 2), (3, 14, 9)])
def test_a_python_with_locked_wheels_is_admitted(version):
    require_python(version, "x", "do")


@pytest.mark.parametrize(
    ("version", "found"),
    [((3, 9, 2), "3.9.2"), ((3, 15, 0), "3.15.0"), ((2, 7), "2.7"), ((), "none that runs")],
)
def test_another_python_is_refused(version, found):
    """It would be let in and then find no wheel."""
    expected = f"Wanted Python 3.11 to 3.14 as /usr/bin/python3; found {found}; upgrade."
    with pytest.raises(Refused, match=f"^{expected}$"):
        require_python(version, "/usr/bin/python3", "upgrade")
