"""The templates of mlflow_server, rendered by Ansible itself; an undefined variable is fatal."""

import json
import re
from configparser import RawConfigParser
from pathlib import Path

import pytest
import rendering
import yaml
from ansible.plugins.loader import filter_loader

ROLE = Path(__file__).resolve().parents[2] / "roles/mlflow_server"
filter_loader.add_directory(str(ROLE), with_subdir=True)
HOST = {"memory_mb": 4000, "cores": 2, "disk_mb": 50_000}


def evaluate(expression, **variables):
    """Return what an expression is with the role's defaults and these variables."""
    known = {"inventory_hostname": "server", "ansible_managed": "managed"}
    known |= {"mlflow_server_look": HOST, "ansible_search_path": [str(ROLE)]}
    return rendering.evaluate(expression, rendering.defaults(ROLE) | known | variables)


def arguments(tasks, module, **variables):
    """Return what the first task of a file that calls a module passes to it."""
    task = next(task for task in rendering.load(ROLE / "tasks" / tasks) if module in task)
    return evaluate("given", given=task[module], **task.get("vars", {}) | variables)


def render(template, **variables):
    """Return a text of the role's templates."""
    return evaluate(f"lookup('ansible.builtin.template', '{template}')", **variables)


def environment(text):
    """Return the variables of an environment file as systemd reads them: systemd.exec(5)."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.split("=", 1)
            assert value[0] == value[-1] == '"', line
            found[name] = re.sub(r'\\(["\\$`])', r"\1", value[1:-1])
    return found


def settings(**variables):
    """Return all environment variables of the server, the later files before the earlier ones."""
    own = "{'server.env': __mlflow_server_settings | mlflow_ansible.tracking.systemd_environment}"
    texts = f"{own} | combine(mlflow_server_secret_texts, mlflow_server_database_texts)"
    found = evaluate(texts, **variables)
    files = evaluate("__mlflow_server_environment_files", **variables)
    assert set(found) < set(files)
    read = (environment(found[name]) for name in files if name in found)
    return {name: value for file in read for name, value in file.items()}


def value(name, **variables):
    return settings(**variables)[name]


@pytest.mark.parametrize(
    "secret", ["p@ss%/:w\"'\\", "a $HOME `id` b", " spaces ", "#no;comment", "ä€"]
)
def test_any_character_survives(secret):
    """A password with a quote must neither be cut off nor run as a command."""
    assert value("KEY", mlflow_server_secret_environment={"KEY": secret}) == secret


def test_secrets_go_before_settings_and_settings_before_ours():
    """What the operator says is what holds."""
    ours = value("MLFLOW_WORKERS")
    theirs = {"MLFLOW_WORKERS": "7"}
    assert ours != "7"
    assert value("MLFLOW_WORKERS", mlflow_server_environment=theirs) == "7"
    secret = {"mlflow_server_secret_environment": {"MLFLOW_WORKERS": "8"}}
    assert value("MLFLOW_WORKERS", mlflow_server_environment=theirs, **secret) == "8"


@pytest.mark.parametrize(
    ("memory", "cores", "roll", "workers"),
    [
        (24000, 2, "blue_green", 2),
        (24000, 16, "blue_green", 16),
        (3900, 8, "blue_green", 5),
        (1950, 2, "blue_green", 1),
        (950, 2, "stop_start", 1),
        (3900, 8, "stop_start", 8),
    ],
)
def test_workers_fit_the_cores_and_twice_the_memory(memory, cores, roll, workers):
    """(memory - 384) / colours, less 270 for the parent, in parts of 260 MB; at most the cores."""
    host = {"memory_mb": memory, "cores": cores, "disk_mb": 50_000}
    found = value("MLFLOW_WORKERS", mlflow_server_look=host, mlflow_server_roll=roll)
    assert int(found) == workers


def test_names_are_allowed_with_and_without_the_port_and_never_all():
    """MLflow compares the Host header as it comes, with a port or without, and it comes in small
    letters.
    """
    names = {"mlflow_server_public_names": ["MLflow.example.com"], "mlflow_server_port": 8080}
    hosts = value("MLFLOW_SERVER_ALLOWED_HOSTS", **names).split(",")
    assert {"mlflow.example.com", "mlflow.example.com:8080", "localhost:8080"} <= set(hosts)
    origins = value("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", **names).split(",")
    assert {"https://mlflow.example.com", "http://mlflow.example.com:8080"} <= set(origins)
    patterns = [entry for entry in hosts + origins if "*" in entry]
    assert patterns == ["localhost:*", "127.0.0.1:*"], "a tunnel may begin at any port"


def test_where_there_is_tls_a_page_that_came_in_clear_is_foreign():
    """Whoever sits on the network can make one under the server's own name."""
    origins = value("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", mlflow_server_scheme="https").split(",")
    assert "https://localhost:5000" in origins
    assert not [each for each in origins if each.startswith("http:")]


