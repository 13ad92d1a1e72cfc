"""What the tests of fronts share: to ask one over the network, as strictly as a client would."""

import json
import subprocess
import sys

import pytest
from logins import ADA, BOB
from visitor import Visitor

# Runs here, in the network of the host. A certificate is checked against the file, if there is one.
ASK = """
import base64, http.client, json, ssl, sys, urllib.parse
url, method, ca, user, headers, options = json.loads(sys.argv[1])
parts = urllib.parse.urlsplit(url)
if parts.scheme == "https":
    context = ssl.create_default_context(cafile=ca) if ca else ssl._create_unverified_context()
    for name, value in options.items():
        if name == "ciphers":
            context.set_ciphers(value)
        else:
            setattr(context, name, getattr(ssl.TLSVersion, value))
    connection = http.client.HTTPSConnection(parts.netloc, timeout=30, context=context)
else:
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
said = {"error": ""}
try:
    connection.connect()
    if parts.scheme == "https":
        said["version"] = connection.sock.version()
        said["certificate"] = ssl.DER_cert_to_PEM_cert(connection.sock.getpeercert(True))
    basic = "Basic " + base64.b64encode(user.encode()).decode()
    path = parts._replace(scheme="", netloc="").geturl()
    headers |= {"Authorization": basic} if user else {}
    connection.request(method, path, None, headers)
    answer = connection.getresponse()
    said |= {"status": answer.status, "headers": dict(answer.headers)}
    said["body"] = answer.read().decode()
except OSError as error:
    said["error"] = str(error)
print(json.dumps(said))
"""


@pytest.fixture
def ask(control):
    """Return a function that asks an address, and returns what was answered as a dictionary."""

    def ask(url, method="GET", ca="", user="", headers=None, **options):
        words = json.dumps([url, method, str(ca), user, headers or {}, options])
        command = control.inside(sys.executable, "-c", ASK, words)
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    return ask


@pytest.fixture
def run_logged(tmp_path):
    """A script that logs a run with an artifact and reads both back."""
    script = tmp_path / "log.py"
    script.write_text(
        "import mlflow, pathlib\n"
        "mlflow.set_experiment('tls')\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_metric('loss', 0.5)\n"
        "    mlflow.log_text('over TLS', 'said.txt')\n"
        "client = mlflow.MlflowClient()\n"
        "assert client.get_run(run.info.run_id).data.metrics == {'loss': 0.5}\n"
        "path = client.download_artifacts(run.info.run_id, 'said.txt')\n"
        "assert pathlib.Path(path).read_text() == 'over TLS'\n"
        "print('logged')\n"
    )
    return script


@pytest.fixture
def visitor(host):
    """Somebody who comes to the host over TLS, without a login."""
    return Visitor(host.backend.name)


@pytest.fixture
def ada(visitor):
    return visitor.as_(*ADA)


@pytest.fixture
def bob(visitor):
    return visitor.as_(*BOB)


@pytest.fixture
def self_signed(host, tmp_path):
    """The path of a file with the certificate of the CA that the host has made for itself."""
    path = tmp_path / "ca.pem"
    path.write_text(host.check_output("cat /etc/nginx/tls/mlflow-ca/ca.pem"))
    return str(path)


@pytest.fixture
def say(capsys):
    """Return a function that prints a measured figure, whether the test passes or not."""

    def say(text):
        with capsys.disabled():
            print(f"\n{text}", flush=True)

    return say
