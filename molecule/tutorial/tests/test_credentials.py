"""A user's own credentials, where clients go to S3 themselves: what `aws configure` would write."""

import pytest

group = "tutorial-direct"

OWN = "[other]\naws_access_key_id = OWN\naws_secret_access_key = own\n"

# As a notebook would: a run with an artifact, with nothing of S3 set by hand.
LOG = """
import mlflow
mlflow.set_tracking_uri("http://127.0.0.1:5000")
with mlflow.start_run(experiment_id="0") as run:
    mlflow.log_text("direct", "note.txt")
print(mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt"))
"""


@pytest.fixture(scope="module")
def ada(host):
    """A user of the release's Python with AWS credentials of her own, for something else."""
    host.check_output("useradd --create-home --groups mlflow ada")
    host.check_output("install -d -o ada -m 0700 ~ada/.aws")
    host.check_output("printf %s > ~ada/.aws/credentials", OWN)
    host.check_output("chown ada ~ada/.aws/credentials")


# What gives ada the credentials.
GIVE = {
    "playbook": "molecule/tutorial/credentials.yml",
    "test_host": "tutorial-direct",
    "aws_credentials_user": "ada",
}


def test_a_user_logs_to_s3_with_nothing_set_by_hand(control, host, ada):
    """And what she has for other things stays as it is."""
    said = control.converge(**GIVE)
    assert "canary" not in said, said
    python = "/etc/mlflow/wanted/release/bin/python"
    said = host.check_output("su - ada -c %s", f"{python} -c '{LOG}' 2>&1")
    assert said.splitlines()[-1] == "direct"
    text = host.check_output("cat ~ada/.aws/credentials")
    assert OWN in text and "aws_access_key_id = AKIATUTORIAL" in text
    modes = host.check_output("stat --format='%a %U' ~ada/.aws/credentials ~ada/.aws/config")
    assert modes.splitlines() == ["600 ada"] * 2
    control.settled(**GIVE)


def test_a_key_that_is_refused_is_told_at_once(control, ada):
    """Not in the night, after a training of eight hours."""
    said = control.refuse(**GIVE, aws_credentials_access_key_id="AKIANOBODY")
    assert "InvalidAccessKeyId" in said and "s3://tutorial/direct" in said, said


def test_a_key_goes_where_the_instance_has_a_profile(control, host, ada):
    """It would go before the profile."""
    control.converge(
        **GIVE,
        aws_credentials_mode="instance_profile",
        aws_credentials_secret_access_key="",
        aws_credentials_probe_uri="",
    )
    assert "AKIA" not in host.check_output("cat ~ada/.aws/credentials")
    assert OWN in host.check_output("cat ~ada/.aws/credentials")
