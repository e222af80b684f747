"""What the machine has: the CUDA libraries, NVIDIA's tools, and facts for the report."""

import glob
import importlib.util
import json
import lzma
import os
import platform
import shutil
import subprocess
from pathlib import Path

LIBRARIES = ("libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libnvrtc.so.13", "libcudart.so.13")
TOOLKITS = ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib", "/opt/cuda*/lib64")


def packaged(pattern):
    """Paths below the folders of NVIDIA's Python packages, which PyTorch brings."""
    spec = importlib.util.find_spec("nvidia")
    bases = list(spec.submodule_search_locations) if spec and spec.submodule_search_locations else []
    return [path for base in bases for path in sorted(glob.glob(os.path.join(base, pattern)))]


def library_folders():
    """The folders that hold the CUDA libraries, PyTorch's first, and the libraries in none of them."""
    folders, missing = [], set(LIBRARIES)
    candidates = [*packaged("cu13/lib"), *packaged("*/lib")]
    for pattern in TOOLKITS:
        candidates += sorted(glob.glob(pattern), reverse=True)
    for folder in candidates:
        here = {name for name in missing if os.path.exists(os.path.join(folder, name))}
        if here:
            folders.append(folder)
            missing -= here
    return folders, sorted(missing)


def tool(name):
    """One of NVIDIA's tools: from the PATH, a toolkit, or a Python package; None where there is none."""
    patterns = (f"/usr/local/cuda*/bin/{name}", f"/usr/local/cuda*/{name}/{name}", f"/opt/nvidia/nsight-compute/*/{name}")
    candidates = [shutil.which(name)]
    for pattern in patterns:
        candidates += sorted(glob.glob(pattern), reverse=True)
    candidates += [*packaged(f"*/bin/{name}"), *packaged(f"*/{name}/{name}")]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def unpack(archive, target):
    """The program, made executable."""
    with lzma.open(archive) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file)
    os.chmod(target, 0o755)


def unresolved(program, environment):
    """What the loader does not find: libraries, or versions of the C library."""
    ldd = shutil.which("ldd")
    if not ldd:
        return []
    listing = subprocess.run([ldd, program], capture_output=True, text=True, env=environment, check=False)
    return [line.strip() for line in (listing.stdout + listing.stderr).splitlines() if "not found" in line]


FEW_FIELDS = "name,driver_version,memory.total"
GPU_FIELDS = f"{FEW_FIELDS},clocks.max.sm,clocks.max.memory,power.limit,mig.mode.current,ecc.mode.current"


def gpu():
    """nvidia-smi on the first GPU, by field; None without it."""
    for fields in (GPU_FIELDS, FEW_FIELDS):  # a driver that does not know one of them answers none
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
        try:
            line = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            continue
        return dict(zip(fields.split(","), [value.strip() for value in line.split(",")]))
    return None


def first_line(path, key):
    """The value of the first line of a file of `/proc` that starts with a key."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def facts(build_info):
    """The machine, and the build of the program."""
    return {
        "gpu": gpu(),
        "processor": first_line("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": first_line("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "c_library": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "build": json.loads(build_info.read_text()) if build_info.exists() else None,
    }
