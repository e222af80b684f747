"""Times of the kernels of one training step, from ncu's CSV."""

import collections
import csv
import re

SCALES = {"ns": 1, "nsecond": 1, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6, "s": 1e9, "second": 1e9}


def launches(path):
    """Name and nanoseconds of every launch, in order. ValueError with ncu's own words if there is none."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.readlines()
    found = []
    for row in csv.DictReader([line for line in lines if line.startswith('"')]):
        if row.get("Metric Name") == "gpu__time_duration.sum":
            found.append((row["Kernel Name"], float(row["Metric Value"].replace(",", "")) * SCALES[row["Metric Unit"]]))
    if not found:
        said = [line.strip() for line in lines if line.startswith(("==ERROR==", "==WARNING=="))]
        raise ValueError(f"ncu has seen no launch: {'; '.join(said) or 'no error given'}")
    return found


def last_step(found, steps):
    """The launches of the last of `steps` equal steps, each of which ends with its last AdamW launch.

    What was launched before the first step and after the last is left out. ValueError if no step is found.
    """
    updates = [index for index, (name, _) in enumerate(found) if "adamw" in name.lower()]
    if steps < 2 or not updates or len(updates) % steps:
        raise ValueError(
            f"expected a multiple of {steps} AdamW launches (at least two steps), got {len(updates)} in {len(found)} launches"
        )
    each = len(updates) // steps
    return found[updates[-each - 1] + 1 : updates[-1] + 1]


def short(name):
    """A kernel's name without its template arguments and parameters, which cuBLAS's names are full of."""
    name = re.sub(r"^void ", "", name)
    return re.split(r"[<(]", name, maxsplit=1)[0][:80]


def summary(path, steps, most=40):
    """Kernels of the last step, largest first, and their sum."""
    step = last_step(launches(path), steps)
    by_name = collections.defaultdict(list)
    for name, nanoseconds in step:
        by_name[short(name)].append(nanoseconds)
    total = sum(nanoseconds for _, nanoseconds in step)
    kernels = [
        {"kernel": name, "launches": len(times), "ms": sum(times) / 1e6, "share": sum(times) / total}
        for name, times in sorted(by_name.items(), key=lambda item: -sum(item[1]))
    ]
    ours = sum(kernel["ms"] for kernel in kernels if kernel["kernel"].startswith("mixce_"))
    return {"launches": len(step), "ms": total / 1e6, "mixce_ms": ours, "kernels": kernels[:most], "kinds": len(kernels)}
