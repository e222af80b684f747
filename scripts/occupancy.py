#!/usr/bin/env python3
"""The occupancy of our kernels: how many warps fit a multiprocessor at once, as a share of the most that it holds.

Usage: occupancy.py CUBINS PAGE

CUBINS has a folder for each compute capability (80, 90, 120) with NAME.cubin and what `ptxas -v` has printed, NAME.log, for every file of
kernels. Compares them with the table in PAGE: an occupancy below the table's is an error, a kernel that the table lacks though its occupancy
is not full is, and a row without its kernel is. With MIXCE_BLESS=1 the table is written instead.
"""

import os
import re
import struct
import sys
from pathlib import Path

# Of a multiprocessor, from the table of technical specifications by compute capability in NVIDIA's CUDA programming guide: warps, blocks,
# and bytes of shared memory.
LIMITS = {80: (64, 32, 164 << 10), 90: (64, 32, 228 << 10), 120: (48, 24, 100 << 10)}
# The same for all three: registers of each of the four parts of a multiprocessor, which are handed out to warps in portions; and shared
# memory that the driver takes from each block, and its portions.
PARTS, REGISTERS_OF_PART, REGISTER_PORTION = 4, 16_384, 256
SHARED_OF_DRIVER, SHARED_PORTION = 1024, 128

# What src/cuda/*.rs chooses at launch: bytes of dynamic shared memory of a block, and its threads where they are not the most that it may
# have. What depends on shapes is that of GPT-2 small (C = 768, V = 50257) and, unless a kernel's name says more, of the largest heads that it
# takes.
LAUNCHES = [
    (r"attention_tensor_backward_keys_64", 32_768, None),
    (r"attention_tensor_backward_keys_128", 65_536, None),
    (r"attention_(backward_(queries|keys)_)?2_\w+", (2 * 32 * 65 + 1024) * 4, None),
    (r"attention_(backward_(queries|keys)_)?4_\w+", (2 * 32 * 129 + 1024) * 4, None),
    (r"attention_(backward_(queries|keys)_)?8_\w+", (2 * 21 * 257 + 1024) * 4, None),
    (r"(residual_)?(layer|rms)_norm_(f32|bf16)", 8 * 768 * 4, None),
    (r"(layer|rms)_norm_(branch_)?backward_(f32|bf16)", 7 * 2 * 768 * 4, 7 * 32),
    (r"rotary_backward_(f32|bf16)", 2 * 8 * 128 * 4, None),
    (r"sample", 197 * 8, None),
]

BEGIN, END = "<!-- occupancy: begin -->", "<!-- occupancy: end -->"


