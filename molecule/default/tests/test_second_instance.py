"""Two tracking servers on one host; on one of the hosts, as nothing of it is a system's own."""

import pytest
import strangers
from api import call, create_experiment, has_experiment
from visitor import Visitor

group = "default-debian12"

LOGINS = {"ada": "canary-ada-password", "bob": "canary-bob-password"}
# A team's, open to a network, with users.
SECOND = {
    "mlflow_server_instance": "mlflow-team-a",
    # The inventory names but one, and its name is another now.
    "mlflow_server_allow_replacement": True,
    "mlflow_server_listen_address": "0.0.0.0",
    "mlflow_server_port": 5001,
    "nginx_tls": "self_signed",
    "mlflow_server_authentication": "basic",
    "mlflow_server_admin_password": "canary-admin-password",
    "mlflow_server_users": [{"name": name, "password": LOGINS[name]} for name in LOGINS],
}


@pytest.fixture
def second(control, host):
    if not host.file("/etc/mlflow-team-a/current.sock").exists:
        control.converge(**SECOND)


def test_a_second_instance_lives_beside_the_first(second, host):
    """Unit, user, folders, site, login and guard follow from the name; neither sees the other's
    data.
    """
    ada, bob = (Visitor(host.backend.name, login, port=5001) for login in LOGINS.items())
    hers, his = strangers.things(ada, "ada"), strangers.things(bob, "bob")
    first = create_experiment(host)
    assert has_experiment(host, first)
    admin = ada.as_("admin", "canary-admin-password")
    theirs = admin.call("experiments/search", max_results=100)["experiments"]
    assert hers["experiment"] in [one["experiment_id"] for one in theirs]
    assert first not in [one["name"] for one in theirs]
    ours = call(host, "experiments/search", max_results=100)["experiments"]
    assert not [one["name"] for one in ours if "-of-ada-" in one["name"]]
    before = strangers.state(ada, hers)
    assert strangers.passed(bob, his, hers) == strangers.HARMLESS
    assert not strangers.different(before, strangers.state(ada, hers))
    users = set(host.check_output("ps -eo user:20= -C python").split())
    assert {"mlflow", "mlflow-team-a"} <= users
    done = host.run("runuser -u mlflow-team-a -- ls /var/lib/mlflow")
    assert done.rc != 0 and "denied" in done.stderr


def whats_left(host):
    """Return the files that are named after the second instance, or in a folder that is."""
    places = "/etc /run /usr/local /opt /var/lib/mlflow* /var/lib/systemd"
    found = host.check_output(f"find {places} -path '*mlflow-team-a*' -not -type d").split()
    # nginx's user is in its group still, as the user owns the data.
    return sorted(found)


def test_one_that_is_to_be_absent_is_taken_away(second, control, host):
    """Who only takes it out of the inventory learns that it serves on. What it has kept stays, and
    the first one serves throughout.
    """
    stray = "Not in the inventory: mlflow-team-a, which serves on this host"
    assert stray in control.converge()
    gone = SECOND | {"mlflow_server_state": "absent"}
    with control.load("--at-least=40") as counts:
        assert "mlflow-team-a would be gone" in control.playbook("--check", **gone)[1]
        assert Visitor(host.backend.name, port=5001).status("GET", "/health") == 200
        assert "mlflow-team-a is gone" in control.converge(**gone)
        left = whats_left(host)
        data = [path for path in left if path.startswith("/var/lib/mlflow-team-a/")]
        assert "/var/lib/mlflow-team-a/mlflow.db" in data
        secrets = ["/etc/mlflow-team-a/.roll.lock", "/etc/mlflow-team-a/wanted/generated.env"]
        assert [path for path in left if path not in data] == secrets
        assert host.run("systemctl list-units --all --plain 'mlflow-team-a*' | grep team").rc == 1
        assert not host.socket("tcp://0.0.0.0:5001").is_listening
        control.settled(**gone)
    assert counts["failed"] == 0, counts
    assert stray not in control.converge()
