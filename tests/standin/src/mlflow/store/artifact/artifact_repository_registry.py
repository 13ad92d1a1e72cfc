"""Artifact stores on disk and in S3, as probe.py and the server use them."""

import os
from pathlib import Path


class Store:
    """What MLflow's own stores do, by `put`, `get` and `delete_artifacts` of each kind."""

    def log_artifact(self, path: str) -> None:
        self.put(Path(path).name, Path(path).read_bytes())

    def download_artifacts(self, name: str, folder: str) -> str:
        path = Path(folder, name)
        path.write_bytes(self.get(name))
        return str(path)


class Disk(Store):
    def __init__(self, uri: str):
        self.root = Path(uri.removeprefix("file://"))

    def put(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def delete_artifacts(self, name: str) -> None:
        (self.root / name).unlink()


class S3(Store):
    def __init__(self, uri: str):
        import boto3

        self.client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
        self.bucket, _, self.folder = uri.removeprefix("s3://").partition("/")

    def where(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.folder}/{name}".lstrip("/")}

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(**self.where(name), Body=content)

    def get(self, name: str) -> bytes:
        return self.client.get_object(**self.where(name))["Body"].read()

    def delete_artifacts(self, name: str) -> None:
        self.client.delete_object(**self.where(name))


def get_artifact_repository(uri: str) -> Store:
    return S3(uri) if uri.startswith("s3://") else Disk(uri)
