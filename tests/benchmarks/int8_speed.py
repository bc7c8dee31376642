"""INT8 against float on each instruction set: ``python -m tests.benchmarks.int8_speed IR_FP32 IR_INT8 SET [SET ...]``.

One image, both models as ftx runs them, and the one in 8 bits as other programs do (whole, for any batch), in one
process that is held to the set, in turn; medians, and the median of the ratios.

Most float products run in MLAS, which no variable holds to a set. A process of a set without AVX512 runs below gdb
(``without_avx512``), so that MLAS takes the kernels of a CPU of that set.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ftx.core.processors import cores
from ftx.runs.card_json import read_card
from ftx.runs.machine import InstructionSet, environment, this_set
from ftx.runtimes.compiled_network import CompiledNetwork, core

ROUNDS = 60
HINTS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores()}
BELOW_GDB = ["gdb", "-q", "-batch", "-x", str(Path(__file__).with_name("without_avx512.py")), "-ex", "run", "--args"]


def main(fp32: Path, int8: Path, sets: list[InstructionSet]) -> None:
    """Print a line a set."""
    for isa in sets:
        with tempfile.NamedTemporaryFile() as found:
            own = [sys.executable, "-m", "tests.benchmarks.int8_speed", "one", str(fp32), str(int8), found.name]
            if "avx512" not in isa and isa != "amx":
                own = [*BELOW_GDB, *own]
            subprocess.run(own, env={**os.environ, **environment(isa)}, capture_output=True, check=True)
            ms: dict[str, float] = json.loads(Path(found.name).read_bytes())
        print(
            f"{isa}: float {ms['float']:.1f} ms; int8 {ms['int8']:.1f}, as a whole {ms['int8_whole']:.1f} ms; "
            f"int8 of float {ms['ratio']:.3f}, as a whole {ms['ratio_whole']:.3f}"
        )


def in_this_set(fp32: Path, int8: Path, out: Path) -> None:
    """Write what each takes here, as JSON."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    asked: dict[str, Callable[[], object]] = {}
    for name, folder in (("float", fp32), ("int8", int8)):
        model, preprocess = core().read_model(folder / "model.xml"), read_card(folder).preprocess
        ask = CompiledNetwork(model, preprocess, HINTS, folder, this_set(), kernels="single").request()
        asked[name] = lambda ask=ask: ask(pixels)
    whole = core().compile_model(core().read_model(int8 / "model.xml"), "CPU", HINTS).create_infer_request()
    asked["int8_whole"] = lambda: whole.infer([pixels])
    rows = [{name: _ms(ask) for name, ask in asked.items()} for _ in range(ROUNDS + 5)][5:]
    found = {name: statistics.median(row[name] for row in rows) for name in asked}
    for name, one in {"ratio": "int8", "ratio_whole": "int8_whole"}.items():
        found[name] = statistics.median(row[one] / row["float"] for row in rows)
    out.write_text(json.dumps(found))


def _ms(ask: Callable[[], object]) -> float:
    started = time.perf_counter()
    ask()
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[1] == "one":
        in_this_set(*map(Path, sys.argv[2:5]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])  # type: ignore[arg-type]
