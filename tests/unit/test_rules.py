"""Every rule that refuses a run, by itself: which settings break it, and what the operator reads.

The rules are conditions in YAML (ansible.builtin.assert). Ansible's own templating evaluates them
here, so that a host is needed only to show that they are asked at all: molecule/default.
"""

import functools
import re
import tempfile
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]

LOADER = DataLoader()
ASSERT = "ansible.builtin.assert"
# What a task with several rules consists of: that, fail_msg and how both know what is refused.
ALL_AT_ONCE = (
    "__refusals | length == 0",
    "{{ __refusals | join('\n') }}",
    "{{ __rules | rejectattr('that', 'sameas', true) | map(attribute='otherwise') }}",
)
# It never shows in what an operator reads.
SECRET = "canary-password"
EXAMPLE = "example-change-me"

FOLDER = tempfile.TemporaryDirectory()
Path(FOLDER.name, "key.json").write_text('{"access_key_id": "AKIANEW", "secret_access_key": ""}')
FILES = {"aws_shared_credentials_file": 1000, "database.env": 1000}
# What a host answers, and a rotation finds, when there is nothing to refuse.
LOOK = {
    **{"systemd": True, "init": "systemd", "foreign": [], "place": "here mlflow", "serves": {}},
    **{"instances": {}, "releases_unused": []},
    **{"memory_mb": 4000, "cores": 2, "disk_mb": 50_000},
    **{"serving": "blue", "started": 1000.5, "installed": 999.5, "others": [], "login": "mlflow_a"},
    **{"access_key_id": "AKIANEW", "slots": {"blue": {"login": "mlflow_a", "files": FILES}}},
}
GIVEN = {
    "inventory_hostname": "server",
    "ansible_version": {"full": "2.19.0"},
    "ansible_play_hosts": ["server"],
    "ansible_inventory_sources": ["hosts.yml"],
    "ansible_check_mode": False,
    "groups": {
        "all": ["server"],
        "mlflow": ["server"],
    },
    "mlflow_server_look": LOOK,
    "__nginx_site": {"former_listen": ""},
    "mlflow_client_user": "ada",
    "__key_group_name": "",
    "__rotates": "",
    "aws_credentials_keys": {"replaced": ["AKIAOLD"]},
}
UNLISTED = {"unlisted": ["EDIT for eve on prompt *", "READ for eve on run *"]}
LOGINS = [{"name": "mlflow_a", "password": SECRET}, {"name": "mlflow_b", "password": SECRET}]
USER = {"name": "ada", "password": SECRET}
PROVIDER = {
    "discovery_url": "https://login.example.com/.well-known/openid-configuration",
    "client_id": "mlflow",
    "client_secret": SECRET,
}
BASIC = {"mlflow_server_authentication": "basic", "mlflow_server_admin_password": SECRET}
OIDC = {"mlflow_server_authentication": "oidc", "mlflow_server_oidc": PROVIDER}
DATABASE = {"mlflow_server_database_host": "db", "mlflow_server_database_logins": LOGINS}
PLACE = "db:5432/mlflow"
ADMINISTERED = DATABASE | {"postgresql_admin_password": SECRET, "__rotates": PLACE}
ENCRYPTING = {
    "mlflow_server_secret_environment": {
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": SECRET,
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": SECRET,
    }
}
STATIC = {
    "aws_credentials_mode": "static",
    "aws_credentials_access_key_id": "AKIANEW",
    "aws_credentials_secret_access_key": SECRET,
}
KEY_FILE = {
    "aws_credentials_key_file": f"{FOLDER.name}/new",
    "aws_credentials_iam_user": "tracking",
    "aws_credentials_key_file_passphrase": SECRET,
}


SERVES = {
    **{"store": "sqlite:////var/lib/mlflow/mlflow.db", "holds": True, "login": "none"},
    "tls": False,
}


def look(**changes):
    return {"mlflow_server_look": LOOK | changes}


def rotating(name, other):
    """Return a group of two servers that hold a key, with its name and variables of the other."""
    mine = {"__key_group_name": name, "__holds": "AKIANEW"}
    return mine | {"groups": {"mlflow": ["server", "other"]}, "hostvars": {"other": mine | other}}


