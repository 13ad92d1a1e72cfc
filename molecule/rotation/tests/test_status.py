"""What is in effect, how old it is and what is due, after all that the tests before have done."""

import json
import re

STATUS = "playbooks/credentials_status.yml"


def test_it_tells_what_every_host_carries(fleet, account, tmp_path):
    """And changes nothing: a timer may run it, and a monitoring read what it has written."""
    file = tmp_path / "status.json"
    said = fleet.succeed(STATUS, credentials_status_json=str(file))
    rows = json.loads(file.read_text())["rows"]
    written = {(row["host"], row["credential"]): row["in_effect"] for row in rows}
    expected = {}
    for host in fleet.servers:
        serving = fleet.serving(host)
        expected[host, "access key"] = f"...{serving['key'][-4:]}"
        expected[host, "database password"] = serving["login"]
    expected["rotation-client", "access key"] = expected[fleet.servers[0], "access key"]
    assert written == expected
    for (host, credential), name in expected.items():
        assert re.search(rf"{host} +{credential} +{re.escape(name)}", said), said
    assert set(re.findall(r"changed=(\d+)", said.split("PLAY RECAP")[1])) == {"0"}


def test_what_is_overdue_ends_it_with_an_error(fleet, account):
    """So the timer's own alarm goes off."""
    said = fleet.refuse(STATUS, credentials_max_age_days=-1)
    assert "Wanted no credential older than -1 days" in said and "docs/rotation.md" in said, said
