"""``ftx export --recover``: a new run whose weights were trained a little more through the quantized network.

NNCF puts its fake quantization into the merged network in torch. Each step lays the merged weights of the adapters into
it, and takes the gradients of those back to the adapters: what rounds is the dense weight, as in the IR, and what is
trained is what the run's method trains. The teacher is the run's own model in f32, so that no label is asked for.

Legend: N images, C labels, O outputs, I inputs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
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
from ftx.exporting.export import RecoverReport
from ftx.exporting.int8.quantize import RANGES, quiet
from ftx.exporting.shared_parts import calibration_images
from ftx.runs.artifacts import DENSE, TRAINED
from ftx.runs.dense import load_dense
from ftx.runs.latest import fresh_out, point_latest_at
from ftx.runs.new_run import check_name_free, new_run, seal
from ftx.runs.readme import KeptEpoch, write_trained_card
from ftx.runs.run import Run
from ftx.runs.run_json import Recovered
from ftx.runs.trained import load_trained_into, save_trained
from ftx.training.inputs import Inputs, inputs_of, training_images
from ftx.training.optimizer import optimizer, peak_lr, set_lr_multiplier
from ftx.training.step import measure

with no_telemetry():
    import nncf
    from nncf.torch.extensions import EXTENSION_LOAD_TIMEOUT_ENV_VAR, ExtensionLoaderTimeoutException
    from nncf.torch.quantization.extensions import QuantizedFunctionsCPULoader

# A little more: so many steps of 16 images, from a small share of the rate that the run was trained with down to zero.
# Of a test network (DoRA, rate 1e-2) 96 steps of 0.01, 0.003 and 0.001 took the mean logit error from 0.0036 to 0.0024,
# 0.0026 and 0.0027; 24 steps to 0.0050, 0.0027 and 0.0030: what is too long for few steps is still the best of many.
STEPS = 96
BATCH = 16
RATE_SHARE = 0.003
# Of SmoothQuant. The search tries others for the IR; what is learned is to live with 8 bits, not with one of them.
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
    """Train on through the quantized network, and write a new run, by default beside the old one.

    Raises: RunError if the run is not merged, altered or stale, or ``out`` exists; DataError if its images are gone;
    GateFailed if it came no nearer to the model in f32; nothing is written then.
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
    laid = _Laid.over(student, teacher, prepared)
    lr = RATE_SHARE * peak_lr(recipe.train, recipe.method)
    _train(student, teacher, laid, images.training, lr, steps, recipe.seed, progress)
    laid.lay()
    after = _error(student, teacher, images.judging)
    if not after < before:
        raise GateFailed(
            "training through 8 bits brought the model no nearer to the one in f32",
            where=opened.path,
            found=f"a mean logit error of {after:.4f}, {before:.4f} before",
            fix="export it as it is: ftx export --precision int8",
        )
    module, task = prepared.backbone.module.eval(), opened.task
    _, logits_NC, targets_NC = measure(module, task, images.validation, loss=recipe.train.loss, bf16=False)
    tuned = task.tuned_thresholds(logits_NC, targets_NC)
    metrics = task.with_thresholds(tuned).metrics(logits_NC, targets_NC)
    recovered = Recovered(trained=manifest.digest(TRAINED), steps=steps, lr=lr, error_before=before, error_after=after)
    # Named at the end: another recovery of the same run may have ended before.
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


def _write(folder: Path, source: Run, prepared: TrainableModel, recovered: Recovered, kept: KeptEpoch) -> None:
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
    """The run's images: those that train, those of them that calibrate, others that judge, and the validation's."""

    def __init__(self, run: Run, prepared: TrainableModel, data: Path | None, progress: Progress) -> None:
        root, entries, task = run.data_root(data), run.entries("train"), run.task

        def inputs(some: Sequence[Entry]) -> Inputs:
            images = training_images(prepared.backbone.preprocess, root, some, task)
            return inputs_of(prepared.backbone.module, images)

        calibrating, judging = calibration_images(entries)  # of each class as many
        apart = {entry.sha256 for entry in judging}
        self.training = inputs([entry for entry in entries if entry.sha256 not in apart])
        # The very images that the IR is calibrated with: others give other scales, and so another rounding than was
        # learned about (docs/decisions/0011-edge.md).
        self._calibrating = inputs(calibrating)
        self.judging = inputs(judging)
        self.validation = inputs(run.entries("val") or judging)

    def calibration(self) -> list[Tensor]:
        """Of those that train, one at a time."""
        return [image[None] for batch in _batches(self._calibrating, BATCH) for image in batch]


def _batches(inputs: Inputs, size: int) -> Iterator[Tensor]:
    with closing(inputs.batches(np.arange(len(inputs)), size, epoch=0)) as batches:
        for batch in batches:
            yield batch.input


