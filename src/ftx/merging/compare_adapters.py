"""Adapters side by side: how much each changes every layer, and whether they work in the same directions.

Legend: R ranks, O outputs, I inputs of a layer; Δ the change W' − W that an adapter makes of its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from ftx.adapters.merge_weight import AdapterWeights, Float64
from ftx.adapters.peft_file import WEIGHTS
from ftx.adapters.peft_network import flat
from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.errors import AdapterError
from ftx.core.progress import SILENT, Progress
from ftx.interop.open_adapters import OpenedAdapter, open_adapters
from ftx.merging.merge_and_prove import change


class Adapter(ClosedModel):
    """One adapter as a whole."""

    path: str
    """The path of the adapter or its run."""
    kind: str
    """The adapter method, for example ``dora``."""
    layers: int
    """The number of layers that it changes."""
    ranks: list[int]
    """The ranks that its layers have, each once."""
    parameters: int
    """The number of its parameters."""
    size_bytes: int
    """The size of the weights file in bytes."""
    change: float
    """The Frobenius norm of its change, divided by that of the weights that it changes."""


class Overlap(ClosedModel):
    """How far two adapters change the same directions."""

    first: int
    """The position of one adapter in ``adapters``, counted from 0."""
    second: int
    """The position of the other adapter."""
    inputs: float
    """The overlap of the directions that they read from the input, from 0 (none) to 1 (those of one are among those of
    the other).
    """
    outputs: float
    """The overlap of the directions that they write to the output, from 0 to 1."""
    inputs_by_chance: float
    """``inputs`` for two random adapters of the same ranks."""
    outputs_by_chance: float
    """``outputs`` for two random adapters of the same ranks."""


class ComparedLayer(ClosedModel):
    """One layer, with the change that each adapter makes."""

    layer: str
    """The name of the layer."""
    norms: list[float | None]
    """The Frobenius norm of each adapter's change; null for an adapter that does not change the layer."""
    changes: list[float | None]
    """The same norm, divided by that of the weight."""
    overlaps: list[Overlap]
    """The overlap of each pair of adapters in this layer."""


class AdaptersReport(CommandReport):
    """Adapters of one base model, compared."""

    verb: str = "adapters"
    base: str
    """The architecture of the base model in timm."""
    adapters: list[Adapter]
    """Each adapter as a whole."""
    overlaps: list[Overlap]
    """The overlap of each pair of adapters: the mean over the layers that both change."""
    layers: list[ComparedLayer]
    """Each layer that an adapter changes."""


def compare(
    paths: Sequence[Path], *, base: str | None = None, weights: str = "auto", progress: Progress = SILENT
) -> AdaptersReport:
    """Compare adapters of one base: runs, or folders that peft wrote.

    Raises: as ``open_adapters`` does.
    """
    base_model, opened = open_adapters(paths, base=base, weights=weights, head=False, progress=progress)
    state = base_model.module.state_dict()
    names = [name.removesuffix(".weight") for name in state]
    layers = [name for name in names if any(name in one.fitted.layers for one in opened)]
    compared: list[ComparedLayer] = []
    totals = np.zeros((len(opened), 2))  # of ‖Δ‖² and ‖W‖²
    with progress.track("Comparing layers", len(layers)) as bar:
        for name in layers:
            weight_OI = flat(state[f"{name}.weight"])
            adapters = [one.fitted.layers.get(name) for one in opened]
            norms = [None if one is None else float(np.linalg.norm(change(weight_OI, one, name))) for one in adapters]
            size = float(np.linalg.norm(weight_OI))
            for index, norm in enumerate(norms):
                totals[index] += (0, 0) if norm is None else (norm**2, size**2)
            compared.append(
                ComparedLayer(
                    layer=name,
                    norms=norms,
                    changes=[None if norm is None else norm / max(size, np.finfo(float).tiny) for norm in norms],
                    overlaps=_overlaps(adapters, weight_OI.shape),
                )
            )
            bar.advance()
    changes = np.sqrt(totals[:, 0] / np.maximum(totals[:, 1], np.finfo(float).tiny))
    return AdaptersReport(
        base=base_model.architecture,
        adapters=[_facts(one, path, float(change)) for one, path, change in zip(opened, paths, changes, strict=True)],
        overlaps=_means(compared),
        layers=compared,
    )


def subspace_overlap(first_IR: Float64, second_IR: Float64) -> float:
    """φ = ‖V₁ᵀ·V₂‖² / min(R₁, R₂) of two orthonormal bases: 1 where one lies in the other, 0 where they are orthogonal.

    Source: LoRA, arXiv:2106.09685, section 7.2, eq. 4.
    """
    return float(np.linalg.norm(first_IR.T @ second_IR) ** 2 / max(min(first_IR.shape[1], second_IR.shape[1]), 1))


def _overlaps(adapters: Sequence[AdapterWeights | None], shape: tuple[int, ...]) -> list[Overlap]:
    outputs, inputs = shape
    known = {index: one.directions() for index, one in enumerate(adapters) if one is not None}
    return [
        Overlap(
            first=first,
            second=second,
            inputs=subspace_overlap(known[first][0], known[second][0]),
            outputs=subspace_overlap(known[first][1], known[second][1]),
            # Two subspaces drawn at random share R₁·R₂ / n of ‖V₁ᵀ·V₂‖².
            inputs_by_chance=max(known[first][0].shape[1], known[second][0].shape[1]) / inputs,
            outputs_by_chance=max(known[first][1].shape[1], known[second][1].shape[1]) / outputs,
        )
        for first, second in combinations(sorted(known), 2)
    ]


def _means(layers: Sequence[ComparedLayer]) -> list[Overlap]:
    """The mean over layers of each pair of adapters."""
    pairs: dict[tuple[int, int], list[Overlap]] = {}
    for layer in layers:
        for one in layer.overlaps:
            pairs.setdefault((one.first, one.second), []).append(one)

    def mean(found: Sequence[Overlap], key: str) -> float:
        return float(np.mean([getattr(one, key) for one in found]))

    return [
        Overlap(
            first=first,
            second=second,
            inputs=mean(found, "inputs"),
            outputs=mean(found, "outputs"),
            inputs_by_chance=mean(found, "inputs_by_chance"),
            outputs_by_chance=mean(found, "outputs_by_chance"),
        )
        for (first, second), found in sorted(pairs.items())
    ]


def _facts(opened: OpenedAdapter, path: Path, change: float) -> Adapter:
    layers = opened.fitted.layers
    if not layers:
        raise AdapterError(
            "the adapter must change at least one layer", where=path, fix="name another adapter, or train it again"
        )
    return Adapter(
        path=str(path),
        kind=opened.fitted.config.name,
        layers=len(layers),
        ranks=sorted({one.rank for one in layers.values()}),
        parameters=sum(one.parameters for one in layers.values()),
        size_bytes=(opened.at.folder / WEIGHTS).stat().st_size,
        change=change,
    )
