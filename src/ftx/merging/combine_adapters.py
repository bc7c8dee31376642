"""Adapters merged into a base outside of a run: one from elsewhere, or several of one base with weights (shares).

Legend: O outputs, I inputs of a layer; Δ the change W' − W that an adapter makes of its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict, Unpack, cast

import numpy as np
import torch
from torch import Tensor, nn

from ftx.adapters.peft_network import FittedAdapter, flat
from ftx.backbones.kept_tokens import ChoiceMargins, choice_margins, kept_fractions
from ftx.core.command_report import CommandReport
from ftx.core.errors import AdapterError, GateFailed, InputError, MergeError, ModelError
from ftx.core.files import check_space, stage_folder, write_atomic
from ftx.core.progress import SILENT, Progress
from ftx.data.preprocess import Preprocess, normalise
from ftx.interop.base_folder import Base
from ftx.interop.open_adapters import OpenedAdapter, open_adapters
from ftx.merging.merge_and_prove import (
    LAYER_BOUND,
    LOGIT_BOUND,
    MERGE_AGAIN,
    PROOF_IMAGES,
    LayerProof,
    change,
    check_layers,
    largest_difference,
    layer_error,
    rounded,
)
from ftx.merging.ties import elected, election_error, threshold
from ftx.merging.unmerged_model import WeightedAdapters, unmerged_adapters
from ftx.runs.dense import DENSE_WEIGHTS, DenseConfig, load_dense, save_dense
from ftx.runs.new_run import check_name_free
from ftx.runs.readme import layers_proved, write_combined_card
from ftx.runs.trained import fill
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning

How = Literal["linear", "ties"]
# The fraction of entries that TIES keeps of each adapter (arXiv:2306.01708, section 5 and its figure on top-k).
DENSITY = 0.2


class CombineReport(CommandReport):
    """Adapters that were merged into a base model, and how exact the result is."""

    verb: str = "merge"
    adapters: list[str]
    """The paths of the adapters."""
    shares: list[float]
    """The weight of each adapter; they add up to 1."""
    how: How
    """``linear`` adds the weighted changes; ``ties`` is TIES (arXiv:2306.01708)."""
    density: float | None
    """The fraction of entries that TIES keeps of each adapter; null for ``linear``."""
    base: str
    """The name or the folder of the base model."""
    architecture: str
    """The name of the architecture in timm."""
    path: str
    """The folder of the merged model."""
    size_bytes: int
    """The size of the weights file in bytes."""
    image_size: int | str
    """The image size in pixels: the side of a square, or ``HEIGHTxWIDTH``."""
    labels: int
    """The number of labels; 0 without a head."""
    layers: list[LayerProof]
    """How exact each merged layer is."""
    max_relative_error: float
    """The largest ``relative_error`` of a layer."""
    layer_bound: float = LAYER_BOUND
    """The bound of ``max_relative_error``."""
    images: int = PROOF_IMAGES
    """The number of random images that the logits are compared on."""
    max_logit_difference: float
    """The largest difference of a logit between the merged model, opened again, and the base with unmerged adapters
    (for ``ties``, the merged model in memory).
    """
    logit_bound: float
    """The bound of ``max_logit_difference``."""


class BaseOptions(TypedDict, total=False):
    """The base of adapters: a timm name or a folder (by default what they name), its weights, and the image size."""

    base: str | None
    weights: str
    image_size: int | str


def combine(
    paths: Sequence[Path],
    out: Path,
    *,
    shares: Sequence[float] = (),
    how: How = "linear",
    density: float = DENSITY,
    labels: Sequence[str] = (),
    head: bool = True,
    progress: Progress = SILENT,
    **base: Unpack[BaseOptions],
) -> CombineReport:
    """Write the base with its adapters merged in as a dense folder, which timm and transformers open.

    ``linear`` is W + Σ share·Δ, ``ties`` (arXiv:2306.01708) keeps of each Δ its largest entries and of those the ones
    whose sign the sum has. Heads are averaged by shares in both. ``base``, ``weights`` and ``image_size`` are those of
    ``BaseOptions``.
    Raises: as ``open_adapters``; InputError for shares that do not add up to 1; GateFailed if the proof fails; nothing
    is written then.
    """
    check_name_free(out)
    shares = _checked_shares(shares, len(paths), density)
    base_model, opened = open_adapters(paths, head=head, progress=progress, **base)
    module, fitted = base_model.module, [one.fitted for one in opened]
    meaning = _meaning(opened, base_model, labels, progress) if head else None
    check_space(out, 4 * sum(parameter.numel() for parameter in module.parameters()))
    merged, proofs = _merge_layers(module.state_dict(), fitted, shares, how, density, progress)
    worst = check_layers(proofs)
    fill(module, _averaged(fitted, shares))
    unmerged = {proof.layer: _in_layer(proof.layer, fitted, shares) for proof in proofs}
    if how == "ties":  # no sum of outputs: compared with the model that is written
        fill(module, merged)
        unmerged.clear()
    images_N3HW = _random_images(base_model.preprocess)
    expected_NC, choices = _unmerged_logits(module, unmerged, images_N3HW, base.get("base"))
    fill(module, merged)
    with stage_folder(out) as staged:
        architecture, pre = base_model.architecture, base_model.preprocess
        save_dense(module, DenseConfig(architecture, meaning, pre, base_model.model_args), staged)
        with torch.inference_mode():
            difference = largest_difference(expected_NC, load_dense(staged)(images_N3HW), choices)
        bound = _check_logits(difference, expected_NC, base_model, out)
        report = CombineReport(
            adapters=[str(path) for path in paths],
            shares=list(shares),
            how=how,
            density=density if how == "ties" else None,
            base=base.get("base") or architecture,
            architecture=architecture,
            path=str(out),
            size_bytes=(staged / DENSE_WEIGHTS).stat().st_size,
            image_size=pre.image_size,
            labels=len(meaning.labels) if meaning else 0,
            layers=proofs,
            max_relative_error=worst,
            max_logit_difference=difference,
            logit_bound=bound,
        )
        _write_report(staged, report, [one.at.name for one in opened], meaning, kept_fractions(module))
    return report


def _check_logits(difference: float, expected_NC: Tensor, base_model: Base, out: Path) -> float:
    """The bound of a logit's difference.

    Raises: GateFailed if it is exceeded.
    """
    bound = LOGIT_BOUND * max(1.0, float(expected_NC.abs().max()))
    if not difference <= bound:
        raise GateFailed(
            "the dense model does not compute the same logits as the base with its adapters",
            where=out,
            found=f"logits differ by {difference:.1e}, the bound is {bound:.1e}{_eps(base_model)}",
            fix=MERGE_AGAIN,
        )
    return bound


def _in_layer(layer: str, fitted: Sequence[FittedAdapter], shares: Sequence[float]) -> WeightedAdapters:
    return [(share, one.layers.get(layer)) for share, one in zip(shares, fitted, strict=True)]


def _unmerged_logits(
    module: nn.Module, layers: Mapping[str, WeightedAdapters], images_N3HW: Tensor, base: str | None
) -> tuple[Tensor, ChoiceMargins]:
    """The logits of the base with its adapters added to the outputs of its layers. Shape: [N, C]."""
    try:
        with torch.inference_mode(), unmerged_adapters(module, layers), choice_margins(module) as choices:
            return module(images_N3HW), choices
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            "the base cannot run at its image size",
            where=base,
            found=str(error),
            fix="check config.json of the base, or use another --image-size",
        ) from error


def _write_report(
    folder: Path, report: CombineReport, names: Sequence[str], meaning: Meaning | None, shares: Mapping[int, float]
) -> None:
    several = len(names) > 1
    parts = [(f"{s:.3g} of" if several else "adapter", name) for s, name in zip(report.shares, names, strict=True)]
    logits = f"within {report.max_logit_difference:.1e} on random images (bound {report.logit_bound:.1e})."
    if report.how == "ties":
        parts.append(("joined by", f"TIES, density {report.density:g}"))
        proved = (
            f"Entries of each of the {len(report.layers)} layers follow the rule, entry by entry, within "
            f"{report.max_relative_error:.1e} of their size (bound {report.layer_bound:.0e}); opened again the "
            f"folder computes the logits of the model that was written, {logits}"
        )
    else:
        layers = layers_proved(len(report.layers), report.max_relative_error, report.layer_bound)
        proved = f"{layers}The model computes the logits of the base with unmerged adapters, {logits}"
    write_combined_card(folder, report.architecture, parts, meaning, proved, shares)
    write_atomic(folder / "merge.json", (report.model_dump_json(indent=2) + "\n").encode())


def _merge_layers(
    state: Mapping[str, Tensor],
    fitted: Sequence[FittedAdapter],
    shares: Sequence[float],
    how: How,
    density: float,
    progress: Progress,
) -> tuple[dict[str, Tensor], list[LayerProof]]:
    """The merged weight of each layer that an adapter has, summed in float64 and rounded to f32 once, and its proof."""
    names = [name for name in state if any(name.removesuffix(".weight") in one.layers for one in fitted)]
    thresholds = [threshold(state, one, density) for one in fitted] if how == "ties" else []
    merged: dict[str, Tensor] = {}
    proofs: list[LayerProof] = []
    with progress.track("Merging", len(names)) as bar:
        for name in names:
            layer, weight_OI = name.removesuffix(".weight"), flat(state[name])
            adapters = _in_layer(layer, fitted, shares)
            changes = [None if one is None else change(weight_OI, one, layer) for _, one in adapters]
            if how == "ties":
                change_OI = elected(changes, shares, thresholds)
            else:
                summed = (share * Δ for share, Δ in zip(shares, changes, strict=True) if Δ is not None)
                change_OI = sum(summed, np.zeros_like(weight_OI))
            stored_OI = rounded(weight_OI + change_OI, layer)
            if how == "ties":
                error = election_error(weight_OI, stored_OI, changes, shares, thresholds)
            else:
                error = layer_error(weight_OI, stored_OI.astype(np.float64), adapters, np.random.default_rng(0))
            proofs.append(LayerProof(layer=layer, relative_error=error))
            merged[name] = torch.from_numpy(stored_OI).view_as(state[name])
            bar.advance()
    return merged, proofs


def _random_images(pre: Preprocess) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (PROOF_IMAGES, pre.height, pre.width, 3), dtype=np.uint8)
    return torch.from_numpy(normalise(pixels, pre))


def _eps(base_model: Base) -> str:
    """The likeliest reason if logits differ: timm's models have one epsilon, those of transformers their own."""
    found = {layer.eps for layer in base_model.module.modules() if isinstance(layer, nn.LayerNorm)}
    return f"; the base normalises with epsilon {min(found):g}, timm's model with 1e-06" if found - {1e-6} else ""


