"""Fixtures of the tests of rotations: all hosts at once, the operator's vault, IAM."""

import os
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from fleet import Fleet
from iam import iam
from testinfra.utils.ansible_runner import AnsibleRunner
from vault import Vault


@pytest.fixture(scope="session")
def vault():
    return Vault(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "vault.json")


@pytest.fixture(scope="session")
def fleet():
    """All hosts of the scenario. Playbooks show whatever they can show.

    Our S3 knows a key a tenth of a second after IAM, so they need not wait as long as for AWS.
    """
    inventory = os.path.dirname(os.environ["MOLECULE_INVENTORY_FILE"])
    servers = AnsibleRunner(inventory).get_hosts("mlflow")
    soon = "--extra-vars=__aws_credentials_known_after_seconds=2"
    standin = "--extra-vars=@tests/standin/vars.yml"
    return Fleet(inventory, sorted(servers), "rotation-stores", "-vvv", "--diff", soon, standin)


@pytest.fixture(scope="session")
def account(fleet, vault):
    """IAM, in which the user has the key that the hosts carry."""
    carried = fleet.serving(fleet.servers[0])["key"]
    assert carried == vault["access_key_id"], "the scenario has to be converged anew"
    with iam(fleet.s3, carried, vault["secret_access_key"]) as account:
        fleet.environment |= account.environment
        yield account


@pytest.fixture(scope="session")
def minted(fleet, account, vault, tmp_path_factory):
    """The playbook makes its keys itself, from now on; where it keeps the one that is in use."""
    file = tmp_path_factory.mktemp("operator") / "aws_key.json"
    vault.put(iam_user="mlflow", key_file=str(file), key_file_passphrase="c4nary-key-file")
    yield file
    # What is in use becomes a key that the operator gives.
    name = fleet.serving(fleet.servers[0])["key"]
    secret = account.keys()[name].secret_access_key
    vault.put(key_file="", access_key_id=name, secret_access_key=secret)


JOURNAL = (
    "journalctl --no-pager --lines 25 --unit 'mlflow*' --unit nginx --unit 'postgresql*'; "
    "tail --quiet --lines 15 /var/log/nginx/s3.log /var/log/postgresql/*.log 2>/dev/null"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add what every host's journal says to a failed test's report."""
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and fleet is not None:
        for host in [*fleet.servers, fleet.stores]:
            try:
                journal = fleet.on(host, "sh", "-c", f"{JOURNAL}; true")
            except CalledProcessError as error:
                journal = str(error)
            report.sections.append((f"journal of {host}", journal))
    return report
