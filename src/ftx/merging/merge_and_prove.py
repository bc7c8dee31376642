"""``ftx merge``: the trained model, of any method, as one dense model, with proof.

The merge of each weight is done in float64 and stored in f32. The proof of each layer is that it
computes the same as the unmerged forward, which never uses the merged weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ftx.adapters.merge_weight import AdapterWeights, Float64, merged_weight, unmerged_forward
from ftx.adapters.peft_network import flat, read_adapter
from ftx.adapters.trainable_model import base_of
from ftx.backbones.kept_tokens import ChoiceMargins, choice_margins
from ftx.core.command_report import CommandReport
from ftx.core.errors import AdapterError, DataError, GateFailed, MergeError
from ftx.core.files import check_space
from ftx.core.progress import SILENT, Progress
from ftx.data.image_store import ImageStore
from ftx.data.loader import load_pixels_many
from ftx.data.preprocess import Pixels, normalise
from ftx.merging.unmerged_model import WeightedAdapters
from ftx.recipe.method_defaults import ADAPTERS
from ftx.runs.artifacts import DENSE, TRAINED
from ftx.runs.dense import DENSE_WEIGHTS, DenseConfig, load_dense, save_dense
from ftx.runs.readme import MergeProof, write_dense_card
from ftx.runs.run import Run
from ftx.runs.run_json import RESTORE
from ftx.runs.trained import fill, load_trained, read_plain, require_base

# Storing a merged entry in f32 rounds it to nearest, by at most 2^-24 of its size, so Σ x·w' changes by at most
# 2^-24 · Σ |x|·|w'|, the unit of ``layer_error``. As much again is left to the products' own rounding in float64: they
# need a millionth of it. Measured: 1e-8, for roundings cancel over the inputs. One entry of a layer of 768 inputs that
# is off by a thousandth of its size gives 1e-6, a wrong scaling or an adapter left out 1e-3 and more.
LAYER_BOUND = 2.0**-23
# Two f32 networks of a few dozen layers that differ only by rounding: the bound of a graph in f32.
LOGIT_BOUND = 1e-4
MERGE_AGAIN = "merge again; if the error stays, report it as a bug in ftx"
PROOF_ROWS = 64
PROOF_IMAGES = 32


class LayerProof(BaseModel):
    """How exact one merged layer is."""

    model_config = ConfigDict(frozen=True)

    layer: str
    """The name of the layer."""
    relative_error: float
    """The largest difference of an output from the unmerged layer, divided by the sum of its absolute products. For
    TIES, the largest relative error of a weight.
    """


class MergeReport(CommandReport):
    """The dense model that ``ftx merge`` wrote, and how exact it is."""

    verb: str = "merge"
    method: str
    """The training method, for example ``dora``."""
    path: str
    """The folder of the dense model."""
    size_bytes: int
    """The size of the weights file in bytes."""
    layers: list[LayerProof]
    """How exact each merged layer is; empty without an adapter."""
    max_relative_error: float
    """The largest ``relative_error`` of a layer; 0 without an adapter."""
    layer_bound: float = LAYER_BOUND
    """The bound of ``max_relative_error``."""
    images: int
    """The number of images that the logits are compared on."""
    images_from: Literal["held-out images", "random images"]
    """Which images: held-out images of the run, or random ones if its data is not found."""
    max_logit_difference: float
    """The largest difference of a logit between the dense and the trained model."""
    logit_bound: float
    """The bound of ``max_logit_difference``."""


def merge(run: Run | Path | None = None, *, data: Path | None = None, progress: Progress = SILENT) -> MergeReport:
    """Write ``dense/`` and ``reports/merge.json``; ``data`` is the folder that the run's images are in now.

    Raises: RunError, AdapterError or MergeError for what cannot be merged; GateFailed if the proof
    fails; nothing is written then.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    folder = run.require(TRAINED)
    manifest = run.manifest
    backbone = base_of(run.recipe(), len(manifest.labels))
    require_base(run, backbone.digest)
    module = backbone.module
    check_space(run.path, 4 * sum(parameter.numel() for parameter in module.parameters()))

    proofs: list[LayerProof] = []
    if manifest.method in ADAPTERS:
        proofs = _merge_adapter(module, folder, manifest.base_digest, progress)
    else:
        fill(module, read_plain(folder, manifest.method, module))
    worst = check_layers(proofs)

    with run.add(DENSE, progress) as staged:
        save_dense(module, DenseConfig(manifest.architecture, manifest.meaning, manifest.preprocess), staged)
        pixels_NHWC, images_from = _proof_images(run, data, progress)
        difference, bound = _logit_difference(run, staged, pixels_NHWC)
        if not difference <= bound:
            raise GateFailed(
                "the dense model does not compute the same logits as the trained one",
                where=run.path,
                found=f"logits differ by {difference:.1e}, the bound is {bound:.1e}",
                fix=MERGE_AGAIN,
            )
        images = f"{len(pixels_NHWC)} {images_from}"
        write_dense_card(staged, run, MergeProof(len(proofs), worst, LAYER_BOUND, difference, bound, images))
    report = MergeReport(
        run=str(run.path),
        method=manifest.method,
        path=str(run.folder(DENSE)),
        size_bytes=(run.folder(DENSE) / DENSE_WEIGHTS).stat().st_size,
        layers=proofs,
        max_relative_error=worst,
        images=len(pixels_NHWC),
        images_from=images_from,
        max_logit_difference=difference,
        logit_bound=bound,
    )
    run.write_report("merge", report, progress)
    return report


