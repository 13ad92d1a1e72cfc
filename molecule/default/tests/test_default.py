"""The tutorial's second scenario: sqlite, local artifacts, nothing outside the host."""

import subprocess

import pytest
import scenario
import testinfra
from api import create_experiment, has_experiment, request, wait_until_served
from control import ROOT

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


def test_a_real_client_does_a_days_work(control):
    """Experiment, run, params, metrics, tags, artifact, autolog, registry, alias, prediction."""
    done = control.client(ROOT / "demo/client.py")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok  ") == 8, done.stdout


@pytest.fixture
def hosts():
    """Both hosts, which are started anew at once."""
    return [testinfra.get_host(f"podman://{name}") for name in scenario.hosts_of("mlflow")]


def test_they_serve_again_with_their_data(hosts):
    """After a reboot nobody has to log in. `roll` cuts the power, under load."""
    made = [(host, create_experiment(host)) for host in hosts]
    for host, name in made:
        assert request(host, f"{ARTIFACTS}/{name}", "PUT", name)[0] == 200
    names = [host.backend.name for host in hosts]
    subprocess.run(["podman", "restart", *names], check=True, stdout=subprocess.DEVNULL)
    for host, name in made:
        wait_until_served(host)
        assert has_experiment(host, name)
        assert request(host, f"{ARTIFACTS}/{name}") == (200, name)
