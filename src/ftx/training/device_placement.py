"""The device of a training step, and its precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ftx.adapters.trainable_model import TrainableModel
from ftx.backbones.split_network import attentions_with_backward, set_attention
from ftx.core.closed_model import ClosedModel
from ftx.core.errors import EnvironmentFault, RunError
from ftx.core.memory import keep_freed_memory
from ftx.core.processors import cores
from ftx.runs.machine import cpu_flags

# Linux' names of the instructions that multiply bf16 matrices.
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}
# Images that are computed at once where nothing of them trains.
EVAL_BATCH = 32
# More than the cores of any machine; OpenMP takes memory for each.
MOST_THREADS = 4096


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def require_gpu(name: str) -> None:
    """Check that torch has a GPU, which a user chose by ``name``.

    Raises: EnvironmentFault if it has none.
    """
    if not torch.cuda.is_available():
        raise EnvironmentFault(
            f"--device {name}: torch finds no such GPU",
            found=f"torch {torch.__version__}",
            fix="install a build of torch with CUDA, or train with --device cpu",
        )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; copied to a GPU while it computes earlier work, which pinned memory allows."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def within_quota() -> None:
    """Limit torch's threads to the CPU quota of its control group, unless the user has set a number."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cores()))


def computes_bf16() -> bool:
    """Whether the hardware computes in bf16: AMX, AVX512-BF16, or a GPU that has it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(_BF16_FLAGS & cpu_flags())


class Circumstances(ClosedModel):
    """How a training computes, in addition to its recipe: what must be the same for the same bytes.

    ``plain_attention`` was chosen by the free memory, ``threads`` by the cores, for each of ``processes``.
    """

    device: str
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    plain_attention: bool
    processes: Annotated[int, Field(ge=1)] = 1


def place(prepared: TrainableModel, *, plain_attention: bool = False) -> torch.device:
    """Move the model to its device, where a CPU computes attention as plain products or by the fused kernel."""
    where, module = device(), prepared.backbone.module
    module.to(where)
    if where.type == "cpu":
        keep_freed_memory()
        set_attention(attentions_with_backward(module), plain=plain_attention)
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
    where = device()
    if where.type != before.device:
        raise RunError(
            f"this training must be resumed on the device where it was started: {before.device}",
            found=f"{where.type} on this machine",
            fix="add --device cpu" if before.device == "cpu" else "resume it on a machine with a GPU",
        )
    place(prepared, plain_attention=before.plain_attention)
