"""Which sets a CPU has, and which decides in a process."""

from __future__ import annotations

import pytest

from ftx.runs.machine import INSTRUCTION_SETS, environment, set_in_use, sets_of

AVX2 = frozenset({"avx2", "fma"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
VNNI = AVX512 | {"avx512_vnni"}
BF16 = VNNI | {"avx512_bf16"}
AMX = BF16 | {"amx_tile", "amx_int8", "amx_bf16", "avx_vnni"}


@pytest.mark.parametrize(
    ("flags", "had", "in_use"),
    [
        (frozenset({"sse4_2"}), (), None),
        (AVX2, ("avx2",), "avx2"),
        (AVX2 | {"avx_vnni"}, ("avx2", "avx2_vnni"), "avx2_vnni"),
        (AVX512, ("avx2", "avx512"), "avx512"),
        (VNNI, ("avx2", "avx512", "avx512_vnni"), "avx512_vnni"),
        (BF16, ("avx2", "avx512", "avx512_vnni", "avx512_bf16"), "avx512_bf16"),
        (AMX, INSTRUCTION_SETS, "amx"),
    ],
)
def test_a_cpu_by_its_flags(flags: frozenset[str], had: tuple[str, ...], in_use: str | None) -> None:
    assert sets_of(flags) == had
    assert set_in_use(flags, {}) == in_use


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_process_that_is_held_to_a_set_uses_it(name: str) -> None:
    limits = environment(name)  # pyright: ignore[reportArgumentType]
    assert set(limits) == {"ONEDNN_MAX_CPU_ISA", "OV_CPU_MAX_ISA"}
    assert set_in_use(AMX, limits) == name


def test_a_limit_above_what_the_cpu_has_holds_nothing_back() -> None:
    assert set_in_use(AVX2, environment("amx")) == "avx2"
