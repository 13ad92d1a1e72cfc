"""An operator's way to an EC2 instance: tags, an inventory of his own outside of this repository,
real SSH. moto has the instances; the private address of one of them is that of the test host.
"""

import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from collection import NAME as COLLECTION
from collection import environment, install
from control import ROOT
from ec2 import ec2

NAME = "mlflow-1"
PORT = 8080
GROUP_VARS = f"""
mlflow_server_listen_address: "{{{{ aws_private_ip_address }}}}"
mlflow_server_port: {PORT}
mlflow_server_allow_anonymous: true
mlflow_server_public_names: ["{{{{ inventory_hostname }}}}", "{{{{ aws_private_dns_name }}}}"]
"""
SSH_CONFIG = """
IdentityFile {folder}/key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile /dev/null
"""


@pytest.fixture(scope="module")
def address(host):
    """Where the test host is reached from here."""
    return host.check_output("hostname -I").split()[0]


@pytest.fixture(scope="module")
def account(address):
    """One instance that exists, and three that nobody may touch: nothing has their addresses."""
    with ec2() as account:
        account.ours = account.run(address, Name=NAME, role="mlflow")
        account.run("198.51.100.1", Name="not-ours")
        account.run("198.51.100.2", Name="of-another-role", role="gateway")
        stopped = account.run("198.51.100.3", Name="stopped", role="mlflow")
        account.stop(stopped["InstanceId"])
        yield account


@pytest.fixture(scope="module")
def folder(host, address, tmp_path_factory):
    """What is the operator's: an inventory, its group_vars, a key, the host keys that he trusts."""
    folder = tmp_path_factory.mktemp("operator")
    example = ROOT / "inventory/ec2.aws_ec2.yml.example"
    shutil.copyfile(example, folder / "ec2.aws_ec2.yml")
    (folder / "group_vars/mlflow").mkdir(parents=True)
    (folder / "group_vars/mlflow/main.yml").write_text(GROUP_VARS)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True
    )
    host.check_output("install --directory --owner=admin --mode=0700 ~admin/.ssh")
    key = (folder / "key.pub").read_text()
    host.check_output("printf %s > ~admin/.ssh/authorized_keys", key)
    trusted = host.file("/etc/ssh/ssh_host_ed25519_key.pub").content_string
    (folder / "known_hosts").write_text(f"{address} {trusted}\n")
    (folder / "ssh_config").write_text(SSH_CONFIG.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def site(account, folder):
    """Return a function that runs the collection's playbook, as its tarball has installed it.

    In a folder that has nothing else of ours, and with Ansible's own settings but for one.
    """
    install(folder)
    own = environment(**account.environment) | {
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        # As the README advises for an ansible.cfg of one's own.
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_SSH_COMMON_ARGS": f"-F {folder}/ssh_config",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "connections"),
    }

    def function(*arguments, **more):
        return subprocess.run(
            [
                "ansible-playbook",
                "-i",
                folder / "ec2.aws_ec2.yml",
                f"{COLLECTION}.site",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=own | more,
        )

    yield function
    # Connections that ssh would keep open for a next run.
    for socket in (folder / "connections").iterdir():
        subprocess.run(["ssh", "-O", "exit", "-S", socket, "any"], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def first_run(site):
    """The run that makes the instance a tracking server."""
    return site()


def ask(address, name):
    """Ask the server for its experiments from here under that name; return the status."""
    request = urllib.request.Request(
        f"http://{address}:{PORT}/api/2.0/mlflow/experiments/search",
        b'{"max_results": 1}',
        {"Content-Type": "application/json", "Host": f"{name}:{PORT}"},
    )
    try:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_mistyped_tag_is_refused(account, site):
    """Ansible itself would end well and do nothing."""
    instance = account.ours["InstanceId"]
    account.tag(instance, role="mlfow")
    try:
        done = site()
    finally:
        account.tag(instance, role="mlflow")
    said = " ".join(done.stdout.split())
    assert done.returncode != 0, said
    assert "Wanted at least one host in the group mlflow" in said
    found = re.search("found the groups ([a-z0-9_, ]+) in", said)[1]
    assert set(found.split(", ")) == {"aws_ec2", "gateway", "mlfow"}
    assert "the tag that inventory/ec2.aws_ec2.yml.example names" in said


def test_a_host_whose_key_is_not_known_is_not_trusted(folder, site):
    """An address becomes another machine's some day; host key checking is never turned off."""
    done = site(
        ANSIBLE_SSH_COMMON_ARGS=f"-F {folder}/ssh_config -o UserKnownHostsFile={os.devnull}",
        # Not through a connection that is open already.
        ANSIBLE_SSH_CONTROL_PATH_DIR=str(folder / "none"),
    )
    assert done.returncode != 0
    assert "Host key verification failed" in " ".join(done.stdout.split()), done.stdout


def test_site_makes_the_instance_a_tracking_server(first_run, address):
    """Over SSH, as admin who becomes root; neither of the two that are not in the inventory."""
    assert first_run.returncode == 0, first_run.stdout
    assert re.search(rf"^{NAME} +: ok=", first_run.stdout, re.MULTILINE), first_run.stdout
    assert "not-ours" not in first_run.stdout and "stopped" not in first_run.stdout
    assert ask(address, address) == 200


def test_the_group_vars_beside_the_inventory_hold(first_run, account, address):
    """Address, port and names come from there; the names are those that AWS gave."""
    assert ask(address, account.ours["PrivateDnsName"]) == 200
    assert ask(address, NAME) == 200
    assert ask(address, "mlflow.example.com") == 403


def test_a_second_run_changes_nothing_and_copies_nothing(first_run, site, host, address):
    """Modules go through ssh's standard input: a copy would cost two more round trips each."""
    done = site("-vvv")
    assert done.returncode == 0, done.stdout
    assert re.search(rf"^{NAME} +: ok=\d+ +changed=0 ", done.stdout, re.MULTILINE), done.stdout
    steps = re.findall(r"^<(\S+)> (SSH: EXEC|PUT)", done.stdout, re.MULTILINE)
    assert set(steps) == {(address, "SSH: EXEC")}, "a file was copied, or another host was touched"
    assert not host.file("/home/admin/.ansible").exists