def up(value, portion):
    return -(-value // portion) * portion


def occupancy(capability, threads, registers, shared):
    """The share of a multiprocessor's warps that blocks of this kernel can fill, in whole percent, rounded down.

    >>> [occupancy(capability, threads=256, registers=32, shared=0) for capability in LIMITS]
    [100, 100, 100]

    Bounded by registers: one block of 32 warps.

    >>> [occupancy(capability, threads=1024, registers=64, shared=0) for capability in LIMITS]
    [50, 50, 66]

    By shared memory: 3, 4 and 2 blocks of 4 warps. By blocks: 32, 32 and 24 of one warp.

    >>> [occupancy(capability, threads=128, registers=32, shared=48 << 10) for capability in LIMITS]
    [18, 25, 16]
    >>> [occupancy(capability, threads=32, registers=32, shared=0) for capability in LIMITS]
    [50, 50, 50]
    """
    most_warps, most_blocks, most_shared = LIMITS[capability]
    warps = up(threads, 32) // 32
    of_part = REGISTERS_OF_PART // up(registers * 32, REGISTER_PORTION)
    by_registers = of_part * PARTS // warps
    by_shared = most_shared // (up(shared, SHARED_PORTION) + SHARED_OF_DRIVER)
    blocks = min(most_warps // warps, most_blocks, by_registers, by_shared)
    return 100 * blocks * warps // most_warps


def usage(log):
    """Registers and static shared memory of each kernel of a log of ptxas."""
    kernels, name = {}, None
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found[1]
        elif name and (found := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name] = (int(found[1]), int(shared[1]) if shared else 0)
            name = None
    return kernels


def most_threads(cubin):
    """Threads of a block of each kernel, as `__launch_bounds__` says: the attribute MAX_THREADS in its section of the ELF file."""
    header = struct.unpack_from("<QIHHHHHH", cubin, 0x28)
    offset, size, count, names_index = header[0], header[5], header[6], header[7]
    sections = [struct.unpack_from("<IIQQQQ", cubin, offset + i * size) for i in range(count)]
    names_offset = sections[names_index][4]
    threads = {}
    for name_offset, _, _, _, at, length in sections:
        start = names_offset + name_offset
        name = cubin[start : cubin.index(b"\0", start)].decode()
        if not name.startswith(".nv.info."):
            continue
        end = at + length
        while at < end:
            form, attribute, value = struct.unpack_from("<BBH", cubin, at)
            at += 4
            if form == 4:  # a value of so many bytes follows
                if attribute == 5:
                    x, y, z = struct.unpack_from("<III", cubin, at)
                    threads[name.removeprefix(".nv.info.")] = x * y * z
                at += value
    return threads


def launch(name, most_threads):
    """Threads and dynamic shared memory of a block."""
    for pattern, shared, threads in LAUNCHES:
        if re.fullmatch(pattern, name):
            return threads or most_threads, shared
    return most_threads, 0


def measured(folder):
    """{kernel: (threads, {capability: (registers, shared memory, occupancy)})}"""
    kernels = {}
    for capability in LIMITS:
        for log in sorted((folder / str(capability)).glob("*.log")):
            threads = most_threads(log.with_suffix(".cubin").read_bytes())
            for full_name, (registers, static) in usage(log.read_text()).items():
                if full_name not in threads:
                    sys.exit(f"error: kernel `{full_name}` has no __launch_bounds__")
                name = full_name.removeprefix("mixce_")
                block, dynamic = launch(name, threads[full_name])
                share = occupancy(capability, block, registers, static + dynamic)
                kernels.setdefault(name, (block, {}))[1][capability] = (registers, static + dynamic, share)
    missing = [name for name, (_, of) in kernels.items() if set(of) != set(LIMITS)]
    if not kernels or missing:
        sys.exit(f"error: expected kernels for {sorted(LIMITS)} below `{folder}`, missing {missing or 'all'}")
    return kernels


def row(name, kernel):
    threads, of = kernel
    cells = [f"{registers}, {shared}: {share} %" for registers, shared, share in of.values()]
    return f"| `{name}` | {threads} | {' | '.join(cells)} |"


def table(kernels):
    low = {name: kernel for name, kernel in kernels.items() if any(share < 100 for _, _, share in kernel[1].values())}
    head = "| kernel | threads | " + " | ".join(f"sm_{capability}" for capability in LIMITS) + " |"
    rule = "| --- " + "| ---: " * (1 + len(LIMITS)) + "|"
    return "\n".join([head, rule, *(row(name, kernel) for name, kernel in sorted(low.items()))])


def promised(text):
    """{kernel: the occupancies of its row}"""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.M)
    return {name: [int(share) for share in re.findall(r"(\d+) %", cells)] for name, cells in rows}


def main():
    folder, page = Path(sys.argv[1]), Path(sys.argv[2])
    kernels, text = measured(folder), page.read_text()
    before, found, after = text.partition(BEGIN)
    promised_text, closed, after = after.partition(END)
    if not found or not closed:
        sys.exit(f"error: `{page}` has no table between `{BEGIN}` and `{END}`")
    for name, kernel in sorted(kernels.items()):
        print(row(name, kernel))
    if os.environ.get("MIXCE_BLESS"):
        page.write_text(f"{before}{BEGIN}\n\n{table(kernels)}\n\n{END}{after}")
        return
    errors = [f"`{name}` is in the table of `{page}`, but no kernel" for name in promised(promised_text) if name not in kernels]
    for name, (_, of) in sorted(kernels.items()):
        wanted = promised(promised_text).get(name, [100] * len(LIMITS))
        for (capability, (registers, _, share)), want in zip(of.items(), wanted, strict=True):
            if share < want:
                errors.append(f"`{name}` on sm_{capability}: occupancy {share} %, at least {want} % expected ({registers} registers)")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if errors:
        sys.exit("hint: if it is worth it, MIXCE_BLESS=1 scripts/check-cuda.sh writes the table anew")


if __name__ == "__main__":
    main()
