"""``ftx export --base`` and ``--as-update``: what a device gets once, and what it gets for each model after that.

The base is the network before training as an OpenVINO model in f32 or float16, with a map of its weights. An update is
an adapter with its head, and the trained model's reference logits; ``ftx.updating`` merges it on the device.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from torch import nn

from ftx.adapters.peft_config import CONFIG
from ftx.adapters.peft_file import WEIGHTS, read_peft_file
from ftx.adapters.peft_network import timm_naming
from ftx.adapters.trainable_model import base_of
from ftx.backbones.layer_roles import head_names
from ftx.backbones.split_network import full_model
from ftx.core.command_report import CommandReport
from ftx.core.disk import settle
from ftx.core.errors import ExportError, InputError, shell_command
from ftx.core.files import check_space, place_at, staging
from ftx.core.progress import SILENT, Progress
from ftx.core.third_parties import no_telemetry
from ftx.data.preprocess import Pixels
from ftx.evaluating.measure import graph_logits
from ftx.exporting.chosen_images import make_reference, reference_logits
from ftx.exporting.export import check_free
from ftx.exporting.export_source import card_of, trace
from ftx.exporting.openvino import compress_to_fp16, convert_body, write_ir
from ftx.recipe.method_defaults import ADAPTERS
from ftx.runs.artifacts import DENSE, EXPORT_IR, IR_FILE, IR_FP32, TRAINED
from ftx.runs.card_json import PROOF_FILE, REFERENCE_FILE, BaseIr, Card, read_card, write_card
from ftx.runs.dense import DENSE_WEIGHTS
from ftx.runs.parity_json import Verdict
from ftx.runs.proof_json import Proof, ReferenceLogits, ir_digest, read_proof
from ftx.runs.reference_safetensors import write_reference
from ftx.runs.run import Run
from ftx.runs.trained import load_trained, require_base
from ftx.runs.update_zip import REFERENCE_LOGITS, Update, read_update, tensor_digest, write_update
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.runtimes.torch import TorchPredictor

with no_telemetry():
    import openvino as ov

BasePrecision = Literal["fp32", "fp16"]
# Of the random head of the base: its constants must differ, as they are found by their values.
HEAD_SEED = 0


class BaseReport(CommandReport):
    """The base that ``ftx export --base`` wrote."""

    verb: str = "export"
    path: str
    """The folder of the base."""
    precision: BasePrecision
    """The precision of its weights."""
    size_bytes: int
    """The size of all its files in bytes."""
    base_digest: str
    """The SHA-256 hash of the pretrained weights without a head."""
    base_ir_digest: str
    """The SHA-256 hash of the ``card.json`` of the base."""
    constants: int
    """The number of weights that an update can change."""


class UpdateReport(CommandReport):
    """The update that ``ftx export --as-update`` wrote."""

    verb: str = "export"
    path: str
    """The path of the update."""
    base: str
    """The folder of the base that the update is for."""
    size_bytes: int
    """The size of the update in bytes."""
    sequence: int
    """The number of the update: 1, or one more than the update before."""
    tensors: int
    """The number of weights that the update changes, with those of the head."""
    verdict: Verdict | None
    """The verdict on the fp32 model of the run, whose logits a device must repeat; null if the update contains no
    proof.
    """


def export_base(
    run: Run | Path | str | None,
    out: Path,
    *,
    precision: BasePrecision = "fp32",
    data: Path | None = None,
    progress: Progress = SILENT,
) -> BaseReport:
    """Write the base IR of a run with an adapter: for all runs of its base, preprocessing and size.

    Raises: RunError, ModelError if its base is missing; ExportError for a network whose weights are no constants of
    the IR; InputError for another method, or if ``out`` exists.
    """
    opened = _adapted(run)
    check_free(out)
    manifest = opened.manifest
    backbone = base_of(opened.recipe(), len(manifest.labels))
    require_base(opened, backbone.digest)
    module = backbone.module.eval()
    _fill_head(module)
    check_space(out.parent, 4 * sum(parameter.numel() for parameter in module.parameters()))
    with progress.track("Exporting", 1) as task, staging(out) as staged:
        body = convert_body(trace(full_model(module), manifest.preprocess), manifest.preprocess, manifest.architecture)
        card = card_of(opened, precision, backbone.digest)
        write_ir(compress_to_fp16(body, staged) if precision == "fp16" else body, card, staged)
        constants, head = _constants(staged, module, precision)
        base = BaseIr(base_digest=manifest.base_digest, constants=constants, head=head)
        write_reference(make_reference(opened, module, data, progress), staged)
        write_card(staged, card.model_copy(update={"base": base}))
        settle(staged)
        place_at(staged, out)
        task.advance(artifact="base")
    return BaseReport(
        run=str(opened.path),
        path=str(out),
        precision=precision,
        size_bytes=sum(path.stat().st_size for path in out.iterdir()),
        base_digest=manifest.base_digest,
        base_ir_digest=ir_digest(out),
        constants=len(constants),
    )


def export_update(
    run: Run | Path | str | None,
    out: Path,
    base: Path,
    *,
    after: Path | None = None,
    progress: Progress = SILENT,
) -> UpdateReport:
    """Write the update that turns a base IR into this run's model; ``after`` is the update before it.

    Raises: RunError if the run is not merged, or stale; ExportError if the base is of another network, size or
    preprocessing; InputError for another method, or if ``out`` exists.
    """
    opened = _adapted(run)
    check_free(out)
    manifest, card = opened.manifest, read_card(base)
    _check_base(card, base, opened)
    assert card.base is not None
    trained, dense = opened.require(TRAINED), load_file(opened.require(DENSE) / DENSE_WEIGHTS)
    tensors = [*(f"{layer}.weight" for layer in read_peft_file(trained).layers()), *card.base.head]
    lacking = [name for name in tensors if name not in card.base.constants]
    if lacking:
        raise ExportError(
            "the base must have a constant for each layer that the adapter changes",
            where=base,
            found=f"none for {', '.join(lacking[:3])}",
            fix=f"write a base for this run: {_base_command(opened)}",
        )
    sequence = read_update(after)[0].sequence + 1 if after else 1
    reference = load_file(base / REFERENCE_FILE)
    predictor = TorchPredictor(load_trained(opened), manifest.preprocess, opened.task)
    logits_NC, clear_N = reference_logits(predictor, reference["images"], progress)
    same_labels = card.labels == manifest.labels
    truth_NC = reference["targets"] if same_labels else np.zeros((0, len(manifest.labels)), np.float32)
    update = Update(
        base_digest=manifest.base_digest,
        base_ir_digest=ir_digest(base),
        image_size=manifest.preprocess.image_size,
        sequence=sequence,
        previous=sha256(after.read_bytes()).hexdigest() if after else None,
        tensors={name: tensor_digest(dense[name]) for name in tensors},
        dense_digest=manifest.digest(DENSE),
        max_drop=opened.recipe().validation.max_drop,
        task=manifest.task,
        labels=manifest.labels,
        thresholds=manifest.thresholds,
        files={},
    )
    files = {name: (trained / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    known = {"logits": logits_NC, "targets": truth_NC} | ({} if clear_N is None else {"clear": clear_N})
    files[REFERENCE_LOGITS] = save(known)
    proof = _proof(opened, card, reference["images"], progress)
    if proof is not None:
        files[PROOF_FILE] = proof.model_dump_json().encode()
    write_update(out, update, files)
    return UpdateReport(
        run=str(opened.path),
        path=str(out),
        base=str(base),
        size_bytes=out.stat().st_size,
        sequence=sequence,
        tensors=len(update.tensors),
        verdict=proof.run.verdict if proof and proof.run else None,
    )


def _proof(run: Run, base: Card, pixels_NHWC: Pixels, progress: Progress) -> Proof | None:
    """What was found and calibrated of the run's own f32 IR, whose weights a device reproduces to the last bit.

    It has the logits of that IR's reference images. If the base has other images, the IR runs on these, only in the
    instruction set of this machine. None without a proof, or if this machine computes in other precisions.
    """
    if base.precision != "fp32" or not run.has(IR_FP32):
        return None
    folder = run.require(IR_FP32)
    proof = read_proof(folder)
    if proof.run is None:
        return proof if proof.calibrations else None
    if np.array_equal(load_file(folder / REFERENCE_FILE)["images"], pixels_NHWC):
        return proof
    own: list[ReferenceLogits] = []
    with progress.track("Reference logits of the IR", len(proof.run.answers) * len(pixels_NHWC)) as bar:
        for there in proof.run.answers:
            predictor = OpenVinoPredictor(folder, "auto" if there.compute.chosen_by_runtime else "f32")
            if predictor.compute != there.compute:
                return None
            own.append(ReferenceLogits.of(there.compute, graph_logits(predictor, pixels_NHWC, bar), there.view))
    return proof.model_copy(update={"run": proof.run.model_copy(update={"answers": own}), "sets": []})


def _adapted(run: Run | Path | str | None) -> Run:
    opened = run if isinstance(run, Run) else Run.open(run)
    if opened.manifest.method not in ADAPTERS:
        whole = shell_command(EXPORT_IR, opened.path)
        raise InputError(
            "--base and --as-update need a run that trained an adapter",
            where=opened.path,
            found=f"a run of method {opened.manifest.method}",
            fix=f"train with --method {' or '.join(ADAPTERS)}, or export the whole model: {whole}",
        )
    return opened


def _check_base(card: Card, base: Path, run: Run) -> None:
    """Raise ExportError unless the run was trained from this base, on the same tokens and by the same preprocessing."""
    manifest, kept = run.manifest, run.recipe().model.token_fractions
    if card.base is None:
        raise ExportError(
            "--base must be a folder that `ftx export --base` wrote",
            where=base,
            fix=f"write one first: {_base_command(run)}",
        )
    if card.base.base_digest != manifest.base_digest:
        problem = "--base must be the base that the run was trained on"
        found = f"hash {card.base.base_digest[:12]}, the run's is {manifest.base_digest[:12]}"
    elif card.keep_tokens != kept:
        problem = "--base must keep the same tokens as the run"
        found = f"{card.keep_tokens or 'all'}, the run keeps {kept or 'all'}"
    elif card.preprocess != manifest.preprocess:
        problem = "--base must have the preprocessing of the run"
        sizes = card.preprocess.image_size, manifest.preprocess.image_size
        found = f"{card.preprocess}" if sizes[0] == sizes[1] else f"{sizes[0]} px, the run has {sizes[1]}"
    else:
        return
    raise ExportError(problem, where=base, found=found, fix=f"write a base for this run: {_base_command(run)}")


def _base_command(run: Run) -> str:
    return f"{shell_command('ftx export', run.path)} --base DIR"


def _fill_head(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(HEAD_SEED)
    with torch.no_grad():
        for name in head_names(module):
            for parameter in module.get_submodule(name).parameters():
                parameter.normal_(std=0.02, generator=generator)


def _constants(folder: Path, module: nn.Module, precision: BasePrecision) -> tuple[dict[str, str], tuple[str, ...]]:
    """The constant of each weight that an adapter may change, and of each tensor of the head, found by its values.

    Raises: ExportError if a tensor of the head is no constant of its own.
    """
    stored = np.float16 if precision == "fp16" else np.float32
    by_values: dict[bytes, list[str]] = {}
    for node in ov.Core().read_model(folder / IR_FILE, config={"ENABLE_MMAP": False}).get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type(stored):
            by_values.setdefault(_digest(node.data), []).append(node.get_friendly_name())
    state = module.state_dict()
    head = tuple(name for name in state if name.rpartition(".")[0] in head_names(module))
    found: dict[str, str] = {}
    for name in dict.fromkeys((*(f"{layer}.weight" for layer in timm_naming(module).layers), *head)):
        named = by_values.get(_digest(state[name].numpy().astype(stored)), [])
        if len(named) == 1:
            found[name] = named[0]
    if lacking := [name for name in head if name not in found]:
        raise ExportError(
            "this network cannot be a base: its head is not a constant of its own in the IR",
            found=", ".join(lacking),
            fix=f"ship the whole model: {EXPORT_IR}",
        )
    return found, head


def _digest(values: NDArray[np.generic]) -> bytes:
    return sha256(np.ascontiguousarray(values).tobytes()).digest()
