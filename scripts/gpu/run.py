"""Runs mixce on this machine's GPU and says what works and how fast; see README.md beside run.sh.

    run.sh [GROUP...]      default: all, most valuable first

Variables: OUT (results, default `results`), BUDGET_S (all of it, default 520), MIXCE (the program, default mixce.xz beside this
folder), DEVICE (default cuda), DRY=1 (everything in small on the CPU, without NVIDIA's tools).
Exit status 1 if a step failed or did not end.
"""

import gzip
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import kernels
import machine
import rows
from determinism import Determinism
from inputs import Inputs
from pytorch import PyTorch
from session import Session

ROOT = Path(__file__).resolve().parent.parent
CUT_OFF = 128 + signal.SIGTERM


def checks(result):
    """The figures of `doctor` in words."""
    failed = [check for check in result["checks"] if not check["holds"]]
    words = [f"{len(result['checks'])} checks, {len(failed)} failed"]
    words += [f"FAILED {check['name']}: {check['detail']}" for check in failed]
    words += [f"{check['name']} {check['detail']}" for check in result["checks"] if check.get("speed")]
    return "; ".join([*words, *([f"{len(result['not_checked'])} not checked"] if result["not_checked"] else [])])


def systems(result):
    """The figures of the quickstart in words."""
    names = ("perplexity", "in_support", "reverse_cross_entropy", "diversity")
    parts = [f"{name}: {', '.join(f'{key} {system[key]:.3g}' for key in names)}" for name, system in result["systems"].items()]
    return "; ".join(parts)


