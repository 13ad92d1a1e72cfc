"""A data scientist's machine whose server has a certificate that no public authority knows."""

from visitor import Visitor

group = "hardening-client"
PYTHON = "/home/ada/mlflow/bin/python"
LOG = """
import mlflow
mlflow.set_experiment("client")
with mlflow.start_run():
    mlflow.log_text("said", "said.txt")
print(mlflow.get_tracking_uri())
"""


def test_what_runs_from_the_virtualenv_trusts_the_server(host):
    """As cron and notebooks start it: with next to nothing set."""
    bare = "runuser -u ada -- env -i HOME=/home/ada"
    assert host.check_output(f"{bare} {PYTHON} -c %s", LOG).endswith("https://hardening-tls")


def test_login_shells_know_the_certificate(host):
    """So do other virtualenvs of the user's."""
    file = host.check_output("su - ada -c 'echo $MLFLOW_TRACKING_SERVER_CERT_PATH'")
    assert host.run(f"runuser -u ada -- grep -q 'BEGIN CERTIFICATE' {file}").rc == 0


def test_a_certificate_that_is_not_the_servers_is_refused(control, host, certificate):
    """And what was set before stays, with the file that it needs."""
    with open(certificate("hardening-acme")) as other:
        said = control.refuse(mlflow_client_ca=other.read())
    assert "a certificate that MLflow's client does not trust" in said, said
    test_what_runs_from_the_virtualenv_trusts_the_server(host)


def test_who_has_no_login_yet_is_told_where_it_goes(control, host):
    """The address is right, and nobody but the person has the password."""
    server = {"mlflow_client_tracking_uri": "https://hardening-users"}
    server["mlflow_client_ca"] = Visitor("hardening-users").certificate
    said = control.converge(**server)
    assert "First, as it asks for a login, let the user put theirs into ~/.mlflow/" in said, said
    login = (
        "[mlflow]\nmlflow_tracking_username = bob\nmlflow_tracking_password = canary-bob-password"
    )
    write = "umask 077; mkdir ~/.mlflow; echo %s > ~/.mlflow/credentials"
    host.check_output("su - ada -c %s", write.replace("%s", f"'{login}'"))
    assert "as it asks for a login" not in control.settled(**server)
    bare = "runuser -u ada -- env -i HOME=/home/ada"
    assert host.check_output(f"{bare} {PYTHON} -c %s", LOG).endswith("https://hardening-users")
