"""No secret, old or new, is seen in what playbooks said or on a host. After all that rotates."""

import base64

import canaries
import pytest


@pytest.fixture
def secrets(account):
    """All secrets that there ever were, or what all of one kind have in them."""
    webhook_key = base64.b64encode(b"c4nary-webhook-key")[:20].decode()
    made = {f"key {number}": secret for number, secret in enumerate(sorted(account.secrets))}
    return {"of the vault": "c4nary", "key for webhooks": webhook_key, **made}


def test_no_playbook_has_shown_a_secret(fleet, secrets):
    """They all ran with -vvv --diff, those that failed or were killed too."""
    assert sum("module_args" in said for said in fleet.said) > 10, "they show what they can"
    said = {str(number): text for number, text in enumerate(fleet.said)}
    assert canaries.in_texts(secrets, said) == []


def test_no_host_shows_a_secret(fleet, secrets):
    """In argv, units, journals, or a file that others can read."""
    for host in [*fleet.servers, "rotation-client", fleet.stores]:
        assert canaries.on_host(host, secrets, users=("mlflow",)) == [], host
