"""The control side of the hosts of this scenario, some of which run the stand-in."""

import os

import pytest
from control import Control


@pytest.fixture(scope="module")
def control(host):
    inventory = os.path.dirname(os.environ["MOLECULE_INVENTORY_FILE"])
    return Control(inventory, host.backend.name, "--extra-vars=@tests/standin/vars.yml")
