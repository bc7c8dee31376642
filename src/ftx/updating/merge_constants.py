"""An adapter and its head merged into the constants of a base IR, and held to the server's.

Shapes: I inputs, O outputs, R ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ftx.adapters.merge_weight import AdapterWeights, Float64, merged_weight, summed_weight
from ftx.adapters.peft_file import PREFIX
from ftx.core.errors import AdapterError, GateFailed
from ftx.core.progress import Progress
from ftx.runs.card_json import BaseIr
from ftx.runs.update_zip import tensor_digest
from ftx.updating.constants import ConstantsOf
from ftx.updating.given_adapter import Given


@dataclass(frozen=True)
class Merged:
    """What was merged.

    ``exact``: every constant has the SHA-256 of the server's; None where nobody says what that is. ``weight_bound``:
    how far a weight may lie from what an f32 base gives, where this one is in f16.
    """

    exact: bool | None
    weight_bound: float | None
    layers: int


def merge_into(model: ConstantsOf, given: Given, base: BaseIr, progress: Progress) -> Merged:
    """Merge every layer, and lay the head in.

    Raises: AdapterError for what does not fit; GateFailed if a constant is not the server's.
    """
    digests, bounds = _merge_layers(model, given, base, progress)
    digests |= _lay_head(model, given, base)
    layers, weight_bound = len(given.file.layers()), max(bounds, default=None)
    if given.update is None:
        return Merged(exact=None, weight_bound=weight_bound, layers=layers)
    if weight_bound is not None:
        return Merged(exact=False, weight_bound=weight_bound, layers=layers)  # rounded, so not the server's
    _hold_to_server(digests, given.update.tensors, given)
    return Merged(exact=True, weight_bound=None, layers=layers)


def _merge_layers(
    model: ConstantsOf, given: Given, base: BaseIr, progress: Progress
) -> tuple[dict[str, str], list[float]]:
    """The SHA-256 of each merged weight; and, of those that lie in f16, how far off they may be."""
    adapters = given.file.layers()
    lacking = [layer for layer in adapters if f"{layer}.weight" not in base.constants]
    if lacking:
        raise AdapterError(
            "the adapter is for layers that this IR lacks",
            where=given.path,
            found=f"{len(lacking)} layers ({', '.join(lacking[:3])})",
            fix="name the base that it was made for",
        )
    digests: dict[str, str] = {}
    bounds: list[float] = []
    with progress.track("merging", len(adapters)) as bar:
        for layer, adapter in adapters.items():
            name = f"{layer}.weight"
            held = model[base.constants[name]]
            weight_OI = held.astype(np.float64).reshape(len(held), -1)
            own = given.file.weight_shape(layer)
            if own != held.shape:
                sizes = ["x".join(map(str, shape)) for shape in (own, held.shape)]
                found = f"{layer}: {sizes[0]}, the base has {sizes[1]}"
                raise AdapterError("the adapter does not fit its base", where=given.path, found=found)
            merged_OI = merged_weight(weight_OI, adapter)
            if held.dtype == np.float16:
                bounds.append(_f16_bound(weight_OI, merged_OI, adapter))
            merged = merged_OI.astype(np.float32).reshape(held.shape)
            digests[name] = tensor_digest(merged)
            model.replace(base.constants[name], merged)
            bar.advance()
    return digests, bounds


def _lay_head(model: ConstantsOf, given: Given, base: BaseIr) -> dict[str, str]:
    """The SHA-256 of each tensor of the head, which takes the place of the base's."""
    digests: dict[str, str] = {}
    for name in base.head:
        tensor = given.file.tensors.get(PREFIX + name)
        if tensor is None:
            raise AdapterError("the adapter brings no head", where=given.path, found=f"no {name}")
        digests[name] = tensor_digest(tensor)
        held = model[base.constants[name]]
        if tensor.ndim not in (1, held.ndim):
            found = f"{name}: {list(tensor.shape)}, the base has {list(held.shape)}"
            raise AdapterError("the adapter's head does not fit this model", where=given.path, found=found)
        # A bias lies in the graph as [1, C].
        shape = tensor.shape if tensor.ndim == held.ndim else (*held.shape[: held.ndim - tensor.ndim], *tensor.shape)
        model.replace(base.constants[name], tensor.reshape(shape))
    return digests


def _hold_to_server(digests: Mapping[str, str], expected: Mapping[str, str], given: Given) -> None:
    other = sorted(name for name in digests.keys() | expected.keys() if digests.get(name) != expected.get(name))
    if other:
        raise GateFailed(
            "the merged weights are not those of the server",
            where=given.path,
            found=f"{len(other)} of {len(expected)} ({', '.join(other[:3])})",
            fix="have the update made again from the merged run: ftx merge, then ftx export --as-update",
        )


def _f16_bound(weight_OI: Float64, merged_OI: Float64, adapter: AdapterWeights) -> float:
    """How far an entry may lie from what an f32 base gives: by the rounding before the merge, and after it.

    Rounding to float16 moves a weight by 2^-11 of itself, or 2^-25 where that is more: by d. LoRA adds d as it is.
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
