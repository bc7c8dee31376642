"""The processors that this process may use: fewer than the machine has in a container, and not all alike on some.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max), scheduler/sched-bwc.rst (cpu.cfs_quota_us), and
ABI/testing/sysfs-devices-system-cpu (thread_siblings_list); of CPUs with two kinds of cores, perf's cpu_core.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Processors:
    """How many processors there are for this process.

    ``allowed``: those it may run on. ``usable``: as many of these as the CPU quota of its control group. ``cores``: of
    these the physical ones, as two threads of one core share its multipliers. ``fast``: of these again the performance
    cores, if a CPU has two kinds; else the same as ``cores``.
    """

    allowed: int
    usable: int
    cores: int
    fast: int


def cores() -> int:
    """How many processors this process may use: its affinity, within the quota of its control group."""
    return processors().usable


def processors() -> Processors:
    """Those of this process."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return _of_this_machine(frozenset(affinity))


@cache
def _of_this_machine(allowed: frozenset[int]) -> Processors:
    return read_processors(allowed, Path("/"))


def read_processors(allowed: frozenset[int], root: Path) -> Processors:
    """The ``allowed`` processors by the files of Linux below ``root``; if these have no limit, all count."""
    quota = _quota(root)
    usable = max(1, min(len(allowed), quota or len(allowed)))
    physical = {_first_sibling(root, number) for number in allowed}
    performance = _numbers(_read(root / "sys/devices/cpu_core/cpus"))
    fast = {_first_sibling(root, number) for number in allowed & performance}
    return Processors(len(allowed), usable, min(usable, len(physical)), min(usable, len(fast) or len(physical)))


def _quota(root: Path) -> int | None:
    """The CPU quota of the control group in whole processors, rounded up; None if it sets no limit.

    A group is limited by each group around it as well.
    """
    limits: list[float] = []
    base = root / "sys/fs/cgroup"
    own = _read(root / "proc/self/cgroup").splitlines()
    below = next((line.split(":", 2)[2].strip("/") for line in own if line.startswith("0::")), "")
    group = base / below
    for folder in (group, *group.parents):
        if base not in (folder, *folder.parents):
            break
        granted, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if granted.isdecimal() and period.isdecimal() and int(period):
            limits.append(int(granted) / int(period))
    for old in (base / "cpu", base / "cpu,cpuacct"):
        granted, period = (_read(old / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if granted.isdecimal() and period.isdecimal() and int(granted) and int(period):
            limits.append(int(granted) / int(period))
    return -int(-min(limits) // 1) if limits else None


def _first_sibling(root: Path, number: int) -> int:
    """The processor that stands for the core that this one is a thread of."""
    siblings = _read(root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
    return min(_numbers(siblings), default=number)


def _numbers(listed: str) -> frozenset[int]:
    """``0-3,8`` as the kernel writes sets of processors."""
    found: set[int] = set()
    for part in listed.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            found.update(range(int(first), int(last if last.isdecimal() else first) + 1))
    return frozenset(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
