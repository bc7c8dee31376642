"""Adapters laid over a base outside of a run: one from elsewhere, or several of one base in shares.

Legend: O outputs, I inputs of a layer; Δ the change W' − W that an adapter makes of its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ftx.adapters.files import AdapterFile
from ftx.adapters.kernel import Float64, LayerAdapter, merged_weight, separate_products
from ftx.backbones.dense import WEIGHTS, DenseConfig, load_dense, save_dense
from ftx.backbones.foundation import Foundation
from ftx.data.preprocess import normalise
from ftx.errors import AdapterError, GateFailed, InputError, MergeError
from ftx.files import check_space, stage_folder, write_atomic
from ftx.foreign import Opened, open_adapters
from ftx.labels import Labels
from ftx.merging import LAYER_BOUND, LOGIT_BOUND, PROOF_IMAGES, PROOF_ROWS, LayerProof, flat
from ftx.progress import SILENT, Progress
from ftx.reports import VerbReport
from ftx.run import refuse_existing
from ftx.tasks import Meaning
from ftx.training.modelcard import MergeProof, write_combined_card
from ftx.training.trained import fill

How = Literal["linear", "ties"]
# The share of entries that TIES keeps of each adapter (arXiv:2306.01708, section 5 and its figure on top-k).
DENSITY = 0.2


class CombineReport(VerbReport):
    """What was laid over which base, and how far the result lies from what it should be.

    ``max_relative_error`` is that of the layers against separate products in float64; of several adapters joined by
    TIES, which no product expresses, each adapter's own merge is held so.
    """

    verb: str = "merge"
    adapters: list[str]
    shares: list[float]
    how: How
    base: str
    path: str
    size_bytes: int
    labels: int
    layers: list[LayerProof]
    max_relative_error: float
    layer_bound: float = LAYER_BOUND
    images: int = PROOF_IMAGES
    max_logit_difference: float
    logit_bound: float


def combine(
    paths: Sequence[Path],
    out: Path,
    *,
    base: str | None = None,
    weights: str = "auto",
    image_size: int | str = "auto",
    shares: Sequence[float] = (),
    how: How = "linear",
    density: float = DENSITY,
    labels: Sequence[str] = (),
    head: bool = True,
    progress: Progress = SILENT,
) -> CombineReport:
    """Write the base with its adapters merged in as a dense folder, which timm and transformers open.

    ``linear`` is W + Σ share·Δ, ``ties`` (arXiv:2306.01708) keeps of each Δ its largest entries and of those the ones
    whose sign the sum has. Heads are averaged by shares in both.
    Raises: as ``open_adapters``; InputError for shares that do not add up to 1; GateFailed if the proof fails; nothing
    is written then.
    """
    refuse_existing(out)
    shares = _checked_shares(shares, len(paths))
    foundation, opened = open_adapters(
        paths, base=base, weights=weights, image_size=image_size, head=head, progress=progress
    )
    module = foundation.module
    meaning = _meaning(opened, foundation, labels, progress) if head else None
    check_space(out, 4 * sum(parameter.numel() for parameter in module.parameters()))
    files = [one.file for one in opened]
    merged, proofs = _merge_layers(module.state_dict(), files, shares, how, density, progress)
    worst = max(proof.relative_error for proof in proofs)
    if not worst <= LAYER_BOUND:
        raise GateFailed("the merge does not answer as its separate products", found=f"{worst:.1e} of {LAYER_BOUND}")
    fill(module, {**merged, **_saved(files, shares)})
    with stage_folder(out) as staged:
        config = DenseConfig(foundation.architecture, meaning, foundation.preprocess, foundation.model_args)
        save_dense(module, config, staged)
        difference, bound = _difference(module, staged, foundation)
        if not difference <= bound:
            raise GateFailed(
                "the dense model does not answer as the base with its adapters",
                where=out,
                found=f"answers differ by {difference:.1e}, the bound is {bound:.1e}{_eps(foundation)}",
            )
        report = CombineReport(
            run=None,
            adapters=[str(path) for path in paths],
            shares=list(shares),
            how=how,
            base=base or foundation.architecture,
            path=str(out),
            size_bytes=(staged / WEIGHTS).stat().st_size,
            labels=len(meaning.labels) if meaning else 0,
            layers=proofs,
            max_relative_error=worst,
            max_logit_difference=difference,
            logit_bound=bound,
        )
        proof = MergeProof(len(proofs), worst, LAYER_BOUND, difference, bound, "random images")
        named = [(path.resolve().name, share) for path, share in zip(paths, shares, strict=True)]
        write_combined_card(staged, foundation.architecture, named, meaning, proof)
        write_atomic(staged / "merge.json", (report.model_dump_json(indent=2) + "\n").encode())
    return report


def _merge_layers(
    state: Mapping[str, Tensor],
    files: Sequence[AdapterFile],
    shares: Sequence[float],
    how: How,
    density: float,
    progress: Progress,
) -> tuple[dict[str, Tensor], list[LayerProof]]:
    """The merged weight of each layer that an adapter has, summed in float64 and rounded to f32 once, and its proof."""
    names = [name for name in state if any(name.removesuffix(".weight") in file.layers for file in files)]
    thresholds = [_threshold(state, file, density) for file in files] if how == "ties" else []
    merged: dict[str, Tensor] = {}
    proofs: list[LayerProof] = []
    with progress.track("Merging", len(names)) as bar:
        for name in names:
            layer, weight_OI = name.removesuffix(".weight"), flat(state[name])
            adapters = [file.layers.get(layer) for file in files]
            changes = [None if one is None else _change(weight_OI, one, layer) for one in adapters]
            if how == "ties":
                change_OI = elected(changes, shares, thresholds)
            else:
                summed = (share * Δ for share, Δ in zip(shares, changes, strict=True) if Δ is not None)
                change_OI = sum(summed, np.zeros_like(weight_OI))
            stored_OI = (weight_OI + change_OI).astype(np.float32)
            error = _layer_error(weight_OI, stored_OI.astype(np.float64), adapters, shares, changes, how)
            proofs.append(LayerProof(layer=layer, relative_error=error))
            merged[name] = torch.from_numpy(stored_OI).view_as(state[name])
            bar.advance()
    return merged, proofs


def elected(changes: Sequence[Float64 | None], shares: Sequence[float], thresholds: Sequence[float]) -> Float64:
    """TIES of one layer: trim, elect the sign, and average what agrees with it. Shape: [O, I].

    Source: arXiv:2306.01708, section 4, algorithm 1, with λ = 1; the shares weigh both the election and the mean.
    """
    shape = next(Δ.shape for Δ in changes if Δ is not None)
    trimmed = [
        np.zeros(shape) if Δ is None else np.where(np.abs(Δ) >= least, Δ, 0.0)
        for Δ, least in zip(changes, thresholds, strict=True)
    ]
    sign_OI = np.sign(sum((share * Δ for share, Δ in zip(shares, trimmed, strict=True)), np.zeros(shape)))
    total_OI, weight_OI = np.zeros(shape), np.zeros(shape)
    for share, Δ in zip(shares, trimmed, strict=True):
        agrees = (np.sign(Δ) == sign_OI) & (Δ != 0)
        total_OI += np.where(agrees, share * Δ, 0.0)
        weight_OI += np.where(agrees, share, 0.0)
    return np.divide(total_OI, weight_OI, out=np.zeros(shape), where=weight_OI > 0)


def _threshold(state: Mapping[str, Tensor], file: AdapterFile, density: float) -> float:
    """The size that the largest ``density`` of an adapter's changes reach, over all of its layers."""
    sizes = np.concatenate(
        [
            np.abs(_change(flat(state[f"{layer}.weight"]), adapter, layer)).astype(np.float32).ravel()
            for layer, adapter in file.layers.items()
        ]
    )
    kept = max(round(density * sizes.size), 1)
    return float(np.partition(sizes, sizes.size - kept)[sizes.size - kept])


