"""Measures mixce against PyTorch and transformers on this machine, alternately, and prints a table.

    cargo build --release
    python scripts/bench/compare.py --mixce target/release/mixce --threads 2 --out results.json

Every measurement is a process of its own; the two sides take turns, and who begins changes from round to round. All counted
steps of all rounds make one sample: the table shows its median, smallest and largest value. On ragged text, where a step's
speed depends on its documents, tokens/s is all tokens by all seconds instead. PyTorch comes from --python, else from the Python that
runs this script, else from a virtual environment that is made with requirements.txt (a download of some GB).

Rows: train-f32, train-compiled, train-bf16, train-both-bf16, train-ragged (needs --text and --tokenizer), forward, generate-32, generate-1.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """One comparison: the same work on both sides."""

    title: str
    bench: str
    sizes: tuple
    pytorch: tuple = ()
    mixce: tuple = ()
    ragged: bool = False


SAMPLING = ("--prompt-len", "50", "--new-tokens", "64")
ROWS = {
    "train-f32": Row("training, 8 x 512, against f32 eager", "train", ("--batch-size", "8", "--seq-len", "512")),
    "train-compiled": Row(
        "training, 4 x 256, against f32 compiled", "train", ("--batch-size", "4", "--seq-len", "256"), ("--compile",)
    ),
    "train-bf16": Row(
        "training, 8 x 512, mixce f32 against bf16 autocast",
        "train",
        ("--batch-size", "8", "--seq-len", "512"),
        ("--precision", "bf16"),
    ),
    "train-both-bf16": Row(
        "training, 8 x 512, both in bf16",
        "train",
        ("--batch-size", "8", "--seq-len", "512"),
        ("--precision", "bf16"),
        ("--precision", "bf16"),
    ),
    "train-ragged": Row(
        "training, real text, 8 documents of at most 512, against f32 eager with padding",
        "train",
        ("--batch-size", "8", "--seq-len", "512"),
        ragged=True,
    ),
    "forward": Row("scoring, 8 x 512, against f32 eager", "forward", ("--batch-size", "8", "--seq-len", "512")),
    "generate-32": Row("sampling, batch 32, against `generate`", "generate", ("--batch-size", "32", *SAMPLING)),
    "generate-1": Row("sampling, batch 1, against `generate`", "generate", ("--batch-size", "1", *SAMPLING)),
}


def arguments_of(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixce", type=Path, default=Path("target/release/mixce"), help="the program, a release build")
    parser.add_argument("--rows", default="", help="rows to measure, comma-separated (default: all that are possible)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side and row")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process")
    parser.add_argument("--warmup", type=int, default=1, help="warm-up steps per process")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both sides")
    parser.add_argument("--dropout", type=float, default=0.1, help="all three dropout rates in training")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and tokens")
    parser.add_argument("--model-config", default="gpt2", help="`gpt2` (124M) or a config.json")
    parser.add_argument("--batch-size", type=int, help="override the batch size of every row, for trying the script")
    parser.add_argument("--seq-len", type=int, help="override the length of training and scoring rows, for trying the script")
    parser.add_argument("--text", type=Path, help="text file for train-ragged, one document per line")
    parser.add_argument("--tokenizer", type=Path, help="folder with GPT-2's tokenizer for --text")
    parser.add_argument("--python", help="Python with torch and transformers")
    parser.add_argument("--venv", type=Path, default=Path("target/bench-venv"), help="virtual environment to create if there is none")
    parser.add_argument("--out", type=Path, help="write all measurements to this JSON file")
    arguments = parser.parse_args(argv)
    if min(arguments.rounds, arguments.steps, arguments.threads) < 1 or arguments.warmup < 0:
        parser.error("--rounds, --steps and --threads are at least 1, --warmup at least 0")
    if bool(arguments.text) != bool(arguments.tokenizer):
        parser.error("--text and --tokenizer go together")
    found = shutil.which(arguments.mixce)
    if not found:
        parser.error(f"--mixce: {arguments.mixce} is no program; build it with `cargo build --release`")
    arguments.mixce = str(Path(found).resolve())
    wanted = [name.strip() for name in arguments.rows.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in ROWS]
    if unknown:
        parser.error(f"--rows: expected some of {', '.join(ROWS)}, got {', '.join(unknown)}")
    if "train-ragged" in wanted and not arguments.text:
        parser.error("the row train-ragged needs --text and --tokenizer")
    arguments.rows = wanted or [name for name, row in ROWS.items() if arguments.text or not row.ragged]
    return arguments


def has_torch(python):
    """Whether this Python can run the PyTorch side."""
    return subprocess.run([python, "-c", "import torch, transformers"], capture_output=True).returncode == 0


def find_python(arguments):
    """A Python with torch and transformers; makes a virtual environment if need be."""
    if arguments.python:
        if not has_torch(arguments.python):
            raise SystemExit(f"--python {arguments.python} cannot import torch and transformers")
        return arguments.python
    in_venv = str(arguments.venv / "bin" / "python")
    for python in (sys.executable, in_venv):
        if (python == sys.executable or Path(python).exists()) and has_torch(python):
            return python
    print(f"making {arguments.venv} with requirements.txt", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(arguments.venv)], check=True, stdout=sys.stderr)
    install = [in_venv, "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt")]
    subprocess.run(install, check=True, stdout=sys.stderr)
    return in_venv


def replaced(sizes, arguments):
    """A row's sizes, with those that were given in place of its own."""
    sizes = list(sizes)
    for flag, value in [("--batch-size", arguments.batch_size), ("--seq-len", arguments.seq_len)]:
        if value is not None and flag in sizes:
            sizes[sizes.index(flag) + 1] = str(value)
    return sizes


