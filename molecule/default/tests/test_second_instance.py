"""Two tracking servers on one host; on one of the hosts, as nothing of it is a system's own."""

import strangers
from api import call, create_experiment, has_experiment
from visitor import Visitor

group = "default-debian12"

LOGINS = {"ada": "canary-ada-password", "bob": "canary-bob-password"}
# A team's, open to a network, with users.
SECOND = {
    "mlflow_server_instance": "mlflow-team-a",
    "mlflow_server_listen_address": "0.0.0.0",
    "mlflow_server_port": 5001,
    "nginx_tls": "self_signed",
    "mlflow_server_authentication": "basic",
    "mlflow_server_admin_password": "canary-admin-password",
    "mlflow_server_users": [{"name": name, "password": LOGINS[name]} for name in LOGINS],
}


def test_a_second_instance_lives_beside_the_first(control, host):
    """Unit, user, folders, site, login and guard follow from the name; neither sees the other's
    data.
    """
    control.converge(**SECOND)
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
