"""What the identity provider's settings become, and which are refused."""

import sys

import probe
import pytest
from test_templates import environment, evaluate

PROVIDER = {
    "discovery_url": "https://login.example.com/.well-known/openid-configuration",
    "client_id": "mlflow",
    "client_secret": "se\"cret'",
}


def server(expression, given=PROVIDER, **variables):
    """Return what an expression is for a server whose users a provider logs in."""
    own = {"mlflow_server_authentication": "oidc", "mlflow_server_oidc": given}
    return evaluate(expression, **own | variables)


def problems(**changes):
    return server("__mlflow_server_bad_oidc", PROVIDER | changes)


def test_a_provider_with_a_client_and_its_secret_is_enough():
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"discovery_url": ""}, "no discovery_url"),
        ({"client_id": ""}, "no client_id"),
        ({"client_secret": ""}, "no client_secret"),
        ({"discovery_url": "http://login.example.com"}, "the discovery_url http://login.example."),
        ({"redirect_uri": "https://mlflow.example.com/"}, "the redirect_uri https://mlflow.exam"),
        ({"group_names": []}, "nothing in group_names"),
        ({"group_names": ["a", " "]}, "' ' in group_names"),
        ({"admin_group_names": ["cn=a,dc=b"]}, "'cn=a,dc=b' in admin_group_names"),
    ],
)
def test_what_cannot_let_the_right_ones_in_is_refused(changes, found):
    """A comma would make two groups of one, whoever is in those; nothing would be an empty name."""
    assert [problem[: len(found)] for problem in problems(**changes)] == [found]


def test_nothing_at_all_is_refused_by_each_name():
    required = ["no discovery_url", "no client_id", "no client_secret"]
    assert server("__mlflow_server_bad_oidc", {}) == required


def test_a_refusal_does_not_show_the_secret():
    assert "canary" not in str(problems(client_secret="canary", client_id="", group_names=[]))


def test_the_secret_of_the_example_is_refused():
    given = PROVIDER | {"client_secret": "example-change-me"}
    assert server("__mlflow_server_example_secrets", given) == ["OIDC_CLIENT_SECRET"]


def test_who_logs_in_otherwise_is_not_asked_for_a_provider():
    assert evaluate("__mlflow_server_bad_oidc") == []
    assert not any("OIDC" in name for name in evaluate("__mlflow_server_settings"))


def test_the_secret_is_in_the_file_of_secrets_alone():
    """The other file is what `site.yml --diff` and support requests show."""
    texts = server("mlflow_server_secret_texts")
    assert environment(texts["secrets.env"]) == {"OIDC_CLIENT_SECRET": PROVIDER["client_secret"]}
    settings = server("__mlflow_server_settings | mlflow_ansible.tracking.systemd_environment")
    assert "OIDC_CLIENT_ID" in settings and "cret" not in settings


def test_who_changes_to_it_gets_a_key_for_its_sessions():
    """The file of MLflow's own app is kept for ever, and has another name for the key."""
    texts = server("mlflow_server_secret_texts")
    assert len(environment(texts["sessions_oidc.env"])["SECRET_KEY"]) == 40
    assert "sessions_oidc.env" in server("__mlflow_server_environment_files")
    assert "sessions_oidc.env" not in evaluate("__mlflow_server_environment_files")


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "http://127.0.0.1:5000"),
        ({"mlflow_server_listen_address": "::1"}, "http://[::1]:5000"),
        (
            {"mlflow_server_listen_address": "0.0.0.0", "mlflow_server_scheme": "https"},
            "https://mlflow.example.com:5000",
        ),
        (
            {
                "mlflow_server_listen_address": "10.0.0.5",
                "mlflow_server_scheme": "https",
                "mlflow_server_port": 443,
            },
            "https://mlflow.example.com",
        ),
    ],
)
def test_the_provider_sends_browsers_back_to_where_they_came_from(variables, found):
    """By the first public name, or through a tunnel to the address; the scheme's port is left out,
    as browsers leave it out."""
    names = {"mlflow_server_public_names": ["mlflow.example.com", "10.0.0.5"]}
    settings = server("__mlflow_server_settings", **names | variables)
    assert settings["OIDC_REDIRECT_URI"] == f"{found}/callback"
    assert settings["SESSION_COOKIE_SECURE"] == str(found.startswith("https")).lower()


def test_who_has_no_permission_sees_nothing():
    assert server("__mlflow_server_settings")["DEFAULT_MLFLOW_PERMISSION"] == "NO_PERMISSIONS"


def test_users_of_one_app_are_not_among_those_of_the_other():
    """Both have a table `users`: the second one to come would find the first one's."""
    for database in ({}, {"mlflow_server_database_host": "db"}):
        uris = {
            evaluate(
                "__mlflow_server_auth_database_uri", mlflow_server_authentication=app, **database
            )
            for app in ("basic", "oidc")
        }
        assert len(uris) == 2


def test_a_private_ca_is_a_file_of_the_slot():
    assert server("__mlflow_server_files", PROVIDER | {"ca": "PEM"}) == {"SSL_CERT_FILE": "PEM"}
    assert server("__mlflow_server_files") == {}


def test_the_probe_looks_at_the_users_of_the_provider_too(monkeypatch, tmp_path):
    """Another schema would be migrated by whoever starts first, which nobody asked for."""
    seen = []
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:////a/mlflow.db")
    monkeypatch.setenv("OIDC_USERS_DB_URI", "sqlite:////a/oidc.db")
    monkeypatch.delenv("MLFLOW_AUTH_CONFIG_PATH", raising=False)
    monkeypatch.setattr(
        probe, "check_schema", lambda uri, schema, *more, **named: seen.append(schema)
    )
    probe.check_database()
    assert seen == [probe.TRACKING, probe.OIDC]


def test_an_older_schema_is_refused_with_the_command_that_upgrades_it(monkeypatch, tmp_path):
    """The package has no command of its own for it."""
    migrations = tmp_path / "db/migrations"
    (migrations / "versions").mkdir(parents=True)
    for revision, down in (("a1", "None"), ("b2", "'a1'")):
        text = f"revision = '{revision}'\ndown_revision = {down}\n"
        (migrations / f"versions/{revision}.py").write_text(text)
    packages = {"mlflow_oidc_auth": type("Spec", (), {"origin": str(tmp_path / "__init__.py")})}
    monkeypatch.setattr(probe, "find_spec", packages.get)
    with pytest.raises(probe.Refusal) as refused:
        probe.check_revision("a1", probe.OIDC)
    words = f'run \'{sys.executable} -c "from mlflow_oidc_auth.db.cli import commands; commands()"'
    assert words in str(refused.value)
    probe.check_revision("b2", probe.OIDC)
