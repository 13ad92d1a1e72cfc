"""Asks the tracking server as its user's own programs will, with MLflow's client and environment.

Prints JSON: what was found and what to do about it, or nothing of the two if all is well; and
whether the server answers. One that wants a login does: who has none yet can have its address.
"""

import configparser
import json
import os
import re

LOGIN = r"error code 401\b"
# What MLflow's client says when it fails, what that means and what to do, the most telling first.
FAILURES = [
    (
        r"Invalid Host header",
        "that the server refuses this name (403, Invalid Host header)",
        "add the name to those that the server answers to (mlflow_server_public_names, or "
        "MLFLOW_SERVER_ALLOWED_HOSTS of a server made otherwise), or use one of those",
    ),
    (
        LOGIN,
        "that the server wants a name and a password (401)",
        "let the user put theirs into ~/.mlflow/credentials: a section [mlflow] with "
        "mlflow_tracking_username and mlflow_tracking_password, or correct what is there",
    ),
    (
        r"error code 403\b",
        "that the server does not let this user or machine in (403)",
        "give the user the permission, or let the machine through the proxy on the way",
    ),
    (
        r"Connection refused",
        "a connection that is refused",
        "start the server, correct the port, or let the server listen on an address that this "
        "machine reaches",
    ),
    (
        r"Failed to resolve|Name or service not known|NameResolutionError",
        "a name that this machine cannot resolve",
        "correct the name, or make it known to this machine",
    ),
    (
        r"timed out|Timeout|No route to host|unreachable",
        "no answer",
        "open the way (security group, firewall, VPN), or correct the address",
    ),
    (
        r"Missing (Authority|Subject) Key Identifier",
        "a certificate without the key identifiers that Python asks for since 3.13",
        "have the authority issue the server's certificate with them",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "a certificate that MLflow's client does not trust",
        "give your authority's certificate, or the server's self-signed one, in mlflow_client_ca",
    ),
    (
        r"WRONG_VERSION_NUMBER|wrong version number",
        "a server that does not speak TLS there",
        "write http:// instead of https://, or correct the port",
    ),
    (
        r"error code 404\b|not in a valid JSON format",
        "something else than MLflow there",
        "correct the address or the port",
    ),
    (
        r"too many 50\d error responses|error code 50\d\b",
        "a server in front of MLflow, and none behind it that works",
        "look at the server's journal",
    ),
]


def explain(said: str) -> tuple[str, str]:
    """Return what was found and what to do, for what MLflow's client says."""
    for pattern, found, remedy in FAILURES:
        if re.search(pattern, said):
            return found, remedy
    last = said.strip().splitlines()[-1][:300] if said.strip() else "an error without a word"
    return last, "fix what it says"


def main():
    # A retry would only make the error late.
    os.environ.update(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT="10")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    said = found = remedy = ""
    try:
        MlflowClient().search_experiments(max_results=1)
    except MlflowException as error:
        said = str(error)
        found, remedy = explain(said)
    except configparser.Error as error:
        said = found = f"a ~/.mlflow/credentials that cannot be read ({type(error).__name__})"
        remedy = "write each % of a password in it as %%, and see to its section [mlflow]"
    answers = not said or bool(re.search(LOGIN, said))
    print(json.dumps({"answers": answers, "found": found, "remedy": remedy}))


if __name__ == "__main__":
    main()