def merged_state(base: nn.Module, layers: Mapping[str, AdapterWeights]) -> dict[str, Tensor]:
    """The merged weight of each adapted layer by its name in the model, rounded to f32 once."""
    state = base.state_dict()
    merged: dict[str, Tensor] = {}
    for name, adapter in layers.items():
        weight = state[f"{name}.weight"]
        weight_OI = flat(weight)
        merged[f"{name}.weight"] = torch.from_numpy(rounded(_merged(weight_OI, adapter, name), name)).view_as(weight)
    return merged


def _merge_adapter(module: nn.Module, folder: Path, base_digest: str, progress: Progress) -> list[LayerProof]:
    adapter = read_adapter(folder, module)
    if adapter.config.base_digest != base_digest:
        found = f"hash {(adapter.config.base_digest or 'none')[:12]}, the run's is {base_digest[:12]}"
        raise MergeError("the adapter must be trained on the base of its run", where=folder, found=found, fix=RESTORE)
    if not adapter.saved:
        raise AdapterError("the adapter must contain its head", where=folder, fix=RESTORE)
    merged = merged_state(module, adapter.layers)
    proofs = prove_layers(module, merged, adapter.layers, progress)
    fill(module, {**merged, **adapter.saved})
    return proofs


def prove_layers(
    base: nn.Module, merged: Mapping[str, Tensor], layers: Mapping[str, AdapterWeights], progress: Progress = SILENT
) -> list[LayerProof]:
    """How far each merged weight lies from the unmerged forward of its base and adapter."""
    state, rng = base.state_dict(), np.random.default_rng(0)
    proofs: list[LayerProof] = []
    with progress.track("Proving each merged layer", len(layers)) as bar:
        for name, layer in layers.items():
            error = layer_error(flat(state[f"{name}.weight"]), flat(merged[f"{name}.weight"]), [(1.0, layer)], rng)
            proofs.append(LayerProof(layer=name, relative_error=error))
            bar.advance()
    return proofs


def check_layers(proofs: Sequence[LayerProof]) -> float:
    """The largest error of all layers, 0 if there are none.

    Raises: GateFailed naming the layer if it lies above the bound, or is not finite.
    """
    errors = np.array([proof.relative_error for proof in proofs])
    if not (errors <= LAYER_BOUND).all():  # so that NaN fails too
        worst = int(np.argmax(errors))  # the first NaN, if there is one
        raise GateFailed(
            "a merged layer does not compute the same as its unmerged forward",
            where=proofs[worst].layer,
            found=f"off by {errors[worst]:.1e} of its size, the bound is {LAYER_BOUND:.1e}",
            fix=MERGE_AGAIN,
        )
    return float(errors.max(initial=0.0))


