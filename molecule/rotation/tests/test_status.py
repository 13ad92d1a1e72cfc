"""What is in effect, how old it is and what is due, after all that the tests before have done."""

import re

STATUS = "playbooks/credentials_status.yml"


def test_it_tells_what_every_host_carries(fleet, account):
    """And changes nothing: a timer may run it."""
    said = fleet.succeed(STATUS)
    for host in fleet.servers:
        serving = fleet.serving(host)
        assert re.search(rf"{host} +access key +\.\.\.{serving['key'][-4:]}", said), said
        assert re.search(rf"{host} +database password +{serving['login']}", said), said
    assert re.search(r"rotation-client +access key", said), said
    assert set(re.findall(r"changed=(\d+)", said.split("PLAY RECAP")[1])) == {"0"}


def test_what_is_overdue_ends_it_with_an_error(fleet, account):
    """So the timer's own alarm goes off."""
    said = fleet.refuse(STATUS, credentials_max_age_days=-1)
    assert "Wanted no credential older than -1 days" in said and "docs/rotation.md" in said, said
