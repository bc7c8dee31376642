"""A machine is named by what its kernel says of the CPU."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from ftx.runs import machine

X86 = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\nmodel name\t: B\n"
# An ARM kernel names no model.
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "processor", "cpu", "flags"),
    [
        (X86, "x86_64", "A CPU @ 2 GHz", {"fpu", "avx2", "avx512f"}),
        (ARM, "Neoverse", "Neoverse", set()),
        (ARM, "", "aarch64", set()),  # as in most containers
        (None, "arm", "arm", set()),  # no /proc: macOS
        (None, "", "aarch64", set()),
    ],
)
def test_the_cpu_is_named_by_the_best_source_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, processor: str, cpu: str, flags: set[str]
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine._cpu_info() == (cpu, flags)  # pyright: ignore[reportPrivateUsage]