# By task: settings that break rules of it, and for each words that an operator reads.
BROKEN = {
    ("roles/mlflow_server/tasks/settings.yml", "Settings | Refuse what cannot work"): [
        (
            {
                "mlflow_server_instance": "MLflow!",
                "mlflow_server_port": 0,
                "mlflow_server_public_names": ["*"],
                "mlflow_server_environment": {"A KEY": "x", "MLFLOW_STATIC_PREFIX": "/mlflow"},
                "mlflow_server_backend_store_uri": f"postgresql://ada:{SECRET}@db/mlflow",
                "mlflow_server_artifacts_destination": "file:///srv/a",
                "mlflow_server_secret_environment": {"A_KEY": f"x{EXAMPLE}"},
            },
            "as mlflow or mlflow-team-a; found mlflow_server_instance: MLflow!; use lowercase",
            "from 1 to 65535; found mlflow_server_port: 0; choose another",
            'mlflow_server_public_names; found ["*"]; list each name or address by itself',
            "Wanted names of environment variables in mlflow_server_environment, mlflow_server_",
            "that work here; found MLFLOW_STATIC_PREFIX; leave the prefix to a proxy in front",
            "Wanted postgresql+psycopg2:// in mlflow_server_backend_store_uri",
            "inside /var/lib/MLflow!, all that the service may write to; found /srv/a; put it in",
            "found the example's value for A_KEY; make it as group_vars/mlflow/vault.yml.example",
        ),
        (
            {
                "mlflow_server_instance": "mlflow-",
                "mlflow_server_port": 65536,
                "mlflow_server_public_names": "a.example",
                "mlflow_server_secret_environment": {"1A": SECRET},
                "mlflow_server_backend_store_uri": f"postgres://ada:{SECRET}@db/mlflow",
                "mlflow_server_files": {"A_FILE": EXAMPLE},
            },
            "found mlflow_server_instance: mlflow-; use",
            "found mlflow_server_port: 65536; choose",
            'found "a.example"; list each',
            "found 1A; use letters, digits and underscores",
            "set mlflow_server_database_host and the like and leave the URI out",
            "found the example's value for A_FILE; make it",
        ),
        (
            DATABASE
            | {
                "mlflow_server_public_names": ["a:5000"],
                "mlflow_server_files": {"A-B": SECRET},
                "mlflow_server_backend_store_uri": "sqlite:////srv/mlflow.db",
                "mlflow_server_database_owner_password": EXAMPLE,
            },
            'found ["a:5000"]; list each',
            "mlflow_server_files; found A-B; use",
            "Wanted mlflow_server_database_host or mlflow_server_backend_store_uri; found both; ta",
            "found /srv/mlflow.db; put it inside",
            "found the example's value for mlflow_owner; make it",
        ),
        (
            {
                "mlflow_server_database_host": "db",
                "mlflow_server_artifacts_destination": "/var/lib/mlflow/../a",
            }
            | OIDC
            | {"mlflow_server_oidc": PROVIDER | {"client_secret": EXAMPLE}},
            "the role and its password with which the server logs in at db; found none; set mlfl",
            "found /var/lib/a; put it inside, or move mlflow_server_data_directory to that disk",
            "found the example's value for OIDC_CLIENT_SECRET; make it",
        ),
        (
            DATABASE | {"mlflow_server_database_logins": [{"name": "mlflow_a", "password": ""}]},
            "logs in at db; found none; set mlflow_server_database_logins",
        ),
        (
            DATABASE | {"mlflow_server_database_logins": [{"name": "b", "password": EXAMPLE}]},
            "found the example's value for b; make it",
        ),
    ],
    (
        "roles/mlflow_server/tasks/login.yml",
        "Login | Refuse a login that admits people it should not",
    ): [
        (
            {
                "mlflow_server_listen_address": "0.0.0.0",
                "mlflow_server_users": [USER],
                "mlflow_server_admin_password": SECRET,
            },
            "found mlflow_server_listen_address: 0.0.0.0 and no authentication; set",
            "none and also mlflow_server_users, mlflow_server_admin_password, which it would not",
        ),
        ({"mlflow_server_listen_address": "::"}, "set mlflow_server_allow_anonymous: true"),
        ({"mlflow_server_listen_address": "10.127.0.1"}, "found mlflow_server_listen_address: 10."),
        (
            BASIC | {"mlflow_server_listen_address": "0.0.0.0", "mlflow_server_oidc": PROVIDER},
            "found mlflow_server_authentication: basic and also mlflow_server_oidc, which it would",
            "found mlflow_server_listen_address: 0.0.0.0 and no TLS; turn it on at the front",
        ),
        (
            {"mlflow_server_authentication": "front", "mlflow_server_listen_address": "::"},
            "Wanted TLS, as each request carries a password; found",
        ),
        (
            OIDC | {"mlflow_server_oidc": {"client_id": "mlflow"}},
            "found no discovery_url, no client_secret; correct mlflow_server_oidc",
        ),
    ],
    (
        "roles/mlflow_server/tasks/passwords.yml",
        "Passwords | Refuse users with bad passwords or unknown permissions",
    ): [
        (BASIC | {"mlflow_server_admin_password": ""}, "found admin with no password; correct"),
        (
            BASIC | {"mlflow_server_admin_password": "password1234"},
            "found admin with a password that everybody knows; correct mlflow_server_admin_pass",
        ),
        (
            BASIC | {"mlflow_server_users": [USER, {"name": "bob", "password": "short"}]},
            "found bob with a password of 5 characters; correct",
        ),
    ],
    (
        "roles/mlflow_server/tasks/users.yml",
        "Users | Refuse permissions on everything that nobody has listed, in check mode",
    ): [
        (
            BASIC | {"ansible_check_mode": True, "__mlflow_server_permissions": UNLISTED},
            "found EDIT for eve on prompt *, READ for eve on run *; list them, or take them away",
        ),
    ],
    (
        "roles/mlflow_server/tasks/look.yml",
        "Look | Refuse to take another server for the one that serves",
    ): [
        (
            look(serves=SERVES | {"store": "postgresql://db:5432/mlflow"}),
            "Wanted mlflow with its metadata in sqlite:////var/lib/mlflow/mlflow.db; found that it "
            "serves those in postgresql://db:5432/mlflow, none of which would be seen there; is "
            "this the right inventory, with its group_vars beside it (hosts.yml)? If that is meant",
        ),
        (
            look(serves=SERVES) | DATABASE,
            "Wanted mlflow with its metadata in postgresql://db:5432/mlflow; found that it serves",
        ),
    ],
    ("roles/mlflow_server/tasks/preflight.yml", "Preflight | Refuse a host that cannot carry it"): [
        (look(systemd=False, init="sleep"), "init; found sleep as process 1; use a host"),
        (
            look(foreign=["/usr, root's and not empty"]),
            "found /usr, root's and not empty; choose another mlflow_server_instance, or",
        ),
        (
            {"mlflow_server_workers": 5000},
            "(2 x 1300270 MB and 384 MB for the system); found 4000 MB; take a larger host",
        ),
        (look(memory_mb=1443), "Wanted 1444 MB of memory for 1 workers (2 x 530 MB and 384 MB"),
        (
            {"mlflow_server_memory_max_mb": 789},
            "Wanted mlflow_server_memory_max_mb of 790 at least, which a colour takes at rest",
        ),
        (
            {"mlflow_server_artifact_max_mb": 12_501},
            "artifact_max_mb of 12500 at most, as four may be on their way on that disk; found",
        ),
        (
            look(serves=SERVES | {"login": "basic", "tls": True}),
            "none; found that mlflow serves users with permissions (basic), and all",
            "at http://; found that it serves at https:// alone, and all that is sent",
        ),
    ],
    ("roles/mlflow_server/tasks/verify.yml", "Verify | Refuse a process that has former secrets"): [
        (
            look(started=999.25),
            "found some of blue from 999 (its files are from 999, seconds of the epoch)",
        ),
        (look(others=[17, 18]), "and of the other colour 17, 18; run this playbook again"),
    ],
    ("roles/mlflow_client/tasks/preflight.yml", "Preflight | Refuse what cannot work"): [
        (
            {"mlflow_client_tracking_uri": f"http://ada:{SECRET}@server:5000"},
            "without name and password, or nothing for a local folder; found http://****@server:50",
        ),
        ({"mlflow_client_tracking_uri": "server:5000"}, "found server:5000; correct it"),
        ({"mlflow_client_tracking_uri": "http://server /x"}, "found http://server /x; correct it"),
        (
            {"mlflow_client_virtualenv": "mlflow"},
            "found mlflow_client_virtualenv: mlflow and mlflow_client_directory: ~/mlruns; choose",
        ),
        ({"mlflow_client_directory": "/srv/$HOME"}, "mlflow_client_directory: /srv/$HOME; choose"),
        (
            {"mlflow_client_environment": {"A KEY": "x"}},
            "environment variables in mlflow_client_environment; found A KEY; use letters",
        ),
        (
            {"mlflow_client_environment": {"AWS_SECRET_ACCESS_KEY": SECRET}},
            "Wanted no secrets in mlflow_client_environment; found AWS_SECRET_ACCESS_KEY; let the",
        ),
        ({"mlflow_client_environment": {"Db_Passphrase": SECRET}}, "found Db_Passphrase; let the"),
    ],
    ("roles/mlflow_client/tasks/ask.yml", "Ask | Refuse a server that does not answer"): [
        (
            {
                "mlflow_client_tracking_uri": "http://server:5000",
                "__mlflow_client_asked": {
                    "stdout": '{"answers": false, "found": "a riddle", "remedy": "solve it"}'
                },
            },
            "Wanted the tracking server to answer ada on server at mlflow_client_tracking_uri: "
            "http://server:5000; found a riddle; solve it.",
        ),
    ],
    ("roles/mlflow_venv/tasks/lock.yml", "Lock | Refuse a version of MLflow without a lock"): [
        ({"mlflow_venv_version": "9.9.9"}, "mlflow_venv_version=9.9.9; found locks of "),
        ({"mlflow_venv_version": "9.9.9"}, "run `make lock MLFLOW_VERSION=9.9.9`, or choose one"),
        (
            {"mlflow_venv_version": "9.9.9", "mlflow_venv_extra": "oidc"},
            "run `tools/lock 9.9.9 --oidc`, or choose one of these",
        ),
    ],
    (
        "roles/aws_credentials/tasks/preflight.yml",
        "Preflight | Refuse a key file that cannot be used",
    ): [
        (
            KEY_FILE | {"aws_credentials_iam_user": ""},
            "/new, the user '' and a passphrase; correct",
        ),
        (
            KEY_FILE | {"aws_credentials_key_file_passphrase": ""},
            "the user 'tracking' and no passphrase; correct that, or leave aws_credentials",
        ),
        (
            KEY_FILE | {"aws_credentials_key_file_passphrase": EXAMPLE},
            "the user 'tracking' and the example's passphrase; correct",
        ),
        (KEY_FILE | {"aws_credentials_key_file": "/nowhere/key"}, "exists, an aws_credentials_iam"),
    ],
    (
        "roles/aws_credentials/tasks/preflight.yml",
        "Preflight | Read the key file with aws_credentials_key_file_passphrase",
    ): [
        (
            KEY_FILE | {"aws_credentials_key_file": f"{FOLDER.name}/key.json"},
            "Wanted the secret of AKIANEW in /",
        ),
    ],
    (
        "roles/aws_credentials/tasks/preflight.yml",
        "Preflight | Refuse a key that is not there, not wanted or the example's",
    ): [
        (
            STATIC | {"aws_credentials_secret_access_key": ""},
            "Wanted a key for aws_credentials_mode",
        ),
        (STATIC | {"aws_credentials_access_key_id": ""}, "empty; put both into the vault, or"),
        (
            {"aws_credentials_secret_access_key": SECRET},
            "Wanted no key for aws_credentials_mode: none; found one; set",
        ),
        (
            {
                "aws_credentials_mode": "instance_profile",
                "aws_credentials_secret_access_key": SECRET,
            },
            "no key for aws_credentials_mode: instance_profile; found one; set",
        ),
        (
            STATIC | {"aws_credentials_secret_access_key": EXAMPLE},
            "Wanted a key of your own; found the example's; put the one",
        ),
        (STATIC | {"aws_credentials_access_key_id": EXAMPLE}, "Wanted a key of your own; found"),
    ],
    ("playbooks/inventory.yml", "Refuse an inventory without a host in a known group"): [
        (
            {"groups": {"all": ["server"], "mlfow": ["server"], "mlflow": []}},
            "mlflow or database or mlflow_clients; found the groups mlfow in hosts.yml; copy",
        ),
        ({"groups": {"all": [], "mlflow": []}}, "found the groups none in hosts.yml; copy"),
    ],
    ("playbooks/inventory.yml", "Refuse a run without a host in a known group"): [
        (
            {"groups": {"all": ["server"], "mlfow": ["server"], "mlflow": ["other"]}},
            "found server in this run; leave --limit out, or correct the groups in hosts.yml",
        ),
    ],
    (
        "playbooks/tasks/dependencies.yml",
        "Refuse an Ansible that the collection does not work with",
    ): [
        (
            {"ansible_version": {"full": "2.16.3"}},
            "found ansible-core 2.16.3 instead of >=2.19.0; ",
        ),
    ],
    ("playbooks/tasks/names.yml", "Refuse variables that nobody would use"): [
        (
            {"mlflow_server_wrokers": 2, "mlflow_venv_verson": "3.17.2"},
            "found mlflow_server_wrokers (mlflow_server_workers?), mlflow_venv_verson (",
        ),
        (
            {"mlflow_client_tracking_url": "http://server:5000"},
            "found mlflow_client_tracking_url (mlflow_client_tracking_uri?); correct the name",
        ),
    ],
    ("playbooks/tasks/agreement.yml", "Refuse what two roles would not agree on"): [
        (
            {"mlflow_server_authentication": "front"},
            "found 0 of them and mlflow_server_authentication: front; set both, or neither",
        ),
        (
            {"nginx_users": [USER]},
            "found 1 of them and mlflow_server_authentication: none; set both",
        ),
        (
            DATABASE | {"postgresql_ca": "PEM", "postgresql_database": "lab"},
            "found postgresql_database, postgresql_ca; set mlflow_server_database_name, "
            "mlflow_server_database_ca instead",
        ),
        (
            DATABASE | {"groups": {"mlflow": ["server", "other"]}, "hostvars": {"other": DATABASE}},
            "found other with the database of server and without the same; set both for all",
        ),
        (
            DATABASE
            | {
                "mlflow_server_database_host": "other",
                "groups": {"mlflow": ["server"], "database": ["other"]},
            },
            "found no postgresql_allowed_networks for other, so it would listen to itself alone",
        ),
        (
            DATABASE
            | {
                "mlflow_server_database_host": "other",
                "groups": {"mlflow": ["server"], "database": ["other"]},
                "hostvars": {"other": {"postgresql_allowed_networks": ["10.0.0.0/8"]}},
                "postgresql_admin_password": SECRET,
            },
            "found one for server, whose database is on other; take it out",
        ),
        (
            {
                "nginx_server_names": ["*.example.com", "MLflow.example.com", "a.example.com"],
                "mlflow_server_public_names": ["A.example.com"],
            },
            "found mlflow.example.com in the first alone; add",
        ),
        (
            look(serves=SERVES) | {"__nginx_site": {"former_listen": "0.0.0.0:443"}},
            "found that it serves at 0.0.0.0:443, and all who come there would be cut off; is this",
        ),
        (
            look(serving="", instances={"mlflow-team-a": True, "mlflow-team-b": False}),
            "found that mlflow-team-a serves on this host, which the inventory does not name",
        ),
    ],
    ("playbooks/mlflow.yml", "Refuse a name that no server of ours has"): [
        ({"mlflow_server_instance": "default"}, "mlflow_server_instance: default; correct it"),
    ],
    ("playbooks/tasks/agreement.yml", "Refuse two names for one instance"): [
        (
            {
                "ansible_play_hosts": ["server", "other"],
                "hostvars": {"server": look(), "other": look()},
            },
            "Wanted each instance once; found server, other, of which two are the same host",
        ),
    ],
    ("playbooks/rotate_admin_password.yml", "Refuse servers without users"): [
        ({}, "mlflow_server_authentication: basic; found none on server; set it"),
        (
            {"mlflow_server_authentication": "front"},
            "found none on server; set it and run site.yml",
        ),
    ],
    ("playbooks/rotate_server_secrets.yml", "Refuse to leave a server out"): [
        (
            {"groups": {"mlflow": ["server", "other"]}},
            "found that other would be left out, with the former secrets; run again",
        ),
    ],
    ("playbooks/credentials_status.yml", "Refuse what is overdue"): [
        (
            {"credentials_max_age_days": 30},
            "older than 30 days (credentials_max_age_days); found access key of server, da",
        ),
    ],
    ("playbooks/rotate_database_password.yml", "Refuse what cannot be rotated"): [
        (
            {"groups": {"mlflow": ["server", "other"]}},
            "found that other would be left out; run again without --limit",
            "mlflow_server_database_host; found none; there is no",
        ),
        (
            DATABASE | {"__rotates": PLACE},
            "found neither db in the group database nor postgresql_admin_password; give",
        ),
        (
            ADMINISTERED | look(login=""),
            "found that none serves with a login on server; run site.yml",
        ),
        (ADMINISTERED | look(login="root"), "found root on server; run site.yml first"),
        (
            ADMINISTERED
            | {
                "groups": {"mlflow": ["server", "other"]},
                "ansible_play_hosts": ["server", "other"],
                "hostvars": {
                    "other": {"__rotates": PLACE, "mlflow_server_database_logins": LOGINS[:1]}
                },
            },
            "for all servers of db:5432/mlflow; found that it differs between server, other; say",
        ),
    ],
    ("playbooks/rotate_database_password.yml", "Refuse a server with the former login"): [
        (
            ADMINISTERED | {"__turn": {"comes": "mlflow_b"}},
            "Wanted server to serve as mlflow_b; found that it does as mlflow_a; run this playbook",
        ),
    ],
    (
        "playbooks/tasks/key_refusals.yml",
        "Refuse a rotation that would leave somebody without a key",
    ): [
        (
            STATIC
            | {
                "groups": {"mlflow": ["server", "other"]},
                "hostvars": {"other": {"aws_credentials_mode": "static"}},
                "mlflow_server_environment": {"AWS_ACCESS_KEY_ID": "AKIAOTHER"},
            },
            "found other left out; run without --limit, or remove machines that no longer exist",
            "AWS_ACCESS_KEY_ID among the environment variables of server, which takes precedence",
        ),
        (
            KEY_FILE
            | {
                "groups": {"mlflow": ["server", "other"]},
                "hostvars": {"other": KEY_FILE | {"aws_credentials_iam_user": "jenkins"}},
            },
            "/new for tracking and jenkins; give one of them a file of its own",
            "static, as server holds AKIANEW; found none; take the inventory that site.yml was run",
        ),
        (
            STATIC | {"groups": {"mlflow_clients": ["server"]}},
            "where ada on server can try the new key before the old one is deactivated; found",
        ),
        (
            STATIC | {"mlflow_server_secret_environment": {"AWS_ACCESS_KEY_ID": SECRET}},
            "take that out and run site.yml",
        ),
        (
            STATIC
            | rotating("tracking", STATIC | {"aws_credentials_access_key_id": "AKIAOTHER"})
            | {"aws_credentials_iam_user": "tracking", "ansible_play_hosts": ["server", "other"]},
            "found server with AKIANEW , other with AKIAOTHER  (aws_credentials_access_key_id",
        ),
    ],
    (
        "playbooks/rotate_aws_credentials.yml",
        "Refuse to take a key from hosts that are not in this rotation",
    ): [
        (
            STATIC | rotating("AKIANEW", {"__key_group_name": "", "__holds": "AKIAOLD"}),
            "that hold AKIAOLD to get its successor; found that other would go on with it, as",
        ),
    ],
    ("playbooks/rotate_aws_credentials.yml", "Refuse to go on while a host holds another key"): [
        (
            STATIC | rotating("AKIANEW", look(access_key_id="AKIAOLD")),
            "every host to hold AKIANEW; found AKIANEW, AKIAOLD among server, other; the old key",
        ),
    ],
}
# The same close to the border: it is not refused.
HELD = {
    "roles/mlflow_server/tasks/settings.yml": [
        {},
        {
            "mlflow_server_instance": "mlflow-team-a1",
            "mlflow_server_port": 1,
            "mlflow_server_public_names": ["10.0.0.5", "::1", "[fe80::1]", "a-b.example.com"],
            "mlflow_server_environment": {"_a1": "x"},
            "mlflow_server_backend_store_uri": "sqlite:////var/lib/mlflow-team-a1/a/mlflow.db",
            "mlflow_server_artifacts_destination": "s3://bucket/prefix",
        },
        {
            "mlflow_server_port": "65535",
            "mlflow_server_backend_store_uri": f"postgresql+psycopg2://ada:{SECRET}@db/mlflow",
        },
        DATABASE | OIDC,
    ],
    "roles/mlflow_server/tasks/login.yml": [
        {"mlflow_server_listen_address": "127.0.0.2"},
        {"mlflow_server_listen_address": "0.0.0.0", "mlflow_server_allow_anonymous": "yes"},
        BASIC | {"mlflow_server_listen_address": "::1", "mlflow_server_users": [USER]},
        BASIC | {"mlflow_server_listen_address": "::", "mlflow_server_scheme": "https"},
        OIDC,
    ],
    "roles/mlflow_server/tasks/passwords.yml": [{}, BASIC | {"mlflow_server_users": [USER]}],
    "roles/mlflow_server/tasks/users.yml": [
        BASIC | {"__mlflow_server_permissions": UNLISTED},
        BASIC | {"__mlflow_server_permissions": {"unlisted": []}, "ansible_check_mode": True},
    ],
    "roles/mlflow_server/tasks/preflight.yml": [
        {},
        look(memory_mb=1444),
        {"mlflow_server_memory_max_mb": 790},
        {"mlflow_server_artifact_max_mb": 12_500},
        look(serves=SERVES | {"tls": True}) | {"mlflow_server_scheme": "https"},
        look(serves=SERVES | {"login": "oidc"}) | BASIC,
        look(serves=SERVES | {"login": "oidc", "tls": True})
        | {"mlflow_server_allow_replacement": True},
    ],
    "roles/mlflow_server/tasks/look.yml": [
        {},
        look(serves=SERVES),
        look(serves=SERVES | {"holds": False}) | DATABASE,
        look(serves=SERVES) | DATABASE | {"mlflow_server_allow_replacement": True},
        look(serves=SERVES | {"store": "postgresql://db:5432/mlflow"}) | DATABASE,
    ],
    "roles/mlflow_server/tasks/verify.yml": [{}, look(started=5, installed=5)],
    "roles/mlflow_client/tasks/preflight.yml": [
        {},
        {
            "mlflow_client_tracking_uri": "https://server.example.com:5000/mlflow",
            "mlflow_client_virtualenv": "/srv/ada/m.l-f_1",
            "mlflow_client_environment": {"_a1": "x"},
        },
    ],
    "roles/mlflow_client/tasks/ask.yml": [
        {"__mlflow_client_asked": {"stdout": '{"answers": true}'}}
    ],
    "roles/mlflow_venv/tasks/lock.yml": [{}, {"mlflow_venv_extra": "oidc"}],
    "roles/aws_credentials/tasks/preflight.yml": [
        {},
        STATIC,
        {"aws_credentials_mode": "instance_profile"},
        KEY_FILE,
    ],
    "playbooks/inventory.yml": [{}, {"groups": {"database": ["server"], "mlflow": []}}],
    "playbooks/tasks/dependencies.yml": [{}],
    "playbooks/tasks/names.yml": [{"mlflow_server_port": 5001, "nginx_vhosts": []}],
    "playbooks/tasks/agreement.yml": [
        {},
        {"mlflow_server_authentication": "front", "nginx_users": [USER]},
        DATABASE | {"postgresql_admin_password": SECRET},
        DATABASE
        | {
            "mlflow_server_database_host": "other",
            "groups": {"mlflow": ["server"], "database": ["other"]},
            "hostvars": {"other": {"postgresql_allowed_networks": ["10.0.0.0/8"]}},
        },
        {
            "nginx_server_names": ["a.example.com", "localhost", "127.0.0.1", "_", "", "a.*", ".b"],
            "mlflow_server_public_names": ["A.example.com"],
        },
        {
            "nginx_server_names": ["a.example.com"],
            "mlflow_server_environment": {"MLFLOW_SERVER_ALLOWED_HOSTS": "*.example.com"},
        },
        *(
            look(serves=serves)
            | {"__nginx_site": {"former_listen": former}, "mlflow_server_listen_address": now}
            | {"mlflow_server_allow_anonymous": True, "mlflow_server_allow_replacement": meant}
            for serves, former, now, meant in [
                (SERVES, "127.0.0.1:5000", "127.0.0.1", False),
                (SERVES, "[::1]:5000", "::1", False),
                (SERVES, "[::]:443", "10.0.0.1", False),
                (SERVES, "[::]:443", "127.0.0.1", True),
                (SERVES | {"holds": False}, "0.0.0.0:443", "127.0.0.1", False),
                ({}, "", "127.0.0.1", False),
            ]
        ),
        look(serving="", instances={"mlflow": True, "mlflow-team-b": False}),
        look(serving="", instances={"mlflow-team-a": True})
        | {"mlflow_server_allow_replacement": True},
        look(serving="blue", instances={"mlflow-team-a": True}),
        DATABASE
        | ENCRYPTING
        | {
            "groups": {"mlflow": ["server", "other"]},
            "hostvars": {"other": DATABASE | ENCRYPTING},
        },
        {
            "ansible_play_hosts": ["server", "other"],
            "hostvars": {"other": look(place="here mlflow-team-a")},
        },
    ],
    "playbooks/rotate_admin_password.yml": [BASIC],
    "playbooks/rotate_server_secrets.yml": [{}],
    "playbooks/credentials_status.yml": [{"credentials_max_age_days": 1_000_000}],
    "playbooks/rotate_database_password.yml": [ADMINISTERED | {"__turn": {"comes": "mlflow_a"}}],
    "playbooks/rotate_aws_credentials.yml": [
        STATIC | rotating("AKIANEW", look() | {"__holds": "AKIANEW"}),
    ],
    "playbooks/tasks/key_refusals.yml": [
        STATIC
        | KEY_FILE
        | rotating("tracking", look() | STATIC | KEY_FILE)
        | {
            "aws_credentials_probe_uri": "s3://bucket/prefix",
            "ansible_play_hosts": ["server", "other"],
        },
    ],
}


