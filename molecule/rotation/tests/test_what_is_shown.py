"""No secret, old or new, is seen in what playbooks said or on a host. The last tests, on purpose:
all the rotations are behind.
"""

import base64
import re

SHOWN = (
    "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; systemctl show '*'; journalctl --no-pager; "
    "cat /var/log/postgresql/*.log /var/log/nginx/* 2>/dev/null; true"
)
FOLDERS = "/etc /home /opt/mlflow /run /srv /tmp /var/lib /var/log"


def secrets(account) -> list[str]:
    """Return all secrets that there ever were, or what is in all of a kind."""
    webhook_key = base64.b64encode(b"c4nary-webhook-key")[:20].decode()
    return ["c4nary", webhook_key, *account.secrets]


def test_no_playbook_has_shown_a_secret(fleet, account):
    """They all ran with -vvv --diff, those that failed or were killed too."""
    assert len(fleet.said) > 10
    for said in fleet.said:
        found = re.search("|".join(map(re.escape, secrets(account))), said)
        assert not found, said[max(0, found.start() - 500) : found.end()]


def test_no_host_shows_a_secret(fleet, account):
    """In argv, units, journals, or a file that others can read."""
    words = "\n".join(secrets(account))
    for host in [*fleet.servers, "rotation-client", fleet.stores]:
        shown = fleet.on(host, "sh", "-c", SHOWN)
        assert not [word for word in secrets(account) if word in shown], host
        search = f"runuser -u nobody -- grep -rlIF --file=- {FOLDERS} 2>/dev/null; true"
        command = ["exec", "--interactive", host, "sh", "-c", search]
        assert fleet.s3.podman(*command, stdin=words) == "", host
