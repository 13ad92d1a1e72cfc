"""What is made, what is left alone and what is refused, without a server."""

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from fake_postgresql import ALL_RIGHTS, GROUP, LOGINS, OWNER, FakeServer, without_admin_option


@pytest.fixture
def server(monkeypatch):
    return FakeServer(monkeypatch)


def test_an_empty_server_gets_all_of_it(server):
    """Roles first and together: a killed run leaves all of them or none."""
    plan = server.run().plan
    assert plan[:4] == [f"role {name}" for name in (OWNER, GROUP, *LOGINS)]
    assert f"CREATE ROLE {GROUP} NOLOGIN" in server.statements
    assert "CREATE ROLE mlflow_a LOGIN PASSWORD SCRAM-SHA-256 of mlflow_a" in server.statements
    assert "CREATE ROLE mlflow_b NOLOGIN" in server.statements, "its password comes with its turn"
    assert f"GRANT {GROUP} TO mlflow_a" in server.statements
    made = next(s for s in server.statements if s.startswith("CREATE DATABASE"))
    assert f"OWNER {OWNER}" in made and "ENCODING UTF8" in made
    assert any(s.startswith("REVOKE CONNECT, TEMPORARY") for s in server.statements)
    assert not any("GRANT mlflow_owner" in s for s in server.statements), "for a superuser"
    assert "canary" not in str(server.statements)


@pytest.mark.parametrize("refuses", [f"CREATE ROLE {LOGINS[1]}", f"GRANT {GROUP}"])
def test_roles_are_made_all_or_none(server, refuses):
    """A login without its group is somebody else's for the next run, which then refuses it."""
    server.refuses = refuses
    with pytest.raises(Refused, match="Wanted to make .*; found that the server says: no"):
        server.run()
    assert server.roles == {}
    server.refuses = ""
    server.run()
    assert set(server.roles) == {OWNER, GROUP, *LOGINS}


def test_a_second_run_changes_nothing(server):
    server.make_ours()
    assert server.run().plan == [] and server.statements == []


def test_check_mode_says_it_and_does_nothing(server):
    """Also where there is no database yet in which it could look."""
    plan = server.run(check=True).plan
    assert "database mlflow" in plan and "rights in the database" in plan
    assert server.statements == []
    server.make_ours()
    server.lacking["r"] = ["runs"]
    assert server.run(check=True).plan == ["1 tables"] and server.statements == []


@pytest.mark.parametrize(("version", "option"), [(150000, ""), (170000, " WITH INHERIT FALSE")])
def test_an_administrator_like_that_of_rds_joins_the_owner_first(server, version, option):
    """Without it CREATE DATABASE ... OWNER is denied; from 16 on ADMIN alone is not enough."""
    server.admin, server.version = (False, True, True), version
    server.run()
    at = server.statements.index(f"GRANT {OWNER} TO CURRENT_USER{option}")
    assert server.statements[at + 1].startswith("CREATE DATABASE")


@pytest.mark.parametrize(
    ("rights", "lacks"), [((False, False, True), "CREATEROLE"), ((False, True, False), "CREATEDB")]
)
def test_an_administrator_without_a_right_is_told_which(server, rights, lacks):
    """But one that has nothing to make needs none."""
    server.admin = rights
    with pytest.raises(Refused, match=f"found that postgres lacks {lacks}; run ALTER ROLE"):
        server.run()
    server.make_ours()
    assert server.run().plan == []


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("change", "altered"),
    [("another password of the owner", OWNER), ("a login", GROUP), ("the database", OWNER)],
)
def test_who_may_not_alter_a_role_since_an_upgrade_is_told_before_anything(
    server, change, altered, check
):
    """PostgreSQL 16 asks for ADMIN OPTION, which nobody has of roles that are older."""
    server.make_ours()
    without_admin_option(server, OWNER, GROUP, *LOGINS)
    assert server.run(check).plan == [], "who has nothing to alter needs none"
    if change == "another password of the owner":
        server.passwords[OWNER] = "former"
    elif change == "a login":
        del server.roles["mlflow_b"]
    else:
        server.owned_by = None
    with pytest.raises(Refused, match=f"run `GRANT {altered} TO postgres WITH ADMIN OPTION` as a"):
        server.run(check)
    assert server.statements == []


