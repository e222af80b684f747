"""Whether training and sampling give the same numbers in every run, on one thread and on many.

All runs on the device must agree bit for bit: work that is not ordered on the device shows as runs that differ. From the CPU's run
rounding may part a sample; how many it parts is reported.
"""

import hashlib
import json
import shutil
import time

from session import objects


def samples_that_differ(got, want):
    """From the CPU's run, in words."""
    count = sum(got.get(key) != tokens for key, tokens in want.items())
    return f"{count} of {len(want)} samples differ from the CPU's"


def largest_difference(got, want):
    """From the CPU's losses and gradient norms, in words."""
    if got.keys() != want.keys():
        return f"{len(got)} steps, the CPU's are {len(want)}"
    pairs = [pair for key, numbers in want.items() for pair in zip(got[key], numbers)]
    worst = max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)
    return f"losses and gradient norms at most {worst:.1e} from the CPU's, relatively"


def digest(numbers):
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:12]


class Determinism:
    """Repeats runs of the program within a limit."""

    def __init__(self, session, mixce, inputs, work, device, dry):
        self.session, self.mixce, self.inputs = session, mixce, inputs
        self.work, self.device, self.dry = work, device, dry
        self.threads = (1, 2) if dry else (1, 16)

    def run(self, arguments, limit_s):
        """Exit status, output and error of the program; ValueError where it fails."""
        command = [str(word) for word in [self.mixce, *arguments]]
        status, out, err = self.session.execute(command, limit_s, "determinism")
        if status is None:
            raise ValueError(f"no end within {limit_s:.0f} s")
        if status:
            raise ValueError(err.strip()[-600:] or f"exit status {status}")
        return out

    def trained(self, config, steps, device, threads, precision, limit_s):
        """Loss and gradient norm of every step; the model stays in the work folder."""
        out = self.work / "trained"
        shutil.rmtree(out, ignore_errors=True)
        self.run(self.inputs.training(config, out, steps, device=device, threads=threads, precision=precision), limit_s)
        logged = objects((out / "metrics.jsonl").read_text())
        return {str(line["step"]): [line["loss"], line["grad_norm"]] for line in logged if "grad_norm" in line}

    def sampled(self, model, new_tokens, device, threads, limit_s):
        """Token ids of every sample."""
        lines = objects(self.run(self.inputs.sampling(model, new_tokens, device=device, threads=threads), limit_s))
        return {str(line["index"]): line["tokens"] for line in lines if "tokens" in line}

    def compare(self, step, once, repetitions, limit_s, against_cpu=None):
        """Records whether all runs of `once(device, threads, limit_s)` on the device agree; `against_cpu` adds what parts them from the CPU's."""
        limit = self.session.limit(limit_s)
        if limit is None:
            return self.session.skip(step, "no time left")
        started_at, deadline = time.monotonic(), time.monotonic() + limit
        runs, error = [], ""
        try:
            for number in range(repetitions * len(self.threads)):
                left = deadline - time.monotonic()
                if number >= len(self.threads) and left < limit / 3:
                    break
                threads = self.threads[number % len(self.threads)]
                runs.append((threads, once(self.device, threads, left)))
            cpu = once("cpu", self.threads[-1], deadline - time.monotonic()) if against_cpu else None
        except ValueError as failure:
            error, cpu = str(failure), None
        result = {"runs": len(runs), "hashes": {}, "parts": 0}
        for threads, numbers in runs:
            result["parts"] = len(numbers)
            result["hashes"].setdefault(str(threads), []).append(digest(numbers))
        distinct = {digest(numbers) for _, numbers in runs}
        if cpu and runs:
            result["against_cpu"] = against_cpu(runs[0][1], cpu)
        result["distinct"] = len(distinct)
        compared = len(runs) >= len(self.threads) and result["parts"] > 0
        words = f"{len(runs)} runs on {' and '.join(map(str, self.threads))} threads, {len(distinct)} distinct"
        if "against_cpu" in result:
            words += f"; {result['against_cpu']}"
        self.session.record(
            step,
            "ok" if compared and len(distinct) == 1 and not error else "failed",
            words + (f"; {error}" if error else ""),
            seconds=round(time.monotonic() - started_at, 2),
            result=result,
            why=error or (None if compared else "nothing was compared"),
        )

    def all(self):
        """Training and sampling of a tiny model, then of one in GPT-2 small's shape."""
        steps, new, repetitions = (2, 4, 1) if self.dry else (20, 48, 4)

        def training(config, steps, precision):
            return lambda device, threads, limit_s: self.trained(config, steps, device, threads, precision, limit_s)

        def sampling(model):
            return lambda device, threads, limit_s: self.sampled(model, new, device, threads, limit_s)

        shaped = self.inputs.tiny if self.dry else self.inputs.small
        # The CPU takes too long for training in that shape: parity compares losses.
        self.compare("training twice, 12 layers, f32", training(shaped, max(steps // 4, 1), "f32"), 1, 40)
        model = self.work / "trained" / "final"
        if model.exists():
            kept = self.work / "shaped"
            shutil.move(model, kept)
            self.compare("sampling again, 12 layers", sampling(kept), repetitions, 50, samples_that_differ)
        else:
            self.session.skip("sampling again, 12 layers", "there is no model: the training before did not end well, or was skipped")
        self.compare("training twice, tiny, f32", training(self.inputs.tiny, steps, "f32"), 2, 30, largest_difference)
        if self.device != "cpu":
            self.compare("training twice, tiny, bf16", training(self.inputs.tiny, steps, "bf16"), 2, 30)