def _change(weight_OI: Float64, adapter: LayerAdapter, layer: str) -> Float64:
    try:
        return merged_weight(weight_OI, adapter) - weight_OI
    except MergeError as error:
        raise MergeError(error.what, where=layer) from error


def _layer_error(
    base_OI: Float64,
    merged_OI: Float64,
    adapters: Sequence[LayerAdapter | None],
    shares: Sequence[float],
    changes: Sequence[Float64 | None],
    how: How,
) -> float:
    """max |x·W'ᵀ − separate products| / max |separate products|, in float64 on random inputs."""
    x_NI = np.random.default_rng(0).standard_normal((PROOF_ROWS, base_OI.shape[1]))
    base_NO = x_NI @ base_OI.T
    products = [base_NO if one is None else separate_products(x_NI, base_OI, one) for one in adapters]
    tiny = np.finfo(float).tiny
    if how == "linear":
        expected_NO = sum((share * y for share, y in zip(shares, products, strict=True)), np.zeros_like(base_NO))
        return float(np.abs(x_NI @ merged_OI.T - expected_NO).max() / max(np.abs(expected_NO).max(), tiny))
    each = (
        np.abs(base_NO + x_NI @ Δ.T - y).max() / max(np.abs(y).max(), tiny)
        for Δ, y in zip(changes, products, strict=True)
        if Δ is not None
    )
    return float(max(each))


