"""Environment files: what is written is what systemd and the modules read."""

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import environment

ODD = {
    "DOLLAR": "a$b",
    "EMPTY": "",
    "EQUALS": "a=b",
    "ESCAPED": "\\$",
    "HASH": "a # b",
    "LINES": "a\nb",
    "QUOTES": 'it\'s "a" `b`',
    "SLASHES": "\\\\a\\",
}


def test_a_value_is_quoted_as_systemd_has_it():
    """systemd.exec(5): within double quotes a backslash keeps these four from their meaning."""
    assert environment.quoted("a\"b$c\\d`e'") == '"a\\"b\\$c\\\\d\\`e\'"'


def test_what_was_written_is_read():
    """A name of a database with a dollar sign in it would be taken for another one."""
    text = environment.text_of(ODD | {"NUMBER": 5}, "Managed by Ansible. " * 9)
    assert text.startswith("# Managed") and max(map(len, text.splitlines())) <= 100
    assert environment.variables(text) == ODD | {"NUMBER": "5"}
    assert environment.text_of({}) == ""


@pytest.mark.parametrize("spoilt", ["it's", "no variable", '"'])
def test_a_line_that_was_spoilt_by_hand_spoils_no_other(spoilt):
    text = f'A="1"\n{spoilt}\nB="2"\n'
    assert environment.legible_variables(text) == {"A": "1", "B": "2"}
    with pytest.raises(ValueError):
        environment.variables(text)
