"""MLflow's UI in a real browser, Debian's chromium: what a user sees, and every error on the way.

The server's certificate is trusted as on a user's machine: its CA is put into the certificate store
of a home that lasts as long as the visit. So a certificate that is not right fails the visit.
`tools/apt chromium libnss3-tools` installs what this needs.

Usage: python browser.py URL --experiment ID --run ID --metric NAME --model NAME [--ca FILE]
           [--artifact NAME] [--user NAME] [--picture FILE.png]
The password is in MLFLOW_TRACKING_PASSWORD.
Prints JSON; exits 1 if there was an error.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from playwright.sync_api import Error, sync_playwright

# Nothing of the browser's own goes out: the test hosts' machine may have no internet.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The button of the artifact's view that has an arrow and no text.
DOWNLOAD = '[data-component-id$="experiment-tracking_components_artifactview.tsx_337"]'
HISTORY = re.compile("/mlflow/metrics/get-history")


# Two, as the first may be for what was to be drawn before.
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Requests:
    """The requests for data of a page that are under way. A page of MLflow's goes on asking, so it
    is never idle for long; it is settled once all that it has asked for is answered and drawn.
    """

    def __init__(self, page):
        self.page, self.open = page, set()
        page.on("request", self.begin)
        page.on("requestfinished", self.end)
        page.on("requestfailed", self.end)

    def begin(self, request) -> None:
        # The end of a worker's script is not reported.
        if request.resource_type in ("fetch", "xhr"):
            self.open.add(request)

    def end(self, request) -> None:
        self.open.discard(request)

    def settle(self, seconds: float = 60) -> None:
        """Wait until the page is settled."""
        until = time.monotonic() + seconds
        while True:
            self.page.evaluate(DRAWN)
            if not self.open:
                return
            if time.monotonic() > until:
                raise Error(f"no answer to {', '.join(each.url for each in self.open)}")
            self.page.wait_for_timeout(50)


@dataclass
class Visit:
    """What came of a visit; all lists but `answered` are empty if all was well.

    `answered` has every request as method, path and status, for those who ask what was asked.
    """

    console: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    downloaded: str = ""
    answered: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """All that was not well."""
        return [
            *self.missing,
            *self.page_errors,
            *self.console,
            *self.failed,
            *self.refused,
            *self.elsewhere,
        ]

    def histories(self) -> list[tuple[str, str, int]]:
        """Return the requests for the data of charts."""
        return [answer for answer in self.answered if HISTORY.search(answer[1])]

    def watch(self, page) -> None:
        """Note all that goes wrong on a page, also what it asks of another server."""

        def on_console(message):
            if message.type == "error":
                where = message.location.get("url", "")
                self.console.append(f"{page.url}: {message.text} ({where})")

        def on_failure(request):
            # A page that is left gives up what it still asked for.
            if request.failure != "net::ERR_ABORTED":
                self.failed.append(f"{request.method} {request.url}: {request.failure}")

        def on_response(response):
            request, parts = response.request, urlsplit(response.url)
            self.answered.append((request.method, parts.path, response.status))
            # At first the page is about:blank.
            if parts.netloc and urlsplit(page.url).netloc not in ("", parts.netloc):
                self.elsewhere.append(response.url)
            if response.status >= 400:
                self.refused.append(f"{request.method} {response.url}: {response.status}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: self.page_errors.append(f"{page.url}: {error}"))
        page.on("requestfailed", on_failure)
        page.on("response", on_response)


def chromium(playwright, **environment: str):
    """Start Debian's chromium, with some environment variables."""
    path = "/usr/bin/chromium"
    environment = os.environ | environment
    return playwright.chromium.launch(executable_path=path, args=OPTIONS, env=environment)


def trust(home: Path, *files: str) -> None:
    """Have a browser with that home trust CAs, as certutil does it for a user."""
    store = home / ".pki/nssdb"
    store.mkdir(parents=True)
    add = [["-A", "-n", file, "-t", "CP,,", "-i", file] for file in files]
    for command in (["-N", "--empty-password"], *add):
        subprocess.run(["certutil", "-d", f"sql:{store}", *command], check=True)


def visit(
    url: str,
    experiment: str,
    run: str,
    metric: str,
    model: str,
    user: str = "",
    password: str = "",
    ca: str | None = None,
    picture: str | None = None,
    artifact: str | None = None,
) -> Visit:
    """Log in, and look at experiments, one of them, a run's chart, and a registered model.

    And download an artifact of the run, if there is one.

    Args:
        url: Address of the server.
        experiment: Id of an experiment.
        run: Id of a run in it.
        metric: Name of a metric of the run, logged at several steps.
        model: Name of a registered model with a version.
        user: Who logs in when the server asks; nobody if empty.
        password: The user's.
        ca: File with the certificate of the CA to trust.
        picture: Where to put a picture of the chart.
        artifact: Name of a small text that the run has logged.
    """
    seen = Visit()
    pages = [
        ("experiments", f'a[href*="/experiments/{experiment}"]'),
        (f"experiments/{experiment}/runs", f'a[href*="/runs/{run}"]'),
        # The chart is drawn of what is asked for after the page is there.
        (f"experiments/{experiment}/runs/{run}/model-metrics", ".js-plotly-plot .plot-container"),
        (f"models/{quote(model)}", f'a[href*="/models/{quote(model)}/versions/"]'),
    ]
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        if ca:
            trust(Path(home), ca)
        browser = chromium(playwright, HOME=home, NO_PROXY="*", no_proxy="*")
        options = {"viewport": {"width": 1280, "height": 720}}
        if user:
            options["http_credentials"] = {"username": user, "password": password}
        page = browser.new_context(**options).new_page()
        seen.watch(page)
        requests = Requests(page)
        for number, (path, wanted) in enumerate(pages):
            try:
                if number == 2:
                    with page.expect_response(HISTORY, timeout=60_000):
                        page.goto(f"{url}/#/{path}")
                else:
                    answer = page.goto(f"{url}/#/{path}")
                    if answer and not answer.ok:
                        seen.missing.append(f"{path}: answered with {answer.status}")
                        break
                page.locator(wanted).first.wait_for(timeout=60_000)
                requests.settle()
            except Error as error:
                seen.missing.append(f"{path}: {str(error).splitlines()[0]}; wanted {wanted}")
                continue
            if number == 2 and metric not in page.inner_text("body"):
                seen.missing.append(f"{path}: the metric {metric} is not shown")
            if number == 2 and picture:
                page.screenshot(path=picture)
        if artifact:
            try:
                page.goto(f"{url}/#/experiments/{experiment}/runs/{run}/artifacts/{artifact}")
                button = page.locator(DOWNLOAD).first
                with page.expect_download(timeout=60_000) as download:
                    button.click(timeout=60_000)
                seen.downloaded = download.value.path().read_text()
            except Error as error:
                seen.missing.append(f"download of {artifact}: {str(error).splitlines()[0]}")
        browser.close()
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    for option in ("experiment", "run", "metric", "model"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--artifact")
    parser.add_argument("--user", default="")
    parser.add_argument("--ca", metavar="FILE")
    parser.add_argument("--picture", metavar="FILE.png")
    given = vars(parser.parse_args())
    result = visit(password=os.environ.get("MLFLOW_TRACKING_PASSWORD", ""), **given)
    print(json.dumps(asdict(result) | {"histories": result.histories()}, indent=1))
    sys.exit(bool(result.errors))