@functools.cache
def load(path):
    return LOADER.load_from_file(str(ROOT / path), trusted_as_template=True)


class Check:
    """A task that refuses.

    Args:
        path: Its file.
        play: The play that it is in, nothing in a file of tasks.
        task: The task.
    """

    def __init__(self, path: str, play: dict, task: dict):
        self.path, self.play = path, play
        self.variables = task.get("vars", {})
        when = task.get("when", [])
        self.when = when if isinstance(when, list) else [when]
        that, message = task[ASSERT]["that"], task[ASSERT]["fail_msg"]
        conditions = that if isinstance(that, list) else [that]
        self.rules = [(trust_as_template(f"{{{{ {each} }}}}"), message) for each in conditions]
        if "__rules" in self.variables:
            assert (that, message, self.variables["__refusals"]) == ALL_AT_ONCE, task["name"]
            self.rules = [(rule["that"], rule["otherwise"]) for rule in self.variables["__rules"]]

    def ask(self, settings: dict) -> dict[int, str]:
        """Return what an operator reads, by the number of each rule that these settings break."""
        templar = Templar(loader=LOADER, variables=self.known(GIVEN | settings) | self.variables)
        if not all(templar.evaluate_conditional(trust_as_template(each)) for each in self.when):
            return {}
        return {
            number: templar.template(message)
            for number, (holds, message) in enumerate(self.rules)
            if templar.template(holds) is not True
        }

    def known(self, given: dict) -> dict:
        """Return all variables, the later before the earlier as in Ansible."""
        hostvars = {
            name: {"inventory_hostname": name} | given.get("hostvars", {}).get(name, {})
            for name in ("server", "other")
        }
        hostvars["server"] |= {name: given[name] for name in given.keys() - {"hostvars"}}
        known = {"role_path": str(ROOT / self.path).partition("/tasks")[0]}
        known |= variables_of(self.path, "defaults") | given | {"hostvars": hostvars}
        known |= self.play.get("vars", {})
        for file in self.play.get("vars_files", []):
            known |= load(f"playbooks/{file}")
        return known | variables_of(self.path, "vars")


