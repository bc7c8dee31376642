"""An adapter and its head merged into the constants of a base IR, and compared with the server's.

Replaced constants keep their names, so that the file written is the one that a server's export would write.

Shapes: I inputs, O outputs, R ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftx.adapters.merge_weight import AdapterWeights, Float64, merged_weight, summed_weight
from ftx.adapters.peft_file import PREFIX
from ftx.core.errors import AdapterError, ExportError, GateFailed
from ftx.core.progress import Progress
from ftx.core.third_parties import no_telemetry
from ftx.runs.artifacts import IR_FILE
from ftx.runs.card_json import BaseIr
from ftx.runs.update_zip import tensor_digest
from ftx.runtimes.compiled_network import core
from ftx.updating.check_update import OTHER_BASE, WITH_HEAD, AdapterToMerge

with no_telemetry():
    import openvino as ov
    from openvino import opset15 as ops

_COPY_AGAIN = "copy the whole folder of the base again"
FloatWeights = NDArray[np.float32] | NDArray[np.float16]


class ConstantsOf:
    """An IR whose constants can be read and replaced, and that is written with other labels."""

    def __init__(self, folder: Path) -> None:
        """Read the model; its weights stay in the file until they are used.

        Raises: ExportError if OpenVINO cannot read it.
        """
        self._path = folder / IR_FILE
        try:
            self._model = core().read_model(self._path)
        except RuntimeError as error:
            raise ExportError(
                "OpenVINO cannot open this model", where=self._path, found=str(error), fix=_COPY_AGAIN
            ) from error
        self._nodes = {
            node.get_friendly_name(): node
            for node in self._model.get_ordered_ops()
            if node.get_type_name() == "Constant"
        }

    def __getitem__(self, name: str) -> FloatWeights:
        """The values of one constant, f32 or f16.

        Raises: ExportError if there is none of this name.
        """
        if name not in self._nodes:
            what = "the model lacks a constant that its card names"
            raise ExportError(what, where=self._path, found=name, fix=_COPY_AGAIN)
        values: FloatWeights = self._nodes[name].data
        return values

    def replace(self, name: str, values: NDArray[np.generic]) -> None:
        """Put other values, which may have another shape, in a constant's place, in its own type."""
        new = ops.constant(np.ascontiguousarray(values.astype(self[name].dtype)))
        new.set_friendly_name(name)
        self._nodes[name].output(0).replace(new.output(0))
        self._nodes[name] = new

    def save(self, folder: Path, model_info: Mapping[str, str]) -> None:
        """Write ``model.xml`` and ``model.bin`` with this metadata of Model API.

        Raises: ExportError if the new shapes do not fit together.
        """
        try:
            self._model.validate_nodes_and_infer_types()
        except RuntimeError as error:
            raise ExportError(
                "the adapter's head does not fit this model",
                where=self._path,
                found=str(error).strip()[:200],
                fix=OTHER_BASE,
            ) from error
        for key, value in model_info.items():
            self._model.set_rt_info(value, ["model_info", key])
        ov.save_model(self._model, folder / IR_FILE, compress_to_fp16=False)


@dataclass(frozen=True)
class MergedConstants:
    """What was merged.

    ``exact``: every constant has the SHA-256 of the server's; None without an update, which has those.
    ``weight_bound``: if this base is in f16, the largest possible difference of a weight from a merge into one in f32.
    """

    exact: bool | None
    weight_bound: float | None
    layers: int


def merge_into(model: ConstantsOf, given: AdapterToMerge, base: BaseIr, progress: Progress) -> MergedConstants:
    """Merge every layer, and replace the head.

    Raises: AdapterError for what does not fit; GateFailed if a constant is not the server's.
    """
    digests, bounds = _merge_layers(model, given, base, progress)
    layers, weight_bound = len(digests), max(bounds, default=None)
    digests |= _replace_head(model, given, base)
    # Weights of a base in f16 are rounded, so they are not the server's.
    exact = None if given.update is None else weight_bound is None
    if given.update is not None and exact:
        _check_digests(digests, given.update.tensors, given)
    return MergedConstants(exact, weight_bound, layers)


