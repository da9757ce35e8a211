"""Photograph the lab: `python -m tests.tools.screenshots` takes the README's pictures.

With `--every` it takes each page at 1280 and at 400 pixels, light and dark, into test-artefacts/.
"""

import itertools
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.tools.browser import NONE, launch
from tests.tools.server import ROOT, lab_server

PAGES = {
    "forgetting": "?fc_ask=false",
    "herding": "herding",
    "routing": "routing",
    "memory": "memory",
    "generative": "generative",
    "distillation": "distillation?dist_T=2",
    "elastic": "elastic",
    "projection": "projection",
    "lowrank": "lowrank?lora_r=3",
    "columns": "columns",
    "packing": "packing",
    "growing": "growing",
}  # the first page is the root
README_PICTURES = ROOT / ".github" / "images"
IDLE = "[data-testid=stApp][data-test-script-state=notRunning]"


def main(arguments: list[str]) -> None:
    """Take the pictures; leaves with a sentence where there is no browser."""
    with lab_server() as address, sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            sys.exit(NONE)
        for name, path in PAGES.items():
            if "--every" in arguments:
                for width, scheme in itertools.product((1280, 400), ("light", "dark")):
                    target = ROOT / "test-artefacts" / f"{name}-{width}-{scheme}.png"
                    photograph(browser, f"{address}/{path}", target, width, scheme, whole=True)
            else:
                photograph(browser, f"{address}/{path}", README_PICTURES / f"{name}.png", 1280, "light")
        browser.close()


def photograph(browser: Browser, url: str, target: Path, width: int, scheme: str, whole: bool = False) -> None:
    """Open a page, wait until it has come to rest, and write a PNG of what is seen (`whole`: of it all)."""
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    settle(page)
    if whole:
        main_area = page.get_by_test_id("stMain")
        height = int(main_area.evaluate("element => element.scrollHeight"))
        page.set_viewport_size({"width": width, "height": min(max(height, 1000), 6000)})
        settle(page)
    target.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=target)
    context.close()
    print(target.relative_to(ROOT))


def settle(page: Page, seconds: float = 60.0) -> None:
    """Return when nothing that the page says has changed for three seconds, or after `seconds`."""
    page.wait_for_selector(IDLE, timeout=60_000)
    before, same = "", 0
    for _ in range(int(seconds)):
        page.wait_for_timeout(1000)
        now = page.locator("body").inner_text()
        same = same + 1 if now == before else 0
        if same == 3:
            return
        before = now


if __name__ == "__main__":
    main(sys.argv[1:])
