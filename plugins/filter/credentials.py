"""What hosts and AWS report about credentials, as rows an operator can read."""

from __future__ import annotations

from datetime import UTC, datetime

DAY = 86400
HEADER = ("host", "credential", "in effect", "since", "days", "last seen by AWS", "due")


def epoch(date: str | None) -> float | None:
    """Return an AWS date (ISO 8601) in seconds since the epoch."""
    return datetime.fromisoformat(date).timestamp() if date else None


def day(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d") if seconds else "-"


def row(host: str, credential: str, name: str, since: float, seen: str, now: float) -> dict:
    """Return one row. An access key is shown by its last four characters."""
    return {
        "host": host,
        "credential": credential,
        "id": name,
        "in_effect": f"...{name[-4:]}" if credential == "access key" else name,
        "since": day(since),
        "days": int((now - since) / DAY),
        "last_seen_by_aws": seen,
    }


def key_row(host: str, key_id: str, changed: float, keys: dict, now: float) -> dict:
    """Return an access key's row. Its age comes from AWS if AWS was asked, else from its file."""
    known = keys.get(key_id, {})
    seen = day(epoch(known["last_used"])) if known else "not asked"
    if keys and not known:
        seen = "not a key of the user"
    elif known and not known["active"]:
        seen = "INACTIVE"
    since = epoch(known.get("created")) or changed
    return row(host, "access key", key_id, since, seen, now)


def credentials_report(hosts: dict, max_age_days: int, now: float) -> dict:
    """Return rows, a table of them, what is overdue and any notes.

    Args:
        hosts: Variables of each host by name. `mlflow_server_look` and `aws_credentials_look` are
            what its server and its user have, `aws_credentials_keys` the keys that AWS knows.
        max_age_days: Days after which a credential is overdue.
        now: Seconds since the epoch.
    """
    rows, keys, notes = [], {}, []
    for variables in hosts.values():
        asked = variables.get("aws_credentials_keys", {}).get("access_keys", [])
        keys |= {key["id"]: key for key in asked}
    for host, variables in sorted(hosts.items()):
        server, client = (
            variables.get(name, {}) for name in ("mlflow_server_look", "aws_credentials_look")
        )
        own = {
            key["id"]: key
            for key in variables.get("aws_credentials_keys", {}).get("access_keys", [])
        }
        files = server.get("slots", {}).get(server.get("serving"), {}).get("files", {})
        if key := server.get("access_key_id"):
            rows.append(key_row(host, key, files["aws_shared_credentials_file"], own, now))
        if login := server.get("login"):
            rows.append(row(host, "database password", login, files["database.env"], "-", now))
        if key := client.get("access_key_id"):
            rows.append(key_row(host, key, client["changed_at"], own, now))
        if not {"mlflow_server_look", "aws_credentials_look"} & variables.keys():
            notes.append(f"{host} was not reached.")
        elif variables.get("aws_credentials_mode") == "instance_profile":
            notes.append(f"{host} has an instance profile, whose keys AWS rotates by itself.")
    for found in rows:
        found["overdue"] = found["days"] > max_age_days
        left = max_age_days - found["days"]
        found["due"] = "OVERDUE" if found["overdue"] else f"in {left} days"
    carried = {found.pop("id") for found in rows}
    notes += [
        f"AWS also has ...{key['id'][-4:]}, {'active' if key['active'] else 'inactive'}, which no "
        f"host carries: from {day(epoch(key['created']))}, seen {day(epoch(key['last_used']))}."
        for key in keys.values()
        if key["id"] not in carried
    ]
    overdue = [f"{found['credential']} of {found['host']}" for found in rows if found["overdue"]]
    return {"rows": rows, "table": table(rows), "overdue": overdue, "notes": notes}


def table(rows: list[dict]) -> list[str]:
    """Return rows as the lines of a table."""
    names = ("host", "credential", "in_effect", "since", "days", "last_seen_by_aws", "due")
    lines = [HEADER, *(tuple(str(found[name]) for name in names) for found in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return [
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


class FilterModule:
    def filters(self):
        return {"credentials_report": credentials_report}