def variables_of(path, kind):
    """Return defaults or vars of the roles that a file sees: its own, or in a playbook all."""
    role = path.split("/")[1] if path.startswith("roles/") else "*"
    found = {}
    for file in ROOT.glob(f"roles/{role}/{kind}/main.yml"):
        found |= load(file)
    return found


def checks_in(path):
    """Yield file, name and check of each task that refuses, those in plays and blocks included.

    A file of tasks that a play imports has the play's variables.
    """
    waiting = [(path, {}, item) for item in load(path) or []]
    while waiting:
        path, play, item = waiting.pop(0)
        if ASSERT in item:
            yield (path, item["name"]), Check(path, play, item)
        inside = item if "hosts" in item else play
        lists = ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always")
        waiting += [(path, inside, inner) for key in lists for inner in item.get(key, [])]
        if path.startswith("playbooks/") and (file := item.get("ansible.builtin.import_tasks")):
            imported = str(Path(path).parent / file)
            waiting += [(imported, inside, inner) for inner in load(imported)]


def files():
    """Return the files of tasks and plays, roles' and playbooks'."""
    patterns = ("roles/*/tasks/*.yml", "playbooks/*.yml")
    return [str(p.relative_to(ROOT)) for pattern in patterns for p in sorted(ROOT.glob(pattern))]


