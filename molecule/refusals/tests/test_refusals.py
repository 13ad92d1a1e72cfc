"""What cannot work is refused before anything is changed, with what to do about it."""

import pytest
from api import colour
from control import Control


def what_serves(host):
    """Return what a refused run must leave as it is: process, link and files."""
    return host.check_output(
        f"systemctl show --value --property=MainPID,InvocationID mlflow-{colour(host)}; "
        "find /etc/mlflow /etc/systemd/system /etc/nginx /opt/mlflow -maxdepth 3 "
        "-printf '%p %M %u %s %T@ %l\\n' | sort"
    )


@pytest.fixture(autouse=True)
def nothing_changes(host):
    """Every test here ends with what serves as it was."""
    before = what_serves(host)
    yield
    assert what_serves(host) == before


@pytest.mark.parametrize(
    ("variables", "phrases"),
    [
        pytest.param(
            {"mlflow_server_roll": "red_green"},
            ["red_green", "blue_green, stop_start"],
            id="a value outside its choices",
        ),
        pytest.param(
            {
                "mlflow_server_instance": "MLflow!",
                "mlflow_server_public_names": ["*"],
                "mlflow_server_port": 70000,
                "mlflow_server_backend_store_uri": "sqlite:////srv/mlflow.db",
                "mlflow_server_environment": {"A KEY": "x"},
                "mlflow_server_secret_environment": {"A_KEY": "example-change-me"},
            },
            [
                "Wanted an instance name",
                "found mlflow_server_instance: MLflow!",
                'Wanted a list of plain names in mlflow_server_public_names; found ["*"]',
                "Wanted a port from 1 to 65535",
                "found mlflow_server_port: 70000",
                "Wanted the sqlite database and local artifacts inside /var/lib/MLflow!",
                "found /srv/mlflow.db",
                "Wanted names of environment variables",
                "found A KEY",
                "Wanted secrets of your own",
                "found the example's value for A_KEY",
                "vault.yml.example",
            ],
            id="all that is wrong with the settings, at once",
        ),
        pytest.param(
            {
                "mlflow_server_public_names": "mlflow.example.com",
                "mlflow_server_backend_store_uri": "postgresql://user:secret@db/mlflow",
            },
            [
                "Wanted a list of plain names in mlflow_server_public_names",
                "Wanted postgresql+psycopg2:// in mlflow_server_backend_store_uri",
            ],
            id="a name where a list belongs, a database URI without the driver that is installed",
        ),
        pytest.param(
            {"mlflow_server_listen_address": "0.0.0.0"},
            ["Wanted authentication", "0.0.0.0", "mlflow_server_allow_anonymous: true"],
            id="a public address without authentication",
        ),
        pytest.param(
            {
                "mlflow_server_listen_address": "0.0.0.0",
                "mlflow_server_authentication": "basic",
                "mlflow_server_admin_password": "long enough it is",
            },
            ["Wanted TLS, as each request carries a password", "mlflow_server_scheme: https"],
            id="passwords that would cross a network in clear",
        ),
        pytest.param(
            {
                "mlflow_server_authentication": "basic",
                "mlflow_server_admin_password": "password1234",
            },
            ["Wanted an administrator and users", "admin with a password that everybody knows"],
            id="the password that MLflow once had by default",
        ),
        pytest.param(
            {"mlflow_server_authentication": "oidc", "mlflow_server_oidc": {"client_id": "mlflow"}},
            ["Wanted an OpenID Connect provider", "found no discovery_url, no client_secret;"],
            id="a login of which the provider is not known",
        ),
        pytest.param(
            # Another role nginx may have a variable of that name, so it is only told.
            {
                "mlflow_server_wrokers": 2,
                "nginx_alowed_networks": ["10.0.0.0/8"],
                "mlflow_venv_verson": "3.17.2",
            },
            [
                "Wanted variables that our roles know",
                "mlflow_server_wrokers (mlflow_server_workers?)",
                "mlflow_venv_verson (",
                "if nginx_allowed_networks is meant",
            ],
            id="variables with a slip of the pen",
        ),
        pytest.param(
            {"mlflow_server_data_directory": "/usr", "mlflow_server_workers": 5000},
            [
                "/usr, root's and not empty",
                "choose another",
                "MB of memory for 5000 workers",
                "mlflow_server_roll: stop_start",
            ],
            id="a data directory that is everybody's, too little memory",
        ),
        pytest.param(
            {
                "mlflow_server_database_host": "db",
                "mlflow_server_database_logins": [{"name": "a", "password": "b"}],
                "postgresql_ca": "c",
                "postgresql_database": "d",
            },
            ["mlflow_server_database_name, mlflow_server_database_ca instead"],
            id="a setting of the database that nobody would heed",
        ),
        pytest.param(
            {"mlflow_venv_version": "9.9.9"},
            ["9.9.9", "make lock MLFLOW_VERSION=9.9.9"],
            id="a version of MLflow that does not exist",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(control, variables, phrases):
    """The operator reads what was wanted, what was found and what to do."""
    said = control.refuse(**variables)
    assert [phrase for phrase in phrases if phrase not in said] == [], said
    assert "Install | Install what is missing" not in said, "something was changed first"


def test_a_taken_port_is_refused_with_its_holder(control, host):
    """Nobody's process is killed: the operator is told whose it is."""
    host.check_output("systemd-run --unit=holder python3 -m http.server --bind 127.0.0.1 5001")
    pid = host.check_output("systemctl show --value --property=MainPID holder")
    try:
        said = control.refuse(mlflow_server_port=5001)
        assert host.service("holder").is_running
    finally:
        host.check_output("systemctl stop holder")
    for phrase in ("5001", pid, "python3", "holder.service", "choose another port"):
        assert phrase in said


@pytest.mark.parametrize("folder", ["/etc/mlflow", "/var/lib/mlflow", "/opt/mlflow/releases"])
def test_a_folder_of_somebody_else_is_refused(control, host, folder):
    """root must not act on what another user can change."""
    owner = host.check_output(f"stat --format=%U {folder}")
    host.check_output(f"chown nobody {folder}")
    try:
        said = control.refuse()
    finally:
        host.check_output(f"chown {owner} {folder}")
    assert folder in said and ("nobody" in said or "uid 65534" in said)


@pytest.mark.parametrize(
    ("inventory", "phrase"),
    [
        ("mlfow: {hosts: {server: }}", "found the groups mlfow"),
        ("mlflow: {hosts: {}}", "found the groups none"),
    ],
)
def test_an_inventory_without_a_host_for_us_is_refused(tmp_path, control, inventory, phrase):
    """Ansible itself ends well and does nothing when a group is empty or mistyped."""
    path = tmp_path / "hosts.yml"
    path.write_text(inventory)
    said = Control(str(path), "all,localhost").refuse()
    assert "Wanted at least one host in the group mlflow" in said
    assert phrase in said and str(path) in said


def test_too_old_a_python_is_refused(control, host):
    """A stand-in: there is no older Python among this Debian's packages."""
    old = "/usr/local/bin/python3.9"
    host.check_output(f"printf '#!/bin/sh\\necho 3 9 2 /usr/lib/python3.9\\n' > {old}")
    host.check_output(f"chmod 0755 {old}")
    said = control.refuse(mlflow_venv_python=old)
    host.check_output(f"rm {old}")
    assert f"Wanted Python 3.11 to 3.14 as mlflow_venv_python={old}; found 3.9.2" in said


def test_two_names_of_one_host_with_one_instance_are_refused(control, tmp_path):
    """A line copied in the inventory: both names would write the same files, for ever in turns."""
    path = tmp_path / "hosts.yml"
    variables = f"{{ansible_host: {control.name}, ansible_connection: containers.podman.podman}}"
    path.write_text(f"mlflow: {{hosts: {{one: {variables}, two: {variables}}}}}")
    said = Control(str(path), "one:two").refuse()
    assert "Wanted each instance once" in said and "found one, two" in said
    assert "mlflow_server_instance" in said


def test_a_limit_does_not_hide_a_mistyped_group(control, tmp_path):
    """With --limit the check at localhost is left out by Ansible itself."""
    path = tmp_path / "hosts.yml"
    path.write_text("mlfow: {hosts: {server: {ansible_connection: local}}}")
    said = Control(str(path), "server").refuse()
    assert "Wanted at least one host in the group mlflow" in said


@pytest.fixture
def start(control, tmp_path):
    """Return a function that starts a further, fresh host; it is removed after the test."""
    name = f"{control.name}-fresh"
    image = control.podman("inspect", "--format={{.ImageName}}", control.name)
    path = tmp_path / "hosts.yml"
    path.write_text(
        f"mlflow: {{hosts: {{{name}: }}, vars: {{ansible_connection: containers.podman.podman}}}}"
    )

    def function(*options, command=()):
        control.podman("rm", "--force", "--ignore", "--time=0", name)
        control.podman(
            "run",
            "--detach",
            f"--name={name}",
            "--network=mlflow-ansible",
            *options,
            image,
            *command,
        )
        return Control(str(path), name)

    yield function
    control.podman("rm", "--force", "--ignore", "--time=0", name)


def test_a_host_without_systemd_is_refused(start):
    """A plain container, or WSL without it: the unit could never start."""
    said = start(command=["sleep", "infinity"]).refuse()
    assert "Wanted systemd as the host's init; found sleep as process 1" in said


def test_a_host_of_another_family_is_refused(start):
    """apt would fail with a riddle, or not be there."""
    fresh = start(command=["sleep", "infinity"])
    release = 'ID=rocky\nID_LIKE="rhel centos fedora"\nPRETTY_NAME="Rocky Linux 9.4"\n'
    write = f"rm /etc/os-release; printf '{release}' > /etc/os-release"
    fresh.podman("exec", fresh.name, "sh", "-c", write)
    assert "Wanted a system of Debian's family; found Rocky Linux 9.4" in fresh.refuse()


def test_a_disk_without_room_for_a_release_is_refused(start):
    """Found out before, not by a half of a release."""
    said = start("--tmpfs=/opt:size=100m", command=["sleep", "infinity"]).refuse()
    assert "MB free for a release in /opt/mlflow/releases; found 104 MB" in said


def test_no_source_of_packages_in_reach_is_refused(start):
    """Debian's packages come first, so there is nothing of ours on the host yet."""
    fresh = start("--systemd=always", "--privileged")
    closed = """printf 'Acquire::%s::Proxy "http://127.0.0.1:9";\n' http https"""
    fresh.podman("exec", fresh.name, "sh", "-c", f"{closed} > /etc/apt/apt.conf.d/99closed")
    said = fresh.refuse()
    assert "Wanted the Debian packages python3-venv and nginx; found that a source" in said
    assert "Unable to connect to 127.0.0.1:9" in said
    left = fresh.podman("exec", fresh.name, "find", "/opt", "/etc", "/var/lib", "-name", "*mlflow*")
    assert left == ""


def test_no_index_in_reach_leaves_no_half_of_anything(start):
    """What can be known only by trying leaves Debian packages behind, and nothing else."""
    fresh = start("--systemd=always", "--privileged")
    booted = "until systemctl is-system-running --wait; do sleep 0.2; done"
    fresh.podman("exec", fresh.name, "timeout", "60", "sh", "-c", booted)
    said = fresh.refuse(mlflow_venv_index_url="http://operator:canary@127.0.0.1:9/simple")
    assert "found that no package index can be reached" in said
    assert "mlflow_venv_index_url" in said
    assert "canary" not in said
    left = fresh.podman("exec", fresh.name, "find", "/opt", "/etc", "/var/lib", "-name", "*mlflow*")
    assert left.split() == ["/opt/mlflow"]
