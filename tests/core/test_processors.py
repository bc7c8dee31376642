"""The processors of a process: affinity, quotas of control groups, threads of one core, two kinds of cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftx.core.processors import Processors, processors, read_processors

EIGHT = frozenset(range(8))


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_where_nothing_is_told_all_that_are_allowed_count(tmp_path: Path) -> None:
    assert read_processors(EIGHT, tmp_path) == Processors(8, 8, 8, 8)
    assert read_processors(frozenset({5}), tmp_path) == Processors(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("granted", "usable"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_a_container_gets_what_it_pays_for(tmp_path: Path, granted: str, usable: int) -> None:
    write(tmp_path, **{"sys/fs/cgroup/cpu.max": f"{granted}\n", "proc/self/cgroup": "0::/\n"})
    assert read_processors(EIGHT, tmp_path) == Processors(8, usable, usable, usable)


def test_each_group_around_it_limits_a_group(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
        },
    )
    assert read_processors(EIGHT, tmp_path).usable == 3


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
    )
    assert read_processors(EIGHT, tmp_path).usable == 3
    write(tmp_path, **{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"})
    assert read_processors(EIGHT, tmp_path).usable == 8


def test_two_threads_of_a_core_are_one_core(tmp_path: Path) -> None:
    for number in range(8):
        write(
            tmp_path,
            **{f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": f"{number % 4},{number % 4 + 4}"},
        )
    assert read_processors(EIGHT, tmp_path) == Processors(8, 8, 4, 4)


def test_of_two_kinds_of_cores_the_fast_ones_are_known(tmp_path: Path) -> None:
    write(tmp_path, **{"sys/devices/cpu_core/cpus": "0-3\n", "sys/devices/cpu_atom/cpus": "4-7\n"})
    for number in range(4):
        write(
            tmp_path,
            **{f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": ("0-1", "2-3")[number // 2]},
        )
    assert read_processors(EIGHT, tmp_path) == Processors(8, 8, 6, 2)


def test_this_process_is_told_its_affinity() -> None:
    assert 1 <= processors().fast <= processors().cores <= processors().usable <= len(os.sched_getaffinity(0))
    one = next(iter(os.sched_getaffinity(0)))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from ftx.core.processors import cores; print(cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
