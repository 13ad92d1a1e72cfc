"""Ada's machine, which logs to the team's server: the tutorial's third scenario.

The server asks for a login, and no public authority knows its certificate.
"""

import json
import re

import pytest
from control import ROOT, Control
from visitor import Visitor

group = "team"

PYTHON = "/home/ada/mlflow/bin/python"
URI, OTHER = "https://client-server:443", "https://client-server"
# A name that leads there and that the server refuses.
FOREIGN = "https://client-server.dns.podman"
TRAIN = """
import pathlib, tempfile
import mlflow

mlflow.set_experiment("train")
# What a GPU does meanwhile is why many log at all.
with mlflow.start_run(log_system_metrics=True) as run, tempfile.TemporaryDirectory() as folder:
    mlflow.log_params({"learning_rate": 0.1, "layers": 3})
    weights = pathlib.Path(folder, "weights.bin")
    weights.write_bytes(bytes(5_000_000))
    mlflow.log_artifact(weights, "files")
client = mlflow.MlflowClient()
client.create_registered_model("iris")
client.create_model_version("iris", f"runs:/{run.info.run_id}/files", run.info.run_id)
client.set_registered_model_alias("iris", "champion", "1")
"""
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


LOG = """
import mlflow
mlflow.set_experiment("bare")
with mlflow.start_run():
    mlflow.log_text("said", "said.txt")
print(mlflow.get_tracking_uri())
"""


@pytest.fixture(scope="module")
def server():
    """The server as its administrator sees it, who sees all runs."""
    return Visitor("client-server", ("admin", "canary-admin-password"))


def as_ada(host, command):
    """Run a command in a login shell of ada's and return its output."""
    return host.check_output("su - ada -c %s", command)


def bare(host, *environment, code="import mlflow; print(mlflow.get_tracking_uri())"):
    """Run code as cron, an IDE or `ssh HOST COMMAND` would: with next to nothing set."""
    clean = " ".join(["env -i HOME=/home/ada", *environment])
    return host.check_output(f"runuser -u ada -- {clean} {PYTHON} -c %s", code)


def assert_logs(host, server):
    """What knows of nothing but the virtualenv logs a run with an artifact to the server."""
    before = len(runs(server, "bare"))
    assert bare(host, code=LOG).endswith(URI)
    assert len(runs(server, "bare")) == before + 1


def runs(server, experiment):
    """Return the runs of the experiments whose name begins so, as the server's API shows them."""
    found = server.call(
        "experiments/search", max_results=10, filter=f"name LIKE '{experiment}%'"
    ).get("experiments", [])
    ids = [each["experiment_id"] for each in found]
    return server.call("runs/search", experiment_ids=ids)["runs"] if ids else []


def test_what_a_user_logs_is_on_the_server(host, server):
    """Run, params, artifact, registry: as ada, with no setting by hand, and nothing stays here."""
    host.check_output("printf %s > /tmp/train.py", TRAIN)
    as_ada(host, f"cd ~ && {PYTHON} /tmp/train.py")
    (run,) = runs(server, "train")
    params = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert params == {"learning_rate": "0.1", "layers": "3"}
    path = f"/api/2.0/mlflow/artifacts/list?run_id={run['info']['run_id']}&path=files"
    (file,) = json.loads(server.ask("GET", path)[1])["files"]
    assert (file["path"], int(file["file_size"])) == ("files/weights.bin", 5_000_000)
    models = json.loads(server.ask("GET", "/api/2.0/mlflow/registered-models/search")[1])
    (model,) = models["registered_models"]
    assert model["aliases"] == [{"alias": "champion", "version": "1"}]
    left = host.check_output("ls -A /home/ada").split()
    assert "mlflow" in left and not {"mlruns", "mlflow.db", "mlartifacts"} & set(left), left


def test_a_notebook_logs_to_the_server(host, server):
    """A kernel gets its environment from whatever started it, and that knows nothing of a shell."""
    host.check_output("printf %s > /tmp/notebook.py", NOTEBOOK)
    as_ada(host, f"{PYTHON} /tmp/notebook.py")
    assert [run["info"]["status"] for run in runs(server, "notebook")] == ["FINISHED"]


def test_programs_without_a_shell_log_to_the_server(host, server):
    """As cron and IDEs start them. What a person says by hand prevails."""
    assert_logs(host, server)
    assert bare(host, "MLFLOW_TRACKING_URI=http://own") == "http://own"


def test_only_this_users_login_shell_has_the_address(host):
    """Ada's other virtualenvs find it and the certificate there; other users have their own."""
    assert as_ada(host, "echo $MLFLOW_TRACKING_URI") == URI
    as_ada(host, "grep -q 'BEGIN CERTIFICATE' $MLFLOW_TRACKING_SERVER_CERT_PATH")
    assert host.check_output("su - root -c 'echo $MLFLOW_TRACKING_URI'") == ""