def commands(row, arguments, python):
    """The two command lines of a row."""
    shared = [*replaced(row.sizes, arguments), "--model-config", arguments.model_config]
    shared += ["--steps", arguments.steps, "--warmup", arguments.warmup]
    shared += ["--threads", arguments.threads, "--seed", arguments.seed]
    if row.bench == "train":
        shared += ["--dropout", arguments.dropout]
    if row.ragged:
        shared += ["--data", arguments.text, "--tokenizer", arguments.tokenizer]
    shared = [str(word) for word in shared]
    return {
        "mixce": [arguments.mixce, "bench", row.bench, *shared, *row.mixce, "--device", "cpu", "--json", "--quiet"],
        "pytorch": [python, str(HERE / f"pytorch_{row.bench}.py"), *shared, *row.pytorch],
    }


def measure(command, threads):
    """Runs one process; its JSON object."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment)
    if outcome.returncode != 0:
        tail = "\n".join(outcome.stderr.splitlines()[-12:])
        raise SystemExit(f"failed with status {outcome.returncode}: {' '.join(command)}\n{tail}")
    return json.loads(outcome.stdout.splitlines()[-1])


def measure_row(name, arguments, python):
    """All processes of a row, the sides taking turns."""
    sides = commands(ROWS[name], arguments, python)
    results = {side: [] for side in sides}
    for number in range(arguments.rounds):
        for side in list(sides) if number % 2 == 0 else reversed(sides):
            print(f"{name}, round {number + 1} of {arguments.rounds}: {side}", file=sys.stderr, flush=True)
            results[side].append(measure(sides[side], arguments.threads))
    if ROWS[name].ragged:
        require_same_tokens(name, results)
    return {"commands": sides, "results": results}


def require_same_tokens(name, results):
    """On real text both sides must have counted the same tokens, or they did not read the same documents."""
    counts = {side: [result["tokens"] for result in processes] for side, processes in results.items()}
    if counts["mixce"] != counts["pytorch"]:
        raise SystemExit(f"{name}: the sides counted different tokens: {counts}")


def summary(processes, ragged):
    """Speed, its spread, and memory over all processes of one side."""
    steps = [(count, time) for result in processes for count, time in zip(result["tokens"], result["step_s"])]
    rates = [count / time for count, time in steps]
    whole = sum(count for count, _ in steps) / sum(time for _, time in steps)
    shares = [result["matmul_peak_share"] for result in processes if "matmul_peak_share" in result]
    return {
        "tokens_per_s": whole if ragged else statistics.median(rates),
        "tokens_per_s_min": min(rates),
        "tokens_per_s_max": max(rates),
        "steps": len(steps),
        "peak_rss_bytes": max(result["peak_rss_bytes"] or 0 for result in processes),
        "matmul_peak_share": statistics.median(shares) if shares else None,
    }


def output_of(*command):
    """What a program prints, or `not known`."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not known"