def test_both_colours_have_one_unit():
    """The roll copies it as it is: nothing in it may name a colour."""
    unit = render("mlflow.service.j2", mlflow_server_instance="mlflow-team-a")
    directives = "\n".join(line for line in unit.splitlines() if not line.startswith("#"))
    assert not re.search("blue|green", directives)
    for folder in ("/etc/mlflow-team-a/%j/", "/run/mlflow-team-a/%j/", "/var/lib/mlflow-team-a"):
        assert folder in directives


def test_the_unit_shows_no_secret():
    """Everybody on the host can read it."""
    logins = [{"name": "a", "password": "canary-login"}]
    unit = render(
        "mlflow.service.j2",
        mlflow_server_database_host="db.example.com",
        mlflow_server_database_logins=logins,
        mlflow_server_database_owner_password="canary-owner",
        mlflow_server_authentication="basic",
        mlflow_server_admin_password="canary-admin",
        mlflow_server_secret_environment={"KEY": "canary-environment"},
        mlflow_server_files={"AWS_SHARED_CREDENTIALS_FILE": "canary-file"},
    )
    assert "aws_shared_credentials_file" in unit and "database.env" in unit
    assert "canary" not in unit


def test_requests_in_flight_end_before_systemd_kills():
    unit = render("mlflow.service.j2", mlflow_server_drain_timeout=100)
    assert "--timeout-graceful-shutdown 100" in unit
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > 100


def test_generated_secrets_have_the_form_that_mlflow_wants_and_differ():
    """The webhook key is a Fernet key: 32 bytes in URL-safe base64."""
    from cryptography.fernet import Fernet

    first, second = (evaluate("__mlflow_server_generated") for _ in range(2))
    Fernet(first["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"])
    assert all(first[name] != second[name] for name in first)


SECRETS = {
    "mlflow_server_authentication": "basic",
    "mlflow_server_admin_password": "canary of the administrator",
    "mlflow_server_secret_environment": {"KEY": "canary of a variable"},
    "mlflow_server_environment": {"URL": "https://canary@example.com"},
    "mlflow_server_files": {"PROFILE": "canary of a file"},
    "mlflow_server_release": "/opt/release",
}


def test_what_holds_a_secret_is_read_by_one_user_alone():
    """nginx's user is in the group of the instance, and operators write secrets into settings."""
    given = arguments(
        "configure.yml", "mlflow_ansible.tracking.mlflow_files", **SECRETS, **DATABASE
    )
    modes = {file["name"]: int(file["mode"], 8) for file in given["files"]}
    holding = {name for name, text in given["texts"].items() if re.search("canary|p@ss", text)}
    assert {"server.env", "secrets.env", "database.env", "profile"} <= holding
    holding |= {"generated.env", "sessions.env", "bootstrap.env"}
    assert holding < set(modes) == set(given["texts"])
    assert {name for name in holding if modes[name] & 0o077} == set()
    assert {name for name in modes if modes[name] & 0o022} == set(), "nor does another write any"


def test_the_administrators_password_is_not_written():
    """The database of users has its hash. What MLflow makes him with is nobody's, and not it."""
    texts = arguments("configure.yml", "mlflow_ansible.tracking.mlflow_files", **SECRETS)["texts"]
    assert "canary of a variable" in texts["secrets.env"]
    assert [name for name, text in texts.items() if "canary of the administrator" in text] == []
    first, second = (evaluate("__mlflow_server_bootstrap", **SECRETS) for _ in range(2))
    assert first != second and len(first["MLFLOW_AUTH_ADMIN_PASSWORD"]) == 40


def test_tables_are_made_by_the_owner():
    """What the administrator makes, the owner can neither upgrade nor let the server use."""
    owner = {"mlflow_server_database_owner_password": "canary of the owner"}
    given = arguments(
        "database.yml",
        "mlflow_ansible.tracking.mlflow_database",
        mlflow_server_release="/opt/release",
        postgresql_admin_user="postgres",
        **owner,
        **DATABASE,
    )
    assert given["environment"]["PGUSER"] == evaluate("mlflow_server_database_owner")
    assert given["password"] == "canary of the owner" not in str(given["environment"])


