"""Fixtures of the tests that look at hosts: tests/testinfra/<role>/ and molecule/<scenario>/tests/.

Molecule says where the inventory is. Each test runs on every host of the group `mlflow`, or of the
group or host that its module names: `group = "database"`.
"""

import functools
import os

import pytest
import testinfra
from control import Control
from testinfra.utils.ansible_runner import AnsibleRunner

JOURNAL = (
    "journalctl --no-pager --lines 80 --unit 'mlflow*' --unit nginx --unit 'postgresql*'; "
    "tail --quiet --lines 40 /var/log/postgresql/*.log 2>/dev/null"
)


@functools.cache
def hosts_of(group):
    inventory = os.path.dirname(os.environ["MOLECULE_INVENTORY_FILE"])
    return AnsibleRunner(inventory).get_hosts(group)


def hosts_for(module):
    return hosts_of(getattr(module, "group", "mlflow"))


def pytest_generate_tests(metafunc):
    if "host" in metafunc.fixturenames:
        names = hosts_for(metafunc.module)
        metafunc.parametrize("host", names, indirect=True, scope="session")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: `make test` leaves it to `make test-all`")


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of a group of which the scenario has no host, and long ones."""
    out = [i for i in items if "host" in i.fixturenames and not hosts_for(i.module)]
    if not os.environ.get("TEST_ALL"):
        out += [item for item in items if item.get_closest_marker("long") and item not in out]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


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