def _difference(module: nn.Module, dense: Path, foundation: Foundation) -> tuple[float, float]:
    """The largest difference between the model in memory and the folder opened again, and its bound."""
    pre = foundation.preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (PROOF_IMAGES, pre.height, pre.width, 3), dtype=np.uint8)
    images_N3HW = torch.from_numpy(normalise(pixels, pre))
    with torch.inference_mode():
        expected, found = module(images_N3HW), load_dense(dense)(images_N3HW)
    return float((expected - found).abs().max()), LOGIT_BOUND * max(1.0, float(expected.abs().max()))


def _eps(foundation: Foundation) -> str:
    """What to think of first where answers differ: timm's models have one epsilon, those of transformers their own."""
    found = {layer.eps for layer in foundation.module.modules() if isinstance(layer, nn.LayerNorm)}
    return f"; the base normalises with epsilon {min(found):g}, timm's model with 1e-06" if found - {1e-6} else ""


def _checked_shares(shares: Sequence[float], count: int) -> Sequence[float]:
    shares = shares or [1 / count] * count
    if len(shares) != count or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise InputError(
            "shares are one number above 0 for each adapter, and add up to 1",
            found=", ".join(f"{share:g}" for share in shares),
            mend=f"--shares {','.join([f'{1 / count:.4g}'] * count)}" if count != 3 else "--shares 0.4,0.3,0.3",
        )
    return shares


def _saved(files: Sequence[AdapterFile], shares: Sequence[float]) -> dict[str, Tensor]:
    """The modules that were trained whole, averaged by shares."""
    names = {name for file in files for name in file.saved}
    if partial := sorted(name for name in names if any(name not in file.saved for file in files)):
        raise AdapterError("one adapter brings a module that another has not", found=", ".join(partial[:3]))
    return {
        name: sum(
            (share * file.saved[name].double() for share, file in zip(shares, files, strict=True)),
            torch.zeros((), dtype=torch.float64),
        ).float()
        for name in sorted(names)
    }


def _meaning(opened: Sequence[Opened], foundation: Foundation, labels: Sequence[str], progress: Progress) -> Meaning:
    """What the logits mean: by the runs, else by the labels given, else by the base's own, else numbered."""
    classes = cast("int", foundation.module.num_classes)
    known = [one.run.manifest.meaning for one in opened if one.run is not None]
    if any(meaning.labels != known[0].labels or meaning.task != known[0].task for meaning in known):
        raise MergeError(
            "the adapters were trained for different labels",
            where=opened[1].path,
            found=f"{', '.join(known[-1].labels.names[:3])}, …, not {', '.join(known[0].labels.names[:3])}, …",
        )
    if labels and len(labels) != classes:
        raise InputError(f"there are {classes} classes", where="--labels", found=f"{len(labels)} names")
    if known and not labels:
        if len(opened) == 1:
            return known[0]
        if known[0].thresholds.labels:
            progress.note("thresholds were tuned for each adapter by itself: the merged model decides at 0.5")
        return Meaning(task=known[0].task, labels=known[0].labels)
    names = tuple(labels) or foundation.labels
    if len(names) != classes:
        progress.note(f"nobody says what the {classes} classes are called: --labels a,b,c names them")
        names = tuple(f"class_{index}" for index in range(classes))
    return Meaning(labels=Labels.multiclass(names))
