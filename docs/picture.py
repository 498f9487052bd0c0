"""Take the pictures of the documents with Chromium.

`python docs/picture.py` takes the report of a run, `python docs/picture.py ui --port 4200` Prefect's UI of a `fresh up`
that is running, where a retraining ended with a verdict, `python docs/picture.py playground` the playground of a
`bentoml serve` that is running.
"""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from flows.runtime.settings import read_password
from pipeline.command import arg_parser, run

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "reports" / "promote" / "report.html"
DOCS = ROOT / "docs"
WIDTH, HEIGHT = 770, 1300  # of each half of the report: the verdict, and what was written
UI_WIDTH = 1280
LOAD = 300.0  # seconds for a page to show what is looked for
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


class Browser:
    """A page of Chromium, driven by the DevTools protocol."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection to the page."""
        self._connection, self._id = connection, 0
        self("Page.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command; raises RuntimeError where it is refused."""
        self._id += 1
        self._connection.send(json.dumps({"id": self._id, "method": method, "params": parameters}))
        while True:  # events come in between
            answer: dict[str, Any] = json.loads(self._connection.recv(timeout=LOAD))
            if answer.get("id") == self._id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is in the page."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, shows: str) -> None:
        """Wait until the JavaScript expression `shows` is true of the page; exits where it never is."""
        deadline = time.monotonic() + LOAD
        while not self.value(f"location.href !== 'about:blank' && Boolean({shows})"):
            if time.monotonic() > deadline:
                sys.exit(f"error: {self.value('location.href')} did not show what was looked for: {shows}")
            time.sleep(0.2)
        time.sleep(2)  # its charts move into place

    def open(self, address: str, shows: str, width: int, height: int) -> None:
        """Open a page and wait for it as above."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self("Page.navigate", url=address)
        self.wait(shows)

    def click(self, text: str) -> None:
        """Click the innermost element with this text."""
        found = f"[...document.querySelectorAll('*')].findLast(one => one.innerText?.trim() === {json.dumps(text)})"
        self.wait(found)
        self.value(f"{found}.click()")

    def picture(self, **part: int) -> bytes:
        """Return what is seen, or the part of it at `x` and `y` of `width` and `height`, as PNG."""
        clip = {"clip": {**part, "scale": 1}} if part else {}
        return base64.b64decode(self("Page.captureScreenshot", format="png", **clip)["data"])


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium with a profile of its own, and end it; exits with a sentence where it is not installed."""
    if shutil.which("chromium") is None:
        sys.exit("error: chromium is not installed")
    # Chromium's own processes may write to it for a moment longer than the first one lives.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["chromium", *FLAGS, "--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        with subprocess.Popen(  # noqa: S603 - our own command
            [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as chromium:
            try:
                told = Path(profile) / "DevToolsActivePort"
                deadline = time.monotonic() + LOAD
                while not (told.exists() and told.read_text().count("\n")):
                    if chromium.poll() is not None or time.monotonic() > deadline:
                        sys.exit("error: chromium did not start")
                    time.sleep(0.1)
                address = f"http://127.0.0.1:{told.read_text().split()[0]}"
                page = next(
                    one for one in httpx.get(f"{address}/json", trust_env=False).json() if one["type"] == "page"
                )
                with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as connection:
                    yield Browser(connection)
            finally:
                chromium.terminate()
                chromium.wait()


def report() -> None:
    """Write the picture of the report that is there: its two halves side by side."""
    if not PAGE.is_file():
        sys.exit(f"error: {PAGE} is not here; make it with `fresh promote --dry-run`")
    halves = "".join(
        f'<iframe src="{PAGE.as_uri()}{part}" width="{WIDTH}" height="{HEIGHT}" style="border: 0"></iframe>'
        for part in ("", "#samples")
    )
    with browser() as page:
        (DOCS / "report.png").write_bytes(together(page, halves, 2 * WIDTH, HEIGHT))


def together(page: Browser, elements: str, width: int, height: int) -> bytes:
    """Return a picture of HTML elements side by side, and below each other where they do not fit."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.html"
        body = f'<!DOCTYPE html><body style="margin: 0; display: flex; flex-wrap: wrap">{elements}'
        whole.write_text(body, encoding="utf-8")
        page.open(whole.as_uri(), "document.readyState === 'complete'", width, height)
        return page.picture()


def ui(port: int) -> None:
    """Write the pictures of the UI: the dashboard, the deployments, and the last retraining with a verdict."""
    address = f"http://127.0.0.1:{port}"
    password = read_password(ROOT)
    verdict = latest(address, {"key": {"any_": ["verdict"]}})
    training = latest(address, {"key": {"any_": ["training"]}, "flow_run_id": {"any_": [verdict["flow_run_id"]]}})
    with browser() as page:
        if password:
            page("Page.addScriptToEvaluateOnNewDocument", source=login(password))
        page.open(f"{address}/dashboard", has("Polled"), UI_WIDTH, 600)
        (DOCS / "ui_dashboard.png").write_bytes(page.picture())
        page.open(f"{address}/deployments", has("rollback"), UI_WIDTH, 520)
        (DOCS / "ui_deployments.png").write_bytes(page.picture())

        page.open(f"{address}/runs/flow-run/{verdict['flow_run_id']}", has("Artifacts"), UI_WIDTH, 830)
        page.click("Artifacts")
        page.wait(has("lineage"))
        parts = {UI_WIDTH: [page.picture()], UI_WIDTH // 2: []}  # by the width at which they are shown
        drawn = "[...document.images].some(one => one.src.startsWith('data:image/svg') && one.naturalWidth > 100)"
        for artifact, shows in ((verdict, has("bits a byte")), (training, drawn)):
            page.open(f"{address}/artifacts/artifact/{artifact['id']}", shows, UI_WIDTH, 900)
            parts[UI_WIDTH // 2].append(page.picture(x=264, y=70, width=742, height=742))
        pictures = "".join(
            f'<img src="data:image/png;base64,{base64.b64encode(part).decode()}" width="{width}">'
            for width, some in parts.items()
            for part in some
        )
        (DOCS / "ui_run.png").write_bytes(together(page, pictures, UI_WIDTH, 830 + UI_WIDTH // 2))


def login(password: str) -> str:
    """Return the JavaScript that leaves the password where the UI keeps it after a login."""
    return f"localStorage.setItem('prefect-password', {json.dumps(base64.b64encode(password.encode()).decode())})"


def has(text: str) -> str:
    """Return the JavaScript expression that tells whether a page shows the text."""
    return f"document.body.innerText.includes({json.dumps(text)})"


def latest(address: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the latest artifact that a filter of Prefect's API finds; exits with a sentence where there is none."""
    me = {"client": "picture"}
    try:
        with httpx.Client(base_url=f"{address}/api", trust_env=False) as api:
            if password := read_password(ROOT):
                api.headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
            token = api.get("/csrf-token", params=me).raise_for_status().json()["token"]
            headers = {"Prefect-Csrf-Client": me["client"], "Prefect-Csrf-Token": token}
            filters = {"artifacts": wanted, "sort": "CREATED_DESC", "limit": 1}
            found = api.post("/artifacts/filter", json=filters, headers=headers).raise_for_status().json()
    except httpx.HTTPError as error:
        sys.exit(f"error: Prefect's server did not answer at {address} ({error}); start `fresh up`, or give its --port")
    if not found:
        sys.exit(f"error: no run at {address} has a verdict yet; start the deployment retrain there")
    artifact: dict[str, Any] = found[0]
    return artifact


def playground(port: int) -> None:
    """Write the picture of the playground: all models of the service that runs, side by side at one seed."""
    with browser() as page:
        page.open(f"http://127.0.0.1:{port}/playground", has("engine"), UI_WIDTH, 900)
        page.value("document.querySelectorAll('#names input').forEach(box => { box.checked = true; })")
        page.click("Run")
        page.wait("document.querySelector('#state').textContent === 'Done.'")
        (DOCS / "playground.png").write_bytes(page.picture())


def main() -> None:
    """Write the pictures; exits with a sentence where there is no page, no browser or no picture."""
    parser = arg_parser()
    parser.add_argument("of", nargs="?", choices=("report", "ui", "playground"), default="report")
    parser.add_argument("--port", type=int, help="of the UI (default: 4200) or the service (default: 3000)")
    given = parser.parse_args()
    if given.of == "report":
        report()
    else:
        ui(given.port or 4200) if given.of == "ui" else playground(given.port or 3000)


if __name__ == "__main__":
    run(main)
