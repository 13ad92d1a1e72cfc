"""What the operator is told when a server does not answer as MLflow's client says it."""

import json
import os
import subprocess
import sys

import ask
import pytest

STATUS = "API request to endpoint /api/2.0/x failed with error code {} != 200. Response body: '{}'"
BROKEN = "failed with exception HTTPConnectionPool(host='h', port=1): Max retries exceeded ({})"


@pytest.mark.parametrize(
    ("said", "found", "remedy"),
    [
        (STATUS.format(403, "Invalid Host header - x"), "refuses this name", "public_names"),
        (STATUS.format(403, "no"), "let this user or machine in (403)", "permission"),
        (STATUS.format(401, "no"), "a password (401)", "~/.mlflow/credentials"),
        (STATUS.format(404, "<html>"), "something else than MLflow", "address or the port"),
        ("the response body was not in a valid JSON format.", "something else", "port"),
        (BROKEN.format("too many 502 error responses"), "none behind it", "journal"),
        (BROKEN.format("[Errno 111] Connection refused"), "is refused", "start the server"),
        (BROKEN.format("Failed to resolve 'h'"), "cannot resolve", "correct the name"),
        (BROKEN.format("Read timed out."), "no answer", "firewall"),
        (BROKEN.format("CERTIFICATE_VERIFY_FAILED"), "a certificate", "mlflow_client_ca"),
        (
            BROKEN.format(
                "CERTIFICATE_VERIFY_FAILED] certificate: Missing Authority Key Identifier"
            ),
            "without the key identifiers",
            "issue",
        ),
        (BROKEN.format("[SSL: WRONG_VERSION_NUMBER]"), "not speak TLS", "http://"),
        ("first\nsomething new", "something new", "fix what it says"),
        ("", "an error without a word", "fix"),
    ],
)
def test_what_the_client_says_is_put_into_what_to_do(said, found, remedy):
    """As MLflow 3.17.2 words it, seen with servers that answer so."""
    said_found, said_remedy = ask.explain(said)
    assert found in said_found and remedy in said_remedy


def test_a_password_with_a_percent_sign_is_explained(tmp_path):
    """MLflow reads the file as one in which % begins the name of another value."""
    (tmp_path / ".mlflow").mkdir()
    words = "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = a%b-c\n"
    (tmp_path / ".mlflow/credentials").write_text(words)
    environment = os.environ | {"HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, ask.__file__], env=environment, capture_output=True, text=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert not said["answers"] and "%%" in said["remedy"], done
    assert "a%b-c" not in done.stdout + done.stderr
