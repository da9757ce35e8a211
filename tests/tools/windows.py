"""Browser windows that are used again: a new one costs Chromium seconds of work, an emptied one next to nothing.

A window is a context of its own (its storage and cookies are seen by no other) with one page. Between two tests its
page leaves the address, what that address stored is deleted, and size, media and listeners are set anew. What the
browser has loaded stays in its cache, as it does for a person who comes back.
"""

from collections import defaultdict
from collections.abc import Callable

from playwright.sync_api import Browser, Page

SIZE = {"width": 1280, "height": 900}
STORED = "cookies,file_systems,indexeddb,local_storage,cache_storage,service_workers"
TIMEOUT = 60_000  # ms: two browsers share two cores


class Window:
    """One page in a context of its own; `settings` are further arguments of `browser.new_context`."""

    def __init__(self, browser: Browser, settings: dict):
        context = browser.new_context(**settings)
        self.settings = settings
        self.page: Page = context.new_page()
        self._tools = context.new_cdp_session(self.page)
        self._listeners: list[tuple[str, Callable]] = []

    def prepare(self, viewport: dict[str, int], color_scheme: str, reduced_motion: str) -> None:
        """Give the page its size and what it is told about the visitor's wishes."""
        self.page.set_default_timeout(TIMEOUT)
        self.page.set_viewport_size(viewport)
        self.page.emulate_media(color_scheme=color_scheme, reduced_motion=reduced_motion)

    def listen(self, event: str, listener: Callable) -> None:
        """Call `listener` at every `event` of the page until the window is emptied."""
        self.page.on(event, listener)
        self._listeners.append((event, listener))

    def empty(self) -> None:
        """Forget who listened, leave the address, and delete what it stored."""
        for event, listener in self._listeners:
            self.page.remove_listener(event, listener)
        self._listeners.clear()
        origin = self.page.evaluate("location.origin")
        if origin.startswith("http"):
            self.page.evaluate("sessionStorage.clear()")
        self.page.mouse.up()
        self.page.mouse.move(0, 0)  # before the page is empty: there Chromium would keep the mouse for itself
        self.page.goto("about:blank")
        if origin.startswith("http"):
            self._tools.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": STORED})
            self.page.context.clear_cookies()


class Windows:
    """The windows of one browser: `take` an empty one for the time of a test, and `give_back`."""

    def __init__(self, browser: Browser):
        self._browser = browser
        self._free: dict[str, list[Window]] = defaultdict(list)

    def take(self, viewport=SIZE, color_scheme="light", reduced_motion="reduce", **settings) -> Window:
        """A window that is nobody else's; a new one where none with these settings is free."""
        free = self._free[repr(settings)]
        window = free.pop() if free else Window(self._browser, settings)
        window.prepare(viewport, color_scheme, reduced_motion)
        return window

    def give_back(self, window: Window) -> None:
        """Empty the window and keep it for the next test."""
        window.empty()
        self._free[repr(window.settings)].append(window)
