"""What machine a figure was measured on: a proof or a latency of one kind of CPU is none of another."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ftx.runs.instruction_sets import LIMITS, InstructionSet, set_in_use

# Instruction sets that decide which kernels OpenVINO takes, and so which answers an int8 model gives, as Linux names
# them, the newest first.
_DECISIVE = ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2")


class Machine(BaseModel):
    """A CPU by its name, the instruction sets that matter here, and the version of OpenVINO."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str
    instructions: tuple[str, ...]
    openvino: str

    def __str__(self) -> str:
        return f"{self.cpu} ({', '.join(self.instructions) or 'unknown instructions'}), OpenVINO {self.openvino}"


@cache
def this_machine() -> Machine:
    """The machine that this process runs on."""
    cpu, flags = _cpu_info()
    limits = tuple(f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ)
    try:
        openvino = version("openvino")
    except PackageNotFoundError:  # built from source
        openvino = "unknown"
    return Machine(cpu=cpu, instructions=tuple(name for name in _DECISIVE if name in flags) + limits, openvino=openvino)


def this_set() -> InstructionSet | None:
    """The instruction set that decides in this process; None on a CPU older than AVX2."""
    return set_in_use(cpu_flags())


def cpu_flags() -> frozenset[str]:
    """What the CPU can do, as Linux names it; nothing where nobody says."""
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
