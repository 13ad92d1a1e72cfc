"""Take the README's picture of the UI: the runs of the demo's client, in Debian's chromium.

Usage: MLFLOW_TRACKING_URI=http://HOST:5000 python demo/screenshot.py FILE.png
Exits 1 if the page does not show the run within a minute.
"""

import os
import sys

from mlflow import MlflowClient
from playwright.sync_api import sync_playwright

# Nothing of the browser's own goes out: the test hosts' machine may have no internet.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def main(file: str) -> None:
    url = os.environ["MLFLOW_TRACKING_URI"]
    experiments = MlflowClient().search_experiments(filter_string="name LIKE 'demo-%'")
    if not experiments:
        sys.exit(f"Wanted an experiment of the demo at {url}; found none; run `make demo` first.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OPTIONS)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(f"{url}/#/experiments/{experiments[0].experiment_id}/runs")
        page.get_by_text("autolog").first.wait_for(timeout=60_000)
        page.wait_for_timeout(3_000)  # the page goes on asking, so it is never idle
        page.screenshot(path=file)
        browser.close()
    print(f"Wrote {file}")


if __name__ == "__main__":
    main(sys.argv[1])