def layer_error(base_OI: Float64, merged_OI: Float64, adapters: WeightedAdapters, rng: np.random.Generator) -> float:
    """max |x·W'ᵀ − Σ share · unmerged forward| / (|x|·|W'|ᵀ), in float64 on random inputs.

    So scaled, one rounding of each entry to f32 gives 2^-24 at most, in a layer of any size (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1).
    """
    x_NI = rng.standard_normal((PROOF_ROWS, base_OI.shape[1]))
    products = (
        share * (x_NI @ base_OI.T if adapter is None else unmerged_forward(x_NI, base_OI, adapter))
        for share, adapter in adapters
    )
    expected_NO = sum(products, np.zeros((PROOF_ROWS, len(base_OI))))
    # Below its smallest normal number f32 rounds by a fixed step instead of a fraction.
    size_NO = np.abs(x_NI) @ np.maximum(np.abs(merged_OI), np.finfo(np.float32).tiny).T
    return float((np.abs(x_NI @ merged_OI.T - expected_NO) / size_NO).max())


def _proof_images(
    run: Run, data: Path | None, progress: Progress
) -> tuple[Pixels, Literal["held-out images", "random images"]]:
    """Held-out images of the run, spread over them. Shape: [N, H, W, 3]."""
    pre, entries = run.manifest.preprocess, run.report_entries()
    entries = entries[:: max(len(entries) // PROOF_IMAGES, 1)][:PROOF_IMAGES]
    try:
        store = ImageStore(run.data_root(data))
        return load_pixels_many([store[entry] for entry in entries], pre, progress), "held-out images"
    except DataError as error:
        if data is not None:
            raise
        # Away from its images a run still merges; the two models are then compared on noise.
        progress.note(f"{error.what}: logits are compared on random images; for your images add --data DIR")
    shape = (PROOF_IMAGES, pre.height, pre.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), "random images"


def _logit_difference(run: Run, dense: Path, pixels_NHWC: Pixels) -> tuple[float, float]:
    """The largest difference between the logits of the trained and the dense model, and the bound for it."""
    images_N3HW = torch.from_numpy(normalise(pixels_NHWC, run.manifest.preprocess))
    trained = load_trained(run)
    with torch.inference_mode(), choice_margins(trained) as choices:
        trained_NC, dense_NC = trained(images_N3HW), load_dense(dense)(images_N3HW)
    return largest_difference(trained_NC, dense_NC, choices), LOGIT_BOUND * max(1.0, float(trained_NC.abs().max()))


def largest_difference(expected_NC: Tensor, found_NC: Tensor, choices: ChoiceMargins) -> float:
    """The largest difference of a logit; of a model that drops patches, over the images whose patches it chose clearly.

    If it chose none clearly, over all images.
    """
    difference_N = (expected_NC - found_NC).abs().amax(dim=1)
    clear_N = choices.clear()
    if clear_N is not None and clear_N.any():
        difference_N = difference_N[torch.from_numpy(clear_N)]
    return float(difference_N.max())


def change(weight_OI: Float64, adapter: AdapterWeights, layer: str) -> Float64:
    """The change W' − W that an adapter makes of a weight. Shape: [O, I].

    Raises: MergeError naming the layer if it is not finite.
    """
    return _merged(weight_OI, adapter, layer) - weight_OI


def _merged(weight_OI: Float64, adapter: AdapterWeights, layer: str) -> Float64:
    try:
        return merged_weight(weight_OI, adapter)
    except MergeError as error:
        raise MergeError(error.what, where=layer, found=error.found, fix=error.fix) from error


def rounded(weight_OI: Float64, layer: str) -> NDArray[np.float32]:
    """A merged weight as it is stored. Shape: [O, I].

    Raises: MergeError naming the layer if f32 cannot hold it.
    """
    with np.errstate(over="ignore"):
        stored_OI = weight_OI.astype(np.float32)
    if not np.isfinite(stored_OI).all():
        raise MergeError(
            "the merged weight must fit into fp32", where=layer, fix="train again with a smaller learning rate (--lr)"
        )
    return stored_OI
