"""Which servers of an inventory could not read what another one has encrypted."""

import pytest
import sharing

SECRETS = dict.fromkeys(sharing.ENCRYPTING, "canary")
SHARED = {"mlflow_server_database_host": "db.example.com"}
BOTH = SHARED | {"mlflow_server_secret_environment": SECRETS}
OTHER = SHARED | {"mlflow_server_secret_environment": SECRETS | {sharing.ENCRYPTING[0]: "x"}}


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (SHARED, SHARED, ["b"]),
        (BOTH, BOTH, []),
        (BOTH, OTHER, ["b"]),
        (BOTH, SHARED, ["b"]),
        (SHARED, BOTH | {"mlflow_server_database_host": "DB.example.com"}, ["b"]),
        (SHARED, SHARED | {"mlflow_server_database_name": "other"}, []),
        (SHARED, SHARED | {"mlflow_server_database_port": 5433}, []),
        ({}, {}, []),
        ({"mlflow_server_database_host": "localhost"},) * 2 + ([],),
    ],
)
def test_servers_of_one_database_encrypt_with_the_same_secrets(one, other, found):
    """A database on each host, or sqlite, is not the same one."""
    assert sharing.sharing_without_secrets({"a": one, "b": other}, "a") == found
    assert sharing.sharing_without_secrets({"a": one}, "a") == []
