"""Turns a preprocessed CUDA source (see device/device.h) into C++: standard input to standard output.

Shared variables become static storage, because blocks run one after another; arrays of dynamic size become pointers; every
kernel registers itself with the driver. Usage: translate.py NAME_OF_THE_SOURCE
"""

import re
import sys

SHARED = r"__attribute__\s*\(\(emulated_shared\)\)"
KERNEL = r"__attribute__\s*\(\(emulated_kernel\)\)"
ALIGNED = r"(?:__attribute__\s*\(\(aligned\([^()]*\)\)\)\s*)?"


def dynamic_shared(match):
    kind, name = match.groups()
    return f"{kind}* {name} = ({kind}*)emulated_dynamic_shared();"


def static_shared(match):
    """`T name[N];` as a reference to storage without a constructor, whose first use would need a guard variable."""
    declaration = match.group(1)
    found = re.fullmatch(rf"\s*{ALIGNED}([\w\s:<>,*]*[\w>*])\s+(\w+)\s*((?:\[.*\])?)\s*", declaration, re.DOTALL)
    if not found:
        sys.exit(f"{sys.argv[1]}: cannot translate `__shared__{declaration};`: write one variable a declaration")
    kind, name, sizes = found.groups()
    return (
        f"typedef {kind} emulated_type_{name}{sizes}; static EmulatedStorage<emulated_type_{name}> emulated_storage_{name}; "
        f"emulated_type_{name}& {name} = emulated_storage_{name}.value;"
    )


def translate(text, source):
    text = re.sub(rf"extern\s+{SHARED}\s*{ALIGNED}([\w\s:]*?\w)\s+(\w+)\s*\[\s*\]\s*;", dynamic_shared, text)
    text = re.sub(rf"(?:\bstatic\s+)?{SHARED}([^;]*);", static_shared, text)
    # A template is no kernel of its own: only what has a plain name can be launched by it.
    kernels = re.findall(rf"(?<!>)\s(?:extern\s+\"C\"\s+)?(?:static\s+)?{KERNEL}\s*void\s+(\w+)\s*\(", text)
    registrations = [
        f'static const bool emulated_added_{name} = EmulatedKernel<decltype({name})>::add<{name}>("{name}", "{source}");'
        for name in dict.fromkeys(kernels)
    ]
    return text + "\n" + "\n".join(registrations) + "\n"


if __name__ == "__main__":
    sys.stdout.write(translate(sys.stdin.read(), sys.argv[1]))
