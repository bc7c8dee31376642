"""The device of a training step, and its precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ftx.adapters.trainable_model import TrainableModel
from ftx.backbones.dropped_patches import ALL_PATCHES, DroppedPatches
from ftx.backbones.layer_roles import plain_vit
from ftx.backbones.split_network import choose_attention, only_head_trains, set_attention
from ftx.core.closed_model import ClosedModel
from ftx.core.errors import RunError
from ftx.core.memory import available_bytes, keep_freed_memory
from ftx.core.processors import cores
from ftx.core.progress import SILENT, Progress
from ftx.recipe.sections import TrainPrecision
from ftx.runs.machine import cpu_flags
from ftx.training.ranks import ONE_PROCESS, Ranks

# Linux' names of the instructions that multiply bf16 matrices.
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}
# More than the cores of any machine; OpenMP takes memory for each.
MOST_THREADS = 4096
# Images that are computed at once where nothing of them trains.
EVAL_BATCH = 32


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; copied to a GPU while it computes earlier work, which pinned memory allows."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def within_quota() -> None:
    """Limit torch's threads to the CPU quota of its control group, unless the user has set a number."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cores()))


def resolve_precision(precision: TrainPrecision) -> Literal["f32", "bf16"]:
    """``auto`` is bf16 if the hardware computes in it: AMX, AVX512-BF16, or a GPU that has it."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "f32"
    return "bf16" if _BF16_FLAGS & cpu_flags() else "f32"


class Circumstances(ClosedModel):
    """How a training computes, in addition to its recipe: what must be the same for the same bytes.

    ``plain_attention`` was chosen by the free memory, ``threads`` by the cores, for each of ``processes``.
    """

    device: str
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    plain_attention: bool
    processes: Annotated[int, Field(ge=1)] = 1


def place(
    prepared: TrainableModel,
    batch_size: int,
    progress: Progress = SILENT,
    *,
    dropped: DroppedPatches = ALL_PATCHES,
    ranks: Ranks = ONE_PROCESS,
) -> torch.device:
    """Move the model to its device, and choose how a CPU computes its attention: docs/decisions/0002.

    Each of several processes has its part of the free memory and computes ``batch_size`` images; the first decides.
    A step leaves out the ``dropped`` patches.
    """
    where, module = device(), prepared.backbone.module
    module.to(where)
    if where.type == "cpu":
        keep_freed_memory()
        memory_bytes = available_bytes() // 4 // ranks.local_world
        fits = choose_attention(
            module, batch_size=batch_size, memory_bytes=memory_bytes, dropped=dropped, evaluated=EVAL_BATCH
        )
        plain = ranks.of_first(fits)
        vit = plain_vit(module)
        if vit is not None:
            set_attention(vit, plain=plain)
        if not plain and vit is not None and not only_head_trains(module):
            progress.note(
                "attention is computed by torch's fused kernel: as plain products it would take over a quarter of the "
                "free memory"
            )
    return where


@contextmanager
def in_threads_as(before: Circumstances) -> Iterator[None]:
    """Sum in as many threads as before, from the singular vectors of PiSSA on, for the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(before.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def place_as_before(prepared: TrainableModel, before: Circumstances) -> None:
    """Move the model to the device where it trained before, to compute the same.

    Raises: RunError if that is not possible here.
    """
    where, module = device(), prepared.backbone.module
    if where.type != before.device:
        raise RunError(
            "the training was started on another kind of device",
            found=f"{before.device}, here is {where.type}",
            fix="resume it on the kind of device where it was started",
        )
    module.to(where)
    if where.type == "cpu":
        keep_freed_memory()
    if plain_vit(module) is not None:
        set_attention(module, plain=before.plain_attention)
