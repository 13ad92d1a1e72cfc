"""What cannot work is refused before anything is changed, with what to do about it.

On one of the hosts, which serves. What the variables alone tell has its tests in
tests/unit/test_rules.py; here is that the rules are asked, and what only a host shows.
"""

import pytest
from api import colour
from control import Control

group = "default-debian12"


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


def assert_told(said, *phrases):
    assert [phrase for phrase in phrases if phrase not in said] == [], said


def test_a_value_outside_its_choices_is_refused(control):
    """By Ansible itself, from meta/argument_specs.yml."""
    assert_told(control.refuse(mlflow_server_roll="red_green"), "red_green", "blue_green, stop_sta")


def test_all_that_is_wrong_with_the_settings_is_told_at_once(control):
    """Nobody wants to run it again for each."""
    said = control.refuse(
        mlflow_server_instance="MLflow!",
        mlflow_server_public_names=["*"],
        mlflow_server_port=70000,
        mlflow_server_backend_store_uri="sqlite:////srv/mlflow.db",
        mlflow_server_environment={"A KEY": "x"},
        mlflow_server_secret_environment={"A_KEY": "example-change-me"},
    )
    assert_told(
        said,
        "found mlflow_server_instance: MLflow!",
        'found ["*"]',
        "found mlflow_server_port: 70000",
        "Wanted the sqlite database and local artifacts inside /var/lib/MLflow!",
        "found A KEY",
        "found the example's value for A_KEY",
    )


def test_an_address_open_to_everybody_is_refused(control):
    """The next task of the preflight: a server that lets in all who reach it."""
    said = control.refuse(mlflow_server_listen_address="0.0.0.0")
    assert_told(said, "Wanted authentication", "0.0.0.0", "mlflow_server_allow_anonymous: true")


def test_a_host_that_cannot_carry_it_is_refused(control, host):
    """Whose folders it has and how much memory, the host says. root must not act on what another
    user can change."""
    host.check_output("chown nobody /etc/mlflow")
    try:
        said = control.refuse(
            mlflow_server_data_directory="/usr",
            mlflow_server_workers=5000,
            mlflow_server_allow_replacement=True,
        )
    finally:
        host.check_output("chown root /etc/mlflow")
    assert_told(
        said,
        "/usr, root's and not empty",
        "/etc/mlflow owned by nobody",
        "choose another",
        "MB of memory for 5000 workers",
        "mlflow_server_roll: stop_start",
    )


def test_a_taken_port_is_refused_with_its_holder(control, host):
    """Nobody's process is killed: the operator reads whose it is."""
    host.check_output("systemd-run --unit=holder python3 -m http.server --bind 127.0.0.1 5002")
    pid = host.check_output("systemctl show --value --property=MainPID holder")
    try:
        said = control.refuse(mlflow_server_port=5002)
        assert host.service("holder").is_running
    finally:
        host.check_output("systemctl stop holder")
    assert_told(said, "5002", pid, "python3", "holder.service", "choose another port")


def test_two_names_of_one_host_with_one_instance_are_refused(control, tmp_path):
    """A line copied in the inventory: both names would write the same files, for ever in turns."""
    path = tmp_path / "hosts.yml"
    variables = f"{{ansible_host: {control.name}, ansible_connection: containers.podman.podman}}"
    path.write_text(f"mlflow: {{hosts: {{one: {variables}, two: {variables}}}}}")
    said = Control(str(path), "one:two").refuse()
    assert_told(said, "Wanted each instance once", "found one, two", "mlflow_server_instance")


def test_a_limit_does_not_hide_a_mistyped_group(control, tmp_path):
    """With --limit the check at localhost is left out by Ansible itself."""
    path = tmp_path / "hosts.yml"
    path.write_text("mlfow: {hosts: {server: {ansible_connection: local}}}")
    said = Control(str(path), "server").refuse()
    assert "Wanted at least one host in the group mlflow" in said


@pytest.fixture(scope="module")
def start(host, tmp_path_factory):
    """Return a function that starts a further, fresh host; it is removed after the last test."""
    name = f"{host.backend.name}-fresh"
    path = tmp_path_factory.mktemp("fresh") / "hosts.yml"
    path.write_text(
        f"mlflow: {{hosts: {{{name}: }}, vars: {{ansible_connection: containers.podman.podman}}}}"
    )
    control = Control(str(path), name)

    def remove():
        control.podman("rm", "--force", "--ignore", "--time=0", name)

    def function(*options, command=()):
        remove()
        image = control.podman("inspect", "--format={{.ImageName}}", host.backend.name)
        always = ["run", "--detach", f"--name={name}", "--network=mlflow-ansible"]
        control.podman(*always, *options, image, *command)
        return control

    yield function
    remove()


def test_a_host_without_systemd_is_refused(start):
    """A plain container, or WSL without it: the unit could never start."""
    said = start(command=["sleep", "infinity"]).refuse()
    assert "Wanted systemd as the host's init; found sleep as process 1" in said


@pytest.fixture(scope="module")
def fresh(start):
    """A host that has booted, and nothing else."""
    fresh = start("--systemd=always", "--privileged")
    booted = "until systemctl is-system-running --wait; do sleep 0.2; done"
    fresh.podman("exec", fresh.name, "timeout", "300", "sh", "-c", booted)
    return fresh


def ours(fresh):
    """Return what there is of us on a host, and that the search finds what there is."""
    marks = ["/etc/a-mlflow-mark", "/opt/mlflow-mark", "/var/lib/mlflow-mark"]
    fresh.podman("exec", fresh.name, "touch", *marks)
    find = ["find", "/opt", "/etc", "/var/lib", "-name", "*mlflow*"]
    found = fresh.podman("exec", fresh.name, *find).split()
    assert set(marks) <= set(found)
    return sorted(set(found) - set(marks))


def test_no_source_of_packages_in_reach_is_refused(fresh):
    """Debian's packages come first, so there is nothing of ours on the host yet."""
    file = "/etc/apt/apt.conf.d/99closed"
    closed = """printf 'Acquire::%s::Proxy "http://127.0.0.1:9";\n' http https"""
    fresh.podman("exec", fresh.name, "sh", "-c", f"{closed} > {file}")
    said = fresh.refuse()
    fresh.podman("exec", fresh.name, "rm", file)
    assert "Wanted the Debian packages python3-venv and nginx; found that a source" in said
    assert "Unable to connect to 127.0.0.1:9" in said
    assert ours(fresh) == []


def test_no_index_in_reach_leaves_no_half_of_anything(fresh):
    """What can be known only by trying leaves Debian packages behind, and nothing else."""
    said = fresh.refuse(mlflow_venv_index_url="http://operator:canary@127.0.0.1:9/simple")
    assert "found that no package index can be reached" in said
    assert "****@127.0.0.1:9" in said and "canary" not in said
    assert ours(fresh) == ["/opt/mlflow"]
