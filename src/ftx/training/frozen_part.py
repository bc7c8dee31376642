"""The frozen trunk of a network: its features of a view of an image are computed when first needed, and kept.

They are kept in the user's cache, for later epochs and other trainings on the same images; ``docs/decisions/0017``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor, nn

from ftx.backbones.build import Backbone
from ftx.backbones.kept_tokens import tokens_by_block
from ftx.backbones.layer_roles import depth, head_names, plain_vit
from ftx.backbones.split_network import SplitNetwork, cut_after, cut_at_head
from ftx.backbones.weights import base_digest
from ftx.core.byte_store import ByteStore
from ftx.core.errors import EnvironmentFault, ModelError
from ftx.core.files import write_atomic
from ftx.core.progress import Progress
from ftx.core.user_cache import cache_folder, forget, free_space
from ftx.core.version import __version__
from ftx.data.augment import CROP_AREA, CROP_RATIO
from ftx.data.pixel_store import KEPT_TO_RESIZE
from ftx.data.preprocess import Pixels, normalise
from ftx.recipe.sections import FrozenRuntime
from ftx.runs.machine import this_machine
from ftx.training.device_placement import to_device
from ftx.training.ranks import ONE_PROCESS, Ranks

_KIND = "features"
# Of several processes, all but the first have a folder each, with this before their number.
_RANK = "rank-"
_COMPUTED_BY = ("torch", "timm", "openvino")
# Views, of which OpenVINO computes each 3 ms (112 px) or more faster, and takes some 7 s to convert.
_WORTH_CONVERTING = 2000


@dataclass(frozen=True)
class FrozenTrunk:
    """Which part of a model is frozen, and what computes it.

    The first ``kept_blocks`` blocks, or with 0 all but the classifier; in ``bf16`` or f32.
    """

    backbone: Backbone
    kept_blocks: int
    bf16: bool
    runtime: FrozenRuntime = "torch"

    @cached_property
    def split(self) -> SplitNetwork:
        """The model, split behind the frozen trunk."""
        module = self.backbone.module
        return cut_after(module, self.kept_blocks) if self.kept_blocks else cut_at_head(module)

    @property
    def dtype(self) -> torch.dtype:
        """The type of kept features: bf16 for those of blocks, f32 for the classifier's input, which is small."""
        return torch.bfloat16 if self.kept_blocks else torch.float32

    @property
    def folder(self) -> Path | None:
        """The folder of its features in the user's cache; None if that cannot be written."""
        return cache_folder(_KIND, self._digest, keep=None)

    @cached_property
    def _digest(self) -> str:
        """Of everything that determines a view's features, except the view."""
        module = self.backbone.module
        blocks = range(self.kept_blocks, depth(module)) if self.kept_blocks else ()
        behind = tuple(f"blocks.{block}." for block in blocks)
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        state = {
            name: tensor
            for name, tensor in module.state_dict().items()
            if name not in trained and not name.startswith(behind)
        }
        weights = base_digest(state, head_names(module))
        network = (weights, self.backbone.architecture, tokens_by_block(module), self.kept_blocks, self.bf16)
        seen = (self.backbone.preprocess, CROP_AREA, CROP_RATIO, KEPT_TO_RESIZE, PIL.__version__)
        by = (self.runtime, torch.cuda.is_available(), __version__, *(version(name) for name in _COMPUTED_BY))
        return sha256(repr((network, seen, by)).encode()).hexdigest()


class FrozenPart:
    """The frozen trunk, with a store of its features by the key of a view.

    With OpenVINO, its conversion is kept in ``folder``.
    """

    def __init__(
        self, frozen: FrozenTrunk, store: ByteStore, folder: Path | None = None, *, ranks: Ranks = ONE_PROCESS
    ) -> None:
        self._folder, self._ranks = folder, ranks
        self.tail, self.dtype, self.store = frozen.split.tail, frozen.dtype, store
        self._trunk, self._pre, self._bf16 = frozen.split.trunk, frozen.backbone.preprocess, frozen.bf16
        self.device = next(frozen.backbone.module.parameters()).device
        vit = plain_vit(frozen.backbone.module)
        self.other_tokens = 0 if vit is None else vit.num_prefix_tokens  # before those of the patches
        self._forward: Callable[[Tensor], Tensor] = self._trunk
        if frozen.runtime == "openvino":
            from ftx.training.frozen_in_openvino import in_openvino

            self._forward = in_openvino(self._trunk, self._pre, bf16=self._bf16, folder=folder)
        blank_HW3 = np.zeros((self._pre.height, self._pre.width, 3), np.uint8)
        self.shape = self.compute(blank_HW3[None]).shape[1:]

    def find_others(self) -> None:
        """Read the same features that other processes on this machine have kept until now."""
        if self._folder is not None:
            for other in {self._folder, *self._folder.glob(f"{_RANK}*")} - {_own_folder(self._folder, self._ranks)}:
                self.store.read_also(other)

    def empty(self, rows: int) -> Tensor:
        """An empty tensor for features, on the CPU. Shape: [rows, …]."""
        pinned = self.device.type == "cuda"  # so a copy to the device need not be waited for
        return torch.empty(rows, *self.shape, dtype=self.dtype, pin_memory=pinned)

    def read_into(self, key: bytes, row: Tensor) -> bool:
        """Fill a row with the features of a key; False if none are kept."""
        return self.store.read_into(key, _bytes_of(row))

    def keep(self, key: bytes, row: Tensor) -> bool:
        """Keep a row; False if the store is full."""
        return self.store.put(key, _bytes_of(row.contiguous()))  # SigLIP returns a transposed view

    def free_space(self, rows: int, progress: Progress) -> None:
        """Free space for ``rows`` views, in place of those of other trainings; print how many the store cannot keep."""
        needed_bytes, processes = rows * self.empty(1).nbytes, self._ranks.local_world  # each keeps a part
        # Features in a temporary store must not cost other trainings theirs.
        if self._folder is not None and self.store.lasting and self.store.most_bytes and not self._ranks.local:
            free_space(self._folder, needed_bytes, self.store.most_bytes * processes)
            self.store.measure_disk()
        limit_bytes = self.store.limit_bytes * processes
        if needed_bytes > limit_bytes:
            progress.note(
                f"the features of {rows:,} views take {needed_bytes / 1e9:.3g} GB, of which "
                f"{limit_bytes / 1e9:.3g} GB are kept (limited by train.cache_gb and half of the free disk): "
                "the others are computed again in each epoch"
            )

    @torch.no_grad()
    def compute(self, pixels_BHWC: Pixels) -> Tensor:
        """Features of views, on the CPU, without dropout and batch statistics. Shape: [B, …]."""
        images_B3HW = to_device(torch.from_numpy(normalise(pixels_BHWC, self._pre)), self.device)
        with _evaluating(self._trunk), torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            return self._forward(images_B3HW).to(self.dtype).cpu()