class Run:
    """All groups of steps; a method `group_NAME` each, in the order of their worth."""

    def __init__(self, session, work):
        self.session, self.work = session, work
        self.dry = os.environ.get("DRY") == "1"
        self.device = os.environ.get("DEVICE") or ("cpu" if self.dry else "cuda")
        tokenizer = ROOT / "tokenizer"
        if not tokenizer.exists():
            tokenizer = ROOT.parent / "tests" / "fixtures" / "tokenizer"
        (work / "inputs").mkdir()
        self.inputs = Inputs(work / "inputs", tokenizer)
        self.mixce = self.program()
        folders, self.missing = machine.library_folders() if self.device != "cpu" else ([], [])
        path = [session.environment.get("LD_LIBRARY_PATH", ""), *folders]
        session.environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, path))
        session.environment.update(CUDA_CACHE_PATH=str(work / "cuda-cache"), CUDA_CACHE_MAXSIZE=str(1 << 30))
        self.pytorch = PyTorch(session, ROOT / "bench", self.device != "cpu")
        self.rows = rows.Rows(session, self.mixce, self.pytorch, ROOT / "bench", self.device, self.inputs if self.dry else None)

    def program(self):
        given = os.environ.get("MIXCE")
        if given:
            found = shutil.which(given)
            if not found:
                raise SystemExit(f"MIXCE: {given} is no program")
            return str(Path(found).resolve())
        archive = ROOT / "mixce.xz"
        if not archive.exists():
            raise SystemExit(f"no program: {archive} does not exist, and MIXCE names none")
        machine.unpack(archive, self.work / "mixce")
        return str(self.work / "mixce")

    def doctor(self, step, limit_s, *flags):
        command = [self.mixce, "doctor", "--device", self.device, *flags, "--json", "--quiet"]
        return self.session.run(step, command, limit_s, checks, objection=self.unchecked if "--parity" in flags else None)

    def unchecked(self, result):
        """Parity that has compared nothing with the CPU, because it found no GPU."""
        return "" if self.device == "cpu" or not result["not_checked"] else f"not checked: {'; '.join(result['not_checked'])}"

    def group_environment(self):
        """Whether the program starts, and loads its kernels. Nothing else is tried if not."""
        facts = {"dry": self.dry, "device": self.device, **machine.facts(ROOT / "build-info.json")}
        facts["libraries"] = self.session.environment["LD_LIBRARY_PATH"]
        self.session.record("machine", "ok", str((facts["gpu"] or {}).get("name", "no nvidia-smi")), result=facts)
        unresolved = machine.unresolved(self.mixce, self.session.environment)
        if unresolved:
            self.session.record(
                "start",
                "failed",
                why=f"{'; '.join(unresolved)}; CUDA libraries found in no folder: {', '.join(self.missing) or 'none'}",
            )
            return False
        # The driver translates the kernels for this GPU at the first start and keeps the result.
        cold = self.doctor("doctor, kernels not cached", 90)
        self.doctor("doctor, kernels cached", 30)
        return cold.ok

    def group_parity(self):
        self.doctor("parity", 60, "--parity")

    def group_full(self):
        """In GPT-2 small's shapes: minutes on a CPU."""
        self.doctor("parity, full", 110, "--parity", *([] if self.dry else ["--full"]))

    def group_determinism(self):
        Determinism(self.session, self.mixce, self.inputs, self.work, self.device, self.dry).all()

    def group_training(self):
        self.rows.run(rows.FIRST)

    def group_ceilings(self):
        self.rows.ceilings()

    def group_sampling(self):
        self.rows.run(rows.SAMPLING)

    def group_compiled(self):
        if self.dry:
            return self.session.skip("compiled", "DRY: takes minutes on a CPU")
        return self.rows.run_compiled(rows.COMPILED)

    def group_more(self):
        self.rows.run(rows.MORE)

    def group_llama(self):
        self.rows.run(rows.LLAMA)

    def group_kernels(self):
        """Time by kernel of one bf16 step."""
        step = "kernels of a step, gpt2 32x1024 bf16"
        row, model = self.rows.sized(rows.Train("gpt2", 32, 1024, "bf16", steps=1))
        precision = "f32" if self.device == "cpu" else row.precision
        command = [self.mixce, "bench", "train", "--model-config", model, "--batch-size", row.batch, "--seq-len", row.length]
        command += ["--precision", precision, "--steps", 1, "--warmup", 1, "--device", self.device, "--json", "--quiet"]
        if self.dry:
            self.session.run("kernels, run", command, 60, rows.speed)
            return self.session.skip(step, "DRY: nothing to profile")
        ncu, table = machine.tool("ncu"), self.work / "ncu.csv"
        if not ncu:
            return self.session.skip(step, "no ncu on this machine")
        options = [
            "--clock-control",
            "none",
            "--metrics",
            "gpu__time_duration.sum",
            "--csv",
            "--print-units",
            "base",
            "--log-file",
            table,
        ]
        profiled = self.session.run("kernels, run", [ncu, *options, *command], 100)
        if not table.exists():
            return self.session.skip(step, profiled.why or "ncu has written nothing")
        with open(table, "rb") as source, gzip.open(self.session.out / "ncu.csv.gz", "wb") as file:
            shutil.copyfileobj(source, file)
        try:
            found = kernels.summary(table, 2)
        except ValueError as error:
            return self.session.record(step, "failed", why="; ".join(filter(None, (str(error), profiled.why))))
        words = f"{found['launches']} launches, {found['ms']:.2f} ms, {found['mixce_ms']:.2f} ms of it in mixce's own kernels"
        return self.session.record(step, "ok", words, result=found)

    def group_sanitizer(self):
        """Faults in memory, races and barriers of the kernels, on two steps of a tiny training."""
        sanitizer = machine.tool("compute-sanitizer")
        precision = "f32" if self.device == "cpu" else "bf16"
        wanted = [
            ("memcheck", precision, 60),
            ("racecheck", precision, 60),
            ("synccheck", precision, 40),
            ("memcheck", "f32", 40),
        ]
        wanted += [("racecheck", "f32", 50), ("initcheck", "f32", 40)]
        for tool, number_format, limit_s in wanted[2:] if self.dry else wanted:
            step = f"{tool}, training in {number_format}"
            if not sanitizer and not self.dry:
                self.session.skip(step, "no compute-sanitizer on this machine")
                continue
            out = self.work / "sanitized"
            shutil.rmtree(out, ignore_errors=True)
            command = [self.mixce, *self.inputs.training(self.inputs.tiny, out, 2, device=self.device, precision=number_format)]
            if not self.dry:
                # Memory of the pool that is used before or after its time on another stream is a fault too.
                ordered = ["--track-stream-ordered-races", "all"] if tool == "memcheck" else []
                command = [sanitizer, "--tool", tool, "--error-exitcode", "99", "--print-limit", "30", *ordered, *command]
            told = (lambda result: "DRY: without the tool") if self.dry else None
            self.session.run(step, command, limit_s, told)

    def group_quickstart(self):
        sizes = ["--base-steps", 4, "--steps", 2, "--texts", 200, "--samples", 20] if self.dry else []
        command = [
            self.mixce,
            "quickstart",
            "--out",
            self.work / "quickstart",
            "--device",
            self.device,
            *sizes,
            "--json",
            "--quiet",
        ]
        self.session.run("quickstart", command, 90, systems)


GROUPS = "environment parity determinism training ceilings kernels sampling compiled sanitizer full quickstart llama more".split()
TIMED = ("training", "ceilings", "sampling", "llama", "more")


def main():
    wanted = sys.argv[1:] or GROUPS
    unknown = [name for name in wanted if name not in GROUPS]
    if unknown:
        raise SystemExit(f"expected some of {', '.join(GROUPS)}; got {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(CUT_OFF))
    session = Session(os.environ.get("OUT", "results"), float(os.environ.get("BUDGET_S", "520")))
    with tempfile.TemporaryDirectory() as work:
        run = Run(session, Path(work))
        run.pytorch.start()
        try:
            for name in ["environment", *(name for name in wanted if name != "environment")]:
                session.begin(name)
                if name in TIMED:
                    run.pytorch.ready()  # no imports beside what is timed
                if getattr(run, f"group_{name}")() is False:
                    session.say("stopped: the program does not run on this machine")
                    break
        finally:
            run.pytorch.close()
    counts = {verdict: session.verdicts.count(verdict) for verdict in dict.fromkeys(session.verdicts)}
    if session.not_reached:
        session.say(f"not all reached: for the rest, OUT=another-folder run.sh {' '.join(session.not_reached)}")
    session.say(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + f"; results in {session.out}")
    return 1 if counts.get("failed") or counts.get("timeout") else 0


if __name__ == "__main__":
    sys.exit(main())
