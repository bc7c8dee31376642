"""The table of families: one architecture of timm, adapted, merged, read by peft and exported, measured at each step.

Random weights and small images. Every difference is max |a - b| / max(1, max |b|) over the logits, but for
``peft_merge``, which counts roundings of f32.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import peft
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tests.backbones.architectures import Family
from torch import Tensor, nn

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import adapter_layers, attach, prove_reach
from ftx.adapters.peft_config import CONFIG as ADAPTER_CONFIG
from ftx.adapters.peft_file import WEIGHTS as ADAPTER_WEIGHTS
from ftx.adapters.peft_network import load_adapter, read_adapter, save_adapter
from ftx.backbones.build import Backbone, build
from ftx.backbones.layer_roles import expose, head_names, sites
from ftx.core.errors import ExportError
from ftx.data.preprocess import Preprocess, normalise
from ftx.exporting.export_source import trace
from ftx.exporting.onnx import write_onnx
from ftx.exporting.openvino import convert_body, write_ir
from ftx.merging.merge_and_prove import merged_state
from ftx.recipe.adapter_targets import TARGETS
from ftx.recipe.method_defaults import AdapterName
from ftx.runs.artifacts import IR_FILE, IR_FP32
from ftx.runs.card_json import Card
from ftx.runs.dense import DENSE_WEIGHTS, DenseConfig, load_dense, save_dense
from ftx.runs.trained import fill
from ftx.runtimes.compiled_network import core
from ftx.runtimes.onnx import OnnxPredictor
from ftx.runtimes.openvino import frame
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning

MEANING = Meaning(labels=Labels.multiclass(["a", "b", "c", "d", "e"]))
RANK, ALPHA = 2, 4.0
# Three, as torch records the model with a batch of two: a batch size that was taken for a constant fails here.
IMAGES = 3
FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)


@dataclass(frozen=True)
class Row:
    """What one family came to; None stands for what was not tried, or failed as ``failure`` says."""

    family: Family
    layers: int
    left_out: int
    dead: int
    said: float  # the answers without the adapter, the head being the same: a difference that should not be small
    merged: float
    same_bytes: bool
    peft_f32: float
    peft_f64: float
    peft_merge: float
    adapter_parameters: int
    adapter_bytes: int
    dense_parameters: int
    dense_bytes: int
    seconds: float
    onnx: float | None = None
    openvino: float | None = None
    export_seconds: float = 0.0
    failure: str = ""


def measure(family: Family, folder: Path, *, export: bool) -> Row:
    """Adapt, save, load, let peft load, merge and export one architecture."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    backbone = loud(family)
    pre, plain = backbone.preprocess, backbone.module
    module = copy.deepcopy(plain)
    pixels_NHWC = np.random.default_rng(2).integers(0, 256, (IMAGES, pre.height, pre.width, 3), dtype=np.uint8)
    images_N3HW = torch.from_numpy(normalise(pixels_NHWC, pre))
    linears = sum(isinstance(layer, nn.Linear) for layer in module.modules()) - len(head_names(module))

    spec = specification(module, family.kind)
    names = attached(module, spec)
    moved(module)
    dead = unreached(module, images_N3HW)
    adapter = save(backbone, module, spec, folder / "adapter")
    loaded = copy.deepcopy(plain)
    attached(loaded, spec)
    load_adapter(loaded, adapter)
    again = save(backbone, loaded, spec, folder / "again")
    adapted_NC = answer(loaded, images_N3HW)

    base = copy.deepcopy(plain)
    read = read_adapter(adapter, base)
    fill(base, read.saved)
    head_alone_NC = answer(base, images_N3HW)
    fill(base, merged_state(base, read.layers))
    made = folder / "dense"
    made.mkdir()
    save_dense(base, DenseConfig(family.name, MEANING, pre), made)
    dense = load_dense(made)
    dense_NC = answer(dense, images_N3HW)

    oracle = peft_reads(adapter, copy.deepcopy(plain))
    with third_party_warnings():
        oracle.save_pretrained(str(folder / "peft"))
    assert read_adapter(folder / "peft", plain).layers.keys() == read.layers.keys()
    ours, theirs = (load_file(one / ADAPTER_WEIGHTS) for one in (adapter, folder / "peft"))
    peft_f32 = difference(answer(oracle, images_N3HW), adapted_NC)
    wide_N3HW = images_N3HW.double()
    peft_f64 = difference(answer(oracle.double(), wide_N3HW), answer(loaded.double(), wide_N3HW))
    with third_party_warnings():
        unloaded = oracle.merge_and_unload()
    row = Row(
        family=family,
        layers=len(names),
        left_out=linears - len(names),
        dead=dead,
        said=difference(head_alone_NC, adapted_NC),
        merged=difference(dense_NC, adapted_NC),
        same_bytes=all((adapter / name).read_bytes() == (again / name).read_bytes() for name in FILES)
        and theirs.keys() == ours.keys()
        and all(torch.equal(theirs[key], tensor) for key, tensor in ours.items()),
        peft_f32=peft_f32,
        peft_f64=peft_f64,
        peft_merge=roundings(dense.state_dict(), unloaded.state_dict()),
        adapter_parameters=sum(tensor.numel() for tensor in ours.values()),
        adapter_bytes=(adapter / ADAPTER_WEIGHTS).stat().st_size,
        dense_parameters=sum(parameter.numel() for parameter in dense.parameters()),
        dense_bytes=(made / DENSE_WEIGHTS).stat().st_size,
        seconds=time.perf_counter() - started,
    )
    return exported(row, dense, backbone, pixels_NHWC, folder) if export else row


