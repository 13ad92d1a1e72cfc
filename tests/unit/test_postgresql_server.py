"""The parts of the database server's module that need no server; molecule/tutorial has the rest."""

import pytest
from postgresql_server import BEGIN, END, quoted, with_block

OTHERS = "# TYPE DATABASE\nlocal all postgres peer\nhost all all 127.0.0.1/32 scram-sha-256\n"
RULE = "hostssl all all samehost scram-sha-256"


@pytest.mark.parametrize("text", [OTHERS, OTHERS.removesuffix("\n"), ""])
def test_rules_of_others_stay_and_come_first(text):
    """The first rule that fits is the one that PostgreSQL heeds."""
    found = with_block(text, [RULE])
    assert found.startswith(text)
    assert found.endswith(f"\n{RULE}\n{END}\n")


def test_a_second_block_is_never_written():
    once = with_block(OTHERS, [RULE])
    assert with_block(once, [RULE]) == once


def test_a_changed_rule_takes_the_place_of_the_former_one():
    """What somebody has added below ours stays below it."""
    text = with_block(OTHERS, [RULE]) + "hostssl others all all reject\n"
    found = with_block(text, ["another \\1 rule"])
    assert RULE not in found and found.count(BEGIN) == 1
    assert f"another \\1 rule\n{END}\nhostssl others all all reject\n" in found


@pytest.mark.parametrize(
    ("value", "text"),
    [("*", "'*'"), (5432, "'5432'"), (True, "'on'"), (False, "'off'"), ("it's", "'it''s'")],
)
def test_a_value_is_quoted_as_postgresql_reads_it(value, text):
    """Also 0 and 1, which Python takes for False and True."""
    assert quoted(value) == text


@pytest.mark.parametrize("number", [0, 1])
def test_a_number_stays_a_number(number):
    assert quoted(number) == f"'{number}'"
