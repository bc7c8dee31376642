"""A machine is named by what its kernel says of the CPU."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from ftx.runs import machine
from ftx.runs.machine import LIMITS

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


def test_a_process_that_is_held_to_older_instructions_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured or proved there is nothing of the CPU as it is, whichever of the two limits holds it."""
    monkeypatch.setattr(machine, "_cpu_info", lambda: ("A CPU", frozenset({"fpu", "avx2", "avx512f", "avx_vnni"})))

    def found() -> machine.Machine:
        return machine.this_machine.__wrapped__()

    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    free = found()
    assert (free.cpu, free.instructions) == ("A CPU", ("avx512f", "avx_vnni", "avx2"))
    seen = {free}
    for name in LIMITS:
        for limit in ("AVX2", "AVX512_CORE"):
            with monkeypatch.context() as patch:
                patch.setenv(name, limit)
                held = found()
            assert held.instructions == (*free.instructions, f"{name}={limit}")
            assert held not in seen
            seen.add(held)
    assert found() == free


def test_a_machine_is_told_with_its_cpu_instructions_and_version() -> None:
    found = machine.Machine(cpu="A CPU", instructions=("avx512f", "avx2"), openvino="2026.1")
    assert str(found) == "A CPU (avx512f, avx2), OpenVINO 2026.1"
    assert str(found.model_copy(update={"instructions": ()})) == "A CPU (unknown instructions), OpenVINO 2026.1"
