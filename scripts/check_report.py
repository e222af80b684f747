"""Looks at pages of `mixce report` in Chromium; exits 1 and says what is wrong. Started by check-report.sh."""

import argparse
import functools
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 360, "height": 740}
# Chromium fails to take taller pictures when the machine is busy.
TALLEST = 12_000
LOOKS = [("light", WIDE, "light"), ("dark", WIDE, "dark"), ("light", NARROW, "narrow"), ("dark", NARROW, "narrow-dark")]


class Check:
    """The problems found on one page. It may ask for nothing but what begins with `origin`, by default its own address."""

    def __init__(self, browser, url, name, out, origin=None):
        self.browser, self.url, self.name, self.out = browser, url, name, out
        self.origin = origin or url
        self.problems = []

    def expect(self, what, holds):
        if not holds:
            self.problems.append(f"{self.name}: {what}")

    def open(self, **options):
        page = self.watched(self.browser.new_context(**options).new_page())
        page.goto(self.url)
        return page

    def watched(self, page):
        page.on("console", lambda message: self.expect(f"console {message.type}: {message.text}", False))
        page.on("pageerror", lambda error: self.expect(f"error: {error}", False))
        page.on("request", lambda request: self.expect(f"request for {request.url[:80]}", request.url.startswith((self.origin, "data:"))))
        page.on("dialog", lambda dialog: self.expect(f"dialog: {dialog.message}", False))
        return page

    def looks(self, scheme, size, label):
        page = self.open(color_scheme=scheme, viewport=size)
        self.seen(page, scheme, label)
        page.context.close()

    def seen(self, page, scheme, label):
        height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
        clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height}
        page.screenshot(path=self.out / f"{self.name}-{label}.png", full_page=True, clip=clip)
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        self.expect(f"{label}: {overflow} pixels too wide", overflow <= 0)
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        for violation in found.response["violations"]:
            where = "; ".join(node["html"][:120] for node in violation["nodes"][:3])
            self.expect(f"{label}: axe {violation['id']}: {violation['help']}: {where}", False)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(int(part) for part in ground.strip("rgb()").split(",")) < 3 * 128
        self.expect(f"{label}: background {ground}", dark == (scheme == "dark"))

    def searches(self):
        page = self.open(viewport=WIDE)
        self.expect("the title was replaced", "taken" not in page.title())
        prompts = page.locator(".prompt")
        total = prompts.count()
        if total:
            field = page.get_by_label("Search in prompts and continuations")
            first = prompts.first.locator("h4").inner_text()
            field.fill(first)
            shown = page.locator(".prompt:visible").count()
            self.expect(f"search for {first!r} shows {shown} of {total} prompts", 0 < shown)
            field.fill("no such text anywhere")
            self.expect("search for nothing shows something", page.locator(".prompt:visible").count() == 0)
            self.expect("the number of prompts found is not said", page.locator("#find-count").inner_text() == f"0 of {total} prompts")
            field.fill("")
            self.expect("an empty search hides prompts", page.locator(".prompt:visible").count() == total)
        page.context.close()

    def keyboard(self):
        page = self.open(viewport=WIDE)
        page.keyboard.press("Tab")
        self.expect("the first stop is not the link to the content", page.evaluate("document.activeElement.className") == "skip")
        page.keyboard.press("Enter")
        self.expect("the link does not lead to the content", page.evaluate("location.hash") == "#main")
        page.context.close()

    def without_scripts(self):
        page = self.open(java_script_enabled=False, viewport=WIDE)
        self.expect("no heading without scripts", page.locator("h2").count() > 2)
        self.expect("the search is shown without scripts", not page.locator("#find").is_visible() if page.locator("#find").count() else True)
        self.expect("figures are missing without scripts", page.locator("figure svg").first.is_visible())
        page.context.close()

    def prints(self):
        page = self.open(viewport=WIDE, color_scheme="dark")
        page.emulate_media(media="print")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        self.expect(f"printed on {ground}", ground == "rgb(255, 255, 255)")
        page.pdf(path=self.out / f"{self.name}.pdf", format="A4")
        page.context.close()


def run(chromium, checks):
    """Runs each check, by its name, with a browser; prints what they found and returns the exit status."""
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, check in checks.items():
            found = check(browser)
            print(f"{name}: {len(found)} problems")
            problems += found
        browser.close()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of screenshots")
    parser.add_argument("pages", type=Path, nargs="+")
    arguments = parser.parse_args()

    def check_page(browser, path):
        check = Check(browser, path.resolve().as_uri(), path.resolve().parent.name, arguments.out)
        for look in LOOKS:
            check.looks(*look)
        check.searches()
        check.keyboard()
        check.without_scripts()
        check.prints()
        return check.problems

    return run(arguments.chromium, {path: functools.partial(check_page, path=path) for path in arguments.pages})


if __name__ == "__main__":
    sys.exit(main())