def card_of(row: Row, pre: Preprocess) -> Card:
    meaning = MEANING
    return Card(
        task=meaning.task,
        architecture=row.family.name,
        precision=IR_FP32.variant,
        labels=meaning.labels,
        thresholds=meaning.thresholds,
        preprocess=pre,
        dense_digest="",
        files={},
    )


def exported(row: Row, dense: nn.Module, backbone: Backbone, pixels_NHWC: NDArray[np.uint8], folder: Path) -> Row:
    """The row with ONNX and OpenVINO: one recording of the dense model, written and read back in both formats."""
    started = time.perf_counter()
    pre, task = backbone.preprocess, MEANING.open()
    expected_NC = answer(dense, torch.from_numpy(normalise(pixels_NHWC, pre)))
    found: dict[str, float] = {}
    failure = ""
    try:
        program = trace(dense, pre)
        for name in ("onnx", "openvino"):
            (folder / name).mkdir()
            try:
                if name == "onnx":
                    write_onnx(program, {}, folder / name)
                    answers_NC = OnnxPredictor(folder / name, pre, task).logits(pixels_NHWC)
                else:
                    write_ir(convert_body(program, pre, row.family.name), card_of(row, pre), folder / name)
                    compiled = core().compile_model(folder / name / IR_FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
                    answers_NC = np.array(compiled(frame(pixels_NHWC, pre))[0])
                found[name] = difference(torch.from_numpy(answers_NC), expected_NC)
            except (ExportError, RuntimeError) as error:
                failure += f"{name}: {getattr(error, 'found', None) or error} "
    except ExportError as error:
        failure = f"torch.export: {error.found}"
    return replace(row, **found, export_seconds=time.perf_counter() - started, failure=failure.strip())


def loud(family: Family) -> Backbone:
    """The model with random weights, but for scales that begin near zero: they would hide what a block says.

    Where batches are normalised, weights are scaled to keep the variance of what they read: with the initial
    statistics levit's activations fade until a gradient through its attention is zero in f32.
    """
    backbone = build(family.name, weights="none", num_classes=len(MEANING.labels), image_size=family.side, seed=0)
    module, generator = backbone.module, torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim <= 3 and parameter.abs().max() < 1e-3 and not name.endswith("bias"):
                parameter.uniform_(0.1, 0.5, generator=generator)
        if any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in module.modules()):
            for layer in module.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.weight *= 0.7 / (layer.weight.std() * math.sqrt(layer.weight[0].numel()))
        shape = (2, 3, backbone.preprocess.height, backbone.preprocess.width)
        largest = module(torch.randn(shape, generator=generator)).abs().max()
        for head in head_names(module):
            for parameter in module.get_submodule(head).parameters():
                parameter *= 4 / largest  # so that differences are relative ones
    return backbone