def _quantized(dense: nn.Module, images: list[Tensor]) -> nn.Module:
    """The network with NNCF's fake quantization before each product of a weight but the head's.

    Of attention networks' IRs as well: attention stays in float, and the widest ranges are those that the search finds.
    """
    # A head is called ``head`` or ``fc``: as a whole part of a node's name, which ``fc`` of ``se.fc1`` is not.
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
    """The first use of NNCF's rounding, which it compiles once a user; without a compiler it goes on, more slowly.

    Raises: EnvironmentFault where that takes longer than any machine needs: another compilation left its lock.
    """
    given = os.environ.get(EXTENSION_LOAD_TIMEOUT_ENV_VAR)
    # By itself it gives up after a minute, which two busy cores need.
    os.environ[EXTENSION_LOAD_TIMEOUT_ENV_VAR] = given or str(COMPILING_S)
    try:
        with quiet(), quiet_third_parties():
            yield
    except ExtensionLoaderTimeoutException as error:
        raise EnvironmentFault(
            "NNCF does not come to an end with compiling its rounding",
            where=QuantizedFunctionsCPULoader.get_build_dir(),
            found="a lock that another compilation left, or a machine that is very busy",
            fix="remove that folder, and start again",
        ) from error
    finally:
        if given is None:
            del os.environ[EXTENSION_LOAD_TIMEOUT_ENV_VAR]


@dataclass(frozen=True)
class _Laid:
    """How what is trained lies in the quantized network.

    SmoothQuant has scaled a weight's inputs, and bias correction has moved biases; both stay as they are.
    """

    prepared: TrainableModel
    twins: dict[str, Tensor]
    scales: dict[str, Tensor]
    offsets: dict[str, Tensor]

    @classmethod
    def over(cls, student: nn.Module, teacher: nn.Module, prepared: TrainableModel) -> _Laid:
        """Find each trained tensor in the quantized network, and what NNCF did to it."""
        before, after = teacher.state_dict(), dict(student.named_parameters())
        student.requires_grad_(False)
        twins = {name: after[name].requires_grad_(True) for name in _trained(prepared)}
        scales: dict[str, Tensor] = {}
        offsets: dict[str, Tensor] = {}
        for name, twin in twins.items():
            own = before[name].float()
            if own.ndim == 2:
                scales[name] = (twin.detach() * own).sum(0) / (own**2).sum(0).clamp_min(1e-30)
                offsets[name] = torch.zeros(())
            else:
                scales[name], offsets[name] = torch.ones(()), twin.detach() - own
        return cls(prepared, twins, scales, offsets)

    def lay(self) -> dict[str, Tensor]:
        """Lay the tensors as they are now into the quantized network; they are returned with their history."""
        tensors = _trained(self.prepared)
        with torch.no_grad():
            for name, tensor in tensors.items():
                self.twins[name].copy_(tensor * self.scales[name] + self.offsets[name])
        return tensors

    def take_gradients(self, tensors: dict[str, Tensor]) -> None:
        """Hand the gradients of the quantized network on to what is trained."""
        reached = {name: twin.grad for name, twin in self.twins.items() if twin.grad is not None}
        torch.autograd.backward(
            [tensors[name] for name in reached],
            [gradient * self.scales[name] for name, gradient in reached.items()],
        )
        for twin in self.twins.values():
            twin.grad = None


def _trained(prepared: TrainableModel) -> dict[str, Tensor]:
    """What the method trains, by the names of the dense network: of an adapted layer, its merged weight."""
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
    laid: _Laid,
    inputs: Inputs,
    lr: float,
    steps: int,
    seed: int,
    progress: Progress,
) -> None:
    """Take the steps: the mean square of what a logit differs by, AdamW, a cosine down to zero."""
    chosen = optimizer(laid.prepared.backbone.module, lr, 0.0, lora_plus=1.0)
    student.eval()  # as it will answer
    done, epoch = 0, 0
    with progress.track("Training through 8 bits", steps) as bar:
        while done < steps:
            epoch += 1
            order = order_generator(seed, epoch).permutation(len(inputs))
            with closing(inputs.batches(order, BATCH, epoch=epoch)) as batches:
                for images_N3HW in (batch.input for batch in batches):
                    set_lr_multiplier(chosen, (1 + math.cos(math.pi * done / steps)) / 2)
                    chosen.zero_grad(set_to_none=True)
                    tensors = laid.lay()
                    with torch.no_grad():
                        wanted_NC = teacher(images_N3HW)
                    loss = (student(images_N3HW) - wanted_NC).pow(2).mean()
                    loss.backward()
                    laid.take_gradients(tensors)
                    chosen.step()
                    done += 1
                    bar.advance(loss=f"{loss.item():.4f}")
                    if done == steps:
                        return


def _error(student: nn.Module, teacher: nn.Module, inputs: Inputs) -> float:
    with torch.inference_mode():
        each = [(student(images) - teacher(images)).abs().mean(dim=1) for images in _batches(inputs, BATCH)]
    return float(torch.cat(each).mean())
