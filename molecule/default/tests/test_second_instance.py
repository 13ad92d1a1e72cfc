"""Two tracking servers on one host; on one of the hosts, as nothing of it is a system's own."""

from api import create_experiment, has_experiment

group = "default-debian12"


def test_a_second_instance_lives_beside_the_first(control, host):
    """Unit, user, folders and site follow from the name; neither sees the other's data."""
    control.converge(mlflow_server_instance="mlflow-team-a", mlflow_server_port=5001)
    first, second = create_experiment(host), create_experiment(host, port=5001)
    assert has_experiment(host, first) and not has_experiment(host, first, port=5001)
    assert has_experiment(host, second, port=5001) and not has_experiment(host, second)
    users = set(host.check_output("ps -eo user:20= -C python").split())
    assert {"mlflow", "mlflow-team-a"} <= users
    done = host.run("runuser -u mlflow-team-a -- ls /var/lib/mlflow")
    assert done.rc != 0 and "denied" in done.stderr
