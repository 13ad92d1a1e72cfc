"""Log in to MLflow as a user of the provider glewlwyd, in Debian's chromium.

Usage: python tests/support/login.py USER PASSWORD EXPERIMENT CA..., with MLflow's address in
MLFLOW_TRACKING_URI and the files of the CAs that the browser trusts. Who is let in gets an access
token, makes the experiment unless it is "", and looks at the list of experiments. Prints as JSON
which sites the browser went to, where it ended and what it shows there; of MLflow's cookies whether
no script of a page can read them, and whether they go over TLS alone; the value of the one that is
the session; and, for who is let in, the user's name as MLflow has it and the token.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from browser import Requests, chromium, trust
from playwright.sync_api import sync_playwright

# As MLflow's own pages do it, with the cookie of the session.
CALL = """async ([method, path, body]) => {
    const headers = {"Content-Type": "application/json"};
    const answer = await fetch(path, {method, headers, body: body && JSON.stringify(body)});
    return await answer.json();
}"""


def log_in(page, url, user, password):
    """Open MLflow, log in where it sends the browser to, and wait until the browser is back."""
    page.goto(url)
    page.fill("#username", user)
    page.fill("#password", password)
    page.click("#loginbut")
    grant = page.get_by_role("button", name="Grant access")
    go_on = page.get_by_role("button", name="Continue")
    grant.or_(go_on).first.wait_for()
    # What a provider asks once: may MLflow know the name and the groups?
    if grant.is_visible():
        with page.expect_response("**/api/auth/grant/**"):
            grant.click()
    go_on.click()
    page.wait_for_url(f"{url}/**")


def work(page, url, experiment):
    """Do what somebody does who is let in; return the name and the token."""
    api = "/ajax-api/2.0/mlflow"
    name = page.evaluate(CALL, ["GET", f"{api}/users/current", None])["username"]
    token = page.evaluate(CALL, ["PATCH", f"{api}/users/access-token", {}])["token"]
    if experiment:
        page.evaluate(CALL, ["POST", f"{api}/experiments/create", {"name": experiment}])
    with page.expect_response("**/experiments/search**"):
        page.goto(f"{url}/#/experiments")
        page.reload()
    return {"name": name, "token": token}


def main(user, password, experiment, *authorities):
    url = os.environ["MLFLOW_TRACKING_URI"]
    sites = []
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        trust(Path(home), *authorities)
        browser = chromium(playwright, HOME=home)
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        requests = Requests(page)
        page.on("framenavigated", lambda frame: sites.append("/".join(frame.url.split("/")[:3])))
        log_in(page, url, user, password)
        refused = "error=" in page.url
        if refused:
            page.get_by_text("not allowed").first.wait_for()
        found = {} if refused else work(page, url, experiment)
        requests.settle()
        found |= {"sites": sites, "url": page.url, "text": page.inner_text("body")}
        cookies = context.cookies(url)
        found["session"] = next((each["value"] for each in cookies if each["httpOnly"]), "")
        found["cookies"] = {each["name"]: [each["httpOnly"], each["secure"]] for each in cookies}
        browser.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
