"""Users log in at a real OpenID Connect provider, in a real browser."""

import json
import re
import subprocess
import sys
import time
import uuid
from itertools import groupby
from pathlib import Path

import crawl
import pytest
import strangers
import testinfra
from api import colour, wait_for
from canaries import on_host
from control import ROOT
from fleet import GENTLE, At, Fleet, assert_none_failed
from visitor import SEARCH, Visitor, anonymous, watched

URL = "https://oidc-debian13"
PROVIDER = "https://oidc-provider:4593"
EXPERIMENT = uuid.uuid4().hex
CLIENT_SECRET = "canary-client-secret"
DISCOVERY = f"{PROVIDER}/api/oidc/.well-known/openid-configuration"
# What docs/oidc.md says is open: the pages of the login, and the files of MLflow's page.
OPEN = "/(health|login|callback|providers|oidc/ui|oidc/static|static-files)(/|$)"
BY_NGINX = [("CONNECT", 405), ("TRACE", 405)]
# For nobody: see mlflow_server's vars. The last two are SAML's, of which there is no provider.
CLOSED = (
    "/metrics",
    "/ajax-api/2.0/mlflow/upload-artifact",
    "/ajax-api/2.0/mlflow/runs/create-promptlab-run",
    "/ajax-api/3.0/mlflow/demo",
    "/ajax-api/3.0/mlflow/gateway",
    "/api/3.0/mlflow/gateway",
    "/gateway/",
    "/api/2.0/mlflow-artifacts/mpu/",
    "/ajax-api/2.0/mlflow-artifacts/mpu/",
    "/api/2.0/mlflow-artifacts/presigned/",
    "/ajax-api/2.0/mlflow-artifacts/presigned/",
    "/api/2.0/mlflow/artifacts/presigned-",
    "/ajax-api/2.0/mlflow/artifacts/presigned-",
    "/slo/",
    "/saml/metadata/",
)
# What the app lets anybody name as a source, whose it ever is.
NAMED = {
    ("POST", "runs/log-inputs", "logged_model in models.0.model_id"),
    ("POST", "runs/outputs", "logged_model in models.0.model_id"),
}
# What the app refuses to all: an assessment that is sent again with its trace, and reviewing. And
# what a server without S3 does not have.
REFUSED = {
    ("POST", "traces"),
    ("POST", "review-queues/get-or-create-user"),
    ("POST", "review-queues/items/set-status"),
    ("POST", "mpu/create/<experiment>/files"),
}
ASK = "import httpx2, sys; httpx2.get(sys.argv[1]).raise_for_status()"
# What the administrator of the provider does.
TAKE_AWAY = """
import provider, sys
api, user = sys.argv[1:]
provider.log_in(api)
found = provider.call(f"{api}/user/{user}")
provider.call(f"{api}/user/{user}", "PUT", found | {"groups": ["other"]})
"""
ADMIN = ("admin", "canary-admin-password")
# What follows is one start after the other; it is the last test.
CHEAPER = {"mlflow_server_workers": 1}
# Without users, only the host itself may come in.
NOBODY = CHEAPER | {
    "mlflow_server_authentication": "none",
    "mlflow_server_allow_replacement": True,
    "mlflow_server_oidc": {},
    "mlflow_server_listen_address": "127.0.0.1",
}
# By then the server has stopped asking.
AFTER_THE_SERVER = At("start", "Users | Make the administrator")
ASK_AT_HOME = (
    "import ssl, sys, urllib.request as r\n"
    "print(r.urlopen(sys.argv[1], context=ssl._create_unverified_context()).status)"
)
# MLflow's own users in place of the provider's.
BASIC = CHEAPER | {
    "mlflow_server_authentication": "basic",
    "mlflow_server_admin_password": ADMIN[1],
    "mlflow_server_oidc": {},
}


@pytest.fixture(scope="module")
def browsers():
    """What each user's browser found who has logged in, by the user's name at the provider."""
    return {}


