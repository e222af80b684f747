"""A run under a budget: each step has a limit of its own, a verdict, and a line in the report as soon as it ends."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

LEAST_S = 5
"""A step is not begun with less than this left."""
LOG_BYTES = 100_000
"""Kept of each output stream of a step."""

VERDICTS = ("ok", "failed", "timeout", "refused", "skipped")
"""`refused`: the program said that it does not do this (exit status 2), where it may; `skipped`: not tried."""


@dataclass
class Outcome:
    """How a command ended."""

    verdict: str
    stdout: str = ""
    result: dict = field(default_factory=dict)
    why: str = ""

    @property
    def ok(self):
        return self.verdict == "ok"


def objects(text):
    """The JSON objects among the lines of a text."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # a line of another program, or one that was cut off
    return found


def reason(stderr):
    """The error in one line: mixce's own if there is one, else the last lines."""
    lines = [line.strip() for line in stderr.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "hint:"))]
    return "; ".join(errors or lines[-3:])[:1000]


def stop(process):
    """Ends a process and all it has started in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


class Session:
    """The report and the time that is left."""

    def __init__(self, out, budget_s):
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.deadline = time.monotonic() + budget_s
        self.verdicts, self.group, self.not_reached = [], "", []
        self.files = {name: open(self.out / name, "w", encoding="utf-8") for name in ("report.jsonl", "verdicts.txt", "log.txt")}
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "RUST_BACKTRACE": "0"}

    def left(self):
        return self.deadline - time.monotonic()

    def limit(self, seconds):
        """That many seconds, or what is left; None, and the group is noted, if that is too little to begin."""
        if self.left() >= LEAST_S:
            return min(seconds, self.left())
        if self.group not in self.not_reached:
            self.not_reached.append(self.group)
        return None

    def begin(self, group):
        self.group = group
        self.say(f"--- {group}, {self.left():.0f} s left")

    def write(self, name, text):
        """Flushed at once: a run that is cut off keeps it."""
        self.files[name].write(text)
        self.files[name].flush()

    def say(self, text):
        print(text, flush=True)
        self.write("verdicts.txt", text + "\n")

    def record(self, step, verdict, words="", **facts):
        """A line of the report and its verdict. `step` is what, `side` in `facts` who: mixce, pytorch, compiled, plan."""
        entry = {"step": step, "verdict": verdict, **{key: value for key, value in facts.items() if value is not None}}
        self.write("report.jsonl", json.dumps(entry, separators=(",", ":")) + "\n")
        self.verdicts.append(verdict)
        side = f", {facts['side']}" if facts.get("side") else ""
        seconds = f" ({facts['seconds']:.1f} s)" if facts.get("seconds") is not None else ""
        words = words or facts.get("why") or ""
        self.say(f"[{verdict:7}] {step}{side}{seconds}{': ' if words else ''}{words}")

    def skip(self, step, why, **facts):
        self.record(step, "skipped", why=why, **facts)

    def log(self, title, *texts):
        self.write("log.txt", f"\n===== {title}\n" + "".join(text[-LOG_BYTES:] for text in texts))

    def execute(self, command, limit_s, title):
        """Runs a command; its exit status (None: past the limit), stdout and stderr."""
        with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self.environment, start_new_session=True
            )
            try:
                status = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                if process.poll() is None:
                    stop(process)
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read())
        self.log(f"{title}: {' '.join(command)}: {'limit' if status is None else f'exit status {status}'}", texts[1], texts[0])
        return status, *texts

    def run(self, step, command, limit_s, words=None, may_refuse=False, objection=None, **facts):
        """Runs a command as a step. `words(result)` are the figures that a reader wants first; `objection(result)`, where it is not
        empty, is why a command that ended well has failed all the same.
        """
        limit = self.limit(limit_s)
        if limit is None:
            self.skip(step, "no time left", **facts)
            return Outcome("skipped", why="no time left")
        command = [str(word) for word in command]
        started_at = time.monotonic()
        try:
            status, stdout, stderr = self.execute(command, limit, step)
        except OSError as error:
            status, stdout, stderr = 127, "", str(error)
        seconds = round(time.monotonic() - started_at, 2)
        outcome = self.judged(status, stdout, stderr, limit, may_refuse)
        why = objection(outcome.result) if objection and outcome.ok else ""
        if why:
            outcome.verdict, outcome.why = "failed", why
        told = words(outcome.result) if words and outcome.result else ""
        self.record(
            step,
            outcome.verdict,
            "; ".join(part for part in (told, outcome.why) if part),
            **facts,
            seconds=seconds,
            command=command,
            status=status,
            result=outcome.result or None,
            why=outcome.why or None,
        )
        return outcome

    @staticmethod
    def judged(status, stdout, stderr, limit, may_refuse):
        """The verdict on an exit status, with the last JSON object of stdout."""
        found = objects(stdout)
        result = found[-1] if found else {}
        summaries = re.findall(r"[A-Z]+ SUMMARY: .*", stdout + stderr)
        if status == 0:
            return Outcome("ok", stdout, result, "; ".join(summaries))
        if status is None:
            return Outcome("timeout", stdout, result, f"no end within {limit:.0f} s")
        why = "; ".join([*summaries, reason(stderr) or f"exit status {status}"])
        return Outcome("refused" if may_refuse and status == 2 else "failed", stdout, result, why)
