"""PyTorch's side: one process for all rows, begun early, replaced after an error or when a row takes too long."""

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from session import stop

START_S = 120
"""Time for the imports, from a cold disk."""


class PyTorch:
    """Runs rows of `bench/pytorch_*.py` through `bench/pytorch_rows.py`."""

    def __init__(self, session, bench, cuda):
        self.session, self.script, self.cuda = session, Path(bench) / "pytorch_rows.py", cuda
        self.process = self.answers = None
        self.facts = None
        self.unusable = ""

    def start(self):
        """Begins the imports; `ready` waits for them."""
        log = open(self.session.out / "pytorch.log", "a", encoding="utf-8")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, str(self.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.session.environment,
                start_new_session=True,
            )
        self.answers = queue.Queue()
        threading.Thread(target=self.read, args=(self.process, self.answers), daemon=True).start()
        self.facts = None

    @staticmethod
    def read(process, answers):
        for line in process.stdout:
            answers.put(line)
        answers.put(None)

    def close(self):
        if self.process:
            stop(self.process)
            self.process = None

    def end(self):
        """How the process ended, and the last line that it wrote."""
        status = self.process.wait()
        written = (self.session.out / "pytorch.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"the process ended with status {status}: {written[-1] if written else 'it wrote nothing'}"

    def answer(self, limit_s):
        """The next answer; an error where none comes in time or the process has ended."""
        try:
            line = self.answers.get(timeout=max(limit_s, 0))
        except queue.Empty:
            return {"error": f"no end within {limit_s:.0f} s", "timeout": True}
        if line is None:
            return {"error": self.end()}
        return json.loads(line)

    def ready(self):
        """Waits for the imports. Whether rows can run; why not is in `unusable`."""
        if self.unusable:
            return False
        if self.process is None:
            self.start()
        if self.facts is None:
            facts = self.answer(min(START_S, self.session.left()))
            if "error" in facts:
                self.unusable = f"PyTorch does not start: {facts['error']}"
            elif self.cuda and not facts["gpu"]:
                self.unusable = f"PyTorch {facts['torch']} sees no GPU"
            if self.unusable:
                self.close()
                return False
            self.facts = facts
        return True

    def row(self, step, script, arguments, limit_s, words=None, **facts):
        """Runs one script with its arguments as a step; the result, or None."""
        reachable = self.session.limit(limit_s) is not None
        if reachable and not self.ready():
            self.session.skip(step, self.unusable, **facts)
            return None
        limit = self.session.limit(limit_s)
        if limit is None:
            self.session.skip(step, "no time left", **facts)
            return None
        command = [script, *map(str, arguments)]
        started_at = time.monotonic()
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            result = self.answer(limit)
        except BrokenPipeError:
            result = {"error": self.end()}
        facts.update(seconds=round(time.monotonic() - started_at, 2), command=["pytorch_rows.py", *command])
        if "error" in result:
            # A fault on the GPU outlives the row that met it.
            self.close()
            verdict = "timeout" if result.get("timeout") else "failed"
            self.session.record(step, verdict, why=result["error"], **facts)
            return None
        self.session.record(step, "ok", words(result) if words else "", result=result, **facts)
        return result