@pytest.fixture
def visitor(host):
    """Somebody who comes to the host over TLS, without a login."""
    return Visitor(host.backend.name)


@pytest.fixture
def browser(browsers, control, certificate):
    """Return a function that logs a user in, once, and tells what the browser found."""

    def log_in(user, experiment="", again=False):
        if again or user not in browsers:
            script = str(ROOT / "tests/support/login.py")
            trusted = [certificate("oidc-debian13"), certificate("oidc-provider")]
            words = [user, f"canary-{user}", experiment, *trusted]
            command = control.inside(sys.executable, script, *words)
            env = {"MLFLOW_TRACKING_URI": URL, "HOME": "/root", "PATH": "/usr/bin:/bin"}
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            browsers[user] = json.loads(done.stdout)
        return browsers[user]

    return log_in


@pytest.fixture
def ada(browser):
    """A user in a group that is let in; she makes an experiment."""
    return browser("ada", EXPERIMENT)


@pytest.fixture
def login_of(certificate):
    """Return a function that tells what the Python client of a user needs in its environment."""

    def function(user):
        login = {
            "MLFLOW_TRACKING_USERNAME": user["name"],
            "MLFLOW_TRACKING_PASSWORD": user["token"],
        }
        return login | {"MLFLOW_TRACKING_SERVER_CERT_PATH": certificate("oidc-debian13")}

    return function


def search(control, login):
    """Return the names of the experiments that the Python client finds with a login."""
    code = "import mlflow; print([each.name for each in mlflow.search_experiments()])"
    command = control.inside(sys.executable, "-c", code)
    env = {"MLFLOW_TRACKING_URI": URL, "HOME": "/root", "PATH": "/usr/bin:/bin"} | login
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_nothing_answers_without_a_login_but_what_leads_to_one(control, host, certificate):
    """Every route that the release has, MLflow's and the app's own, with each of its methods."""
    python = f"/etc/mlflow/{colour(host)}/release/bin/python"
    answers = crawl.reached_on_host(control, python, URL, certificate("oidc-debian13"))
    assert {"/health", "/login", "/callback", "/providers"} <= {each["path"] for each in answers}
    shown = [each for each in answers if not re.match(OPEN, each["path"])]
    # nginx's own word.
    shown = [each for each in shown if (each["method"], each["status"]) not in BY_NGINX]
    closed = [each for each in shown if each["path"].startswith(CLOSED) and each["status"] == 404]
    assert [each for each in shown if each not in closed] == []
    assert len(closed) > 5, "the crawl must come to what is closed"


def test_a_browser_is_sent_to_the_provider_and_told_to_come_back_here(visitor):
    """To the address that is registered there, whatever Host header was sent, and with PKCE."""
    with visitor.request("GET", "/login", Host="evil.example") as answer:
        location = answer.headers["Location"]
    assert location.startswith(f"{PROVIDER}/api/oidc/auth?")
    assert "redirect_uri=https%3A%2F%2Foidc-debian13%2Fcallback&" in location
    assert "code_challenge_method=S256" in location


def test_a_user_of_the_group_logs_in_and_sees_the_experiments(ada):
    """Through the provider and back, to MLflow's own page, with a name from the provider."""
    assert [ada["sites"][0], ada["sites"][-1]] == [PROVIDER, URL]
    assert ada["name"] == "ada@example.com"
    assert EXPERIMENT in ada["text"]


def test_nobody_but_the_server_reads_the_cookie_of_a_session(ada):
    """No script, else a hole in a page of MLflow's would give the session away; and no network."""
    assert ada["cookies"] == {"mlflow": [True, True]}


def test_a_user_of_no_group_that_is_let_in_is_refused(browser):
    """The provider knows her, and her password is right."""
    eve = browser("eve")
    assert "not allowed" in eve["text"] and "token" not in eve


