"""The inventories of EC2 instances, as they are in inventory/, against the API that moto answers.

What they give is what is asked; that hosts can be reached by it is for the scenario `ec2`.
"""

import os
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader
from ec2 import REGION, ec2

ROOT = Path(__file__).resolve().parents[2]
SSH = ROOT / "inventory/ec2.aws_ec2.yml.example"
SSM = ROOT / "inventory/ec2-ssm.aws_ec2.yml.example"


@pytest.fixture(scope="module")
def account():
    """An account with instances of ours and of others."""
    with ec2() as account:
        account.named = account.run("10.0.0.11", public=True, Name="mlflow-1", role="mlflow")
        account.nameless = account.run("10.0.0.12", public=True, role="mlflow")
        account.run("10.0.0.13", public=True, Name="both", role="database mlflow")
        account.run("10.0.0.14", public=True, Name="ada", role="mlflow_clients")
        account.run("10.0.0.15", public=True, Name="not-ours")
        stopped = account.run("10.0.0.16", public=True, Name="stopped", role="mlflow")
        account.stop(stopped["InstanceId"])
        yield account


@pytest.fixture
def read(account, monkeypatch, tmp_path):
    """Return a function that reads an example, with changes, as Ansible reads it from a file."""
    for name, value in account.environment.items():
        monkeypatch.setenv(name, value)

    def function(example, *changes):
        text = example.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / example.name.removesuffix(".example")
        path.write_text(text)
        # What cannot be read is an error here, where it is a warning on the command line.
        monkeypatch.setattr("ansible.constants.INVENTORY_ANY_UNPARSED_IS_FAILED", True)
        return InventoryManager(DataLoader(), sources=[str(path)])

    return function


def groups(inventory):
    """Return the hosts of each group that an instance's tag may name."""
    return {
        name: set(hosts)
        for name, hosts in inventory.get_groups_dict().items()
        if name not in ("all", "ungrouped", "aws_ec2")
    }


def variables(inventory):
    return {host.name: host.get_vars() for host in inventory.get_hosts()}


def test_running_instances_with_our_tag_are_found_in_its_groups(account, read):
    """No other instance may become a host: a play would change it."""
    inventory = read(SSH)
    assert groups(inventory) == {
        "mlflow": {"mlflow-1", account.nameless["InstanceId"], "both"},
        "database": {"both"},
        "mlflow_clients": {"ada"},
    }
    assert "not-ours" not in variables(inventory)


def test_a_host_is_reached_at_its_private_address_as_the_images_user(account, read):
    """Within the VPC, or through a VPN or a bastion, as most are."""
    found = variables(read(SSH))["mlflow-1"]
    assert found["ansible_host"] == "10.0.0.11"
    assert found["ansible_user"] == "admin"
    assert found["aws_private_dns_name"] == account.named["PrivateDnsName"]
    assert "tags" not in found, "a word of Ansible's own, about which it warns in every run"


def test_one_word_turns_to_the_public_address(account, read):
    """The comment in the file says so."""
    found = variables(read(SSH, ("host: aws_private_ip", "host: aws_public_ip")))
    assert found["mlflow-1"]["ansible_host"] == account.named["PublicIpAddress"]


def test_an_instance_without_a_public_address_is_an_error(account, read, capfd):
    """Else Ansible would connect to whatever machine the Name tag resolves to."""
    private = account.run("10.0.0.20", Name="private", role="mlflow")
    try:
        with pytest.raises(AnsibleError, match="failed to parse"):
            read(SSH, ("host: aws_private_ip", "host: aws_public_ip"))
        said = capfd.readouterr().err
        assert "host private: 'aws_public_ip_address' is undefined" in said
    finally:
        account.stop(private["InstanceId"])


def test_an_instance_without_the_tag_does_no_harm(read):
    """To who goes without the filter: it is in no group, and the others are found all the same."""
    inventory = read(SSH, ("  tag-key: mlflow-ansible\n", ""))
    assert "not-ours" in variables(inventory)
    assert set(groups(inventory)) == {"mlflow", "database", "mlflow_clients"}


def test_instances_of_one_name_are_hosts_of_their_own_by_their_ids(account, read):
    """As the comment in the file says; an autoscaling group gives all the same Name."""
    twins = [account.run(f"10.0.0.{end}", Name="twin", role="mlflow") for end in (30, 31)]
    ids = {twin["InstanceId"] for twin in twins}
    try:
        assert "twin" in groups(read(SSH))["mlflow"]
        assert ids <= groups(read(SSH, ("  - tag:Name\n", "")))["mlflow"]
    finally:
        for twin in ids:
            account.stop(twin)


def test_a_host_is_reached_by_its_id_through_systems_manager(account, read):
    """A session cannot be had here: what the connection makes of the variables is what is asked."""
    inventory = read(SSM)
    assert groups(inventory) == groups(read(SSH))
    found = variables(inventory)["mlflow-1"]
    assert found["ansible_host"] == "10.0.0.11", "which is also among the server's names"
    connection = connection_loader.get(found["ansible_connection"], PlayContext(), os.devnull)
    connection.set_options(var_options=found)
    options = {name: connection.get_option(name) for name in ("bucket_name", "region")}
    assert options == {"bucket_name": "my-bucket", "region": REGION}
    assert connection.instance_id == account.named["InstanceId"]
