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


def secrets(account, vault) -> str:
    """Return a pattern for each secret that there ever was."""
    webhook_key = base64.b64encode(b"c4nary-webhook-key")[:20].decode()
    return "|".join(["c4nary", webhook_key, *account.secrets])


def test_no_playbook_has_shown_a_secret(fleet, account, vault):
    """They all ran with -vvv --diff, those that failed or were killed too."""
    assert len(fleet.said) > 10
    for said in fleet.said:
        found = re.search(secrets(account, vault), said)
        assert not found, said[max(0, found.start() - 500) : found.end()]


def test_no_host_shows_a_secret(fleet, account, vault):
    """In argv, units, journals, or a file that others can read."""
    pattern = secrets(account, vault)
    for host in [*fleet.servers, "rotation-client", fleet.stores]:
        assert not re.search(pattern, fleet.on(host, "sh", "-c", SHOWN)), host
        readable = f"runuser -u nobody -- grep -rlIE '{pattern}' {FOLDERS} 2>/dev/null; true"
        assert fleet.on(host, "sh", "-c", readable) == "", host