def test_a_user_without_permission_does_not_see_anothers_experiment(
    ada, browser, control, login_of
):
    """Neither on the page nor with the Python client."""
    bob = browser("bob")
    assert EXPERIMENT not in bob["text"]
    assert EXPERIMENT not in search(control, login_of(bob))
    # Each worker remembers for a while what a user may see.
    wait_for(lambda: EXPERIMENT in search(control, login_of(ada)), seconds=60)


def test_nothing_of_anothers_can_be_changed(ada, browser, visitor):
    """Each request passes with Bob's things alone, so that it is Ada's name or id for which the
    same one is refused.
    """
    bob = browser("bob")
    hers, his = visitor.as_(ada["name"], ada["token"]), visitor.as_(bob["name"], bob["token"])
    of_ada = strangers.things(hers, "ada", without=("server",))
    of_bob = strangers.things(his, "bob", without=("server",))
    before = strangers.state(hers, of_ada)
    passed = strangers.passed(his, of_bob, of_ada) - strangers.HARMLESS - strangers.READING
    assert passed == NAMED
    assert not strangers.different(before, strangers.state(hers, of_ada))
    assert set(strangers.refused(his, of_bob)) == REFUSED


def test_the_provider_says_who_is_administrator(ada, browser):
    """The first one needs nobody who makes him one: the group is enough."""
    assert EXPERIMENT in browser("root")["text"]


def test_the_python_client_works_with_a_token(ada, control, login_of):
    """Experiment, run, params, metrics, tags, artifact, autolog, registry, alias, prediction."""
    done = control.client(ROOT / "demo/client.py", url=URL, **login_of(ada))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok  ") == 8, done.stdout


def test_the_certificate_of_the_provider_is_checked(host):
    """With the private CA that was given, in the way in which mlflow-oidc-auth asks."""
    slot = f"/etc/mlflow/{colour(host)}"
    ask = f"{slot}/release/bin/python -c %s %s"
    assert "CERTIFICATE_VERIFY_FAILED" in host.run(ask, ASK, DISCOVERY).stderr
    host.check_output(f"SSL_CERT_FILE={slot}/ssl_cert_file {ask}", ASK, DISCOVERY)


def test_who_has_logged_in_works_on_while_the_provider_is_down(host, visitor, ada):
    """A server may even start meanwhile. Nobody new gets in."""
    who, cookie = ("GET", "/api/2.0/mlflow/users/current"), {"Cookie": f"mlflow={ada['session']}"}

    def assert_serves_who_is_in():
        assert visitor.status(*who, **cookie) == 200
        assert visitor.as_(ada["name"], ada["token"]).status(*who) == 200
        assert visitor.status(*who) == 401

    provider = testinfra.get_host("podman://oidc-provider")
    provider.check_output("systemctl stop glewlwyd")
    try:
        assert_serves_who_is_in()
        host.check_output(f"systemctl restart mlflow-{colour(host)}")
        until = time.monotonic() + 120
        while visitor.status("GET", "/health") != 200:
            assert time.monotonic() < until, "it waits for the provider"
            time.sleep(0.5)
        assert_serves_who_is_in()
        assert visitor.status("GET", "/login") != 302, "there is nowhere to send a browser to"
    finally:
        provider.check_output("systemctl start glewlwyd")


def test_users_are_kept_beside_the_tracking_tables(host):
    """In a database of their own, as the owner made it; there is no file of them."""
    psql = "runuser -u postgres -- psql --tuples-only --no-align mlflow_oidc --command=%s"
    names = host.check_output(psql, "SELECT username FROM users ORDER BY 1").split()
    assert "ada@example.com" in names
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert host.check_output(psql, owners) == "mlflow_owner"
    assert not host.file("/var/lib/mlflow/oidc.db").exists


