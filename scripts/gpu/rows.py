"""The rows of speed and memory: each on mixce, beside its plan and PyTorch's twin."""

import statistics
from dataclasses import dataclass, replace

SMOLLM2 = "SmolLM2-135M"


@dataclass(frozen=True)
class Train:
    """A training step of `batch` sequences of `length` tokens."""

    model: str
    batch: int
    length: int
    precision: str
    steps: int = 8

    @property
    def name(self):
        return f"train {self.model} {self.batch}x{self.length} {self.precision}"


@dataclass(frozen=True)
class Sample:
    """Sampling of 64 tokens after prompts of 50."""

    model: str
    batch: int
    precision: str
    prompt: int = 50
    new: int = 64
    steps: int = 3

    @property
    def name(self):
        return f"generate {self.model} batch {self.batch} {self.precision}"


FIRST = [
    Train("gpt2", 32, 1024, "bf16"),
    Train("gpt2-large", 8, 1024, "bf16", steps=5),
    Train("gpt2", 8, 512, "bf16", steps=20),
    Train("gpt2", 8, 512, "f32"),
]
COMPILED = FIRST[:2]
MORE = [
    Train("gpt2", 8, 512, "tf32"),
    Train("gpt2-medium", 8, 1024, "bf16", steps=5),
    Train("gpt2-medium", 8, 512, "f32", steps=4),
    Train("gpt2-large", 8, 512, "f32", steps=3),
]
SAMPLING = [
    Sample("gpt2", 32, "f32"),
    Sample("gpt2", 32, "bf16"),
    Sample("gpt2-large", 32, "f32", steps=2),
    Sample("gpt2-large", 32, "bf16", steps=2),
]
LLAMA = [Train(SMOLLM2, 8, 512, "bf16"), Train(SMOLLM2, 8, 512, "f32"), Sample(SMOLLM2, 32, "f32")]


def speed(result):
    """The figures of a measurement in words."""
    memory = result.get("peak_device_bytes") or result.get("peak_gpu_bytes")
    words = [f"{result['tokens_per_s']:,.0f} tokens/s", f"{1e3 * statistics.median(result['step_s']):.1f} ms a step"]
    words += [f"{result['gflops'] / 1e3:.1f} TFLOP/s"] if "gflops" in result else []
    words += [f"{memory / 1e9:.2f} GB on the device"] if memory else []
    return ", ".join(words)


def planned(result):
    """The figure of a plan in words."""
    return f"{result['memory']['peak'] / 1e9:.2f} GB"


def ceiling(result):
    """The fastest copy and products in words."""
    best = {}
    for row in result["rows"]:
        if "tflops" in row:
            best[row["precision"]] = max(best.get(row["precision"], 0), row["tflops"])
    rates = [f"{precision} {rate:.1f} TFLOP/s" for precision, rate in best.items()]
    return ", ".join([f"copy {result['rows'][0]['gb_per_s']:.0f} GB/s", *rates])


class Rows:
    """Runs rows on their sides."""

    def __init__(self, session, mixce, pytorch, bench, device, dry=None):
        """With `dry`, an `Inputs`, all shapes are tiny."""
        self.session, self.mixce, self.pytorch, self.bench = session, mixce, pytorch, bench
        self.device, self.dry = device, dry

    def sized(self, row):
        """The row as it is run, and the model's argument, for both sides alike."""
        if not self.dry:
            return row, self.bench / "smollm2-135m.json" if row.model == SMOLLM2 else row.model
        tiny = {"prompt": 8, "new": 4} if isinstance(row, Sample) else {"length": 16}
        return replace(row, batch=2, steps=1, **tiny), self.dry.tiny_llama if row.model == SMOLLM2 else self.dry.tiny

    def may_refuse(self, row):
        """What not every version, or not every CPU, supports."""
        known = row.precision == "f32" or (row.precision == "bf16" and self.device != "cpu")
        return row.model == SMOLLM2 or not known

    def common(self, row, model):
        warmup = 0 if self.dry else 3 if isinstance(row, Train) else 1
        words = ["--model-config", model, "--batch-size", row.batch, "--steps", row.steps, "--warmup", warmup]
        if isinstance(row, Train):
            return [*words, "--seq-len", row.length]
        return [*words, "--prompt-len", row.prompt, "--new-tokens", row.new]

    def bench_name(self, row):
        return "train" if isinstance(row, Train) else "generate"

    def plan(self, row):
        """Memory as planned, for the same documents: `length` inputs are `length + 1` tokens, as far as the model has positions."""
        sized, model = self.sized(row)
        positions = 8192 if row.model == SMOLLM2 else 1024
        longest = min(sized.length + 1, positions)
        # TF32 changes no size, and time is not asked for.
        precision = "f32" if sized.precision == "tf32" else sized.precision
        command = [self.mixce, "plan", "--model", model, "--batch-size", sized.batch, "--grad-accum", 1, "--max-length", longest]
        command += ["--precision", precision, "--gflops", 50000, "--device", self.device, "--json", "--quiet"]
        self.session.run(row.name, command, 15, planned, self.may_refuse(row), side="plan")

    def ours(self, row, limit_s=40):
        sized, model = self.sized(row)
        command = [self.mixce, "bench", self.bench_name(row), *self.common(sized, model), "--precision", sized.precision]
        command += ["--device", self.device, "--json", "--quiet"]
        self.session.run(row.name, command, limit_s, speed, self.may_refuse(row), side="mixce")

    def theirs(self, row, compiled=False, limit_s=40):
        """PyTorch: sdpa, fused AdamW; bf16 by autocast in training, as weights in sampling."""
        sized, model = self.sized(row)
        side = "compiled" if compiled else "pytorch"
        if sized.precision == "tf32" and self.device == "cpu":
            return self.session.skip(row.name, "a CPU has no TF32", side=side)
        precision = "bf16-weights" if (sized.precision, isinstance(row, Sample)) == ("bf16", True) else sized.precision
        words = [*self.common(sized, model), "--precision", precision, "--device", self.device]
        words += ["--fused-adamw"] if isinstance(row, Train) else []
        words += ["--compile"] if compiled else []
        return self.pytorch.row(row.name, self.bench_name(row), words, limit_s, speed, side=side)

    def run(self, rows):
        for row in rows:
            if isinstance(row, Train):
                self.plan(row)
            self.ours(row)
            self.theirs(row)

    def run_compiled(self, rows):
        for row in rows:
            self.theirs(row, compiled=True, limit_s=120)

    def ceilings(self):
        words = ["--device", self.device, *(["--small"] if self.dry else [])]
        self.pytorch.row("ceilings", "ceilings", words, 60, ceiling)
