"""The table of playbooks/credentials_status.yml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "playbooks/filter_plugins"))
from credentials import DAY, credentials_report  # noqa: E402 - the filter's folder is no package

NOW = 1_800_000_000.0
KEY = {
    "id": "AKIAOLD1",
    "active": True,
    "created": "2026-12-01T00:00:00+00:00",
    "last_used": "2027-01-10T00:00:00+00:00",
}


def look(key="AKIAOLD1", login="mlflow_a", key_days=5, login_days=3):
    files = {
        "aws_shared_credentials_file": NOW - key_days * DAY,
        "database.env": NOW - login_days * DAY,
    }
    slots = {"blue": {"files": files}}
    return {"serving": "blue", "slots": slots, "access_key_id": key, "login": login}


def report(servers=None, clients=None, keys=(), days=90):
    hosts = {name: {"mlflow_server_look": found} for name, found in (servers or {}).items()}
    hosts |= {name: {"aws_credentials_look": found} for name, found in (clients or {}).items()}
    for variables in hosts.values():
        variables["aws_credentials_keys"] = {"access_keys": list(keys)}
    return credentials_report(hosts, days, NOW)


def test_an_age_is_awss_where_aws_was_asked():
    """A file that was written again yesterday may hold a key that is a year old."""
    found = report({"one": look()}, keys=[KEY])["rows"][0]
    assert (found["since"], found["days"]) == ("2026-12-01", 45)
    assert found["last_seen_by_aws"] == "2027-01-10"
    assert report({"one": look()})["rows"][0]["days"] == 5


def test_what_is_older_than_the_limit_is_overdue_and_no_day_earlier():
    found = report({"one": look(key_days=90, login_days=91)})
    assert found["overdue"] == ["database password of one"]
    assert [row["due"] for row in found["rows"]] == ["in 0 days", "OVERDUE"]


def test_a_key_that_aws_does_not_know_or_let_in_is_told():
    """The server goes on with it until its next start, and then does not."""
    rows = report({"one": look(key="AKIAGONE")}, keys=[KEY])["rows"]
    assert rows[0]["last_seen_by_aws"] == "not a key of the user"
    rows = report({"one": look()}, keys=[KEY | {"active": False}])["rows"]
    assert rows[0]["last_seen_by_aws"] == "INACTIVE"


def test_keys_that_nobody_carries_are_told():
    """Forgotten keys are what an audit looks for."""
    found = report({"one": look()}, keys=[KEY, KEY | {"id": "AKIASPARE", "last_used": None}])
    assert len(found["notes"]) == 1 and "...PARE, active" in found["notes"][0]


def test_clients_and_hosts_without_anything_are_in_it():
    clients = {"laptop": {"access_key_id": "AKIAOLD1", "changed_at": NOW - DAY}}
    found = report({"one": look(key="", login="")}, clients)
    assert [row["host"] for row in found["rows"]] == ["laptop"]
    assert found["table"][1].split() == ["laptop", "access", "key", "...OLD1"] + [
        *("2027-01-14", "1", "not", "asked", "in", "89", "days")
    ]


def test_who_was_not_reached_and_who_has_a_profile_is_told():
    """A table without a row for a host must not look as if all were well."""
    hosts = {"gone": {}, "ec2": {"mlflow_server_look": look(key="", login="")}}
    hosts["ec2"]["aws_credentials_mode"] = "instance_profile"
    notes = " ".join(credentials_report(hosts, 90, NOW)["notes"])
    assert "gone was not reached" in notes and "ec2 has an instance profile" in notes
