"""Make the client and the users of the test in a new glewlwyd, by its administration API.

Runs on the provider's host. Reads its settings as JSON: url, client_secret, redirect_uri and users,
each with username, email and groups; the password of each is canary- and the name.
"""

import http.cookiejar
import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

KEY = "/etc/glewlwyd/tls.key"
ADMINISTRATOR = {"username": "admin", "password": "password"}  # of the database as it is shipped
SCOPES = ["openid", "email", "profile"]

opener = urllib.request.build_opener(
    urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
    urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile="/etc/glewlwyd/tls.pem")),
)


def call(url, method="GET", body=None):
    """Call the API and return its answer; a refusal ends the script."""
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None)
    request.method = method
    request.add_header("Content-Type", "application/json")
    try:
        return json.loads(opener.open(request, timeout=10).read() or "null")
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {url} answered {error.code}: {error.read().decode()}")


def log_in(api):
    for _ in range(100):
        try:
            return call(f"{api}/auth/", "POST", ADMINISTRATOR)
        except urllib.error.URLError:  # it is not up yet
            time.sleep(0.1)
    sys.exit(f"{api} does not answer")


def main(settings):
    api = f"{settings['url']}/api"
    log_in(api)

    # Users have groups.
    users = call(f"{api}/mod/user/database")
    users["parameters"]["data-format"]["groups"] = {"multiple": True, "read": True, "write": True}
    call(f"{api}/mod/user/database", "PUT", users)
    call(f"{api}/mod/user/database/reset/", "PUT")

    words = ["openssl", "pkey", "-in", KEY]
    private, public = (subprocess.check_output(words + more) for more in ([], ["-pubout"]))
    groups = {"name": "groups", "user-property": "groups", "type": "string", "mandatory": True}
    parameters = {
        "iss": f"{api}/oidc",
        "jwt-type": "ecdsa",
        "jwt-key-size": "256",
        "key": private.decode(),
        "cert": public.decode(),
        "auth-type-code-enabled": True,
        "pkce-allowed": True,
        "jwks-show": True,
        "allowed-scope": SCOPES,
        "email-claim": "mandatory",
        "name-claim": "mandatory",
        "claims": [groups],
    }
    plugin = {"module": "oidc", "name": "oidc", "display_name": "OIDC", "parameters": parameters}
    call(f"{api}/mod/plugin/", "POST", plugin)
    for scope in SCOPES[1:]:
        call(f"{api}/scope/", "POST", {"name": scope, "display_name": scope})
    client = {
        "client_id": "mlflow",
        "name": "MLflow",
        "client_secret": settings["client_secret"],
        "confidential": True,
        "redirect_uri": [settings["redirect_uri"]],
        "authorization_type": ["code"],
        "token_endpoint_auth_method": ["client_secret_basic"],
        "scope": [],
        "enabled": True,
    }
    call(f"{api}/client/", "POST", client)
    for user in settings["users"]:
        own = {"password": f"canary-{user['username']}", "scope": SCOPES, "enabled": True}
        call(f"{api}/user/", "POST", user | own)


if __name__ == "__main__":
    main(json.load(sys.stdin))
