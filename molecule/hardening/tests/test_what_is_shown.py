"""No secret is seen anywhere, after all tests but those of new credentials have left traces."""

import re

import pytest
from canaries import in_texts, on_host

group = "hardening-users"


@pytest.fixture
def secrets(host):
    """Every secret of the inventory, and those that the host has made."""
    own = host.check_output("cat /etc/mlflow/wanted/bootstrap.env /etc/nginx/tls/*/privkey.pem")
    return {
        "administrator": "canary-admin-password",
        "another administrator": "canary-new-admin-password",
        "ada": "canary-ada: p@ss%/'\"",
        "bob": "canary-bob-password",
        "eve": "canary-first-password",
        "eve later": "canary-second-password",
        "owner of the database": "canary-owner-password",
        "login a": "canary-login-a",
        "login b": "canary-login-b",
        "key of S3": "canary/s3+secret=",
        "key of sessions": "canary-flask-key",
        "passphrase": "canary-kek-passphrase",
        "key of webhooks": "canary-webhook-secret-32-bytes!!",
        "first password": re.search('MLFLOW_AUTH_ADMIN_PASSWORD="(.*)"', own)[1],
        "key of the certificate": re.search(r"KEY-----\n(.{40})", own)[1],
    }


def test_no_playbook_shows_a_secret(control, secrets):
    """With -vvv --diff, while passwords change; `rotation` has the same of files and a roll."""
    changed = {
        "mlflow_server_admin_password": "canary-new-admin-password",
        "mlflow_server_users": [{"name": "eve", "password": "canary-first-password"}],
    }
    said = {}
    for name, words in {"check": ["--check"], "run": []}.items():
        code, said[name] = control.playbook("-vvv", "--diff", *words, **changed)
        assert code == 0, said[name][-4000:]
        assert "changed=0" not in said[name].rpartition("PLAY RECAP")[2].split("localhost")[0]
        assert "module_args" in said[name]
    assert in_texts(secrets, said) == []


def test_no_host_shows_a_secret(host, secrets):
    """In argv, foreign environments, units, journals and logs, temporary or readable files."""
    users = ("mlflow", "postgres")
    assert on_host(host.backend.name, secrets, users=users) == []
