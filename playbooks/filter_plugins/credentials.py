"""What the hosts and AWS say of credentials, as rows that an operator can read."""

from __future__ import annotations

from datetime import UTC, datetime

DAY = 86400
HEADER = ("host", "credential", "in effect", "since", "days", "last seen by AWS", "due")


def epoch(date: str | None) -> float | None:
    """Return a date of AWS's (ISO 8601) in seconds of the epoch."""
    return datetime.fromisoformat(date).timestamp() if date else None


def day(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d") if seconds else "-"


def row(host: str, credential: str, shown: str, since: float | None, seen: str, now: float) -> dict:
    days = int((now - since) / DAY) if since else None
    return {
        "host": host,
        "credential": credential,
        "in_effect": shown,
        "since": day(since),
        "days": days,
        "last_seen_by_aws": seen,
    }


def key_row(host: str, key_id: str, changed: float, keys: dict, now: float) -> dict:
    """Return the row of an access key: its age is AWS's if AWS was asked, else that of its file."""
    known = keys.get(key_id, {})
    seen = day(epoch(known.get("last_used"))) if known else "not asked"
    if keys and not known:
        seen = "not a key of the user"
    elif known and not known["active"]:
        seen = "INACTIVE"
    since = epoch(known.get("created")) or changed
    return row(host, "access key", f"...{key_id[-4:]}", since, seen, now)


def credentials_report(
    servers: dict, clients: dict, keys: list, max_age_days: int, now: float
) -> dict:
    """Return rows, what is overdue, and a table of both.

    Args:
        servers: What mlflow_host_info says, by host.
        clients: What aws_credentials_info says, by host.
        keys: The IAM user's keys as aws_access_keys lists them, empty if AWS was not asked.
        max_age_days: Days after which a credential is overdue.
        now: Seconds of the epoch.
    """
    known = {key["id"]: key for key in keys}
    rows = []
    for host, look in sorted(servers.items()):
        files = look["slots"].get(look["serving"], {}).get("files", {})
        if look["access_key_id"]:
            changed = files["aws_shared_credentials_file"]
            rows.append(key_row(host, look["access_key_id"], changed, known, now))
        if look["login"]:
            since = files["database.env"]
            rows.append(row(host, "database password", look["login"], since, "-", now))
    for host, info in sorted(clients.items()):
        if info["access_key_id"]:
            changed = info["changed_at"]
            rows.append(key_row(host, info["access_key_id"], changed, known, now))
    for found in rows:
        found["overdue"] = found["days"] is not None and found["days"] > max_age_days
        left = max_age_days - (found["days"] or 0)
        found["due"] = "OVERDUE" if found["overdue"] else f"in {left} days"
    names = ("host", "credential", "in_effect", "since", "days", "last_seen_by_aws", "due")
    lines = [HEADER, *(tuple(str(found[name]) for name in names) for found in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    table = [
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    carried = {look["access_key_id"] for look in servers.values()}
    carried |= {info["access_key_id"] for info in clients.values()}
    spare = [
        f"AWS also has ...{key['id'][-4:]}, {'active' if key['active'] else 'inactive'}, made on "
        f"{day(epoch(key['created']))}, last seen {day(epoch(key.get('last_used')))}: no host of "
        "ours carries it."
        for key in keys
        if key["id"] not in carried
    ]
    overdue = [f"{found['credential']} of {found['host']}" for found in rows if found["overdue"]]
    return {"rows": rows, "overdue": overdue, "spare": spare, "table": table}


class FilterModule:
    def filters(self):
        return {"credentials_report": credentials_report}
