"""INT8 against float on each instruction set: ``python -m tests.benchmarks.int8_speed IR_FP32 IR_INT8 SET [SET ...]``.

One image, both models as ftx runs them, and the one in 8 bits as other programs do (whole, for any batch), in one
process that is held to the set, in turn; medians, and the median of the ratios.

Most float products run in MLAS, which no variable holds to a set: where the set is without AVX512 its kernels are
those of this CPU, and float looks faster than it is on a CPU of the set. So it is timed as well with products that stay
in oneDNN, which is held: behind each stands a clamp that clamps nothing, which MLAS does not take in.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ftx.core.processors import cores
from ftx.runs.card_json import read_card
from ftx.runs.instruction_sets import InstructionSet, environment
from ftx.runs.machine import this_set
from ftx.runtimes.compiled_network import CompiledNetwork, core

ROUNDS = 60
HINTS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores()}
LARGEST = float(np.finfo(np.float32).max)


def main(fp32: Path, int8: Path, sets: list[InstructionSet]) -> None:
    """Print a line a set."""
    for isa in sets:
        own = [sys.executable, "-m", "tests.benchmarks.int8_speed", "one", str(fp32), str(int8)]
        done = subprocess.run(own, env={**os.environ, **environment(isa)}, capture_output=True, text=True, check=True)
        ms: dict[str, float] = json.loads(done.stdout)
        print(
            f"{isa}: float {ms['float']:.1f} ms, in oneDNN alone {ms['float_in_onednn']:.1f}; int8 {ms['int8']:.1f}, "
            f"as a whole {ms['int8_whole']:.1f} ms; int8 of float {ms['ratio']:.3f}, of float in oneDNN "
            f"{ms['ratio_onednn']:.3f}; as a whole {ms['ratio_whole']:.3f}"
        )


def in_this_set(fp32: Path, int8: Path) -> None:
    """Print what each takes here, as JSON."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    asked: dict[str, Callable[[], object]] = {}
    for name, folder in (("float", fp32), ("int8", int8)):
        model, preprocess = core().read_model(folder / "model.xml"), read_card(folder).preprocess
        ask = CompiledNetwork(model, preprocess, HINTS, folder, this_set(), one_image=True).request()
        asked[name] = lambda ask=ask: ask(pixels)
    for name, model in (
        ("float_in_onednn", _kept_from_mlas(core().read_model(fp32 / "model.xml"))),
        ("int8_whole", core().read_model(int8 / "model.xml")),
    ):
        request = core().compile_model(model, "CPU", HINTS).create_infer_request()
        asked[name] = lambda request=request: request.infer([pixels])
    rows = [{name: _ms(ask) for name, ask in asked.items()} for _ in range(ROUNDS + 5)][5:]
    found = {name: statistics.median(row[name] for row in rows) for name in asked}
    for name, (one, other) in {
        "ratio": ("int8", "float"),
        "ratio_onednn": ("int8", "float_in_onednn"),
        "ratio_whole": ("int8_whole", "float"),
    }.items():
        found[name] = statistics.median(row[one] / row[other] for row in rows)
    print(json.dumps(found))


def _kept_from_mlas(model: ov.Model) -> ov.Model:
    """A float model with a clamp behind each product that no activation follows."""
    for product in [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]:
        last, users = product, _users(product)
        if len(users) == 1 and users[0].get_type_name() == "Add":
            last, users = users[0], _users(users[0])
        if any(user.get_type_name() == "Gelu" for user in users):
            continue
        ports = list(last.output(0).get_target_inputs())
        clamped = ops.clamp(last, -LARGEST, LARGEST)
        for port in ports:
            port.replace_source_output(clamped.output(0))
    model.validate_nodes_and_infer_types()
    return model


def _users(node: ov.Node) -> list[ov.Node]:
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def _ms(ask: Callable[[], object]) -> float:
    started = time.perf_counter()
    ask()
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[1] == "one":
        in_this_set(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])  # type: ignore[arg-type]