def test_the_virtualenv_is_its_users_alone(host):
    """root's files in there would make pip fail for ada; others' would make her run their code."""
    assert host.check_output("find /home/ada/mlflow -not -user ada") == ""
    assert host.check_output("find /home/ada/mlflow -perm /022 -not -type l") == ""


def test_a_second_run_leaves_what_the_user_has_installed(control, host):
    """A package that she added, and one of ours that she wants in another version. On no host of
    the scenario has a second run anything to do."""
    as_ada(host, f"{PYTHON} -m pip install --quiet iniconfig==2.1.0 idna==3.10")
    said = Control(control.inventory, "all").converge()
    recap = re.findall(r"(\S+) : ok=\d+ changed=(\d+)", said)
    assert recap == [("client-ada", "0"), ("client-bob", "0"), ("client-server", "0")], said
    frozen = as_ada(host, f"{PYTHON} -m pip freeze").split()
    assert {"iniconfig==2.1.0", "idna==3.10", "mlflow==3.17.2"} <= set(frozen)


def test_a_cut_off_installation_is_finished_and_another_address_replaces_the_former(control, host):
    """As SIGKILL leaves it: a package without its last files, and no note that all is there. The
    address is another in login shells and in what runs from the virtualenv, without a trace of the
    old one; then there is none, and then the first again."""
    site = host.check_output("echo /home/ada/mlflow/lib/python*/site-packages")
    files = f"/etc/profile.d {site}/mlflow_client.pth"
    assert host.run(f"grep -rF {URI} {files}").rc == 0
    gone = ["mlflow-*.dist-info/INSTALLER", "mlflow/version.py"]
    host.check_output(f"cd {site} && rm {' '.join(gone)} /home/ada/mlflow/bin/mlflow")
    state = '{"python": "3.11", "requirements": "", "packages": []}'
    host.check_output("printf %s > /home/ada/mlflow/.mlflow_client/state.json", state)
    try:
        for uri in (OTHER, ""):
            control.converge(mlflow_client_tracking_uri=uri)
            wanted = uri or "sqlite:////home/ada/mlruns/mlflow.db"
            assert bare(host) == as_ada(host, "echo $MLFLOW_TRACKING_URI") == wanted
            assert host.run(f"grep -rF {URI} {files}").rc == 1
        assert "3.17.2" in as_ada(host, "~/mlflow/bin/mlflow --version")
    finally:
        control.converge()
    assert bare(host) == URI
    assert "sqlite" not in bare(host, code="import os; print(os.environ)")


def test_a_server_that_does_not_answer_is_refused(control, host):
    """Now, with the reason, and not in the night of a training; the former address stays."""
    said = control.refuse(mlflow_client_tracking_uri=FOREIGN)
    assert f"Wanted the tracking server to answer ada on {control.name}" in said
    phrases = [FOREIGN, "403, Invalid Host header", "mlflow_server_public_names"]
    assert [phrase for phrase in phrases if phrase not in said] == [], said
    assert bare(host) == URI


def test_a_certificate_that_is_not_the_servers_is_refused(control, host, server, certificate):
    """And what was set before stays, with the file that it needs."""
    with open(certificate("client-bob")) as other:
        said = control.refuse(mlflow_client_ca=other.read())
    assert "a certificate that MLflow's client does not trust" in said, said
    assert_logs(host, server)


def test_who_has_no_login_yet_is_told_where_it_goes(control, host):
    """The address is right, and nobody but the person has the password."""
    first = "First, as it asks for a login, let the user put theirs into ~/.mlflow/"
    as_ada(host, "mv ~/.mlflow ~/.gone")
    try:
        assert first in control.converge(mlflow_client_tracking_uri=OTHER)
        assert bare(host) == OTHER
    finally:
        as_ada(host, "mv ~/.gone ~/.mlflow")
    assert first not in control.converge()
    assert bare(host) == URI


def test_a_port_at_which_nothing_listens_is_told_from_other_failures(control, host):
    """As the role asks: with MLflow's client, in whose words the reason is found."""
    control.podman("cp", str(ROOT / "roles/mlflow_client/files/ask.py"), f"{control.name}:/tmp")
    ask = f"env MLFLOW_TRACKING_URI=http://client-server:5999 {PYTHON} /tmp/ask.py"
    said = json.loads(as_ada(host, ask))
    assert not said["answers"] and "a connection that is refused" in said["found"]
    assert "correct the port" in said["remedy"]
