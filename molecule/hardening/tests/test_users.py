"""Who is let in, and to what: MLflow's users on PostgreSQL, made by site.yml, over TLS."""

import json
import time
import uuid

import pytest
from api import colour, wait_for
from control import ROOT
from logins import ADA, ADMIN, BOB
from visitor import Visitor

group = "hardening-users"

FORMER_ADMIN = ("admin", "canary-new-admin-password")
# Who comes, changes the password, and goes.
EVE = [("eve", "canary-first-password"), ("eve", "canary-second-password")]
# For so long each worker remembers a password.
REMEMBERED_SECONDS = 30


def users(*more):
    """Return the users of the inventory, and some more or others."""
    listed = {
        "ada": {"password": ADA[1], "permissions": {"registered_model": {"*": "READ"}}},
        "bob": {"password": BOB[1]},
    }
    return [{"name": name, **user} for name, user in (listed | dict(more)).items()]


# Logins that were seen to be good.
WERE_GOOD = set()


def logs_in(visitor, login):
    """Tell whether a login is good, and remember that it was."""
    good = visitor.as_(*login).whoami() is not None
    WERE_GOOD.update([login] * good)
    return good


def refused_within(visitor, login, seconds):
    """Tell whether a login is refused by every worker from some time on."""
    until = time.monotonic() + seconds
    refused = 0
    while time.monotonic() < until and refused < 20:
        refused = refused + 1 if visitor.as_(*login).whoami() is None else 0
        time.sleep(0.1)
    return refused == 20


