"""The instruction sets of Intel CPUs that decide which kernels OpenVINO takes, and how a process is held to one.

An int8 model answers differently with each: without VNNI (AVX2, AVX512) sums of products saturate, and where bf16 is
computed, layers around the int8 ones are rounded. The sets do not nest: AVX512 has no AVX2-VNNI.
Source: oneDNN, CPU dispatcher control (ONEDNN_MAX_CPU_ISA); OpenVINO's own kernels read OV_CPU_MAX_ISA. Both are
needed: with oneDNN's alone OpenVINO still chooses bf16, which is then emulated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

InstructionSet = Literal["avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx"]
# By age of the CPUs that brought them; avx2_vnni is of CPUs without AVX512, younger than the three behind it.
INSTRUCTION_SETS: tuple[InstructionSet, ...] = get_args(InstructionSet)

# Two products of 8 bits are added in 16 there, and saturate.
WITHOUT_VNNI: frozenset[InstructionSet] = frozenset({"avx2", "avx512"})

# What holds a process to older instructions than the CPU has. OpenVINO reads them once, when it is imported.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "OV_CPU_MAX_ISA")


@dataclass(frozen=True)
class _Known:
    """What oneDNN calls the set, and the flags by which Linux says that a CPU has it."""

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

    ``emulated`` where the process is held to the set on a CPU that would use a younger one.
    """

    isa: InstructionSet | None
    emulated: bool
    primitives: Mapping[str, int]


def environment(held_to: InstructionSet) -> dict[str, str]:
    """What must stand in the environment of a process, before it starts, for it to be held to a set."""
    return dict.fromkeys(LIMITS, _KNOWN[held_to].limit)


def sets_of(flags: frozenset[str]) -> tuple[InstructionSet, ...]:
    """The sets that a CPU of these flags has, the oldest first."""
    return tuple(name for name in INSTRUCTION_SETS if _KNOWN[name].flags <= flags)


def is_held(flags: frozenset[str]) -> bool:
    """Whether this process is held to an older set than its CPU would use: kernels are then those of the older one."""
    return set_in_use(flags) != set_in_use(flags, {})


def set_in_use(flags: frozenset[str], limits: Mapping[str, str] = os.environ) -> InstructionSet | None:
    """The set that decides in a process on a CPU of these flags; None on a CPU older than AVX2.

    The one that the process is held to; else AVX2-VNNI where there is no AVX512, and the youngest where there is.
    """
    held_to = {limits[name] for name in LIMITS if name in limits}
    had = sets_of(flags)
    for name in had:
        if _KNOWN[name].limit in held_to:
            return name
    return had[-1] if had else None
