"""Fixtures of the tests that look at hosts: tests/testinfra/<role>/ and molecule/<scenario>/tests/.

Molecule says where the inventory is. Each test runs on every host of the group `mlflow`, or of the
group or host that its module names: `group = "database"`.
"""

import os

import pytest
import scenario
import testinfra
from control import Control

JOURNAL = (
    "journalctl --no-pager --lines 80 --unit 'mlflow*' --unit nginx --unit 'postgresql*'; "
    "tail --quiet --lines 40 /var/log/postgresql/*.log 2>/dev/null"
)


def pytest_generate_tests(metafunc):
    if "host" in metafunc.fixturenames:
        names = scenario.hosts_for(metafunc.module)
        metafunc.parametrize("host", names, indirect=True, scope="session")


def pytest_configure(config):
    # Both folders have this file, and what is asked of all tests is asked once.
    if not config.pluginmanager.has_plugin("scenario"):
        config.pluginmanager.register(scenario, "scenario")


@pytest.fixture(scope="session")
def host(request):
    """A host of the scenario, as testinfra sees it: host.run(), host.service(), ..."""
    return testinfra.get_host(f"podman://{request.param}")


@pytest.fixture
def control(host):
    """The control side of the same host: control.converge(), control.client(), ..."""
    return Control(os.path.dirname(os.environ["MOLECULE_INVENTORY_FILE"]), host.backend.name)


@pytest.fixture
def certificate():
    """Return a function that tells the path of the certificate of a host, which is its own CA."""
    return lambda name: f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/{name}.pem"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add the journal of the host to a failed test's report."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and host is not None:
        journal = host.run(JOURNAL)
        report.sections.append((f"journal of {host.backend.name}", journal.stdout))
    return report
