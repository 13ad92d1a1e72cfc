"""The tutorial's second scenario: sqlite, local artifacts, nothing outside the host."""

import pytest
from api import create_experiment, has_experiment, request, wait_until_served
from control import ROOT


def test_a_real_client_does_a_days_work(control):
    """Experiment, run, params, metrics, tags, artifact, autolog, registry, alias, prediction."""
    done = control.client(ROOT / "demo/client.py")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok  ") == 8, done.stdout


@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_it_serves_again_with_its_data(control, host, how):
    """After a reboot, and after SIGKILL of everything at once, nobody has to log in."""
    name = create_experiment(host)
    artifact = f"/api/2.0/mlflow-artifacts/artifacts/{name}"
    assert request(host, artifact, "PUT", name)[0] == 200
    if how == "reboot":
        control.podman("restart", control.name)
    else:
        control.podman("kill", "--signal=KILL", control.name)
        control.podman("start", control.name)
    wait_until_served(host)
    assert has_experiment(host, name)
    assert request(host, artifact) == (200, name)