def _merge_layers(
    model: ConstantsOf, given: AdapterToMerge, base: BaseIr, progress: Progress
) -> tuple[dict[str, str], list[float]]:
    """The SHA-256 of each merged weight; and the bound on the error of each that is stored in f16."""
    adapters = given.file.layers()
    lacking = [layer for layer in adapters if f"{layer}.weight" not in base.constants]
    if lacking:
        raise AdapterError(
            "the adapter must change only layers that the base has",
            where=given.path,
            found=f"{len(lacking)} layers that the base does not have ({', '.join(lacking[:3])})",
            fix=OTHER_BASE,
        )
    digests: dict[str, str] = {}
    bounds: list[float] = []
    with progress.track("Merging", len(adapters)) as bar:
        for layer, adapter in adapters.items():
            name = f"{layer}.weight"
            held = model[base.constants[name]]
            weight_OI = held.astype(np.float64).reshape(len(held), -1)
            own = given.file.weight_shape(layer)
            if own != held.shape:
                sizes = ["x".join(map(str, shape)) for shape in (own, held.shape)]
                found = f"{layer}: {sizes[0]}, the base has {sizes[1]}"
                raise AdapterError("the adapter does not fit this base", where=given.path, found=found, fix=OTHER_BASE)
            merged_OI = merged_weight(weight_OI, adapter)
            if held.dtype == np.float16:
                bounds.append(_f16_bound(weight_OI, merged_OI, adapter))
            merged = merged_OI.astype(np.float32).reshape(held.shape)
            digests[name] = tensor_digest(merged)
            model.replace(base.constants[name], merged)
            bar.advance()
    return digests, bounds


def _replace_head(model: ConstantsOf, given: AdapterToMerge, base: BaseIr) -> dict[str, str]:
    """The SHA-256 of each tensor of the head, which replaces the base's."""
    digests: dict[str, str] = {}
    for name in base.head:
        tensor = given.file.tensors.get(PREFIX + name)
        if tensor is None:
            raise AdapterError("the adapter must contain a head", where=given.path, found=f"no {name}", fix=WITH_HEAD)
        digests[name] = tensor_digest(tensor)
        held = model[base.constants[name]]
        if tensor.ndim not in (1, held.ndim):
            found = f"{name}: {list(tensor.shape)}, the base has {list(held.shape)}"
            raise AdapterError(
                "the adapter's head does not fit this base", where=given.path, found=found, fix=OTHER_BASE
            )
        # A bias in the graph is [1, C].
        shape = tensor.shape if tensor.ndim == held.ndim else (*held.shape[: held.ndim - tensor.ndim], *tensor.shape)
        model.replace(base.constants[name], tensor.reshape(shape))
    return digests


def _check_digests(digests: Mapping[str, str], expected: Mapping[str, str], given: AdapterToMerge) -> None:
    other = sorted(name for name in digests.keys() | expected.keys() if digests.get(name) != expected.get(name))
    if other:
        raise GateFailed(
            "the merged weights differ from those of the server",
            where=given.path,
            found=f"{len(other)} of {len(expected)} ({', '.join(other[:3])})",
            fix="have the update made again from the merged run: ftx merge RUN, then ftx export RUN --as-update",
        )


def _f16_bound(weight_OI: Float64, merged_OI: Float64, adapter: AdapterWeights) -> float:
    """The largest difference of an entry from a merge into a base in f32, by rounding before the merge and after it.

    Rounding to float16 moves a weight by 2^-11 of itself, or 2^-25 if that is more: by d. LoRA adds d as it is.
    DoRA scales a row of V = W + s·B·A by g = m / ‖V‖, and the norm moves by η = ‖d‖ / ‖V‖ of itself at most, so the
    row moves by (g·d + |g·V|·η) / (1 - η).
    """
    moved_OI = np.maximum(np.abs(weight_OI) * 2.0**-11, 2.0**-25)
    if adapter.magnitude_O is not None:
        unscaled_OI = summed_weight(weight_OI, adapter)
        norm_O1 = np.linalg.norm(unscaled_OI, axis=1, keepdims=True)
        norm_O1 = np.where(norm_O1 > 0, norm_O1, np.inf)  # a row of zeros is not scaled
        gain_O1 = np.where(np.isinf(norm_O1), 1.0, np.abs(adapter.magnitude_O[:, None]) / norm_O1)
        eta_O1 = np.linalg.norm(moved_OI, axis=1, keepdims=True) / norm_O1
        moved_OI = (gain_O1 * moved_OI + np.abs(merged_OI) * eta_O1) / np.maximum(1 - eta_O1, 2.0**-20)
    return float((moved_OI + np.maximum(np.abs(merged_OI) * 2.0**-11, 2.0**-25)).max())