def machine():
    """Processor, cores that may be used, memory, system."""
    cpu, memory = platform.processor() or platform.machine(), "not known"
    for path, key in [("/proc/cpuinfo", "model name"), ("/proc/meminfo", "MemTotal")]:
        if Path(path).exists():
            lines = [line for line in Path(path).read_text().splitlines() if line.startswith(key)]
            value = lines[0].split(":", 1)[1].strip() if lines else "not known"
            cpu, memory = (value, memory) if key == "model name" else (cpu, value)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": cpu, "cores": cores, "memory": memory, "system": platform.platform()}


def provenance(arguments, rows):
    """Everything that a reader needs to judge the numbers or to repeat them."""
    changed = output_of("git", "status", "--porcelain", "--untracked-files=no")
    first = next(iter(rows.values()))["results"]["pytorch"][0]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": output_of("git", "rev-parse", "HEAD") + (" with changes" if changed not in ("", "not known") else ""),
        "mixce": output_of(arguments.mixce, "--version").splitlines()[0],
        "rustc": output_of("rustc", "--version"),
        **machine(),
        "versions": first["versions"],
        "command": "python " + " ".join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def speed(side):
    return f"{side['tokens_per_s']:.1f} ({side['tokens_per_s_min']:.1f} - {side['tokens_per_s_max']:.1f})"


def table(rows, facts, threads, replaced_sizes):
    """Markdown: facts, then one line a row."""
    lines = [
        f"- {facts['date']}, commit {facts['commit']}, {facts['mixce']}",
        f"- {facts['processor']}, {facts['cores']} cores, {threads} threads, {facts['memory']}, {facts['system']}",
        f"- {facts['rustc']}; " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        f"- `{facts['command']}`",
        *(["- **sizes were replaced on the command line: the rows' names do not hold**"] if replaced_sizes else []),
        "",
        "| row | steps | mixce tokens/s | PyTorch tokens/s | ratio | mixce peak | PyTorch peak | ratio | share of matmul peak |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        ours, theirs = row["mixce"], row["pytorch"]
        gigabytes = [side["peak_rss_bytes"] / 1e9 for side in (ours, theirs)]
        lines.append(
            f"| {ROWS[name].title} | {ours['steps']} | {speed(ours)} | {speed(theirs)} | **{row['speed_ratio']:.2f}** "
            f"| {gigabytes[0]:.2f} GB | {gigabytes[1]:.2f} GB | {row['memory_ratio']:.2f} "
            f"| {100 * ours['matmul_peak_share']:.0f} % |"
        )
    return "\n".join(lines)


def main():
    arguments = arguments_of()
    python = find_python(arguments)
    measured, rows = {}, {}
    for name in arguments.rows:
        measured[name] = measure_row(name, arguments, python)
        sides = {side: summary(results, ROWS[name].ragged) for side, results in measured[name]["results"].items()}
        rows[name] = {
            **sides,
            "speed_ratio": sides["mixce"]["tokens_per_s"] / sides["pytorch"]["tokens_per_s"],
            "memory_ratio": sides["mixce"]["peak_rss_bytes"] / sides["pytorch"]["peak_rss_bytes"],
        }
        facts = provenance(arguments, measured)
        if arguments.out:
            # After every row: a long session that is stopped keeps what it has.
            new = arguments.out.with_name(arguments.out.name + ".new")
            new.write_text(json.dumps({"facts": facts, "rows": rows, "measured": measured}, indent=1) + "\n")
            new.replace(arguments.out)
    replaced_sizes = (arguments.model_config, arguments.batch_size, arguments.seq_len) != ("gpt2", None, None)
    print(table(rows, facts, arguments.threads, replaced_sizes))


if __name__ == "__main__":
    main()
