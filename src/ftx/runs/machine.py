"""The machine that a figure was measured on: a proof or a latency of one kind of CPU is none of another.

The instruction set of a CPU decides which kernels OpenVINO runs. An int8 model's outputs differ with each: without VNNI
(AVX2, AVX512) sums of products saturate, and where bf16 is computed, layers around the int8 ones are rounded. The
sets do not nest: AVX512 has no AVX2-VNNI. A process can be limited to an older set.
Source: oneDNN, CPU dispatcher control (ONEDNN_MAX_CPU_ISA); OpenVINO's own kernels read OV_CPU_MAX_ISA. Both are
needed: with only oneDNN's OpenVINO still chooses bf16, which is then emulated.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, get_args

from ftx.core.closed_model import ClosedModel

# OpenVINO's name of it.
CPU = "CPU"
InstructionSet = Literal["avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx"]
# By age of the CPUs that brought them; avx2_vnni is of CPUs without AVX512, younger than the three behind it.
INSTRUCTION_SETS: tuple[InstructionSet, ...] = get_args(InstructionSet)

# Two products of 8 bits are added in 16 there, and saturate.
WITHOUT_VNNI: frozenset[InstructionSet] = frozenset({"avx2", "avx512"})

# They limit a process to older instructions than the CPU has. OpenVINO reads them once, when it is imported.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "OV_CPU_MAX_ISA")


@dataclass(frozen=True)
class _Known:
    """oneDNN's name of the set, and Linux's flags of a CPU that has it."""

    limit: str
    flags: frozenset[str]


_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_AVX512_VNNI = _AVX512 | {"avx512_vnni"}
_AVX512_BF16 = _AVX512_VNNI | {"avx512_bf16"}
_KNOWN: Mapping[InstructionSet, _Known] = {
    "avx2": _Known("AVX2", _AVX2),
    "avx2_vnni": _Known("AVX2_VNNI", _AVX2 | {"avx_vnni"}),
    "avx512": _Known("AVX512_CORE", _AVX512),
    "avx512_vnni": _Known("AVX512_CORE_VNNI", _AVX512_VNNI),
    "avx512_bf16": _Known("AVX512_CORE_BF16", _AVX512_BF16),
    "amx": _Known("AVX512_CORE_AMX", _AVX512_BF16 | {"amx_tile", "amx_int8", "amx_bf16"}),
}


@dataclass(frozen=True)
class Kernels:
    """What computes a compiled model's products: the set that decides, and the primitives by oneDNN's name, counted.

    ``emulated``: the process is limited to the set on a CPU that would use a younger one.
    """

    isa: InstructionSet | None
    emulated: bool
    primitives: Mapping[str, int]


def environment(limit: InstructionSet) -> dict[str, str]:
    """The environment variables that limit a process to a set, if they are set before it starts."""
    return dict.fromkeys(LIMITS, _KNOWN[limit].limit)


def sets_of(flags: frozenset[str]) -> tuple[InstructionSet, ...]:
    """The sets that a CPU of these flags has, the oldest first."""
    return tuple(name for name in INSTRUCTION_SETS if _KNOWN[name].flags <= flags)


def is_held(flags: frozenset[str]) -> bool:
    """Whether this process is limited to an older set than its CPU would use: kernels are then those of the older."""
    return set_in_use(flags) != set_in_use(flags, {})


def set_in_use(flags: frozenset[str], limits: Mapping[str, str] = os.environ) -> InstructionSet | None:
    """The set that decides in a process on a CPU of these flags; None on a CPU older than AVX2.

    The one that the process is limited to; else AVX2-VNNI without AVX512, and the youngest with it.
    """
    chosen = {limits[name] for name in LIMITS if name in limits}
    available = sets_of(flags)
    for name in available:
        if _KNOWN[name].limit in chosen:
            return name
    return available[-1] if available else None


# Instruction sets that decide which kernels OpenVINO runs, and so what an int8 model computes, by Linux's names, the
# newest first.
_DECISIVE = ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2")


class Machine(ClosedModel):
    """The machine that figures are from."""

    cpu: str
    """The name of the CPU."""
    instructions: tuple[str, ...]
    """Its instruction sets that decide which kernels run, the newest first; then the environment variables that limit
    the process.
    """
    openvino: str
    """The version of OpenVINO."""
    device: str = CPU
    """The device that ran the model, by OpenVINO's name: CPU, GPU, NPU or AUTO."""

    def __str__(self) -> str:
        on = "" if self.device == CPU else f", on {self.device}"
        return f"{self.cpu} ({', '.join(self.instructions) or 'unknown instructions'}), OpenVINO {self.openvino}{on}"


@cache
def this_machine(device: str = CPU) -> Machine:
    """The machine that this process runs on, if the device runs the model."""
    cpu, flags = _cpu_info()
    limits = tuple(f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ)
    try:
        openvino = version("openvino")
    except PackageNotFoundError:  # built from source
        openvino = "unknown"
    instructions = tuple(name for name in _DECISIVE if name in flags) + limits
    return Machine(cpu=cpu, instructions=instructions, openvino=openvino, device=device)


def this_set() -> InstructionSet | None:
    """The instruction set that decides in this process; None on a CPU older than AVX2."""
    return set_in_use(cpu_flags())


def is_emulated(isa: InstructionSet | None) -> bool:
    """Whether kernels of this set run on a CPU that would use a younger one, in this process or one limited to it."""
    return isa != this_set() or is_held(cpu_flags())


def cpu_flags() -> frozenset[str]:
    """The CPU's flags, as Linux names them; none without /proc/cpuinfo."""
    return _cpu_info()[1]


def _cpu_info() -> tuple[str, frozenset[str]]:
    """The CPU's name and flags, by /proc/cpuinfo where there is one."""
    fields: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip(), value.strip())
    cpu = fields.get("model name") or platform.processor() or platform.machine()
    return cpu, frozenset(fields.get("flags", "").split())