def test_before_postgresql_16_createrole_suffices(server):
    server.make_ours()
    without_admin_option(server, OWNER, version=150000)
    server.passwords[OWNER] = "former"
    assert server.run().plan == [f"password of {OWNER}"]


def test_who_may_become_the_owner_already_makes_the_database(server):
    """As a superuser has arranged it; or the owner is the administrator himself."""
    server.make_ours()
    without_admin_option(server, OWNER)
    server.owned_by, server.may_become_owner = None, True
    assert "database mlflow" in server.run().plan


def test_another_password_of_the_owner_is_set_and_tried(server):
    """No server uses it: it only migrates, from the control side."""
    server.make_ours()
    server.passwords[OWNER] = "former"
    assert server.run().plan == [f"password of {OWNER}"]
    assert server.statements == [f"ALTER ROLE {OWNER} PASSWORD SCRAM-SHA-256 of {OWNER}"]


def test_another_password_of_a_login_is_never_set(server):
    """A server that runs would be locked out at its next connection."""
    server.make_ours()
    server.passwords["mlflow_a"] = "former"
    with pytest.raises(Refused, match="the password that mlflow_a has.*rotate_database_password"):
        server.run()
    assert server.statements == []


def test_a_new_login_beside_one_that_can_log_in_rests(server):
    """And where none can, the first of those that are made can."""
    server.make_ours()
    del server.roles["mlflow_a"]
    server.run()
    assert "CREATE ROLE mlflow_a NOLOGIN" in server.statements
    server.make_ours()
    del server.roles["mlflow_b"]
    server.roles["mlflow_a"]["login"] = False
    server.run()
    assert "CREATE ROLE mlflow_b LOGIN PASSWORD SCRAM-SHA-256 of mlflow_b" in server.statements


def test_a_password_that_does_not_work_after_all_is_an_error(server, monkeypatch):
    """A role past its VALID UNTIL is refused with every password."""
    server.make_ours()
    server.passwords[OWNER] = "former"
    monkeypatch.setattr(server, "change", lambda text: server.statements.append(text) or [])
    with pytest.raises(Refused, match=f"{OWNER} to log in .*VALID UNTIL"):
        server.run()


def test_a_login_at_rest_is_left_alone(server):
    """Between two rotations one of the two has no LOGIN; to give it back would undo that."""
    server.make_ours()
    server.roles["mlflow_b"]["login"] = False
    server.passwords["mlflow_b"] = "former"
    database = server.run()
    assert database.plan == [] and database.resting == ["mlflow_b"]


def test_only_the_rights_that_lack_are_given(server):
    server.make_ours()
    server.lacking = {"r": ["runs", 'odd"name'], "S": ["ids"]}
    server.defaults = {"r": ("SELECT",), "S": ALL_RIGHTS["S"]}
    assert server.run().plan == ["2 tables", "tables to come", "1 sequences"]


def test_what_the_group_needs_to_get_in_is_given_if_it_lacks(server):
    """Without it each login is refused by its own database, with all rights on its tables."""
    server.make_ours()
    server.database_rights = set()
    assert server.run().plan == ["CONNECT"]
    assert server.statements == [f"GRANT CONNECT ON DATABASE mlflow TO {GROUP}"]
    server.make_ours()
    server.schema = ("pg_database_owner", True, True, False, False)
    assert server.run().plan == ["USAGE of the schema"]


@pytest.mark.parametrize("superuser", [True, False])
def test_a_schema_from_before_postgresql_15_is_closed_by_its_owner(server, superuser):
    """Everybody could make tables in it, and its owner is the administrator of then."""
    server.make_ours()
    server.schema = ("rdsadmin", False, True, True, True)
    server.admin = (superuser, True, True)
    if superuser:
        assert server.run().plan == ["CREATE of PUBLIC", "CREATE"]
    else:
        with pytest.raises(Refused, match="rdsadmin owns it; run ALTER SCHEMA public OWNER TO"):
            server.run()


def test_a_database_that_holds_something_stays_open_to_whom_it_was(server):
    """Somebody's report may read it as the role that everybody is a member of."""
    server.make_ours()
    server.database_rights = {(GROUP, "CONNECT"), ("", "CONNECT")}
    server.in_use = True
    server.run()
    assert not [statement for statement in server.statements if "REVOKE" in statement]
    server.in_use = False
    server.run()
    assert [statement for statement in server.statements if "REVOKE CONNECT" in statement]
