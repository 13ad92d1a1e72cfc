"""The hosts of the scenario."""

import pytest
import testinfra


@pytest.fixture(scope="session")
def proxied():
    return testinfra.get_host("podman://tutorial-proxied")


@pytest.fixture(scope="session")
def direct():
    return testinfra.get_host("podman://tutorial-direct")


@pytest.fixture(scope="session")
def database():
    return testinfra.get_host("podman://tutorial-database")


@pytest.fixture(scope="session")
def s3():
    return testinfra.get_host("podman://tutorial-s3")


@pytest.fixture(scope="session")
def sql(database):
    """Return a function that runs statements in a database, as PostgreSQL's own administrator.

    It returns the rows of the last.
    """
    command = "runuser -u postgres -- psql --set=ON_ERROR_STOP=1 --tuples-only --no-align"

    def run(name, *statements):
        for statement in statements:
            rows = database.check_output(f"{command} --dbname={name} --command=%s", statement)
        return rows.splitlines()

    return run
