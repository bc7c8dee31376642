"""The machine, by what matters to training."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def features() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {' '.join(known)}"