CHECKS = {key: check for path in files() for key, check in checks_in(path)}


@functools.cache
def answer(key, row):
    """Return what the rules of a task say to a row of the table."""
    return CHECKS[key].ask(BROKEN[key][row][0])


@pytest.mark.parametrize(
    ("key", "row"), [(key, row) for key, rows in BROKEN.items() for row in range(len(rows))]
)
def test_what_breaks_a_rule_is_refused(key, row):
    """With what was wanted, what was found and what to do, and without a secret."""
    for said, words in zip(answer(key, row).values(), BROKEN[key][row][1:], strict=True):
        assert words in said
        assert re.fullmatch("Wanted .+; found .+; .+", said, re.DOTALL) and SECRET not in said


@pytest.mark.parametrize(
    ("path", "settings"), [(path, settings) for path, rows in HELD.items() for settings in rows]
)
def test_what_is_just_within_the_rules_is_not_refused(path, settings):
    checks = [check for (file, _), check in CHECKS.items() if file == path]
    assert [check.ask(settings) for check in checks] == [{}] * len(checks)


@pytest.mark.parametrize("key", CHECKS, ids=" ".join)
def test_every_rule_is_broken_by_something(key):
    """One that nothing breaks may be dead, or refuse nothing, or fail over its own message."""
    broken = {number for row in range(len(BROKEN[key])) for number in answer(key, row)}
    rules = enumerate(CHECKS[key].rules)
    assert [rule for number, rule in rules if number not in broken] == [], "BROKEN needs a row"
