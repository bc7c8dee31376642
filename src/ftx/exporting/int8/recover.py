"""``ftx export --recover``: a new run whose weights were trained a little more through the quantized network.

NNCF puts its fake quantization into the merged network in torch. Each step copies the merged weights of the adapters
into it, and passes their gradients back to the adapters: the dense weight is rounded, as in the IR, and the tensors of
the run's method are trained. The teacher is the run's own model in f32, so that no label is needed.

Legend: N images, C labels, O outputs, I inputs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.trainable_model import TrainableModel, prepare
from ftx.backbones.layer_roles import head_names
from ftx.core.errors import EnvironmentFault, GateFailed
from ftx.core.progress import SILENT, Progress
from ftx.core.third_parties import no_telemetry, quiet_third_parties
from ftx.data.dataset import Dataset, Entry
from ftx.data.random_draws import order_generator
from ftx.exporting.chosen_images import calibration_images
from ftx.exporting.int8.quantize import RANGES, quiet
from ftx.exporting.recover_report import RecoverReport
from ftx.runs.artifacts import DENSE, IR_INT8, TRAINED
from ftx.runs.dense import load_dense
from ftx.runs.new_run import check_name_free, new_run, seal
from ftx.runs.readme import KeptEpoch, write_trained_card
from ftx.runs.run import Run
from ftx.runs.run_json import RecoverRecord
from ftx.runs.runs_folder import fresh_out, point_latest_at
from ftx.runs.trained import load_trained_into, save_trained
from ftx.training.inputs import Inputs, inputs_of, training_images
from ftx.training.optimizer import optimizer, peak_lr, set_lr_multiplier
from ftx.training.step import measure

with no_telemetry():
    import nncf
    from nncf.torch.extensions import EXTENSION_LOAD_TIMEOUT_ENV_VAR, ExtensionLoaderTimeoutException
    from nncf.torch.quantization.extensions import QuantizedFunctionsCPULoader

# Steps of 16 images, with a small fraction of the run's learning rate that falls to zero. In a test network (DoRA,
# learning rate 1e-2) 96 steps with fractions 0.01, 0.003 and 0.001 reduced the mean logit error from 0.0036 to 0.0024,
# 0.0026 and 0.0027; 24 steps to 0.0050, 0.0027 and 0.0030: a rate too large for few steps is still the best for many.
STEPS = 96
BATCH = 16
LR_MULTIPLIER = 0.003
# The strength of SmoothQuant. The search tries others for the IR: the weights adapt to 8 bits, not to one strength.
ALPHA = 0.5
_ATTENTION = "scaled_dot_product_attention"  # as torch calls it
COMPILING_S = 900


def recover(
    run: Run | Path | str | None = None,
    out: Path | None = None,
    *,
    data: Path | None = None,
    steps: int = STEPS,
    progress: Progress = SILENT,
) -> RecoverReport:
    """Continue training through the quantized network, and write a new run, by default next to the old one.

    Raises: RunError if the run is not merged, altered or stale, or ``out`` exists; DataError if its images are missing;
    GateFailed if the error of a logit did not fall, and then nothing is written.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    manifest, recipe = opened.manifest, opened.recipe()
    if out is not None:
        check_name_free(out)
    teacher = load_dense(opened.require(DENSE))
    prepared = prepare(recipe, len(manifest.labels), saved=True)
    load_trained_into(prepared, opened)
    images = _Images(opened, prepared, data, progress)
    with progress.track("Quantizing in torch", None), _compiling():
        student = _quantized(load_dense(opened.require(DENSE)), images.calibration())
        before = _error(student, teacher, images.judging)
    weights = _QuantizedWeights.of(student, teacher, prepared)
    lr = LR_MULTIPLIER * peak_lr(recipe.train, recipe.method)
    _train(student, teacher, weights, _endless(images.training, recipe.seed), lr, steps, progress)
    weights.update()
    after = _error(student, teacher, images.judging)
    if not after < before:
        raise GateFailed(
            "--recover did not bring the int8 model closer to the fp32 model",
            where=opened.path,
            found=f"a mean logit error of {after:.4f}, {before:.4f} before",
            fix=f"export it without --recover: {IR_INT8.command(opened.path)}",
        )
    module, task = prepared.backbone.module.eval(), opened.task
    _, logits_NC, targets_NC = measure(module, task, images.validation, loss=recipe.train.loss, bf16=False)
    tuned = task.tuned_thresholds(logits_NC, targets_NC)
    metrics = task.with_thresholds(tuned).metrics(logits_NC, targets_NC)
    recovered = RecoverRecord(
        trained=manifest.digest(TRAINED), steps=steps, lr=lr, error_before=before, error_after=after
    )
    # Its name is chosen at the end: another recovery of the same run may have ended before.
    with new_run(out or fresh_out(f"{opened.path.resolve().name}-recovered")) as new:
        _write(new.folder, opened, prepared, recovered, KeptEpoch(1, 1, task.metric, metrics, tuned, interrupted=False))
    point_latest_at(new.path)
    return RecoverReport(
        run=str(new.path),
        source=str(opened.path),
        steps=steps,
        lr=lr,
        error_before=before,
        error_after=after,
        metric=task.metric,
        metrics=metrics,
    )


