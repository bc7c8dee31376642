"""``ftx export --base`` and ``--as-update``: what a device gets once, and what it gets for each model after that.

The base is the network before training as an OpenVINO model in f32 or float16, with a map of its weights. An update is
an adapter with its head, and what the trained model answers; ``ftx.updating`` merges it on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import nn

from ftx.adapters.naming import timm_naming
from ftx.adapters.peft_config import CONFIG
from ftx.adapters.peft_file import WEIGHTS, read_peft_file
from ftx.adapters.trainable_model import base_of
from ftx.backbones.layer_roles import head_names
from ftx.backbones.split_network import full_model
from ftx.core.command_report import CommandReport
from ftx.core.disk import settle
from ftx.core.errors import ExportError, InputError
from ftx.core.files import check_space, place_at, staging
from ftx.core.progress import SILENT, Progress
from ftx.core.third_parties import no_telemetry
from ftx.data.preprocess import Pixels
from ftx.evaluating.measure import graph_logits
from ftx.exporting.make_reference import make_reference, reference_logits
from ftx.exporting.openvino import compress_to_fp16, convert_body, write_ir
from ftx.exporting.shared_parts import card_of
from ftx.exporting.tracing import trace
from ftx.recipe.adapter_methods import ADAPTERS
from ftx.runs.artifacts import DENSE, IR_FILE, IR_FP32, TRAINED
from ftx.runs.card_json import PROOF_FILE, REFERENCE_FILE, BaseIr, Card, read_card, write_card
from ftx.runs.dense import DENSE_WEIGHTS
from ftx.runs.parity_json import Verdict
from ftx.runs.proof_json import Proof, ReferenceLogits, ir_digest, read_proof
from ftx.runs.reference_safetensors import write_reference
from ftx.runs.run import Run
from ftx.runs.trained import load_trained, require_base
from ftx.runs.update_zip import ANSWERS_FILE, Update, read_update, tensor_digest, write_update
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.runtimes.torch import TorchPredictor

with no_telemetry():
    import openvino as ov

BasePrecision = Literal["fp32", "fp16"]
# Of the head that the base has for one: each of its constants is found by what it holds.
HEAD_SEED = 0


class BaseReport(CommandReport):
    """What ``ftx export --base`` wrote."""

    verb: str = "export"
    path: str
    precision: BasePrecision
    size_bytes: int
    base_digest: str
    base_ir_digest: str
    constants: int


class UpdateReport(CommandReport):
    """What ``ftx export --as-update`` wrote."""

    verb: str = "export"
    path: str
    base: str
    size_bytes: int
    sequence: int
    tensors: int
    # Of the run's own IR in fp32, which a device repeats by its answers; null where none was validated.
    verdict: Verdict | None


def export_base(
    run: Run | Path | str | None,
    out: Path,
    *,
    precision: BasePrecision = "fp32",
    data: Path | None = None,
    progress: Progress = SILENT,
) -> BaseReport:
    """Write the base IR of a run with an adapter: for all runs of its base, image path and size.

    Raises: RunError, ModelError if its base is not there; ExportError for a network whose weights are no constants of
    the IR; InputError for another method, or where something is in the way.
    """
    opened = _adapted(run)
    if out.exists():
        raise InputError("there is something already", where=out, fix="choose another name, or move it away")
    manifest = opened.manifest
    backbone = base_of(opened.recipe(), len(manifest.labels))
    require_base(opened, backbone.digest)
    module = backbone.module.eval()
    _fill_head(module)
    check_space(out.parent, 4 * sum(parameter.numel() for parameter in module.parameters()))
    with progress.track("exporting", 1) as task, staging(out) as staged:
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

    Raises: RunError if the run is not merged, or stale; ExportError if the base is of another network, size or image
    path; InputError for another method, or where something is in the way.
    """
    opened = _adapted(run)
    if out.exists():
        raise InputError("there is something already", where=out, fix="choose another name, or move it away")
    manifest, card = opened.manifest, read_card(base)
    _refuse_another(card, base, opened)
    assert card.base is not None
    trained, dense = opened.require(TRAINED), load_file(opened.require(DENSE) / DENSE_WEIGHTS)
    file = read_peft_file(trained)
    changed = [f"{layer}.weight" for layer in file.layers()]
    lacking = [name for name in (*changed, *card.base.head) if name not in card.base.constants]
    if lacking:
        raise ExportError("the base has no constant for some adapted layers", where=base, found=", ".join(lacking[:3]))
    previous, sequence = None, 1
    if after is not None:
        sequence = read_update(after)[0].sequence + 1
        previous = sha256(after.read_bytes()).hexdigest()
    pixels_NHWC, targets_NC = _known(base, len(card.labels))
    predictor = TorchPredictor(load_trained(opened), manifest.preprocess, opened.task)
    logits_NC, clear_N = reference_logits(predictor, pixels_NHWC, progress)
    same_labels = card.labels == manifest.labels
    truth_NC = targets_NC if same_labels else np.zeros((0, len(manifest.labels)), np.float32)
    update = Update(
        base_digest=manifest.base_digest,
        base_ir_digest=ir_digest(base),
        image_size=manifest.preprocess.image_size,
        sequence=sequence,
        previous=previous,
        tensors={name: tensor_digest(dense[name]) for name in (*changed, *card.base.head)},
        dense_digest=manifest.digest(DENSE),
        max_drop=opened.recipe().validation.max_drop,
        task=manifest.task,
        labels=manifest.labels,
        thresholds=manifest.thresholds,
        files={},
    )
    files = {name: (trained / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    answered = {"logits": logits_NC, "targets": truth_NC} | ({} if clear_N is None else {"clear": clear_N})
    proof = _proof(opened, card, pixels_NHWC, progress)
    proved = {} if proof is None else {PROOF_FILE: proof.model_dump_json().encode()}
    write_update(out, update, files | {ANSWERS_FILE: save(answered)} | proved)
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
    """What ``ftx validate`` found of the run's own f32 IR, whose weights a device makes again to the last bit.

    Its answers are to the images of that IR. Where the base has others it is asked about these, in the set of this
    machine alone. None where nothing was found, or not here.
    """
    if base.precision != "fp32" or not run.has(IR_FP32):
        return None
    folder = run.require(IR_FP32)
    proof = read_proof(folder)
    if proof.run is None:
        return None
    if np.array_equal(load_file(folder / REFERENCE_FILE)["images"], pixels_NHWC):
        return proof
    own: list[ReferenceLogits] = []
    with progress.track("Answers of the IR", len(proof.run.answers) * len(pixels_NHWC)) as bar:
        for there in proof.run.answers:
            predictor = OpenVinoPredictor(folder, "auto" if there.compute.chosen_by_runtime else "f32")
            if predictor.compute != there.compute:
                return None
            own.append(ReferenceLogits.of(there.compute, graph_logits(predictor, pixels_NHWC, bar), there.view))
    return proof.model_copy(update={"run": proof.run.model_copy(update={"answers": own}), "sets": []})


def _adapted(run: Run | Path | str | None) -> Run:
    opened = run if isinstance(run, Run) else Run.open(run)
    if opened.manifest.method not in ADAPTERS:
        raise InputError(
            "only adapters are shipped as updates",
            where=opened.path,
            found=f"a run of method {opened.manifest.method}",
            fix=f"train with --peft {' or '.join(ADAPTERS)}, or export the whole model",
        )
    return opened


def _refuse_another(card: Card, base: Path, run: Run) -> None:
    manifest = run.manifest
    if card.base is None:
        raise ExportError("this model is no base", where=base, fix=f"write one first: ftx export {run.path} --base DIR")
    if card.base.base_digest != manifest.base_digest:
        raise ExportError(
            "the run was trained on another base than this one",
            where=base,
            found=f"digest {card.base.base_digest[:12]}, the run's is {manifest.base_digest[:12]}",
            fix=f"write its own: ftx export {run.path} --base DIR",
        )
    if card.keep_tokens != run.recipe().model.token_fractions:
        raise ExportError(
            "the base keeps other tokens than the run",
            where=base,
            found=f"{card.keep_tokens or 'all'}, the run keeps {run.recipe().model.token_fractions or 'all'}",
            fix=f"write its own: ftx export {run.path} --base DIR",
        )
    if card.preprocess != manifest.preprocess:
        raise ExportError(
            "the base takes images in another way than the run",
            where=base,
            found=f"{card.preprocess.image_size} px, the run has {manifest.preprocess.image_size}"
            if card.preprocess.image_size != manifest.preprocess.image_size
            else f"{card.preprocess}",
            fix=f"write its own: ftx export {run.path} --base DIR",
        )


def _fill_head(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(HEAD_SEED)
    with torch.no_grad():
        for name in head_names(module):
            for parameter in module.get_submodule(name).parameters():
                parameter.normal_(std=0.02, generator=generator)


def _constants(folder: Path, module: nn.Module, precision: BasePrecision) -> tuple[dict[str, str], tuple[str, ...]]:
    """The constant that holds each weight an adapter may change, and each tensor of the head, by what it holds.

    Raises: ExportError if a tensor of the head is no constant of its own.
    """
    stored = np.float16 if precision == "fp16" else np.float32
    by_values: dict[bytes, list[str]] = {}
    for node in ov.Core().read_model(folder / IR_FILE, config={"ENABLE_MMAP": False}).get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type(stored):
            values = np.ascontiguousarray(node.data)
            by_values.setdefault(sha256(values.tobytes()).digest(), []).append(node.get_friendly_name())
    state = module.state_dict()
    head = tuple(name for name in state if name.rpartition(".")[0] in head_names(module))
    layers = [f"{name}.weight" for name in timm_naming(module).layers]
    found: dict[str, str] = {}
    for name in dict.fromkeys((*layers, *head)):
        values = np.ascontiguousarray(state[name].numpy().astype(stored))
        named = by_values.get(sha256(values.tobytes()).digest(), [])
        if len(named) == 1:
            found[name] = named[0]
    if lacking := [name for name in head if name not in found]:
        raise ExportError(
            "the head of this network is no constant of its own in the IR",
            found=", ".join(lacking),
            fix="ship the whole model: ftx export --format openvino",
        )
    return found, head


def _known(base: Path, classes: int) -> tuple[Pixels, np.ndarray]:
    """The reference images of a base, and their truth for its own labels. Shape: [N, H, W, 3], [N, C]."""
    known: Mapping[str, np.ndarray] = load_file(base / REFERENCE_FILE)
    assert known["targets"].shape[1] == classes
    return known["images"], known["targets"]