def look(**variables):
    """Return what the look of check mode is given, and when it is asked for."""
    tasks = rendering.load(ROLE / "tasks/database.yml")
    (task,) = (
        each
        for each in tasks
        if each["mlflow_ansible.tracking.mlflow_database"].get("what") == "look"
    )
    known = {"__mlflow_server_tables": {"changed": False, "skipped": True}}
    known |= {"__mlflow_server_tables_of_users": {"changed": False, "skipped": True}}
    known |= {"mlflow_server_release": "/opt/release", "omit": "nothing"}
    known |= {"mlflow_server_look": HOST | {"has_user": True, "serving": "green", "login": ""}}
    given = evaluate(
        "given", given=task["mlflow_ansible.tracking.mlflow_database"], **known | variables
    )
    return given | {"settings": json.loads(given["settings"])}, task["when"]


def test_check_mode_looks_with_what_is_wanted():
    """What serves has been looked at when it was new: the other key, password or release is what
    may be refused. Outside of check mode the roll asks.
    """
    given, when = look(**SECRETS, **DATABASE)
    assert when == "ansible_check_mode"
    wanted = settings(**SECRETS, **DATABASE)
    del wanted["MLFLOW_FLASK_SERVER_SECRET_KEY"]  # which a host makes, and no look needs
    assert {name: str(value) for name, value in given["settings"].items()} == wanted
    assert given["files"] == evaluate("__mlflow_server_files", **SECRETS, **DATABASE)
    assert {"PGSERVICEFILE", "PROFILE", "MLFLOW_AUTH_CONFIG_PATH"} <= set(given["files"])
    assert (given["user"], given["former"], given["allow"]) == ("mlflow", "/etc/mlflow/green", [])


def test_check_mode_asks_for_nothing_that_the_run_makes():
    """A user, a slot, tables; nor for what the operator lets pass."""
    made = {"mlflow_server_look": HOST | {"has_user": False, "serving": ""}}
    made |= {"__mlflow_server_tables": {"changed": True}}
    given, _ = look(**made, mlflow_server_allow_artifact_root_change=True)
    assert (given["user"], given["former"]) == ("nobody", "nothing")
    assert given["allow"] == ["any-artifact-root", "no-tables"]


@pytest.mark.parametrize(
    ("look", "passes"),
    [
        ({"started": 20.0, "installed": 10.0, "others": []}, True),
        ({"started": 10.0, "installed": 20.0, "others": []}, False),
        ({"started": 20.0, "installed": 10.0, "others": [7]}, False),
        ({"started": 0, "installed": 10.0, "others": []}, False),
    ],
)
def test_a_process_that_may_have_the_old_secret_is_refused(look, passes):
    """After this a rotation takes the old one out of service: whoever has it would fail."""
    verify = rendering.load(ROLE / "tasks/verify.yml")
    (refusal,) = (task["ansible.builtin.assert"] for task in verify if "assert" in str(task))
    templar = rendering.templar({"mlflow_server_look": look})
    assert all(templar.evaluate_conditional(each) for each in refusal["that"]) is passes
    assert verify[0]["ansible.builtin.import_tasks"] == "look.yml", "as it is now"


DATABASE = {
    "mlflow_server_database_host": "db.example.com",
    "mlflow_server_database_logins": [
        {"name": "mlflow_a", "password": "p@ss%/:w\"'\\"},
        {"name": "mlflow_b", "password": "another"},
    ],
}


