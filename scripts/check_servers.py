"""Uses the pages of `mixce judge serve` and `mixce watch --serve` in Chromium; exits 1 and says what is wrong. Started by check-report.sh."""

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from check_report import LOOKS, WIDE, Check, run

HOSTILE = [
    "<script>document.title = 'taken'; alert(1)</script>",
    "\" onmouseover=\"alert(1)\" ' <img src=x onerror=alert(1)>",
    "left \u202ethgir\u202c \u05e9\u05dc\u05d5\u05dd \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f600 e\u0301",
    "</div></main><style>body{display:none}</style>",
    "x" * 100_000,
]


@contextlib.contextmanager
def serving(program, folder, *words):
    """A server of the program with what it printed; it is killed if it is still there."""
    line = [program, *words, "--json"]
    process = subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def make_study(program, folder):
    """A study of two judges, six comparisons and one attention check, with hostile texts."""

    def write(name, texts):
        rows = [json.dumps({"prompt": f"Prompt {i} {HOSTILE[i % len(HOSTILE)][:2000]}", "text": text}) for i, text in enumerate(texts)]
        (folder / name).write_text("\n".join(rows) + "\n")

    write("human.jsonl", ["one two three four five six seven eight nine"] * 8)
    write("a.jsonl", HOSTILE)
    write("b.jsonl", [f"{text} again" for text in reversed(HOSTILE)])
    words = "judge make --human human.jsonl --systems a.jsonl b.jsonl --items 6 --judges-per-item 2 --attention 1 --out study"
    subprocess.run([program, *words.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)


class JudgeCheck(Check):
    """A judge who works with the keyboard alone."""

    def begin(self):
        page = self.watched(self.browser.new_context(viewport=WIDE).new_page())
        page.goto(self.url)
        self.press_until_focused(page, "I have read this: begin")
        page.keyboard.press("Enter")
        page.wait_for_url("**/task")
        return page

    def press_until_focused(self, page, text):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent").strip() == text:
                return
        self.expect(f"{text!r} cannot be reached by keyboard", False)

    def number(self, page):
        return page.locator("h1").inner_text()

    def answer(self, page, key):
        before = self.number(page)
        page.keyboard.press(key)
        chosen = page.evaluate("document.querySelector('[name=choice]:checked')?.dataset.key")
        self.expect(f"{before}: key {key} chose {chosen}", chosen == key)
        page.keyboard.press("Enter")
        page.wait_for_function("before => document.querySelector('h1').innerText !== before", arg=before)
        self.expect("a text was obeyed", "taken" not in page.title())


def check_judge(program, browser, out):
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_study(program, folder)
        serve = ["judge", "serve", "study", "--port"]
        with serving(program, folder, *serve, "0") as (server, told):
            origin = told["address"]
            urls = [link["url"] for link in told["links"]]

            def check(name, url, kind=Check):
                made = kind(browser, url, f"judge-{name}", out, origin)
                problems.append(made.problems)
                return made

            def looks(name, url):
                made = check(name, url)
                for look in LOOKS:
                    made.looks(*look)

            looks("front", origin + "/")
            looks("instructions", urls[0])
            first, second = check("first", urls[0], JudgeCheck), check("second", urls[1], JudgeCheck)
            page, other = first.begin(), second.begin()
            looks("item", urls[0] + "/task")
            page.mouse.click(5, 5)
            # A page that is loaded again keeps its place, and nothing is answered by it; digits in a note choose nothing.
            page.locator("summary").click()
            page.locator("#note").fill("1 of 2")
            first.expect("a digit in the note chose an answer", page.locator("[name=choice]:checked").count() == 0)
            before = first.number(page)
            page.reload()
            first.expect("loading again changed the pair", first.number(page) == before)
            # An answer without a choice is refused by the browser, and by the server.
            page.evaluate("document.querySelector('form.answer').noValidate = true")
            page.locator(".actions button").click()
            first.expect("an empty answer is not refused", page.get_by_role("alert").count() == 1)
            # The server says so with a status that the browser reports.
            first.problems[:] = [problem for problem in first.problems if "422" not in problem]
            first.seen(page, "light", "refused")
            first.problems[:] = [problem for problem in first.problems if "422" not in problem]
            # Two judges take turns, one of them with the mouse.
            for turn in range(3):
                first.answer(page, str(1 + turn % 3))
                place = second.number(other)
                other.locator("[name=choice]").nth(turn % 3).check()
                other.locator(".actions button").click()
                other.wait_for_function("before => document.querySelector('h1').innerText !== before", arg=place)
            first.expect("the judges share their progress", page.locator(".progress span").inner_text() == "3 of 7 answered")
            port = origin.rsplit(":", 1)[1]
            server.send_signal(signal.SIGKILL)
            server.wait()
            with serving(program, folder, *serve, port):
                first.expect("an answer was lost", page.locator(".progress span").inner_text() == "3 of 7 answered")
                for _ in range(4):
                    first.answer(page, "2")
                first.expect(f"the end is {first.number(page)}", first.number(page) == "Thank you!")
                looks("done", urls[0] + "/task")
                other.reload()
                second.expect("the other judge lost an answer", other.locator(".progress span").inner_text() == "3 of 7 answered")
                page.context.close()
                other.context.close()
        report = subprocess.run([program, "judge", "report", "study", "--json"], cwd=folder, check=True, stdout=subprocess.PIPE)
        answered = json.loads(report.stdout)["answered"]
        if answered != 10:
            problems.append([f"judge: {answered} answers, expected 10"])
    return [problem for of_check in problems for problem in of_check]


def check_watch(program, browser, out):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        (run / "valid").mkdir(parents=True)
        (run / "run.toml").write_text('model = "gpt2"\nobjective = "mle"\n[provenance]\nversion = "0.1.0"\ntotal_steps = 99\n')
        steps = [json.dumps({"step": step, "nll": 4 - step / 40, "tokens": 100, "tokens_per_s": 50.0}) for step in range(1, 41)]
        (run / "metrics.jsonl").write_text("\n".join(steps) + "\n")
        for name in ("human", "samples-0"):
            rows = [json.dumps({"index": i, "prompt": f"Prompt {i}", "text": f"{name} {HOSTILE[i % 5]} went on"}) for i in range(12)]
            (run / "valid" / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        with serving(program, folder, "watch", "run", "--serve", "--port", "0") as (server, told):
            check = Check(browser, told["address"] + "/", "watch", out)
            for look in LOOKS:
                check.looks(*look)
            page = check.open(viewport=WIDE)
            field = page.get_by_label("Search in prompts and continuations")
            field.fill("Prompt 7")
            page.locator("details summary").first.click()
            page.evaluate("scrollTo(0, 900)")
            place = page.evaluate("scrollY")
            version = page.evaluate("document.documentElement.dataset.version")
            with open(run / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": 41, "nll": 2.5}) + "\n")
            page.wait_for_function("before => document.documentElement.dataset.version !== before", arg=version, timeout=30_000)
            check.expect("the step is not the new one", "step 41 of 99" in page.locator("#live").inner_text())
            check.expect("the search is lost", field.input_value() == "Prompt 7" and page.locator(".prompt:visible").count() == 1)
            check.expect("what was opened is closed", page.locator("details").first.evaluate("details => details.open"))
            now = page.evaluate("scrollY")
            check.expect(f"scrolled from {place} to {now}", abs(now - place) < 60)
            plain = check.open(viewport=WIDE, java_script_enabled=False)
            check.expect("no heading without scripts", plain.locator("h2").count() > 2)
            plain.context.close()
            before = list(check.problems)
            started = time.monotonic()
            server.send_signal(signal.SIGINT)
            server.wait()
            check.expect(f"Ctrl-C took {time.monotonic() - started:.1f} s", time.monotonic() - started < 1)
            page.wait_for_function("() => document.getElementById('live').innerText.startsWith('The server has ended')", timeout=30_000)
            # The browser itself reports the connection that it did not get.
            check.problems = [problem for problem in check.problems if problem in before or "ERR_CONNECTION_REFUSED" not in problem]
            page.context.close()
        return check.problems


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of screenshots")
    parser.add_argument("program", type=Path)
    arguments = parser.parse_args()
    program = os.fspath(arguments.program.resolve())
    checks = {"judge": check_judge, "watch": check_watch}
    return run(
        arguments.chromium,
        {name: functools.partial(check, program, out=arguments.out) for name, check in checks.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