def _checked_shares(shares: Sequence[float], count: int, density: float) -> Sequence[float]:
    if not 0 < density <= 1:
        raise InputError(
            "--density must be above 0 and at most 1", found=f"{density:g}", fix=f"use --density {DENSITY:g}"
        )
    equal = [round(1 / max(count, 1), 4)] * max(count - 1, 0)
    shares = shares or [1 / max(count, 1)] * count
    if len(shares) != count or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise InputError(
            "--shares must be one number above 0 for each adapter, and add up to 1",
            found=", ".join(f"{share:g}" for share in shares),
            fix=f"use --shares {','.join(f'{share:.4g}' for share in [*equal, 1 - sum(equal)])}",
        )
    return shares


def _averaged(fitted: Sequence[FittedAdapter], shares: Sequence[float]) -> dict[str, Tensor]:
    """The modules that were trained as a whole, averaged by shares."""
    names = {name for one in fitted for name in one.saved}
    if partial := sorted(name for name in names if any(name not in one.saved for one in fitted)):
        raise AdapterError(
            "all adapters must have the same modules_to_save",
            found=f"only some have {', '.join(partial[:3])}",
            fix="train them all with the same modules_to_save",
        )
    return {
        name: sum(
            (share * one.saved[name].double() for share, one in zip(shares, fitted, strict=True)),
            torch.zeros((), dtype=torch.float64),
        ).float()
        for name in sorted(names)
    }


