#!/usr/bin/env python3
"""Turns the report of a run on a GPU into Markdown, on stdout: the tables of docs/src/cuda.md.

    scripts/gpu-report.py results/report.jsonl [results-2/report.jsonl ...]

Several reports of one machine are read as one; of a step that is in two, the later one counts unless it was skipped. What did not run
has the reason in its place.
"""

import argparse
import json
import re
import statistics
import sys

PEAKS = {
    "H100 PCIe": (756.5, 378.0, 51.2),
    "H100": (989.4, 494.7, 66.9),
    "H200": (989.4, 494.7, 66.9),
    "A100": (311.9, 155.9, 19.5),
}
PEAKS.update({"RTX 4090": (165.2, 82.6, 82.6), "L40S": (362.1, 183.2, 91.6), "H100 NVL": (835.5, 417.8, 60.0)})
"""Dense TFLOP/s of bf16, TF32 and f32 according to NVIDIA's data sheets, by a part of the GPU's name; longer names first."""
PRECISIONS = ("bf16", "tf32", "f32")
SIDES = ("mixce", "pytorch", "compiled", "plan")


class Reports:
    """Entries by step and side, in the order of their first appearance."""

    def __init__(self, paths):
        self.entries = {}
        for path in paths:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    self.add(line, f"{path}:{number}")

    def add(self, line, where):
        try:
            entry = json.loads(line)
            key = entry["step"], entry.get("side")
            verdict = entry["verdict"]
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{where}: expected an entry with `step` and `verdict`: {error!r}") from error
        if verdict != "skipped" or key not in self.entries:
            self.entries[key] = entry

    def get(self, step, side=None):
        return self.entries.get((step, side))

    @property
    def dry(self):
        """Whether the shapes were tiny ones, on the CPU: rates then mean nothing."""
        return bool((self.result("machine") or {}).get("dry"))

    def result(self, step, side=None):
        """The figures of a step that ended well."""
        entry = self.get(step, side)
        return entry.get("result") if entry and entry["verdict"] == "ok" else None

    def steps(self, *starts):
        return list(dict.fromkeys(step for step, _ in self.entries if step.startswith(starts)))


def table(header, rows, numbers_from=1):
    """A Markdown table; columns from `numbers_from` on are aligned to the right."""
    marks = ["---" if column < numbers_from else "---:" for column in range(len(header))]
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in [header, marks, *rows]]


