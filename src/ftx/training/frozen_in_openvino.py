"""The frozen trunk of a network in OpenVINO on a CPU, if that is faster, and as close to f32 as torch.

Eight blocks of DINOv2-small in batches of 16: 1.2 to 1.6 times as fast as torch in f32 on two cores with AVX2, and 1.5
times in bf16 with AMX. Converting takes 6 to 9 seconds there, so it is for many images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from ftx.core.errors import EnvironmentFault, ModelError
from ftx.core.files import stage_folder
from ftx.core.third_parties import no_telemetry, quiet_third_parties
from ftx.data.preprocess import Preprocess

with no_telemetry():
    import openvino as ov

TrunkForward = Callable[[Tensor], Tensor]

# Next to the features that it computes: a later training need not convert it again.
CONVERTED = "converted"
_FILE = "model.xml"
_BATCH, _ROUNDS = 16, 3
# Features are kept in bf16, of eight bits: half a unit in the last of them is rounded anyway.
_ROUNDING = 2.0**-9


def in_openvino(trunk: nn.Module, pre: Preprocess, *, bf16: bool, folder: Path | None) -> TrunkForward:
    """The forward of ``trunk`` in evaluation, from images to features, on the CPU.

    Its conversion is kept in ``folder``, if there is one.
    Raises: ModelError if torch or OpenVINO cannot convert it.
    """
    file = None if folder is None else folder / CONVERTED / _FILE
    model: ov.Model | None = None
    if file is not None and file.is_file():
        with suppress(RuntimeError):  # damaged: it is converted again
            model = ov.Core().read_model(file)
    if model is None:
        model = _converted(trunk, pre)
        if file is not None:
            # A full disk, or another process that converts it as well: whoever finds none converts it again.
            with suppress(RuntimeError, EnvironmentFault, OSError), stage_folder(file.parent) as staged:
                ov.save_model(model, staged / _FILE, compress_to_fp16=False)
    compiled = ov.Core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    return lambda images_N3HW: torch.from_numpy(compiled(images_N3HW.numpy())[0].copy())


def _converted(trunk: nn.Module, pre: Preprocess) -> ov.Model:
    example_N3HW = torch.zeros(2, 3, pre.height, pre.width)  # torch would take a batch of 1 for a constant
    try:
        with quiet_third_parties(), no_telemetry(), torch.no_grad():
            program = torch.export.export(trunk.eval(), (example_N3HW,), dynamic_shapes=({0: Dim("batch")},))
            return ov.convert_model(program, input=[ov.PartialShape([-1, 3, pre.height, pre.width])])
    except Exception as error:  # torch raises a dozen unrelated classes here, some private
        raise ModelError(
            "OpenVINO cannot compute the frozen part of this model",
            where="train.frozen_runtime",
            found=str(error).strip().split("\n")[-1][:200],
            fix="compute it in torch: --set train.frozen_runtime=torch",
        ) from error


def is_as_close(theirs: TrunkForward, ours: nn.Module, pre: Preprocess, *, bf16: bool) -> bool:
    """Whether features differ from f32 by at most the rounding of keeping them, or twice torch's error in bf16."""
    images_N3HW = _images(pre)
    with torch.no_grad():
        exact = ours.eval()(images_N3HW)
    torchs_error = _error(_torchs(ours, images_N3HW), exact) if bf16 else 0.0
    return _error(theirs(images_N3HW), exact) <= max(_ROUNDING, 2 * torchs_error)


def is_faster(theirs: TrunkForward, ours: nn.Module, pre: Preprocess, *, bf16: bool) -> bool:
    """Whether features take less time than torch's: medians of a few rounds, alternately."""
    images_N3HW = _images(pre)
    took_s: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for forward, seconds in zip((theirs, partial(_torchs, ours, bf16=bf16)), took_s, strict=True):
            started = time.perf_counter()
            forward(images_N3HW)
            seconds.append(time.perf_counter() - started)
    theirs_s, ours_s = map(statistics.median, took_s)
    return theirs_s < ours_s


def _images(pre: Preprocess) -> Tensor:
    return torch.randn(_BATCH, 3, pre.height, pre.width, generator=torch.Generator().manual_seed(0))


def _torchs(module: nn.Module, images_N3HW: Tensor, *, bf16: bool = True) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return module(images_N3HW).float()


def _error(found: Tensor, exact: Tensor) -> float:
    """Root of the mean square, relative to that of the exact features."""
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())
