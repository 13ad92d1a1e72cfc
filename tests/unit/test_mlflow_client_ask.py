"""What the operator is told when a server does not answer as MLflow's client says it."""

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
        (BROKEN.format("[SSL: WRONG_VERSION_NUMBER]"), "not speak TLS", "http://"),
        ("first\nsomething new", "something new", "fix what it says"),
        ("", "an error without a word", "fix"),
    ],
)
def test_what_the_client_says_is_put_into_what_to_do(said, found, remedy):
    """As MLflow 3.17.2 words it, seen with servers that answer so."""
    said_found, said_remedy = ask.explain(said)
    assert found in said_found and remedy in said_remedy