def _write(folder: Path, source: Run, prepared: TrainableModel, recovered: RecoverRecord, kept: KeptEpoch) -> None:
    entries, recipe = source.entries(), source.recipe()
    (folder / TRAINED.name).mkdir()
    (folder / "recipe.yaml").write_bytes((source.path / "recipe.yaml").read_bytes())
    prepared.backbone.module.cpu()
    save_trained(prepared, folder / TRAINED.name)
    dataset = Dataset(root=Path(source.manifest.data_root), labels=source.manifest.labels, entries=entries)
    write_trained_card(folder / TRAINED.name, recipe, prepared, dataset, kept, recovered)
    manifest = source.manifest.model_copy(
        update={"thresholds": kept.thresholds, "recovered": recovered, "lineage": {}, "files": {}}
    )
    seal(folder, manifest, entries)


class _Images:
    """The run's images: those for training, some of them for calibration, others for judging, and the validation's."""

    def __init__(self, run: Run, prepared: TrainableModel, data: Path | None, progress: Progress) -> None:
        root, entries, task = run.data_root(data), run.entries("train"), run.task

        def inputs(some: Sequence[Entry]) -> Inputs:
            images = training_images(prepared.backbone.preprocess, root, some, task)
            return inputs_of(prepared.backbone.module, images)

        calibrating, judging = calibration_images(entries)  # as many of each class
        kept_out = {entry.sha256 for entry in judging}
        self.training = inputs([entry for entry in entries if entry.sha256 not in kept_out])
        # Exactly the images that the IR is calibrated with: others give other scales, and so another rounding than in
        # this training (docs/decisions/0011-edge.md).
        self._calibrating = inputs(calibrating)
        self.judging = inputs(judging)
        self.validation = inputs(run.entries("val") or judging)

    def calibration(self) -> list[Tensor]:
        """Those for calibration, one at a time."""
        return [image[None] for batch in _batches(self._calibrating, BATCH) for image in batch]


def _batches(inputs: Inputs, size: int) -> Iterator[Tensor]:
    with closing(inputs.batches(np.arange(len(inputs)), size, epoch=0)) as batches:
        for batch in batches:
            yield batch.input


def _endless(inputs: Inputs, seed: int) -> Generator[Tensor]:
    """Batches of epoch after epoch, each in an order of its own."""
    for epoch in count(1):
        order = order_generator(seed, epoch).permutation(len(inputs))
        with closing(inputs.batches(order, BATCH, epoch=epoch)) as batches:
            yield from (batch.input for batch in batches)


def _quantized(dense: nn.Module, images: list[Tensor]) -> nn.Module:
    """The network with NNCF's fake quantization before each product of a weight, except the head's.

    As in the IRs of attention networks, attention stays in float, and the search finds the widest ranges best.
    """
    # A head's name is ``head`` or ``fc``: a full part of a node's name, which ``fc`` in ``se.fc1`` is not.
    heads = [rf"(^|[./]){re.escape(name)}([./]|$)" for name in head_names(dense)]
    return nncf.quantize(
        dense,
        nncf.Dataset(images),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(patterns=heads, types=[_ATTENTION], validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RANGES["widest"],
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=ALPHA, convolution=-1),
        ),
    )