def clean(text):
    """Text for a cell."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").strip()


def number(value, digits=0):
    return "" if value is None else f"{value:,.{digits}f}"


def gigabytes(count):
    return "" if count is None else f"{count / 1e9:.2f}"


def missing(entry):
    """What stands in the place of a figure."""
    return "not run" if entry is None else entry["verdict"]


def peak(reports, precision):
    """TFLOP/s of the data sheet; None for an unknown GPU."""
    seen = [reports.result(step) or {} for step in ("machine", "doctor, kernels not cached")]
    name = next((facts["gpu"]["name"] for facts in seen if facts.get("gpu")), "")
    known = next(
        (PEAKS[part] for part in sorted(PEAKS, key=len, reverse=True) if all(word in name for word in part.split())), None
    )
    return known[PRECISIONS.index(precision)] if known else None


def machine(reports):
    facts = reports.result("machine")
    if not facts:
        return ["No facts about the machine."]
    gpu, build = facts.get("gpu") or {}, facts.get("build") or {}
    details = [gpu[field] for field in ("name", "memory.total", "clocks.max.sm", "power.limit") if field in gpu]
    rows = [
        ("GPU", ", ".join(details) or "none"),
        ("driver", gpu.get("driver_version", "none")),
        ("processor", f"{facts['processor']}, {facts['cores']} cores, {facts['memory']}"),
        ("system", f"{facts['system']}, {facts['c_library']}, Python {facts['python']}"),
    ]
    if build:
        changed = " with changes" if build.get("changed") else ""
        rows.append(
            (
                "program",
                f"commit {build.get('commit')}{changed}, compute capability {build.get('compute_capability')}, {build.get('rustc')}",
            )
        )
    versions = [
        reports.result(step, "pytorch")["versions"]
        for step in reports.steps("train", "generate")
        if reports.result(step, "pytorch")
    ]
    if versions:
        rows.append(("PyTorch", ", ".join(f"{name} {version}" for name, version in versions[0].items() if name != "python")))
    lines = table(("", ""), [(name, clean(value)) for name, value in rows], 2)
    if reports.dry:
        lines = [
            "**A dry run: tiny shapes on the CPU. The figures say nothing about a GPU, and shapes are not those of the rows' names.**",
            "",
            *lines,
        ]
    return lines


def doctor(reports):
    """Start, parity, determinism and sanitizers: what holds."""
    rows = []
    for step in reports.steps(
        "start", "doctor", "parity", "training twice", "sampling again", "memcheck", "racecheck", "synccheck", "initcheck"
    ):
        entry = reports.get(step)
        result = entry.get("result") or {}
        words = [entry.get("why", "")]
        if "checks" in result:
            failed = [check for check in result["checks"] if not check["holds"]]
            words = [
                f"{len(result['checks'])} checks, {len(failed)} failed",
                *(f"{check['name']}: {check['detail']}" for check in failed),
            ]
            words += [f"not checked: {len(result['not_checked'])}"] if result["not_checked"] else []
            words += [entry["why"]] if entry.get("why") and not failed else []
        elif "distinct" in result:
            counts = " and ".join(result["hashes"])
            words = [
                f"{result['runs']} runs on {counts or 'no'} threads, {result['distinct']} distinct",
                result.get("against_cpu", ""),
                *words,
            ]
        rows.append((step, entry["verdict"], number(entry.get("seconds"), 1), clean("; ".join(word for word in words if word))))
    return table(("", "verdict", "s", ""), rows, 4) if rows else []


def ceilings(reports):
    entry, result = reports.get("ceilings"), reports.result("ceilings")
    if not result:
        return [f"{missing(entry)}{': ' + clean(entry['why']) if entry and entry.get('why') else ''}"] if entry else []
    rows = [(row["name"], "", "", f"{row['gb_per_s']:,.0f} GB/s", "") for row in result["rows"] if "gb_per_s" in row]
    for row in result["rows"]:
        if "tflops" in row:
            name = row["name"] + (f", pitch {row['pitch']}" if "pitch" in row else "")
            top = peak(reports, row["precision"])
            share = f"{100 * row['tflops'] / top:.0f} %" if top else ""
            rows.append((name, row["precision"], " x ".join(map(str, row["shape"])), f"{row['tflops']:,.1f} TFLOP/s", share))
    return table(("", "precision", "m x k x n", "rate", "of the data sheet"), rows, 3)


def flops_per_token(reports, step):
    """Floating-point operations of a step by its tokens, as mixce counts them, else as it plans them."""
    ours, planned = reports.result(step, "mixce"), reports.result(step, "plan")
    if ours:
        return 1e9 * ours["gflops"] / ours["tokens_per_s"]
    return 1e9 * planned["gflop_per_step"] / planned["tokens_per_step"] if planned else None


def memory(result):
    return result.get("peak_device_bytes") or result.get("peak_gpu_bytes") if result else None


def speeds(reports, start):
    """A table of rows on their sides: speed, its ratio, share of the data sheet's peak, memory."""
    rows = []
    for step in reports.steps(start + " "):
        entries = {side: reports.get(step, side) for side in SIDES}
        results = {side: reports.result(step, side) for side in SIDES}
        rate = {side: results[side]["tokens_per_s"] for side in SIDES[:3] if results[side]}
        flops, top = flops_per_token(reports, step), peak(reports, step.rsplit(" ", 1)[1])
        cells = [step.split(" ", 1)[1]]
        cells += [number(rate[side]) if side in rate else missing(entries[side]) for side in SIDES[:3]]
        others = [rate[side] for side in SIDES[1:3] if side in rate]
        cells.append(f"**{rate['mixce'] / max(others):.2f}**" if "mixce" in rate and others and not reports.dry else "")
        cells.append(number(results["mixce"]["gflops"] / 1e3, 1) if results["mixce"] and not reports.dry else "")
        cells += [
            f"{100 * rate[side] * flops / top / 1e12:.1f} %" if side in rate and flops and top else "" for side in SIDES[:3]
        ]
        planned = results["plan"]["memory"]["peak"] if results["plan"] else None
        cells += [gigabytes(memory(results["mixce"])), gigabytes(planned), gigabytes(memory(results["pytorch"]))]
        rows.append(cells)
    header = (
        "",
        "mixce tokens/s",
        "PyTorch",
        "compiled",
        "ratio to the faster",
        "mixce TFLOP/s",
        "mixce MFU",
        "PyTorch MFU",
        "compiled MFU",
        "mixce GB",
        "plan GB",
        "PyTorch GB",
    )
    kept = [column for column in range(len(header)) if column == 0 or any(row[column] not in ("", "not run") for row in rows)]
    return table([header[c] for c in kept], [[row[c] for c in kept] for row in rows]) if rows else []


