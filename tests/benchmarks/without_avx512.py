"""OpenVINO as on a CPU without AVX512: ``gdb -q -batch -x`` this ``-ex run --args PROGRAM ...``.

The variables that hold oneDNN and OpenVINO to an instruction set do not bind MLAS, which computes most float products:
it asks the CPU itself. So the debugger stops at each CPUID of OpenVINO's libraries and takes AVX512 out of the answer.
That is asked while they are loaded; what runs afterwards runs at full speed.

Source of the bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID, leaf 07H.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import gdb  # pyright: ignore[reportMissingImports]  the debugger's own, inside of it

LIBRARIES = "/openvino/libs/libopenvino"
FEATURES = 7
# AVX512 in the answers of both parts of the leaf: by part, the bits of each register.
AVX512: dict[int, dict[str, tuple[int, ...]]] = {
    0: {
        "rbx": (16, 17, 21, 26, 27, 28, 30, 31),
        "rcx": (1, 6, 11, 12, 14),
        "rdx": (2, 3, 8, 22, 23, 24, 25),  # with AMX
    },
    1: {"rax": (5,)},
}

masked: set[str] = set()
# What each thread asks at the moment: leaf and part.
asking: dict[int, tuple[int, int]] = {}


def register(name: str) -> int:
    """The lower half of a register, which is all that CPUID knows."""
    return int(gdb.parse_and_eval(f"${name}")) & 0xFFFFFFFF


class Before(gdb.Breakpoint):
    """At a CPUID."""

    def stop(self) -> bool:
        """Note what is asked, and go on."""
        asking[gdb.selected_thread().num] = (register("rax"), register("rcx"))
        return False


class After(gdb.Breakpoint):
    """Behind a CPUID."""

    def stop(self) -> bool:
        """Change the answer, and go on."""
        leaf, part = asking.pop(gdb.selected_thread().num, (0, 0))
        if leaf == FEATURES:
            for name, bits in AVX512.get(part, {}).items():
                without = register(name) & ~sum(1 << bit for bit in bits)
                gdb.execute(f"set ${name} = {without:#x}")
        return False


def loaded(event: Any) -> None:
    """Set breakpoints around each CPUID of a library, before its first instruction runs."""
    path: str = event.new_objfile.filename or ""
    if LIBRARIES not in path or path in masked:
        return
    masked.add(path)
    with Path(f"/proc/{gdb.selected_inferior().pid}/maps").open() as maps:
        name = path.rpartition("/")[2]
        base = min(int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith(f"/{name}"))
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for number, line in enumerate(listing):
        if line.rstrip().endswith("cpuid"):
            for kind, at in ((Before, line), (After, listing[number + 1])):
                kind(f"*{base + int(at.split(':')[0], 16):#x}", internal=True)


gdb.events.new_objfile.connect(loaded)
for setting in ("breakpoint pending on", "pagination off", "print thread-events off"):
    gdb.execute(f"set {setting}")
