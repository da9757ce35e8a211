"""What the tests share: one thread per worker, steady hypothesis settings, the lab's server and a browser."""

import os
import re

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported anywhere

import hypothesis
import pytest

hypothesis.settings.register_profile("cllab", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("cllab")

BROWSER_FIXTURES = {"browser", "windows", "open_page", "page", "lab_url"}


def pytest_collection_modifyitems(items):
    for item in items:
        if BROWSER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.browser)
        if {"AppTest", "open_lab_page"} & set(dir(getattr(item, "module", None))):
            item.add_marker(pytest.mark.slow)  # a page is run for each of them
    items.sort(key=_turn)


def _turn(item) -> int:
    """What takes long comes first, so that no worker is left alone with it at the end."""
    if item.get_closest_marker("browser") or item.path.suffix == ".ipynb":
        return 0
    return 1 if item.get_closest_marker("slow") else 2


@pytest.fixture(scope="session")
def lab_url():
    """Address of the running lab; one server for the whole run of a worker, and no traceback in its log."""
    from tests.tools.server import lab_server

    with lab_server() as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium. Per module, not per run: Playwright leaves an event loop in the thread while it is
    open, which the lessons' kernels would trip over."""
    from playwright.sync_api import sync_playwright

    from tests.tools.browser import give_up, launch

    with sync_playwright() as playwright:
        found = launch(playwright)
        if found is None:
            give_up()
        yield found
        found.close()


@pytest.fixture(scope="module")
def windows(browser):
    """The browser's windows, which the tests of a module use one after the other."""
    from tests.tools.windows import Windows

    return Windows(browser)


@pytest.fixture
def open_page(windows):
    """Function that opens an empty page (viewport, color_scheme, ...: Playwright's options of a context). The pages of
    a test share nothing; at its end none of them may have thrown an error or written one to its console."""
    opened, errors = [], []

    def open_(**options):
        opened.append(window := windows.take(**options))
        window.listen("pageerror", lambda error: errors.append(f"page error: {error}"))
        window.listen("console", lambda message: errors.append(message.text) if _is_own_error(message) else None)
        return window.page

    yield open_
    for window in opened:
        windows.give_back(window)
    assert not errors, "\n".join(errors)


@pytest.fixture
def page(open_page):
    """A page of 1280 x 900 with reduced motion."""
    return open_page()


def _is_own_error(message) -> bool:
    """An error on the console, unless it is about an address elsewhere (there may be no network) or is how Streamlit
    finds its server when the address of a page is opened: it asks below that page first and is told 404."""
    address = message.location.get("url", "")
    elsewhere = re.match(r"https?://(?!127\.0\.0\.1|localhost)", address)
    searching = re.search(r"/_stcore/(health|host-config)$", address)
    return message.type == "error" and not elsewhere and not searching