def kernels(reports):
    lines = []
    for step in reports.steps("kernels of"):
        result = reports.result(step)
        if not result:
            lines.append(f"{step}: {missing(reports.get(step))}, {clean(reports.get(step).get('why', ''))}")
            continue
        measured = reports.result(step.replace("kernels of a step, ", "train "), "mixce")
        step_ms = f"; a step takes {1e3 * statistics.median(measured['step_s']):.2f} ms" if measured else ""
        lines += [f"{step}: {result['launches']} launches, {result['ms']:.2f} ms{step_ms}.", ""]
        rows = [(f"`{k['kernel']}`", k["launches"], f"{k['ms']:.3f}", f"{100 * k['share']:.1f} %") for k in result["kernels"]]
        lines += table(("kernel", "launches", "ms", "share"), rows)
    return lines


def quickstart(reports):
    entry, result = reports.get("quickstart"), reports.result("quickstart")
    if not result:
        return [f"{missing(entry)}, {clean(entry.get('why', ''))}"] if entry else []
    names = ("perplexity", "in_support", "reverse_cross_entropy", "diversity")
    rows = [(name, *(f"{system[key]:.3g}" for key in names)) for name, system in result["systems"].items()]
    return [
        f"{result['seconds']:.0f} s in training and sampling.",
        "",
        *table(("", *(name.replace("_", " ") for name in names)), rows),
    ]


def shortfalls(reports):
    """Everything that is not `ok`, with its reason."""
    rows = []
    for (step, side), entry in reports.entries.items():
        if entry["verdict"] != "ok":
            rows.append((f"{step}, {side}" if side else step, entry["verdict"], clean(entry.get("why", ""))))
    return table(("", "verdict", "why"), rows, 3) if rows else ["Nothing."]


SECTIONS = [
    ("Machine", machine),
    ("Parity, determinism, sanitizers", doctor),
    ("Ceilings", ceilings),
    ("Training beside PyTorch", lambda reports: speeds(reports, "train")),
    ("Sampling beside `generate`", lambda reports: speeds(reports, "generate")),
    ("Kernels of a step", kernels),
    ("Quickstart", quickstart),
    ("Skipped, refused or failed", shortfalls),
]


def markdown(reports):
    lines = []
    for title, section in SECTIONS:
        lines += [f"### {title}", "", *(section(reports) or ["not run"]), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="+", help="report.jsonl of a run")
    sys.stdout.write(markdown(Reports(parser.parse_args().report)))


if __name__ == "__main__":
    main()