@contextmanager
def frozen_part(
    frozen: FrozenTrunk, limit_bytes: float, *, for_others: bool = True, ranks: Ranks = ONE_PROCESS, progress: Progress
) -> Iterator[FrozenPart]:
    """The frozen trunk of a model, with the features that are kept: for this process only, or ``for_others`` too.

    Each of several processes keeps what it computes in its own store, and reads the others of its machine.
    Raises: ModelError if OpenVINO was chosen and cannot compute it.
    """
    if for_others and frozen.folder is None and limit_bytes:
        progress.note("your cache folder cannot be written: features are kept only for this training")
    own = _own_folder(frozen.folder, ranks) if frozen.folder is not None and for_others else None
    if own is not None:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)  # others may have removed it meanwhile
    with ByteStore(own, limit_bytes / ranks.local_world) as store:
        part = FrozenPart(frozen, store, frozen.folder, ranks=ranks)
        if for_others:
            part.find_others()
        yield part
        if store.fault is not None:
            progress.note(f"some features could not be kept ({store.fault}): they were computed again")


def _own_folder(folder: Path, ranks: Ranks) -> Path:
    """The folder in which a process keeps what it computes: the first of a machine in ``folder`` itself."""
    return folder / f"{_RANK}{ranks.local}" if ranks.local else folder


def may_convert(views: int, device: str) -> bool:
    """Whether OpenVINO might compute ``views`` views so much faster that converting pays."""
    return views >= _WORTH_CONVERTING and device == "cpu"


def faster_runtime(frozen: FrozenTrunk, progress: Progress) -> FrozenRuntime:
    """OpenVINO, if it is faster than torch, and as close to f32.

    The result is kept next to the features: it depends on the versions, weights and sizes that name them, and on the
    machine.
    """
    here = sha256(repr((this_machine(), torch.get_num_threads())).encode()).hexdigest()[:16]
    found = None if frozen.folder is None else frozen.folder / f"faster_runtime-{here}"
    if found is not None and found.is_file():
        return "openvino" if found.read_text() == "openvino" else "torch"
    with progress.track("Converting the frozen part for OpenVINO", None), _evaluating(frozen.backbone.module):
        holds = _openvino_holds(replace(frozen, runtime="openvino"), progress)
    runtime: FrozenRuntime = "openvino" if holds else "torch"
    if found is not None:
        with suppress(EnvironmentFault):
            write_atomic(found, runtime.encode())
    return runtime


def _openvino_holds(frozen: FrozenTrunk, progress: Progress) -> bool:
    from ftx.training.frozen_in_openvino import CONVERTED, in_openvino, is_as_close, is_faster

    trunk, pre = frozen.split.trunk, frozen.backbone.preprocess
    try:
        forward = in_openvino(trunk, pre, bf16=frozen.bf16, folder=frozen.folder)
        if all(passes(forward, trunk, pre, bf16=frozen.bf16) for passes in (is_as_close, is_faster)):
            return True
    except ModelError as error:
        progress.note(f"torch computes the frozen trunk: {error.what}: {error.found}")
    if frozen.folder is not None:  # another training may name OpenVINO in its recipe, and keep features there
        forget(frozen.folder / CONVERTED)
    return False


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set layers, some of which are about to train, to evaluation mode."""
    training = [layer for layer in module.modules() if layer.training]
    module.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


def _bytes_of(row: Tensor) -> memoryview:
    return row.view(torch.uint8).numpy().data.cast("B")
