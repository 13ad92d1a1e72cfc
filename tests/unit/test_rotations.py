"""In which order a rotation works; `rotation` has each on hosts, killed at its tasks."""

from pathlib import Path

import pytest
import yaml

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"


def steps(playbook):
    """Return the roles' parts that a playbook runs, in order: role/part."""
    plays = yaml.safe_load((PLAYBOOKS / playbook).read_text())
    tasks = [task for play in plays for task in play.get("tasks", [])]
    roles = [task.get("ansible.builtin.import_role") for task in tasks]
    ran = [f"{role['name']}/{role['tasks_from']}" for role in roles if role]
    return [part.removeprefix("mlflow_ansible.tracking.") for part in ran]


@pytest.mark.parametrize(
    ("playbook", "proves", "retires"),
    [
        ("rotate_aws_credentials.yml", "mlflow_server/prove", "aws_credentials/retire"),
        ("rotate_database_password.yml", "postgresql/awake", "postgresql/rest"),
    ],
)
def test_the_old_secret_is_retired_once_all_have_the_new_one_and_that_is_verified(
    playbook, proves, retires
):
    """Retired any earlier, servers that still have it fail, and there is no way back."""
    done = steps(playbook)
    rolls, retired = done.index("mlflow_server/rotate"), done.index(retires)
    assert done.index(proves) < rolls < retired
    assert "mlflow_server/verify" in done[rolls:retired]
    assert "mlflow_server/rotate" in done[retired:], "the slots that still have it are wiped"


def test_servers_are_verified_after_each_has_other_secrets():
    done = steps("rotate_server_secrets.yml")
    assert done[-2:] == ["mlflow_server/rotate", "mlflow_server/verify"]
