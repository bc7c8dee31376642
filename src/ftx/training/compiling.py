"""Whether the blocks that train are compiled: if that takes less time than the whole training saves by it.

The gain is measured on a copy of one block, before the first step; ``docs/decisions/0024``.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from statistics import median

import torch
from torch import Tensor, nn

from ftx.backbones.dropped_patches import DroppedPatches
from ftx.backbones.layer_roles import plain_vit, token_shape, vit_blocks
from ftx.backbones.split_network import set_attention
from ftx.backbones.trained_blocks import blocks_to_compile, compiled, compiling, joined_attention
from ftx.core.errors import EnvironmentFault, ModelError
from ftx.core.progress import Progress
from ftx.core.version import __version__
from ftx.recipe.sections import Compile
from ftx.runs.machine import this_machine
from ftx.training.device_placement import device

# Trying and compiling took at most this long for DINOv2-small on two cores: 45 s with AVX2, 32 s with AMX.
_TAKES_S = 45.0
# The fraction of a step that is saved, by bf16 or not: 0.02 to 0.08 in f32 (AVX2), 0.03 and 0.2 in bf16 (AMX).
_HOPED = {False: 0.05, True: 0.15}
_ROUNDS = 9
# A block is measured with at most this many images: it is not known yet whether a whole batch fits into memory.
_AT_ONCE = 16


@dataclass(frozen=True)
class Gain:
    """The time of a step of one block, plain and compiled, and of compiling it."""

    plain_s: float
    compiled_s: float
    takes_s: float


@dataclass(frozen=True)
class StepShape:
    """What decides how long a step takes, apart from the network.

    It computes ``images`` at once without the ``dropped`` patches, in ``bf16`` or f32, and attention as plain products
    or by torch's fused kernel.
    """

    images: int
    dropped: DroppedPatches
    plain_attention: bool
    bf16: bool


def may_compile(module: nn.Module, requested: Compile, device: str) -> Compile:
    """``train.compile``, with auto only if there is something to time.

    Raises: ModelError if blocks are requested, and there are none.
    """
    blocks = blocks_to_compile(module)
    if requested == "blocks" and not blocks:
        raise ModelError(
            "train.compile=blocks finds no blocks to compile",
            found=f"{type(module).__name__}, as it trains here",
            fix="set train.compile=auto; only blocks that train, of plain Vision Transformers, can be compiled",
        )
    return "none" if requested == "auto" and (not blocks or device != "cpu") else requested


def try_to_compile(module: nn.Module, steps: StepShape, progress: Progress) -> None:
    """Compile a copy of one block, before a training is written that would end there.

    Raises: EnvironmentFault if torch cannot.
    """
    with compiling(), progress.track("Compiling a block", None):
        _Block(module, steps).compiled()


def compiling_pays(module: nn.Module, images: int, steps: StepShape, progress: Progress) -> Compile:
    """Whether compiling the trained blocks saves more time than it takes, for this number of images in all epochs."""
    block, blocks = _Block(module, steps), len(blocks_to_compile(module))
    blocks_of_images = images / block.images * blocks
    plain_s = block.plain_s() * blocks_of_images
    if plain_s * _HOPED[steps.bf16] < _TAKES_S:
        return "none"
    try:
        gain = block.gain(progress)
    except EnvironmentFault as error:
        progress.note(f"blocks are not compiled: {error.found}")
        return "none"
    plain_s = gain.plain_s * blocks_of_images  # of many steps, not of one
    saves_s = (gain.plain_s - gain.compiled_s) * blocks_of_images
    pays = saves_s > gain.takes_s
    progress.note(
        f"blocks are {'' if pays else 'not '}compiled: this saves {saves_s:.0f} of {plain_s:.0f} s of this training, "
        f"and takes {gain.takes_s:.0f} s"
    )
    return "blocks" if pays else "none"


class _Block:
    """A copy of the last trained block, and random tokens of ``images`` images for it."""

    def __init__(self, module: nn.Module, steps: StepShape) -> None:
        vit, last = plain_vit(module), blocks_to_compile(module)[-1]
        assert vit is not None
        _, width = token_shape(vit)
        self.block = copy.deepcopy(last).to(device()).train()
        if device().type == "cpu":
            set_attention(self.block.modules(), plain=steps.plain_attention)
        like = next(self.block.parameters())
        rng = torch.Generator().manual_seed(0)
        self.images, self.bf16 = min(steps.images, _AT_ONCE), steps.bf16
        tokens = steps.dropped.step_tokens(vit, vit_blocks(vit).index(last))
        self.tokens_NTD = torch.randn(self.images, tokens, width, generator=rng).to(like).requires_grad_()

    def plain_s(self) -> float:
        """Seconds of a step that is not compiled."""
        with joined_attention([self.block]):
            return self._step_s(self.block.forward)

    def gain(self, progress: Progress) -> Gain:
        """The gain of compiling, measured alternately, or by an earlier training.

        Raises: EnvironmentFault if torch cannot compile it here.
        """
        with compiling() as folder:
            found = None if folder is None else folder / f"{self._digest}.json"
            if found is not None and found.is_file():
                with suppress(ValueError, TypeError, OSError):  # interrupted: it is measured again
                    return Gain(**json.loads(found.read_text()))
            with progress.track("Compiling a block", None):
                gain = self._measured()
            if found is not None:
                with suppress(OSError):
                    found.write_text(json.dumps(asdict(gain)))
            return gain

    def compiled(self) -> Callable[[Tensor], Tensor]:
        """Its forward, compiled by a step.

        Raises: EnvironmentFault if torch cannot compile it here.
        """
        fast = compiled(self.block.forward, self.images)
        try:
            self._step_s(fast)
        except Exception as error:  # torch has dozens of reasons: no C++ compiler, no Triton, no space
            raise EnvironmentFault(
                "train.compile=blocks: torch cannot compile them on this machine",
                found=str(error).strip().split("\n")[0][:200],
                fix="install a C++ compiler (Debian: apt install g++), or train with --set train.compile=none",
            ) from error
        return fast

    def _measured(self) -> Gain:
        started = time.perf_counter()
        fast = self.compiled()
        takes_s = time.perf_counter() - started
        pairs = [(self.plain_s(), self._step_s(fast)) for _ in range(_ROUNDS)]
        plain_s, compiled_s = (median(one) for one in zip(*pairs, strict=True))
        return Gain(plain_s, compiled_s, takes_s)

    def _step_s(self, forward: Callable[..., Tensor]) -> float:
        """A forward and its backward, in seconds."""
        started = time.perf_counter()
        with torch.autocast(self.tokens_NTD.device.type, torch.bfloat16, enabled=self.bf16):
            output_NKD = forward(self.tokens_NTD)
        output_NKD.backward(torch.ones_like(output_NKD))
        return time.perf_counter() - started

    @property
    def _digest(self) -> str:
        """Of everything that decides how long a step takes, except torch's version, which names the folder."""
        parameters = [(name, one.shape, one.dtype, one.requires_grad) for name, one in self.block.named_parameters()]
        attention = [getattr(layer, "fused_attn", None) for layer in self.block.modules()]
        dropout = [getattr(layer, "dropout", None) for layer in self.block.modules()]
        machine = this_machine()
        seen = (self.tokens_NTD.shape, self.bf16, machine.cpu, machine.instructions, torch.get_num_threads())
        versions = (__version__, version("timm"))
        return sha256(repr((parameters, attention, dropout, seen, versions)).encode()).hexdigest()