def test_a_database_is_reached_without_a_password_in_a_uri():
    """Half of all odd characters would have to be quoted there, and URIs end in logs."""
    found = settings(**DATABASE)
    assert found["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg2://"
    assert (found["PGUSER"], found["PGPASSWORD"]) == ("mlflow_a", "p@ss%/:w\"'\\")
    assert found["PGSSLMODE"] == "require", "never without TLS unless the operator says so"
    assert "another" not in found.values()
    assert not [name for name in settings() if name.startswith("PG")]


@pytest.mark.parametrize(
    ("variable", "given", "name"),
    [
        ("mlflow_server_database_host", "db.example.org", "PGHOST"),
        ("mlflow_server_database_port", 5433, "PGPORT"),
        ("mlflow_server_database_name", "another", "PGDATABASE"),
        ("mlflow_server_database_sslmode", "verify-full", "PGSSLMODE"),
    ],
)
def test_what_is_said_of_the_database_is_what_the_server_takes(variable, given, name):
    """The scenarios ask the probe, with these names, what is wrong with each."""
    assert value(name, **DATABASE) != str(given)
    assert value(name, **DATABASE | {variable: given}) == str(given)


def test_the_login_that_a_rotation_has_switched_to_stays():
    """site.yml must not undo it, and a host that is new takes the one that others have."""
    for login in DATABASE["mlflow_server_database_logins"]:
        name, password = login["name"], login["password"]
        look = {"mlflow_server_look": HOST | {"login": name}}
        found = settings(**DATABASE, **look)
        assert (found["PGUSER"], found["PGPASSWORD"]) == (name, password)
    others = {"server": {}, "other": {"mlflow_server_look": {"login": "mlflow_b"}}}
    play = {"hostvars": others, "ansible_play_hosts_all": ["server", "other"]}
    assert settings(**DATABASE, **play)["PGUSER"] == "mlflow_b"


def test_a_new_server_takes_a_login_that_does_not_rest():
    """It is set up alone, with --limit, or another one in the play has a database of its own."""
    rests = {"mlflow_server_database_resting": ["mlflow_a"]}
    assert settings(**DATABASE, **rests)["PGUSER"] == "mlflow_b"
    others = {"other": {"mlflow_server_look": {"login": "mlflow_a"}}}
    play = {"hostvars": others, "ansible_play_hosts_all": ["other"]}
    assert settings(**DATABASE, **rests, **play)["PGUSER"] == "mlflow_b"
    serves = {"mlflow_server_look": HOST | {"login": "mlflow_a"}}
    assert settings(**DATABASE, **rests, **serves)["PGUSER"] == "mlflow_a", "it is not switched"


def test_a_ca_is_checked_against_as_soon_as_there_is_one():
    ca = {"mlflow_server_database_ca": "-----BEGIN CERTIFICATE-----"}
    assert value("PGSSLMODE", **DATABASE, **ca) == "verify-full"
    unit = render("mlflow.service.j2", **DATABASE, **ca)
    assert "Environment=PGSSLROOTCERT=/etc/mlflow/%j/pgsslrootcert\n" in unit


def test_a_connection_is_given_up_whose_other_end_is_gone():
    """A database that failed over leaves an address that is silent: TCP would wait 15 minutes."""
    found = RawConfigParser()
    found.read_string(evaluate("__mlflow_server_files.PGSERVICEFILE", **DATABASE))
    assert int(found[value("PGSERVICE", **DATABASE)]["tcp_user_timeout"]) <= 30_000, "milliseconds"
    unit = render("mlflow.service.j2", **DATABASE)
    assert "Environment=PGSERVICEFILE=/etc/mlflow/%j/pgservicefile\n" in unit
    assert "PGSERVICE" not in settings() and "PGSERVICEFILE" not in render("mlflow.service.j2")


@pytest.mark.parametrize(
    ("serve", "there", "missing"),
    [
        (True, "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_DEFAULT_ARTIFACT_ROOT"),
        (False, "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_ARTIFACTS_DESTINATION"),
    ],
)
def test_artifacts_go_through_the_server_or_not_at_all(serve, there, missing):
    """In direct mode the server's own way to the store would go around the store's policy."""
    given = {
        "mlflow_server_serve_artifacts": serve,
        "mlflow_server_artifacts_destination": "s3://bucket/prefix",
    }
    found = settings(**given)
    assert found[there] == "s3://bucket/prefix" and missing not in found
    assert found.get("MLFLOW_SERVE_ARTIFACTS", "true") == str(serve).lower()


@pytest.mark.parametrize(
    ("files", "authentication", "loosened"),
    [
        (["server.env", "mlflow_auth_config_path"], "none", True),
        (["server.env", "mlflow_auth_config_path"], "front", True),
        (["server.env", "sessions_oidc.env"], "none", True),
        (["server.env", "mlflow_auth_config_path"], "basic", False),
        (["server.env", "mlflow_auth_config_path"], "oidc", False),
        (["server.env"], "none", False),
        (None, "none", False),
    ],
)
def test_the_front_changes_before_a_server_stops_to_ask(files, authentication, loosened):
    """The other way round an address that others reach would for some seconds, and after a run that
    was killed for good, lead to a server that lets everybody in.
    """
    slots = {} if files is None else {"blue": {"files": dict.fromkeys(files, 0)}}
    look = HOST | {"serving": "blue" if slots else "", "slots": slots}
    given = {"mlflow_server_look": look, "mlflow_server_authentication": authentication}
    assert evaluate("mlflow_server_loosened | bool", **given) is loosened
    play = yaml.safe_load((ROLE.parents[1] / "playbooks/mlflow.yml").read_text())[0]
    names = [task["name"] for task in play["tasks"]]
    first = names.index("Front, before the server stops to ask for a login")
    assert play["tasks"][first]["when"] == "mlflow_server_loosened"
    assert first < names.index("Server") < names.index("Front")