def _meaning(opened: Sequence[OpenedAdapter], base_model: Base, labels: Sequence[str], progress: Progress) -> Meaning:
    """What the logits mean: by the runs, else by the labels given, else by the base's own, else numbered."""
    classes = cast("int", base_model.module.num_classes)
    runs = [one.at.run for one in opened if one.at.run is not None]
    for run in runs:
        if (run.manifest.task, run.manifest.labels) != (runs[0].manifest.task, runs[0].manifest.labels):
            raise MergeError(
                "the adapters must be trained for the same task and labels",
                where=run.path,
                found=f"{', '.join(run.manifest.labels.names[:3])}, …, "
                f"{runs[0].path} has {', '.join(runs[0].manifest.labels.names[:3])}, …",
                fix="train one of them again, on data with the labels of the other",
            )
    if runs:
        if labels:
            raise InputError(
                "--labels must not be given for an adapter of a run, which has its labels",
                where=runs[0].path,
                fix="run the command without --labels",
            )
        meaning = runs[0].manifest.meaning
        if len(opened) > 1 and meaning.thresholds.labels:
            progress.note("thresholds were tuned for each adapter separately: the merged model uses 0.5")
            return Meaning(task=meaning.task, labels=meaning.labels)
        return meaning
    if labels and len(set(labels)) != classes:
        found = f"{len(labels)} names, {len(set(labels))} of them different"
        fix = "name each class once, in the order of the head: --labels a,b,c"
        raise InputError(f"--labels must be {classes} different names, one for each class", found=found, fix=fix)
    names = tuple(labels) or base_model.labels
    if len(set(names)) != classes:
        progress.note(f"the {classes} classes are named class_0, class_1, …: name them with --labels a,b,c")
        names = tuple(f"class_{index}" for index in range(classes))
    elif not labels and any(one.fitted.saved for one in opened):
        progress.note(f"the {classes} classes keep the names of the base: change them with --labels a,b,c")
    return Meaning(labels=Labels.multiclass(names))