def experiment_of(visitor, login):
    """Make an experiment with a run and an artifact, and return their numbers and the path."""
    owner = visitor.as_(*login)
    experiment = owner.call("experiments/create", name=uuid.uuid4().hex)["experiment_id"]
    run = owner.call("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    owner.call("runs/log-metric", run_id=run, key="loss", value=0.5, timestamp=1, step=1)
    path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/secret.txt"
    assert owner.ask("PUT", path, b"canary-artifact")[0] == 200
    return experiment, run, path


def test_each_is_who_he_says(visitor):
    """Passwords of any characters, checked over TLS."""
    assert visitor.as_(*ADMIN).whoami()["is_admin"]
    assert not visitor.as_(*ADA).whoami()["is_admin"]
    assert visitor.as_(*BOB).whoami()["username"] == "bob"


@pytest.mark.parametrize("password", ["password1234", "password", "admin", "", "example-change-me"])
def test_no_default_password_answers(visitor, password):
    """CVE-2026-2635: MLflow up to 3.9 shipped one, and scanners try it."""
    assert visitor.as_("admin", password).whoami() is None
    assert visitor.as_("admin", password).status("GET", "/") == 401


def test_a_user_without_permission_sees_nothing_of_anothers(visitor):
    """Not the name, a run, a metric or an artifact, by any way to them."""
    experiment, run, path = experiment_of(visitor, ADA)
    bob = visitor.as_(*BOB)
    found = bob.call("experiments/search", max_results=1000).get("experiments", [])
    assert experiment not in [each["experiment_id"] for each in found]
    api = "/api/2.0/mlflow"
    for method, where, fields in [
        ("GET", f"{api}/experiments/get?experiment_id={experiment}", None),
        ("GET", f"{api}/runs/get?run_id={run}", None),
        ("GET", f"{api}/metrics/get-history?run_id={run}&metric_key=loss", None),
        ("GET", f"{api}/artifacts/list?run_id={run}", None),
        ("GET", path, None),
        ("GET", f"/get-artifact?run_id={run}&path=secret.txt", None),
        ("GET", path.replace("/api/", "/ajax-api/"), None),
        ("PUT", path, b"mine now"),
        ("DELETE", path, None),
        ("POST", f"{api}/runs/create", {"experiment_id": experiment}),
        ("POST", f"{api}/runs/log-metric", {"run_id": run, "key": "a", "value": 1, "timestamp": 1}),
        ("POST", f"{api}/runs/delete", {"run_id": run}),
        ("POST", f"{api}/experiments/delete", {"experiment_id": experiment}),
    ]:
        status, body = bob.ask(method, where, fields)
        assert status == 403 and b"canary" not in body, (method, where, status, body)
    runs = bob.ask("POST", f"{api}/runs/search", {"experiment_ids": [experiment]})
    assert run.encode() not in runs[1], "a search may answer, but not with others' runs"
    query = {"query": f'{{mlflowGetRun(input: {{runId: "{run}"}}) {{run {{info {{runId}}}}}}}}'}
    answer = bob.ask("POST", "/graphql", query)[1]
    assert b"runId" not in answer or b'"run":null' in answer.replace(b" ", b""), answer
    assert visitor.as_(*ADA).ask("GET", path) == (200, b"canary-artifact")


def test_to_load_a_model_takes_a_permission_on_its_experiment_too(visitor, ada, bob):
    """Its files are the experiment's. Ada may read every registered model."""
    experiment, run, path = experiment_of(visitor, BOB)
    name, api = uuid.uuid4().hex, "/api/2.0/mlflow"
    bob.call("registered-models/create", name=name)
    bob.call("model-versions/create", name=name, source=f"runs:/{run}/files", run_id=run)
    assert ada.status("GET", f"{api}/model-versions/get?name={name}&version=1") == 200
    assert ada.status("GET", path) == 403
    grant = {"username": "ada", "resource_type": "experiment", "resource_id": experiment}
    grant |= {"permission": "READ"}
    assert bob.status("POST", "/api/3.0/mlflow/users/permissions/grant", grant) == 200
    assert ada.ask("GET", path) == (200, b"canary-artifact")


def test_a_permission_on_everything_that_nobody_listed_is_told(control, visitor):
    """It covers every prompt, present and future. A run with nothing to do reports it and leaves
    it; --check, which has nothing in its plan, fails.
    """
    prompts = {"username": BOB[0], "resource_type": "prompt", "resource_id": "*"}
    permissions, admin = "/api/3.0/mlflow/users/permissions", visitor.as_(*ADMIN)
    grant = prompts | {"permission": "MANAGE"}
    assert admin.status("POST", f"{permissions}/grant", grant) == 200
    warning = "found MANAGE for bob on prompt *; list them, or take them away"
    try:
        assert warning in control.settled()
        code, said = control.playbook("--check", "-v")
        assert code != 0 and warning in said and "plan: []" in said, said
        assert "Refuse permissions on everything" in said.rpartition("TASK [")[2], said
    finally:
        # It is still there: no run has taken it away.
        assert admin.status("POST", f"{permissions}/revoke", prompts) == 200


def test_what_the_list_names_is_made_before_a_stranger_can(control, visitor):
    """Whoever makes an experiment or a model owns it, and all that others log to it."""
    name = uuid.uuid4().hex
    permissions = {"experiment": {name: "EDIT"}, "registered_model": {name: "READ"}}
    listed = users(("bob", {"password": BOB[1], "permissions": permissions}))
    fields = {"admin_password": ADMIN[1], "users": listed}
    said = control.module("mlflow_users", **fields)
    assert said["plan"] == [
        f"make experiment {name}",
        f"make registered_model {name}",
        f"EDIT for bob on experiment {name}",
        f"READ for bob on registered_model {name}",
    ]
    bob, api = visitor.as_(*BOB), "/api/2.0/mlflow"
    get = f"{api}/experiments/get-by-name?experiment_name={name}"
    experiment = json.loads(bob.ask("GET", get)[1])["experiment"]["experiment_id"]
    assert bob.call("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    assert bob.status("GET", f"{api}/registered-models/get?name={name}") == 200
    for stranger, kind in [(visitor.as_(*ADA), "experiments"), (bob, "registered-models")]:
        assert stranger.status("POST", f"{api}/{kind}/create", {"name": name}) == 400
    assert visitor.as_(*ADA).status("GET", get) == 403
    assert control.module("mlflow_users", **fields)["plan"] == []


def test_the_list_lets_nobody_into_what_a_stranger_made_first(control, visitor):
    """ada would see, change and delete what bob logs to what he takes for the team's."""
    name = uuid.uuid4().hex
    experiment = visitor.as_(*ADA).call("experiments/create", name=name)["experiment_id"]
    bob = {"password": BOB[1], "permissions": {"experiment": {name: "EDIT"}}}
    said = control.refuse(mlflow_server_users=users(("bob", bob)))
    assert f"found that ada holds MANAGE on experiment {name}; if that is meant" in said
    get = f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
    assert visitor.as_(*BOB).status("GET", get) == 403


def test_users_and_their_permissions_follow_a_variable(control, visitor):
    """Each by one run, and the second of the same changes nothing; what bob made himself stays, and
    what ada made is hers, as the list says.
    """
    name = uuid.uuid4().hex
    experiment = visitor.as_(*ADA).call("experiments/create", name=name)["experiment_id"]
    get = ("GET", f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}")
    mine = visitor.as_(*BOB).call("experiments/create", name=uuid.uuid4().hex)["experiment_id"]
    first, second = EVE

    def change(permission, **eve):
        """Do what site.yml does for users, of which it has shown above that it does it."""
        bob = {"password": BOB[1], "permissions": {"experiment": {name: permission}}}
        ada = {"password": ADA[1], "permissions": {"experiment": {name: "MANAGE"}}}
        listed = users(("ada", ada), ("bob", bob), ("eve", eve))
        fields = {"admin_password": ADMIN[1], "users": listed}
        return control.module("mlflow_users", **fields)["changed"]

    assert change("READ", password=first[1])
    assert logs_in(visitor, first) and visitor.as_(*BOB).status(*get) == 200
    rename = {"experiment_id": experiment, "new_name": uuid.uuid4().hex}
    update = ("POST", "/api/2.0/mlflow/experiments/update", rename)
    assert visitor.as_(*BOB).status(*update) == 403, "to read is not to write"
    assert not change("READ", password=first[1])
    assert change("NONE", password=second[1])
    assert logs_in(visitor, second) and visitor.as_(*BOB).status(*get) == 403
    get = ("GET", f"/api/2.0/mlflow/experiments/get?experiment_id={mine}")
    assert visitor.as_(*BOB).status(*get) == 200
    assert change("NONE", state="absent")


def test_the_administrators_password_rotates_by_one_command(control, host, visitor):
    """Nobody has to know the former one, no process is started anew, and check mode only tells.
    The way back is at once, while the workers remember: the database is believed, not a login.
    """
    new = FORMER_ADMIN[1]
    rotate = {"playbook": "playbooks/rotate_admin_password.yml"}
    variables = {"mlflow_server_admin_password": new}
    main = "systemctl show --value --property=MainPID mlflow-blue mlflow-green"
    before = host.check_output(main)
    assert all(visitor.as_(*ADMIN).whoami() for _ in range(20)), "each worker knows him"
    code, said = control.playbook("--check", **rotate, **variables)
    assert code == 0 and "would log in" in said, said
    assert visitor.as_("admin", new).whoami() is None
    code, said = control.playbook(**rotate, **variables)
    assert code == 0 and "changed=1" in said.rpartition("PLAY RECAP")[2], said
    assert logs_in(visitor, FORMER_ADMIN) and visitor.as_(*FORMER_ADMIN).whoami()["is_admin"]
    assert host.check_output(main) == before
    code, said = control.playbook(**rotate)
    assert code == 0 and "changed=1" in said.rpartition("PLAY RECAP")[2], said
    assert visitor.as_(*ADMIN).whoami(), said


def test_users_are_not_among_the_tracking_tables(host):
    """In one database the two sets of migrations would take each other's for their own."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    psql = "runuser -u postgres -- psql --tuples-only --no-align %s --command=%s"
    tracking = host.check_output(psql, "mlflow", tables).split()
    of_users = host.check_output(psql, "mlflow_auth", tables).split()
    assert "users" in of_users and "users" not in tracking and "runs" not in of_users
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert host.check_output(psql, "mlflow_auth", owners) == "mlflow_owner"


def test_the_administrators_password_is_in_no_file(host):
    """Whoever reads the whole disk finds what MLflow made him with, which answers nothing."""
    line = host.check_output("grep -h MLFLOW_AUTH_ADMIN_PASSWORD /etc/mlflow/wanted/bootstrap.env")
    random = line.split("=", 1)[1].strip('"')
    assert len(random) == 40
    search = "grep -rlF %s /etc /var/lib /opt/mlflow /run /tmp /root"
    assert "/etc/mlflow/wanted/bootstrap.env" in host.run(search, random).stdout.split()
    assert host.run(search, ADMIN[1]).stdout == ""
    assert Visitor(host.backend.name, ("admin", random)).whoami() is None


def test_the_real_client_works_with_a_login(control, host, self_signed):
    """A data scientist's day, over TLS, with what MLflow's client reads from the environment."""
    done = control.client(
        ROOT / "demo/client.py",
        f"https://{host.backend.name}",
        MLFLOW_TRACKING_USERNAME=BOB[0],
        MLFLOW_TRACKING_PASSWORD=BOB[1],
        MLFLOW_TRACKING_SERVER_CERT_PATH=self_signed,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok  ") == 8, done.stdout


def test_a_killed_worker_is_replaced_and_the_rest_serves(host, visitor):
    """As the kernel does when a colour's memory is full: the unit goes on (OOMPolicy=continue)."""
    unit = f"mlflow-{colour(host)}"
    show = f"systemctl show --value --property=%s {unit}"
    main, restarts = (host.check_output(show % name) for name in ("MainPID", "NRestarts"))
    uvicorn = host.check_output(f"pgrep --parent {main}").split()[0]
    workers = f"pgrep --parent {uvicorn} --full spawn_main"
    before = host.check_output(workers).split()
    assert len(before) == 2
    host.check_output(f"kill -KILL {before[0]}")
    answers = [visitor.status("GET", "/health") for _ in range(20)]
    assert answers.count(200) >= 19, answers
    # uvicorn sees it at once; or, if it was just asking that worker how it is, only after the 120 s
    # that the unit gives a worker to answer.
    new = wait_for(lambda: set(host.check_output(workers).split()) - set(before)).pop()
    # uvicorn says so of each that begins to answer.
    said = f"Started server process [{new}]"
    journal = f"journalctl --unit={unit} --output=cat --lines=50"
    wait_for(lambda: said in host.check_output(journal))
    assert len(host.check_output(workers).split()) == 2
    assert host.check_output(show % "NRestarts") == restarts
    memory = int(host.check_output(show % "MemoryMax"))
    assert 1_000_000_000 < memory < 4_000_000_000


def test_a_user_cannot_have_the_server_read_or_write_for_him(visitor):
    """The server's key reaches all artifacts, and its user all data; a source of a model version,
    or a location of an experiment, is what a user may say of them.
    """
    experiment, run, _ = experiment_of(visitor, ADA)
    bob, name = visitor.as_(*BOB), uuid.uuid4().hex
    bob.call("registered-models/create", name=name)
    place = f"{experiment}/{run}/artifacts"
    sources = [f"s3://hardening/artifacts/{place}", f"mlflow-artifacts:/{place}", f"/{place}"]
    sources += [f"runs:/{run}", f"runs:/{run}/artifacts"]
    for source in sources:
        for more in ({}, {"run_id": run}):
            fields = {"name": name, "source": source} | more
            status, body = bob.ask("POST", "/api/2.0/mlflow/model-versions/create", fields)
            if status == 200:
                version = json.loads(body)["model_version"]["version"]
                get = f"/model-versions/get-artifact?name={name}&version={version}&path=secret.txt"
                assert bob.status("GET", get) != 200, source
            else:
                assert status in (400, 403), (source, body)
    for location in ("/var/lib/mlflow", f"s3://hardening/artifacts/{place}"):
        fields = {"name": uuid.uuid4().hex, "artifact_location": location}
        assert bob.status("POST", "/api/2.0/mlflow/experiments/create", fields) == 403
        owned = visitor.as_(*ADMIN).call("experiments/create", **fields)["experiment_id"]
        own = visitor.as_(*ADMIN).call("runs/create", experiment_id=owned)["run"]["info"]["run_id"]
        upload = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={own}&path=x.txt"
        assert visitor.as_(*ADMIN).status("POST", upload, b"x") == 404


def test_a_prompt_can_be_registered_all_the_same(visitor):
    """Its source is a word of MLflow's own, which the bound on sources must let pass."""
    bob, name = visitor.as_(*BOB), uuid.uuid4().hex
    tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    bob.call("registered-models/create", name=name, tags=tags)
    text = [*tags, {"key": "mlflow.prompt.text", "value": "Say {{ word }}."}]
    bob.call("model-versions/create", name=name, source="prompt-template", tags=text)


@pytest.mark.parametrize("login", [*EVE, FORMER_ADMIN])
def test_a_former_password_is_refused_by_every_worker_in_the_end(visitor, login):
    """Of a leaver, and of who has another one now; without a new process. The last test: who waits
    for the ones before need not wait here.
    """
    assert login in WERE_GOOD, "run the tests before, which let it in and take it away again"
    assert refused_within(visitor, login, REMEMBERED_SECONDS + 10)
