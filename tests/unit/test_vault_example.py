"""The example of a vault: what it says of lookups is what AWS's stores answer."""

import re
from pathlib import Path

import boto3
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ec2 import REGION, ec2

ROOT = Path(__file__).resolve().parents[2]
LOOKUPS = re.findall(
    r'(?m)^# +vault_\w+: "(\{\{ lookup\(.*\) \}\})"$',
    (ROOT / "group_vars/mlflow/vault.yml.example").read_text(),
)


@pytest.fixture(scope="module")
def account():
    """An account with the secrets that the example speaks of, and the way to it."""
    with ec2() as account, pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in (account.environment | {"AWS_DEFAULT_REGION": REGION}).items():
            monkeypatch.setenv(name, value)
        secrets, parameters = boto3.client("secretsmanager"), boto3.client("ssm")
        secrets.create_secret(Name="mlflow/admin", SecretString="the secret")
        secrets.create_secret(Name="mlflow/rds", SecretString='{"password": "the secret"}')
        name = "/mlflow/aws_secret_access_key"
        parameters.put_parameter(Name=name, Value="the secret", Type="SecureString")
        yield account


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.usefixtures("account")
def test_a_lookup_of_the_example_finds_the_secret(lookup):
    """A wrong option would be told only by AWS, to who has just put his secrets there."""
    assert Templar(DataLoader()).template(trust_as_template(lookup)) == "the secret"


def test_there_are_lookups_in_the_example():
    assert len(LOOKUPS) == 3
