"""Which browser the tests take, what happens where there is none, and that a used window is like a new one."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from tests.tools import browser
from tests.tools.windows import Windows

NOTHING = SimpleNamespace(chromium=SimpleNamespace(executable_path="nowhere"))


@pytest.fixture
def bare_machine(monkeypatch):
    """A machine without any browser, on which nothing can be found by name or place."""
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.setattr(browser, "PLACES", ())


def test_a_systems_browser_comes_before_playwrights_own(monkeypatch, bare_machine):
    own = SimpleNamespace(chromium=SimpleNamespace(executable_path=sys.executable))
    assert list(browser.candidates(own)) == [sys.executable]
    found = {"chromium-browser": "a-stub", "google-chrome": "a-chrome"}
    monkeypatch.setattr(browser.shutil, "which", found.get)
    assert list(browser.candidates(own)) == ["a-stub", "a-chrome", sys.executable]


def test_usual_places_are_looked_at(monkeypatch, bare_machine, tmp_path):
    (tmp_path / "chrome.exe").touch()
    monkeypatch.setenv("PROGRAMFILES", str(tmp_path))
    monkeypatch.setattr(browser, "PLACES", ("{PROGRAMFILES}/chrome.exe", "{LOCALAPPDATA}/chrome.exe"))
    assert list(browser.candidates(NOTHING)) == [f"{tmp_path}/chrome.exe"]


def test_a_browser_that_does_not_start_is_passed_over(monkeypatch, bare_machine):
    def start(executable_path, **options):
        if executable_path == "a-stub":
            raise browser.Error("it is a stub")
        return "started"

    monkeypatch.setattr(browser.shutil, "which", {"chromium": "a-stub", "google-chrome": "a-chrome"}.get)
    chromium = SimpleNamespace(executable_path="nowhere", launch=start)
    assert browser.launch(SimpleNamespace(chromium=chromium)) == "started"
    monkeypatch.setattr(browser.shutil, "which", {"chromium": "a-stub"}.get)
    assert browser.launch(SimpleNamespace(chromium=chromium)) is None


def test_without_a_browser_tests_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Chromium or Chrome"):
        browser.give_up()


def test_where_ci_is_true_they_fail_instead(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no Chromium or Chrome"):
        browser.give_up()


def test_what_is_missing_is_installed_in_order(monkeypatch, bare_machine, capsys):
    """Playwright's own first, then Debian's package; with neither, a sentence says what follows."""
    tried = []
    monkeypatch.setattr(browser, "sync_playwright", nullcontext)
    monkeypatch.setattr(browser, "launch", lambda playwright: None)
    monkeypatch.setattr(browser, "_try", lambda command, environment: tried.append(command))
    monkeypatch.setattr(browser.shutil, "which", lambda name: "apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(browser.os, "geteuid", lambda: 0, raising=False)
    browser.main()
    assert [command[-2:] for command in tried[:1]] == [["install", "chromium"]]
    assert [command[:2] for command in tried[1:]] == [["apt-get", "update"], ["apt-get", "install"]]
    assert "Browser tests will be skipped: no Chromium" in capsys.readouterr().out


def test_a_used_window_is_like_a_new_one(browser):
    windows = Windows(browser)
    seen = """[localStorage.x, sessionStorage.x, document.cookie, window.x, innerWidth,
               matchMedia("(prefers-color-scheme: dark)").matches]"""
    heard = []
    used = windows.take(viewport={"width": 400, "height": 800}, color_scheme="dark")
    used.listen("console", lambda message: heard.append(message.text))
    page = used.page
    page.route("http://lab.test/", lambda route: route.fulfill(body="<p>A page.</p>", content_type="text/html"))
    page.goto("http://lab.test/")
    page.evaluate("localStorage.x = sessionStorage.x = window.x = 1; document.cookie = 'x=1'; console.log('x')")
    assert page.evaluate(seen) == ["1", "1", "x=1", 1, 400, True] and len(heard) == 1
    windows.give_back(used)
    again = windows.take()
    assert again is used and windows.take() is not used
    page.goto("http://lab.test/")
    page.evaluate("console.log('x')")
    assert page.evaluate(seen) == [None, None, "", None, 1280, False] and len(heard) == 1
