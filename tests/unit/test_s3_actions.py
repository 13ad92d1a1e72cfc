"""Which actions of S3 a key needs: MLflow's own code against AWS's rules, as moto has them.

The scenario `tutorial` has a real server, whose store asks for no rights.
"""

import json
import os
import re
from pathlib import Path

import boto3
import probe
import pytest
from mlflow.store.artifact import s3_artifact_repo
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from moto import mock_aws
from moto.core.authorization import enable_iam_authentication

README = Path(__file__).resolve().parents[2] / "roles/aws_credentials/README.md"
BUCKET, PREFIX = "guarded", "mlflow"
URI = f"s3://{BUCKET}/{PREFIX}"
# boto3 sends a file in parts from 8 MiB on.
LARGE_BYTES = 9 * 2**20


def documented():
    """Return the actions that the role's README says are enough, without `s3:`."""
    (text,) = re.findall(r"The key needs five actions.*?\n\n", README.read_text(), re.DOTALL)
    return set(re.findall(r"`s3:(\w+)`", text))


FIVE = documented()


def policy(actions):
    """Return a policy for these actions, each where the README says that it is needed."""
    bucket = f"arn:aws:s3:::{BUCKET}"
    below = f"{bucket}/{PREFIX}/*"
    # Where several are deleted AWS asks for the right to each object, moto for that to the bucket.
    places = {"ListBucket": [bucket], "DeleteObject": [bucket, below]}
    statements = [
        {"Effect": "Allow", "Action": f"s3:{action}", "Resource": places.get(action, [below])}
        for action in sorted(actions)
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@pytest.fixture
def aws(monkeypatch):
    """Return a function that allows actions to a user whose key is in the environment."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        boto3.Session().client("s3").create_bucket(Bucket=BUCKET)
        iam = boto3.Session().client("iam")
        iam.create_user(UserName="mlflow")
        key = iam.create_access_key(UserName="mlflow")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])

        def allow(actions):
            # Both keep a key, as a process does that serves.
            monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
            s3_artifact_repo._cached_get_s3_client.cache_clear()
            document = policy(actions)
            iam.put_user_policy(UserName="mlflow", PolicyName="s3", PolicyDocument=document)
            return enable_iam_authentication()

        yield allow
    s3_artifact_repo._cached_get_s3_client.cache_clear()


def uploads_left():
    """Return how many uploads in parts S3 still keeps, and charges for."""
    found = boto3.Session().client("s3").list_multipart_uploads(Bucket=BUCKET)
    return len(found.get("Uploads", []))


def cut_off(path):
    """Upload a large file of which one part does not arrive."""
    store = get_artifact_repository(URI)

    def lost(params, **_):
        if "partNumber=2" in params["url"]:
            raise ConnectionError("lost")

    store._get_s3_client().meta.events.register("before-call.s3.UploadPart", lost)
    with pytest.raises(ConnectionError):
        store.log_artifact(path)


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(LARGE_BYTES))
    return path


def test_five_actions_are_enough(aws, large, tmp_path):
    """For the probe, and for a file in parts that comes back, is listed and deleted."""
    assert len(FIVE) == 5
    with aws(FIVE):
        probe.check_artifacts(URI)
        store = get_artifact_repository(URI)
        store.log_artifact(str(large), "run/files")
        assert [each.path for each in store.list_artifacts("run/files")] == [
            "run/files/weights.bin"
        ]
        (tmp_path / "back").mkdir()
        back = store.download_artifacts("run/files", str(tmp_path / "back"))
        assert Path(back, "weights.bin").read_bytes() == large.read_bytes()
        store.delete_artifacts("run")
        assert store.list_artifacts("run/files") == []


def test_an_upload_that_breaks_off_leaves_nothing_that_costs(aws, large):
    """The right to abort one is what nobody misses until the bill."""
    with aws(FIVE):
        cut_off(large)
    assert uploads_left() == 0
    with aws(FIVE - {"AbortMultipartUpload"}):
        cut_off(large)
    assert uploads_left() == 1


@pytest.mark.parametrize("missing", sorted(FIVE - {"AbortMultipartUpload"}))
def test_a_right_that_is_missing_is_named(aws, missing):
    """An upload that works today and a delete that fails next month is the worst of both."""
    with aws(FIVE - {missing}), pytest.raises(probe.Refusal) as refusal:
        probe.check_artifacts(URI)
    said = str(refusal.value)
    assert f"s3:{missing}" in said and URI in said
    assert [other for other in FIVE - {missing} if f"s3:{other}" in said] == []


def objects():
    return boto3.Session().client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])


def test_a_look_reads_what_nobody_has_put_there(aws, monkeypatch):
    """In check mode: the rights that can be asked for without a change."""
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", URI)
    reads = {"ListBucket", "GetObject"}
    with aws(reads):
        probe.look_at_artifacts()
    for missing in reads:
        with aws(reads - {missing}), pytest.raises(probe.Refusal, match=f"add s3:{missing} for"):
            probe.look_at_artifacts()
    assert objects() == []
