"""What a data scientist does in a day, with the real MLflow client: one line for each thing proven.

Usage: MLFLOW_TRACKING_URI=http://HOST:5000 python demo/client.py
Exits 1 at the first thing that does not come back as it was sent.
"""

import os
import sys
import tempfile
import uuid
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def check(what: str, wanted: object, found: object) -> None:
    """Print what holds, or exit with what was wanted and what was found."""
    if wanted != found:
        sys.exit(f"FAILED  {what}: wanted {wanted!r}, found {found!r}")
    print(f"ok  {what}")


def track() -> None:
    """Log a run and read it back."""
    name = f"demo-{uuid.uuid4().hex[:8]}"
    mlflow.set_experiment(name)
    with mlflow.start_run(run_name="first") as run:
        mlflow.log_params({"learning_rate": 0.1, "layers": 3})
        for step in range(5):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.set_tag("team", "demo")
    client = MlflowClient()
    found = client.get_run(run.info.run_id)
    check("experiment", name, client.get_experiment(found.info.experiment_id).name)
    check("run", "FINISHED", found.info.status)
    check("params", {"learning_rate": "0.1", "layers": "3"}, found.data.params)
    losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")]
    check("metrics", [1 / (step + 1) for step in range(5)], losses)
    check("tags", "demo", found.data.tags["team"])

    # boto3 sends what is larger than 8 MiB to S3 in parts.
    sent = os.urandom(9_000_000)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "weights.bin").write_bytes(sent)
        client.log_artifact(run.info.run_id, str(Path(folder, "weights.bin")), "files")
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run.info.run_id, "files/weights.bin", folder)
        check("artifact of 9 MB up and down", True, Path(path).read_bytes() == sent)


def register() -> None:
    """Train with autolog, register the model, give it an alias, load it by that and predict."""
    name = f"iris-{uuid.uuid4().hex[:8]}"
    features, labels = load_iris(return_X_y=True)
    mlflow.sklearn.autolog(registered_model_name=name, silent=True)
    with mlflow.start_run(run_name="autolog"):
        trained = LogisticRegression(max_iter=500).fit(features, labels)
    client = MlflowClient()
    client.set_registered_model_alias(name, "champion", "1")
    # A number without a server, and a text with one.
    version = client.get_model_version_by_alias(name, "champion").version
    check("registered model", "1", str(version))
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    wanted = trained.predict(features).tolist()
    check("predictions of the loaded model", wanted, loaded.predict(features).tolist())


if __name__ == "__main__":
    print(f"MLflow client {mlflow.__version__} against {mlflow.get_tracking_uri()}")
    track()
    register()
