"""Bob's machine, without a server: the tutorial's first scenario."""

import json

import pytest
from api import call, request, wait_until_served
from control import ROOT

group = "alone"


def test_all_is_logged_to_one_folder_and_shown_by_one_command(control, host):
    """From whichever folder a script is started, and `mlflow ui` needs to be told nothing."""
    control.podman("cp", str(ROOT / "demo/client.py"), f"{control.name}:/tmp/client.py")
    work = "mkdir -p ~/work && cd ~/work && ~/mlflow/bin/python /tmp/client.py"
    said = host.check_output("su - bob -c %s", work)
    assert said.count("ok  ") == 8, said
    assert host.check_output("ls -A /home/bob/work") == ""
    assert host.check_output("find /home/bob/mlruns/artifacts -name weights.bin -size +4M") != ""

    host.check_output("systemd-run --unit=ui su - bob -c '~/mlflow/bin/mlflow ui'")
    try:
        wait_until_served(host)
        found = call(host, "experiments/search", max_results=10, filter="name LIKE 'demo-%'")
        ids = [each["experiment_id"] for each in found["experiments"]]
        found = call(host, "runs/search", experiment_ids=ids)["runs"]
        (run,) = [run["info"]["run_id"] for run in found if run["info"]["run_name"] == "first"]
        path = f"/api/2.0/mlflow/artifacts/list?run_id={run}&path=files"
        (file,) = json.loads(request(host, path)[1])["files"]
        assert file["path"] == "files/weights.bin"
        listening = host.check_output("ss --no-header --listening --tcp --numeric")
        assert [row.split()[3] for row in listening.splitlines()] == ["127.0.0.1:5000"]
    finally:
        host.check_output("systemctl stop ui")


@pytest.mark.parametrize(
    ("variables", "phrases"),
    [
        pytest.param(
            {"mlflow_client_virtualenv": "/home/bob/project"},
            ["Wanted /home/bob/project to be empty, or made by this role", "choose another"],
            id="a folder with something else in it",
        ),
        pytest.param(
            {"mlflow_client_packages": ["idna==3.10"]},
            ["Wanted pip to install the packages", "idna==3.10"],
            id="a package that MLflow cannot live with",
        ),
    ],
)
def test_what_cannot_work_is_refused(control, host, variables, phrases):
    """The operator reads what was wanted, what was found and what to do; bob goes on as before."""
    host.check_output("su - bob -c 'mkdir -p ~/project && touch ~/project/train.py'")
    files = "-type f -not -name '*.pyc' -not -path '*/.mlflow_client/*'"
    find = f"find /home/bob /etc {files} -printf '%p %M %u %s %T@\\n' | sort"
    before = host.check_output(find)
    said = control.refuse(**variables)
    assert [phrase for phrase in phrases if phrase not in said] == [], said
    assert host.check_output(find) == before


def test_a_link_of_the_users_leads_root_nowhere(control, host):
    """Whoever owns a folder can make a link of it: root would write to where it points."""
    host.check_output("su - bob -c 'ln -sfn /etc ~/trap'")
    said = control.refuse(mlflow_client_virtualenv="~/trap/mlflow")
    assert "Permission denied: '/home/bob/trap/mlflow" in said
    assert not host.file("/etc/mlflow").exists
