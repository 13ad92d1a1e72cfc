"""What is left on the hosts of tracking servers and no longer in any inventory."""

from __future__ import annotations

from collections.abc import Mapping


def strays(servers: Mapping[str, Mapping], host: str) -> dict[str, bool]:
    """Return the instances on a host that the inventory does not name, and whether each serves.

    Args:
        servers: The variables of each tracking server, by its name in the inventory;
            `mlflow_server_look` is the state of its host.
        host: The name of one of them.
    """
    look = servers[host].get("mlflow_server_look", {})
    if "place" not in look:
        return {}
    machine = look["place"].rsplit(" ", 1)[0]
    named = set()
    for given in servers.values():
        there = given.get("mlflow_server_look", {}).get("place")
        # A server that this run has not read may be an instance on the same machine.
        if there is None or there.rsplit(" ", 1)[0] == machine:
            named.add(given.get("mlflow_server_instance", "mlflow"))
    return {name: serves for name, serves in look["instances"].items() if name not in named}


def left_behind(servers: Mapping[str, Mapping], host: str) -> list[str]:
    """Return what a host has that the inventory does not name, one line each.

    Args:
        servers, host: As above.
    """
    lines = [
        f"Not in the inventory: {name}, which {'serves' if serves else 'does not serve'} on this "
        "host, too; name it, or, to take it away, with mlflow_server_state: absent."
        for name, serves in strays(servers, host).items()
    ]
    unused = servers[host].get("mlflow_server_look", {}).get("releases_unused", [])
    # Some releases are kept to go back to.
    if len(unused) >= int(servers[host].get("mlflow_venv_keep_releases", 3)):
        lines.append(
            f"In use by nothing: the releases {', '.join(unused)}; the next that is made removes "
            "all but the newest (mlflow_venv_keep_releases)."
        )
    return lines


def left_behind_anywhere(servers: Mapping[str, Mapping]) -> list[str]:
    """Return the same for every server's host, with its name."""
    return [f"{host}: {line}" for host in servers for line in left_behind(servers, host)]


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict:
        return {
            "strays": strays,
            "left_behind": left_behind,
            "left_behind_anywhere": left_behind_anywhere,
        }