def specification(module: nn.Module, kind: AdapterName) -> AdapterSpec:
    """Rank and alpha for each target that the architecture has."""
    known = {target for site in sites(module) for target in site.rows}
    chosen = [target for target in TARGETS if target in known]
    return AdapterSpec(kind=kind, rank=dict.fromkeys(chosen, RANK), alpha=dict.fromkeys(chosen, ALPHA))


def attached(module: nn.Module, spec: AdapterSpec) -> list[str]:
    return attach(module, spec, generator=torch.Generator().manual_seed(1))


def moved(module: nn.Module) -> None:
    """Move what training moves: B off zero, DoRA's magnitudes off the norms, the head off its first draw."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, layer in adapter_layers(module):
            for part in layer.parts:
                block = layer.lora_B[part.rows, part.ranks]
                layer.lora_B[part.rows, part.ranks] = 0.05 * torch.randn(block.shape, generator=generator)
            if layer.lora_magnitude_vector is not None:
                layer.lora_magnitude_vector *= 1 + 0.1 * torch.rand(layer.out_features, generator=generator)
        for head in head_names(module):
            for parameter in module.get_submodule(head).parameters():
                parameter += (
                    0.1 * parameter.abs().max().clamp(min=0.1) * torch.randn(parameter.shape, generator=generator)
                )


def unreached(module: nn.Module, images_N3HW: Tensor) -> int:
    """How many targets of how many layers get no gradient."""
    # A random network may answer all images alike: the sum of squares has a gradient in every layer all the same.
    module(images_N3HW).square().sum().backward()
    parts = [(layer.lora_B.grad, part) for _, layer in adapter_layers(module) for part in layer.parts]
    dead = sum(grad is None or not grad[part.rows, part.ranks].norm() > 0 for grad, part in parts)
    if not dead:
        prove_reach(module)
    return dead


def save(backbone: Backbone, module: nn.Module, spec: AdapterSpec, folder: Path) -> Path:
    folder.mkdir()
    save_adapter(module, spec, base_model=backbone.architecture, base_digest=backbone.digest, folder=folder)
    return folder


def peft_reads(adapter: Path, plain: nn.Module) -> peft.PeftModel:
    """The adapter as peft lays it over the plain timm model; a bypassed qkv is called, as ftx calls it."""
    expose(plain)
    with third_party_warnings():
        return peft.PeftModel.from_pretrained(plain, str(adapter), autocast_adapter_dtype=False).eval()


@contextmanager
def third_party_warnings() -> Iterator[None]:
    """peft says that it passes over the key ``ftx``, and asks for a model card."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def answer(module: nn.Module, images_N3HW: Tensor) -> Tensor:
    with torch.inference_mode():
        return module(images_N3HW)


def difference(found_NC: Tensor, expected_NC: Tensor) -> float:
    found_NC, expected_NC = found_NC.double(), expected_NC.double()
    return float((found_NC - expected_NC).abs().max() / expected_NC.abs().max().clamp(min=1.0))


def roundings(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference of an f32 entry from the f64 one, in steps of f32 at its size; half a step is rounding."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for key, tensor in ours.items():
        entry, their = tensor.float().numpy(), theirs[key].double().numpy()
        entry, their = entry[entry != their], their[entry != their]  # gemma4 has infinite bounds
        steps = np.abs(entry.astype(np.float64) - their) / np.spacing(np.abs(entry)).astype(np.float64)
        worst = max(worst, float(steps.max(initial=0.0)))
    return worst
