"""Tracking servers that share a database and cannot read what another of them encrypted."""

from __future__ import annotations

from collections.abc import Mapping

# These encrypt the secrets of webhooks and of the AI gateway in the database.
ENCRYPTING = ("MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY")
LOCAL = ("", "localhost", "127.0.0.1", "::1")


def place(given: Mapping) -> tuple | None:
    """Return which database a server has; None if it is local to its host."""
    host = str(given.get("mlflow_server_database_host", "")).lower()
    if host in LOCAL:
        return None
    port = str(given.get("mlflow_server_database_port", 5432))
    return host, port, given.get("mlflow_server_database_name", "mlflow")


def secrets(given: Mapping) -> list:
    """Return the encryption secrets that the inventory sets for a server."""
    environment = given.get("mlflow_server_secret_environment") or {}
    return [environment.get(name) for name in ENCRYPTING]


def sharing_without_secrets(servers: Mapping[str, Mapping], host: str) -> list[str]:
    """Return servers that share a server's database but encrypt with other secrets.

    Args:
        servers: The variables of each tracking server, by its name in the inventory.
        host: The name of one of them.
    """
    own = servers[host]
    if place(own) is None:
        return []
    return [
        name
        for name, given in servers.items()
        if name != host
        and given.get("mlflow_server_state", "present") == "present"
        and place(given) == place(own)
        and (None in secrets(own) or secrets(given) != secrets(own))
    ]


class FilterModule:
    """Ansible's way to find the filter."""

    def filters(self) -> dict:
        return {"sharing_without_secrets": sharing_without_secrets}
