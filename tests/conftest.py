"""What the tests share: one thread per worker, steady hypothesis settings, the lab's server and a browser."""

import os
import re

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported anywhere

import hypothesis
import pytest

hypothesis.settings.register_profile("cllab", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("cllab")

BROWSER_FIXTURES = {"browser", "open_page", "page", "lab_url"}


def pytest_collection_modifyitems(items):
    for item in items:
        if BROWSER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.browser)
        if {"AppTest", "open_lab_page"} & set(dir(getattr(item, "module", None))):
            item.add_marker(pytest.mark.slow)  # a page is run for each of them
    # what takes long first, so that no worker is left alone with it at the end
    items.sort(key=lambda item: not (item.get_closest_marker("browser") or item.path.suffix == ".ipynb"))


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


@pytest.fixture
def open_page(browser):
    """Function that opens a page in a context of its own (viewport, color_scheme, ...: Playwright's options).
    At the end no page may have thrown an error or written one to its console."""
    contexts, errors = [], []

    def open_(**options):
        settings = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(f"page error: {error}"))
        page.on("console", lambda message: errors.append(message.text) if _is_own_error(message) else None)
        return page

    yield open_
    for context in contexts:
        context.close()
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
