"""Prove that the artifact store of a slot takes, returns and deletes an object.

Run as the service user, with the slot's environment and the slot's release, while the server of
the slot starts. The server itself refuses to start on a database that does not answer or is at
another schema revision than its own. Exits 0 and says nothing, or exits 1 and says on standard
error what was wanted, what was found and what to do.
"""

import os
import sys
import tempfile
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

# One fixed name, so that a probe that was killed leaves at most this one object.
PROBE = "mlflow-server-probe"


def main() -> int:
    uri = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    step = "open"
    try:
        store = get_artifact_repository(uri)
        with tempfile.TemporaryDirectory() as sent, tempfile.TemporaryDirectory() as returned:
            Path(sent, PROBE).write_text(PROBE)
            step = "put"
            store.log_artifact(str(Path(sent, PROBE)))
            step = "get"
            if Path(store.download_artifacts(PROBE, returned)).read_text() != PROBE:
                raise ValueError("another content came back than was put")
            step = "delete"
            store.delete_artifacts(PROBE)
    except Exception as error:  # each kind of store raises its own
        print(
            f"Wanted to put, get and delete {PROBE} in the artifact store {uri}; found that {step} "
            f"failed with {type(error).__name__}: {error}; give the service that right.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
