"""The head first: it starts as a linear probe on what the network makes of the images before anything is trained.

A head drawn at random pulls the features towards itself in the first steps, and away from what pretraining made of
them; one that fits them already leaves them where they are until there is something to gain. Source: LP-FT,
arXiv:2202.10054, section 3.

Shapes: N images, W features, C labels, in the order of the logits.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from ftx.backbones.layer_roles import head_names
from ftx.core.progress import Progress
from ftx.tasks.labels import Labels
from ftx.training.device_placement import EVAL_BATCH
from ftx.training.inputs import Inputs
from ftx.training.linear_probe import STRENGTHS, Scale, fit, mean_loss
from ftx.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class HeadStart:
    """The penalty of the probe that was chosen, its loss on the validation images, and what it took."""

    strength: float
    val_loss: float
    seconds: float


def linear_heads(module: nn.Module) -> list[nn.Linear]:
    """The classifiers whose logits are averaged; none where one of them is no linear layer with a bias."""
    heads = [module.get_submodule(name) for name in head_names(module)]
    linear = [head for head in heads if isinstance(head, nn.Linear) and getattr(head, "bias", None) is not None]
    return linear if len(linear) == len(heads) else []


def start_head(
    module: nn.Module,
    labels: Labels,
    train: Inputs,
    val: Inputs,
    *,
    bf16: bool,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> HeadStart | None:
    """Lay into the head the probe, fitted on ``train``, whose penalty is the best for ``val``.

    Of several processes each reads the features of its images, and all fit all of them.

    None, and the head as it was, where the classifier is no linear layer of one row of features.
    """
    heads = linear_heads(module)
    if not heads:
        return None
    began = time.perf_counter()
    known_NW, targets_NC = read_by(heads, module, train, bf16=bf16, progress=progress, ranks=ranks)
    if known_NW.shape[1] != sum(head.in_features for head in heads):
        return None
    unseen_NW, val_targets_NC = read_by(heads, module, val, bf16=bf16, progress=progress, ranks=ranks)
    scale = Scale.of(known_NW)
    scaled_NW, unseen_scaled_NW = scale.standardised(known_NW), scale.standardised(unseen_NW)
    weights = torch.zeros(known_NW.shape[1] + 1, targets_NC.shape[1], dtype=torch.float64)
    best: tuple[float, Tensor, float] | None = None
    with progress.track("Fitting the head", None) as bar:
        for strength in STRENGTHS:
            weights = fit(scaled_NW, targets_NC, labels, strength, weights)
            loss = float(mean_loss(unseen_scaled_NW @ weights[1:] + weights[0], val_targets_NC, labels))
            bar.advance()
            if best is not None and loss >= best[0]:  # weaker ones, which take longest, fit the noise
                break
            best = loss, weights, strength
    assert best is not None
    lay(heads, *scale.for_features(best[1]))
    return HeadStart(best[2], best[0], time.perf_counter() - began)


def read_by(
    heads: list[nn.Linear], module: nn.Module, inputs: Inputs, *, bf16: bool, progress: Progress, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """What the heads read of each image, side by side, and the truth, in f64 on the CPU. Shape: [N, W] and [N, C]."""
    module.eval()
    found: list[tuple[Tensor, Tensor]] = []
    with (
        torch.no_grad(),
        _noted(heads) as noted,
        progress.track("Reading features", len(inputs)) as bar,
        closing(inputs.batches(np.arange(len(inputs)), EVAL_BATCH, epoch=0, ranks=ranks)) as batches,
    ):
        for batch in batches:
            with torch.autocast(batch.input.device.type, torch.bfloat16, enabled=bf16):
                inputs.network(batch.input)
            if batch.counts:
                read_BW = torch.cat([noted[head].flatten(1) for head in heads], dim=1)
                found.append((read_BW.cpu().double(), batch.targets_BC.cpu().double()))
            bar.advance(len(batch.whole_MC))
    read, targets = zip(*chain.from_iterable(ranks.gathered(found)), strict=True)
    return torch.cat(read), torch.cat(targets)


@contextmanager
def _noted(heads: list[nn.Linear]) -> Generator[dict[nn.Module, Tensor]]:
    noted: dict[nn.Module, Tensor] = {}

    def note(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        noted[head] = inputs[0].float()

    hooks = [head.register_forward_pre_hook(note) for head in heads]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def lay(heads: list[nn.Linear], weight_CW: Tensor, bias_C: Tensor) -> None:
    """Give each head its columns, times their number, as their logits are averaged."""
    start = 0
    for head in heads:
        columns = weight_CW[:, start : start + head.in_features]
        head.weight.copy_(len(heads) * columns)
        head.bias.copy_(bias_C)
        start += head.in_features
