"""Ada's machine, which logs to the team's server: the tutorial's third scenario."""

import json

import pytest
import testinfra
from api import call, request
from control import ROOT

group = "team"

PYTHON = "/home/ada/mlflow/bin/python"
URI = "http://client-server:5000"
# One cell, in a kernel that is started by who has no MLflow in its environment.
NOTEBOOK = """
import os
import nbclient, nbformat

for name in [name for name in os.environ if name.startswith("MLFLOW")]:
    del os.environ[name]
cell = "import mlflow; mlflow.set_experiment('notebook'); mlflow.start_run(); mlflow.end_run()"
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
"""


@pytest.fixture(scope="module")
def server():
    return testinfra.get_host("podman://client-server")


def as_ada(host, command):
    """Run a command in a login shell of ada's and return its output."""
    return host.check_output("su - ada -c %s", command)


def bare(host, *environment, code="import mlflow; print(mlflow.get_tracking_uri())"):
    """Run code as cron, an IDE or `ssh HOST COMMAND` would: with next to nothing set."""
    clean = " ".join(["env -i HOME=/home/ada", *environment])
    return host.check_output(f"runuser -u ada -- {clean} {PYTHON} -c %s", code)


def runs(server, experiment):
    """Return the runs of the experiments whose name begins so, as the server's API shows them."""
    found = call(
        server, "experiments/search", max_results=10, filter=f"name LIKE '{experiment}%'"
    ).get("experiments", [])
    ids = [each["experiment_id"] for each in found]
    return call(server, "runs/search", experiment_ids=ids)["runs"] if ids else []


def test_a_real_client_does_a_days_work(control, host, server):
    """Run, params, metrics, tags, artifact, autolog, registry, alias, load back: as ada, with no
    setting by hand, and all of it is on the server."""
    control.podman("cp", str(ROOT / "demo/client.py"), f"{control.name}:/tmp/client.py")
    said = as_ada(host, f"cd ~ && {PYTHON} /tmp/client.py")
    assert said.count("ok  ") == 8, said
    (run,) = [run for run in runs(server, "demo-") if run["info"]["run_name"] == "first"]
    params = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert params == {"learning_rate": "0.1", "layers": "3"}
    path = f"/api/2.0/mlflow/artifacts/list?run_id={run['info']['run_id']}&path=files"
    (file,) = json.loads(request(server, path)[1])["files"]
    assert (file["path"], int(file["file_size"])) == ("files/weights.bin", 9_000_000)
    models = json.loads(request(server, "/api/2.0/mlflow/registered-models/search")[1])
    (model,) = models["registered_models"]
    assert model["aliases"] == [{"alias": "champion", "version": "1"}]
    left = host.check_output("ls -A /home/ada").split()
    assert not {"mlruns", "mlflow.db", "mlartifacts"} & set(left), left


def test_a_notebook_logs_to_the_server(host, server):
    """A kernel gets its environment from whatever started it, and that knows nothing of a shell."""
    host.check_output("printf %s > /tmp/notebook.py", NOTEBOOK)
    as_ada(host, f"{PYTHON} /tmp/notebook.py")
    assert [run["info"]["status"] for run in runs(server, "notebook")] == ["FINISHED"]


def test_programs_without_a_shell_log_to_the_server(host):
    """As cron and IDEs start them. What a person says by hand prevails."""
    assert bare(host) == URI
    assert bare(host, "MLFLOW_TRACKING_URI=http://own") == "http://own"


def test_only_this_users_login_shell_has_the_address(host):
    """Other virtualenvs of ada's find it there; others on the machine have their own."""
    assert as_ada(host, "echo $MLFLOW_TRACKING_URI") == URI
    assert host.check_output("su - root -c 'echo $MLFLOW_TRACKING_URI'") == ""


def test_the_virtualenv_is_its_users_alone(host):
    """root's files in there would make pip fail for ada; others' would make her run their code."""
    assert host.check_output("find /home/ada/mlflow -not -user ada") == ""
    assert host.check_output("find /home/ada/mlflow -perm /022 -not -type l") == ""


def test_what_the_user_has_installed_stays(control, host):
    """A package that she added, and one of ours that she wants in another version."""
    as_ada(host, f"{PYTHON} -m pip install --quiet iniconfig==2.1.0 idna==3.10")
    said = control.converge()
    assert f"{control.name} : ok=" in said and "changed=0" in said.split("PLAY RECAP")[1]
    frozen = as_ada(host, f"{PYTHON} -m pip freeze").split()
    assert {"iniconfig==2.1.0", "idna==3.10", "mlflow==3.17.2"} <= set(frozen)


def test_an_installation_that_was_cut_off_is_finished(control, host):
    """As SIGKILL leaves it: a package without its last files, and no note that all is there."""
    site = host.check_output("echo /home/ada/mlflow/lib/python*/site-packages")
    gone = ["mlflow-*.dist-info/INSTALLER", "mlflow/version.py"]
    host.check_output(f"cd {site} && rm {' '.join(gone)} /home/ada/mlflow/bin/mlflow")
    state = '{"python": "3.11", "requirements": "", "packages": []}'
    host.check_output("printf %s > /home/ada/mlflow/.mlflow_client/state.json", state)
    control.converge()
    assert "3.17.2" in as_ada(host, "~/mlflow/bin/mlflow --version")


def test_another_address_and_none_replace_the_former(control, host):
    """In login shells and in what runs from the virtualenv; neither keeps a trace of the old."""
    try:
        for uri in ("http://client-server.dns.podman:5000", ""):
            control.converge(mlflow_client_tracking_uri=uri)
            wanted = uri or "sqlite:////home/ada/mlruns/mlflow.db"
            assert bare(host) == wanted
            assert as_ada(host, "echo $MLFLOW_TRACKING_URI") == wanted
            files = "/etc/profile.d /home/ada/mlflow/lib/python3.11/site-packages/mlflow_client.pth"
            assert host.run(f"grep -rF {URI} {files}").rc == 1
    finally:
        control.converge()
    assert bare(host) == URI
    assert "sqlite" not in bare(host, code="import os; print(os.environ)")


@pytest.fixture
def address(control):
    """The server's address, a name that it does not answer to."""
    return control.podman(
        "inspect",
        "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        "client-server",
    )


@pytest.mark.parametrize(
    ("uri", "phrases"),
    [
        pytest.param(
            "http://client-server:5999",
            ["http://client-server:5999; found a connection that is refused", "correct the port"],
            id="a port at which nothing listens",
        ),
        pytest.param(
            "http://{address}:5000",
            ["403, Invalid Host header", "mlflow_server_public_names"],
            id="a name that the server does not answer to",
        ),
    ],
)
def test_a_server_that_does_not_answer_is_refused(control, host, address, uri, phrases):
    """Now, with the reason, and not in the night of a training; the former address stays."""
    uri = uri.format(address=address)
    said = control.refuse(mlflow_client_tracking_uri=uri)
    assert f"Wanted the tracking server to answer ada on {control.name}" in said
    assert [phrase for phrase in [uri, *phrases] if phrase not in said] == [], said
    assert bare(host) == URI
