"""INT8 against float on each instruction set: ``python -m tests.benchmarks.int8_speed IR_FP32 IR_INT8 SET [SET ...]``.

One image, both models in one process that is held to the set, in turn; medians, and the median of the ratios. Of each,
what its products take (by OpenVINO's counters). Float products run in MLAS, which no variable holds to a set: where the
set is without AVX512, the same products are timed by OpenBLAS with its kernels for AVX2 and for AVX512, in turn, and by
their ratio float's are set to what a CPU without AVX512 would take. That is an estimate and no measurement.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ftx.core.processors import cores
from ftx.runs.instruction_sets import InstructionSet, environment

ROUNDS = 60
# Of a ViT-S at 224 px: tokens, inputs, outputs; twelve blocks.
PRODUCTS = [(257, 384, 1152), (257, 384, 384), (257, 384, 1536), (257, 1536, 384)] * 12
PRODUCT_LAYERS = ("FullyConnected", "Convolution", "MatMul")


def main(fp32: Path, int8: Path, sets: list[InstructionSet]) -> None:
    """Print a line a set."""
    slower = _avx2_against_avx512()
    print(f"float products by OpenBLAS: AVX2's kernels take {slower:.2f} of the time of AVX512's")
    for isa in sets:
        own = [sys.executable, "-m", "tests.benchmarks.int8_speed", "one", str(fp32), str(int8)]
        done = subprocess.run(own, env={**os.environ, **environment(isa)}, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        print(
            f"{isa}: float {found['float_ms']:.1f} ms ({found['float_products_ms']:.1f} in products), int8 "
            f"{found['int8_ms']:.1f} ms ({found['int8_products_ms']:.1f}), ratio {found['ratio']:.3f}"
        )
        if isa in ("avx2", "avx2_vnni"):
            rest = 1 - found["float_share"]
            scaled = found["float_ms"] * (rest + found["float_share"] * slower)
            print(f"    float with products for AVX2: {scaled:.1f} ms, ratio {found['int8_ms'] / scaled:.3f}")


def in_this_set(folders: list[Path]) -> None:
    """Print what both take here, as JSON."""
    import openvino as ov

    core = ov.Core()
    models = [core.read_model(folder / "model.xml") for folder in folders]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores()}
    plain = [core.compile_model(model, "CPU", hints).create_infer_request() for model in models]
    rows = [[_ms(request, pixels) for request in plain] for _ in range(ROUNDS + 5)][5:]
    counted = [
        core.compile_model(model, "CPU", {**hints, "PERF_COUNT": True}).create_infer_request() for model in models
    ]
    shares = [_share_of_products(request, pixels) for request in counted]
    float_ms, int8_ms = (statistics.median(column) for column in zip(*rows, strict=True))
    found = {
        "float_ms": float_ms,
        "int8_ms": int8_ms,
        "ratio": statistics.median(row[1] / row[0] for row in rows),
        "float_share": shares[0],
        "float_products_ms": shares[0] * float_ms,
        "int8_products_ms": shares[1] * int8_ms,
    }
    print(json.dumps(found))


def _share_of_products(request: object, pixels: np.ndarray) -> float:
    shares: list[float] = []
    for _ in range(20):
        request.infer([pixels])  # type: ignore[attr-defined]
        took = [(one.node_type, one.real_time.total_seconds()) for one in request.get_profiling_info()]  # type: ignore[attr-defined]
        whole = sum(seconds for _, seconds in took)
        shares.append(sum(seconds for kind, seconds in took if kind in PRODUCT_LAYERS) / whole)
    return statistics.median(shares)


def _ms(request: object, pixels: np.ndarray) -> float:
    started = time.perf_counter()
    request.infer([pixels])  # type: ignore[attr-defined]
    return 1e3 * (time.perf_counter() - started)


def _avx2_against_avx512() -> float:
    ratios: list[float] = []
    for _ in range(5):
        took = [
            float(
                subprocess.run(
                    [sys.executable, "-m", "tests.benchmarks.int8_speed", "products"],
                    env={**os.environ, "OPENBLAS_CORETYPE": kernels, "OPENBLAS_NUM_THREADS": str(cores())},
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for kernels in ("Haswell", "SkylakeX")
        ]
        ratios.append(took[0] / took[1])
    return statistics.median(ratios)


def products() -> None:
    """Print the milliseconds of the network's products by numpy."""
    generator = np.random.default_rng(0)
    pairs = [
        (generator.standard_normal((n, i), dtype=np.float32), generator.standard_normal((i, o), dtype=np.float32))
        for n, i, o in PRODUCTS
    ]
    took: list[float] = []
    for _ in range(30):
        started = time.perf_counter()
        for left, right in pairs:
            left @ right
        took.append(1e3 * (time.perf_counter() - started))
    print(statistics.median(took[5:]))


if __name__ == "__main__":
    if sys.argv[1] == "products":
        products()
    elif sys.argv[1] == "one":
        in_this_set([Path(folder) for folder in sys.argv[2:]])
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])  # type: ignore[arg-type]
