"""One Chromium for the tests and the screenshots; `python -m tests.tools.browser` finds or installs it.

In this order: a Chromium or Chrome of the system, Playwright's own, Debian's `chromium` where one is root.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, Error, Playwright, sync_playwright

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
)
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "{PROGRAMFILES}/Google/Chrome/Application/chrome.exe",
    "{PROGRAMFILES(X86)}/Google/Chrome/Application/chrome.exe",
    "{LOCALAPPDATA}/Google/Chrome/Application/chrome.exe",
    "{PROGRAMFILES(X86)}/Microsoft/Edge/Application/msedge.exe",
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NONE = "no Chromium or Chrome that starts on this machine (`make browser` looks for one and tries to install it)"


def main() -> None:
    """Print which browser the tests will use; install one where there is none. Leaves with 0 either way, so
    that the other tests still run: the browser tests themselves are skipped, and fail where CI=true."""
    for install in (None, _install_playwrights_own, _install_debians):
        if install is not None:
            install()
        with sync_playwright() as playwright:
            browser = launch(playwright)
            if browser is not None:
                print(f"Browser for the tests: Chromium {browser.version}")
                browser.close()
                return
    print(f"Browser tests will be skipped: {NONE}.")


def launch(playwright: Playwright) -> Browser | None:
    """The first browser that really starts (a snap's stub is found, but does not); None when none does."""
    for executable in candidates(playwright):
        try:
            return playwright.chromium.launch(executable_path=executable, headless=True, args=list(FLAGS))
        except Error:
            continue
    return None


def give_up() -> NoReturn:
    """Skip the test that asked for a browser; fail it where CI=true, where one must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(NONE)
    pytest.skip(NONE)


def candidates(playwright: Playwright) -> Iterator[str]:
    """Paths of the browsers that are there, best first."""
    yield from filter(None, map(shutil.which, NAMES))
    for place in PLACES:
        for variable in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
            place = place.replace("{" + variable + "}", os.environ.get(variable, "-"))
        if Path(place).is_file():
            yield place
    if Path(playwright.chromium.executable_path).is_file():
        yield playwright.chromium.executable_path


def _install_playwrights_own() -> None:
    print("No Chromium or Chrome found: asking Playwright for its own", flush=True)
    environment = {**os.environ, "PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": "10000"}
    _try([sys.executable, "-m", "playwright", "install", "chromium"], environment)


def _install_debians() -> None:
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        print("Installing Debian's chromium", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _try(["apt-get", "update", "-qq"], environment)
        _try(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], environment)


def _try(command: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        print(f"  {' '.join(command)}: gave up after 300 s")
        return
    if done.returncode:
        print(f"  {' '.join(command)} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


if __name__ == "__main__":
    main()