@contextmanager
def _compiling() -> Iterator[None]:
    """The first use of NNCF's rounding, which it compiles once for each user; without a compiler it is only slower.

    Raises: EnvironmentFault if that takes longer than any machine needs: another compilation left its lock.
    """
    given = os.environ.get(EXTENSION_LOAD_TIMEOUT_ENV_VAR)
    # NNCF itself gives up after a minute, which two busy cores need.
    os.environ[EXTENSION_LOAD_TIMEOUT_ENV_VAR] = given or str(COMPILING_S)
    try:
        with quiet(), quiet_third_parties():
            yield
    except ExtensionLoaderTimeoutException as error:
        raise EnvironmentFault(
            "NNCF did not finish compiling its quantization code",
            where=QuantizedFunctionsCPULoader.get_build_dir(),
            found="a lock that another compilation left, or a very busy machine",
            fix="remove that folder, then run the command again",
        ) from error
    finally:
        if given is None:
            del os.environ[EXTENSION_LOAD_TIMEOUT_ENV_VAR]


@dataclass(frozen=True)
class _QuantizedWeights:
    """The trained tensors in the quantized network, ``copies``, each ``scale`` times the tensor plus an ``offset``.

    SmoothQuant has scaled a weight's inputs, and bias correction has moved biases; both stay as they are.
    """

    prepared: TrainableModel
    copies: dict[str, Tensor]
    scales: dict[str, Tensor]
    offsets: dict[str, Tensor]

    @classmethod
    def of(cls, student: nn.Module, teacher: nn.Module, prepared: TrainableModel) -> _QuantizedWeights:
        """Find each trained tensor in the quantized network, and what NNCF did to it."""
        before, after = teacher.state_dict(), dict(student.named_parameters())
        student.requires_grad_(False)
        copies = {name: after[name].requires_grad_(True) for name in _trained(prepared)}
        scales: dict[str, Tensor] = {}
        offsets: dict[str, Tensor] = {}
        for name, copy in copies.items():
            own = before[name].float()
            if own.ndim == 2:
                scales[name] = (copy.detach() * own).sum(0) / (own**2).sum(0).clamp_min(1e-30)
                offsets[name] = torch.zeros(())
            else:
                scales[name], offsets[name] = torch.ones(()), copy.detach() - own
        return cls(prepared, copies, scales, offsets)

    def update(self) -> dict[str, Tensor]:
        """Copy the trained tensors into the quantized network, and return them with their graph."""
        tensors = _trained(self.prepared)
        with torch.no_grad():
            for name, tensor in tensors.items():
                self.copies[name].copy_(tensor * self.scales[name] + self.offsets[name])
        return tensors

    def backward(self, tensors: dict[str, Tensor]) -> None:
        """Pass the gradients of the quantized network on to the trained tensors."""
        reached = {name: copy.grad for name, copy in self.copies.items() if copy.grad is not None}
        torch.autograd.backward(
            [tensors[name] for name in reached],
            [gradient * self.scales[name] for name, gradient in reached.items()],
        )
        for copy in self.copies.values():
            copy.grad = None


def _trained(prepared: TrainableModel) -> dict[str, Tensor]:
    """The trained tensors by the names of the dense network: for an adapted layer, its merged weight."""
    module = prepared.backbone.module
    adapted = dict(adapter_layers(module))
    found = {f"{name}.weight": layer.merged_weight() for name, layer in adapted.items()}
    return found | {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and name.rpartition(".")[0] not in adapted
    }


def _train(
    student: nn.Module,
    teacher: nn.Module,
    weights: _QuantizedWeights,
    batches: Generator[Tensor],
    lr: float,
    steps: int,
    progress: Progress,
) -> None:
    """Take the steps: the mean square of a logit's difference, AdamW, a cosine down to zero."""
    adamw = optimizer(weights.prepared.backbone.module, lr, 0.0, lora_plus=1.0)
    student.eval()  # as for predictions
    with progress.track("Quantization-aware training", steps) as bar, closing(batches):
        for step, images_N3HW in enumerate(islice(batches, steps)):
            set_lr_multiplier(adamw, (1 + math.cos(math.pi * step / steps)) / 2)
            adamw.zero_grad(set_to_none=True)
            tensors = weights.update()
            with torch.no_grad():
                exact_NC = teacher(images_N3HW)
            loss = (student(images_N3HW) - exact_NC).pow(2).mean()
            loss.backward()
            weights.backward(tensors)
            adamw.step()
            bar.advance(loss=f"{loss.item():.4f}")


def _error(student: nn.Module, teacher: nn.Module, inputs: Inputs) -> float:
    with torch.inference_mode():
        each = [(student(images) - teacher(images)).abs().mean(dim=1) for images in _batches(inputs, BATCH)]
    return float(torch.cat(each).mean())