def test_the_secrets_are_shown_nowhere(host, ada):
    """The client's secret would let others ask the provider in our name, the key make sessions."""
    slot = f"/etc/mlflow/{colour(host)}"
    key = re.search('SECRET_KEY="(.{40})"', host.file(f"{slot}/sessions_oidc.env").content_string)
    secrets = {
        "of the client": CLIENT_SECRET,
        "key of sessions": key[1],
        "token": ada["token"],
        "session": ada["session"],
    }
    assert on_host(host.backend.name, secrets, users=("mlflow", "postgres")) == []
    for user in ("nobody", "www-data"):
        for file in ("secrets.env", "sessions_oidc.env", "ssl_cert_file"):
            assert "denied" in host.run(f"runuser -u {user} -- cat {slot}/{file}").stderr


def test_who_loses_the_group_cannot_log_in_again(browser, visitor):
    """The provider still knows her. Her token works on, as docs/oidc.md says."""
    bob, who = browser("bob"), ("GET", "/api/2.0/mlflow/users/current")
    provider = testinfra.get_host("podman://oidc-provider")
    provider.check_output("cd /root && python3 -c %s %s/api bob", TAKE_AWAY, PROVIDER)
    again = browser("bob", again=True)
    assert "not allowed" in again["text"] and "token" not in again
    assert visitor.as_(bob["name"], bob["token"]).status(*who) == 200


@pytest.fixture
def releases(control):
    """The host has the release of the other kinds of login, if another scenario has built it."""
    command = [ROOT / "molecule/shared/kept_releases", "debian-13"]
    kept = Path(subprocess.check_output(command, text=True))
    pid = control.podman("inspect", "--format={{.State.Pid}}", control.name)
    if kept.is_dir():
        copied = ["cp", "--archive", f"{kept}/.", f"/proc/{pid}/root/opt/mlflow"]
        subprocess.run(copied, check=True)


def test_another_key_for_sessions_ends_sessions_and_no_token(control, visitor, ada, certificate):
    """While clients write. Who is logged in with a browser logs in again, as the playbook says."""
    who, cookie = ("GET", "/api/2.0/mlflow/users/current"), {"Cookie": f"mlflow={ada['session']}"}
    assert visitor.status(*who, **cookie) == 200
    options = ("--write=metric", f"--login={ada['name']}:{ada['token']}")
    ca = f"--ca={certificate('oidc-debian13')}"
    with control.load(*GENTLE, *options, ca, url=URL) as counts:
        control.converge(playbook="playbooks/rotate_server_secrets.yml")
    assert_none_failed(counts)
    assert visitor.status(*who, **cookie) == 401
    assert visitor.as_(ada["name"], ada["token"]).status(*who) == 200


def test_a_switch_to_another_kind_of_login_opens_nothing(control, host, visitor, ada, releases):
    """Nor does a switch to no login at all. The front closes before the server stops asking, even
    if the run ends there, and opens once it asks again. The users of one kind are none of the
    other's; who comes back finds hers.
    """
    fleet = Fleet(control.inventory, [control.name], "oidc-provider", f"--limit={control.name}")
    adas, who = visitor.as_(ada["name"], ada["token"]), ("GET", "/api/2.0/mlflow/users/current")
    with watched(control.name) as seen:
        fleet.succeed("site.yml", **BASIC)
        assert visitor.as_(*ADMIN).whoami()["is_admin"]
        assert adas.status(*who) == 401
        code, said = fleet.start("site.yml", at=AFTER_THE_SERVER, **NOBODY).wait()
        assert code == -9, said[-4000:]
        at_home = host.check_output("python3 -c %s %s", ASK_AT_HOME, f"https://127.0.0.1{SEARCH}")
        assert at_home == "200", "the server asks nobody any more"
        assert anonymous(control.name) is None
        fleet.succeed("site.yml", **CHEAPER)
        assert adas.status(*who) == 200
        assert visitor.as_(*ADMIN).status(*who) == 401
    assert len(seen) > 100
    assert [status for status, _ in groupby(seen)] == [401, None, 401]
