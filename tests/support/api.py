"""MLflow's API as tests use it, asked on the host itself."""

import json
import time
import uuid

SEARCH = (
    "/api/2.0/mlflow/experiments/search",
    "POST",
    '{"max_results": 1}',
    "Content-Type: application/json",
)

# Runs on the host's own Python, which is all that a fresh host has.
CODE = """
import sys, urllib.error, urllib.request
url, method, body, *headers = sys.argv[1:]
request = urllib.request.Request(
    url, body.encode() or None, dict(header.split(": ") for header in headers), method=method
)
try:
    answer = urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode())
"""


# The colour that a colour takes turns with.
OTHER = {"blue": "green", "green": "blue"}


def request(host, path, method="GET", body="", *headers, port=5000):
    """Return status and body of a request made on the host, headers given as 'Name: value'."""
    words = [f"http://127.0.0.1:{port}{path}", method, body, *headers]
    done = host.run("python3 -c %s " + " ".join(["%s"] * len(words)), CODE, *words)
    if done.rc:
        return 0, done.stderr
    status, _, answer = done.stdout.partition("\n")
    return int(status), answer.removesuffix("\n")


def call(host, api, port=5000, **fields):
    """Call the API, which must succeed, and return its answer."""
    path, content = f"/api/2.0/mlflow/{api}", "Content-Type: application/json"
    status, body = request(host, path, "POST", json.dumps(fields), content, port=port)
    assert status == 200, body
    return json.loads(body)


def create_experiment(host, port=5000):
    """Create an experiment and return its name, which is nobody else's."""
    name = uuid.uuid4().hex
    call(host, "experiments/create", port, name=name)
    return name


def has_experiment(host, name, port=5000):
    """Tell whether the server has an experiment of that name."""
    found = call(host, "experiments/search", port, max_results=10, filter=f"name = '{name}'")
    return "experiments" in found


def colour(host):
    """Return the colour that serves."""
    return host.check_output("readlink /etc/mlflow/current.sock").split("/")[-2]


def wait_for(what, seconds=300):
    """Return what a function returns once that is something; the limit is for a busy machine."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return found


def wait_until_served(host, seconds=300, port=5000):
    """Return once the database answers through the front."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status, body = request(host, *SEARCH, port=port)
        if status == 200:
            return
        time.sleep(0.5)
    raise AssertionError(f"not served within {seconds} s: {status} {body}")
