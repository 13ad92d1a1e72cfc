"""site.yml after rotations of every kind."""

import re


def test_site_yml_leaves_what_rotations_have_made(fleet, account, minted):
    """The vault has the key before, and the closed login may stand first: neither may come back."""
    before = {host: fleet.serving(host) for host in fleet.servers}
    said = fleet.succeed("site.yml")
    assert set(re.findall(r"changed=(\d+)", said.split("PLAY RECAP")[1])) == {"0"}, said[-3000:]
    assert {host: fleet.serving(host) for host in fleet.servers} == before
