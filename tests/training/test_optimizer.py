"""What decays, how fast each parameter moves, and the loop's steps: AdamW and its schedule, written out by hand."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.trainable_model import prepare
from ftx.core.progress import SILENT
from ftx.data.random_draws import order_generator
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import TrainRecipe
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.training.class_balance import Balance
from ftx.training.inputs import Batch
from ftx.training.loop import fit
from ftx.training.optimizer import lr_multiplier, optimizer, set_lr_multiplier
from ftx.training.ranks import ONE_PROCESS, Ranks
from ftx.training.state import EpochEnd
from ftx.training.step import Training

LR, DECAY = 0.125, 0.25  # their product, and 1 less that, are exact in binary


def test_warm_up_and_cosine_are_these_numbers() -> None:
    """Ten steps, a fifth of them warm-up: 1/2, 1, then (1 + cos(πk/8)) / 2 for k = 0 … 7."""
    adamw = optimizer(nn.Linear(1, 1), 2.0, 0.0)
    found = []
    for step in range(10):
        set_lr_multiplier(adamw, lr_multiplier(step, 10, 0.2))
        found.append(adamw.param_groups[0]["lr"] / 2)
    expected = [0.5, 1, 1, 0.9619397663, 0.8535533906, 0.6913417162, 0.5, 0.3086582838, 0.1464466094, 0.0380602337]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert lr_multiplier(10, 10, 0.2) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("steps", "share", "first"), [(4, 0.0, [1.0, 0.8535533906]), (1, 0.9, [1.0, 1.0])])
def test_a_schedule_without_warm_up_and_one_of_a_single_step(steps: int, share: float, first: list[float]) -> None:
    np.testing.assert_allclose([lr_multiplier(step, steps, share) for step in (0, 1)], first, rtol=0, atol=1e-10)


def prepared(**settings: object) -> nn.Module:
    tiny = {"name": "test_vit", "weights": "none", "image_size": 32}
    return prepare(Recipe.named(tiny | settings), 3).backbone.module


def factors(module: nn.Module, gradient: float, *, lora_plus: float = 1.0) -> dict[str, Tensor]:
    """What each parameter became by one step with this gradient in every entry, from ones."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.data.fill_(1.0)
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer(module, LR, DECAY, lora_plus=lora_plus).step()
    return {name: parameter.detach() for name, parameter in trained.items()}


def decayed(module: nn.Module) -> set[str]:
    """The parameters that fade by 1 − lr·decay while their gradient is zero; the others do not move at all."""
    found = factors(module, 0.0)
    kept = {name for name, tensor in found.items() if torch.equal(tensor, torch.ones_like(tensor))}
    for name in found.keys() - kept:
        assert torch.equal(found[name], torch.full_like(found[name], 1 - LR * DECAY)), name
    return found.keys() - kept


def test_full_fine_tuning_decays_matrices_and_no_embedding_or_vector() -> None:
    module = prepared(peft="none")
    blocks = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{number}.{leaf}.weight" for number in range(6) for leaf in blocks}
    assert decayed(module) == expected | {"patch_embed.proj.weight", "head.weight"}
    kept = {name for name, _ in module.named_parameters()} - decayed(module)
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.0.attn.qkv.bias"} <= kept


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 12, "reg_tokens": 4, "class_token": True}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1, "embed_dim": 12}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 12, "num_heads": (1, 1)}),
        ("beit_base_patch16_224", {"depth": 1, "embed_dim": 12, "num_heads": 1}),
        ("test_resnet", {}),
    ],
)
def test_what_decays_is_what_decays_in_timm(name: str, arguments: dict[str, object]) -> None:
    module = timm.create_model(name, num_classes=3, **arguments)
    theirs = create_optimizer_v2(module, opt="adamw", lr=LR, weight_decay=DECAY).param_groups
    ids = {id(parameter) for group in theirs if group["weight_decay"] for parameter in group["params"]}
    expected = {key for key, parameter in module.named_parameters() if id(parameter) in ids}
    assert 0 < len(expected) < len(list(module.named_parameters()))
    assert decayed(module) == expected


def test_adapters_decay_towards_none_but_those_that_started_from_the_weight() -> None:
    plain = {f"blocks.{number}.attn.qkv.lora_{factor}" for number in range(6) for factor in "AB"}
    assert decayed(prepared(peft="lora", blocks="all", targets="q")) == plain | {"head.weight"}
    assert decayed(prepared(peft="dora", blocks="all", targets="q")) == plain | {"head.weight"}  # no magnitude
    assert decayed(prepared(peft="lora", blocks="all", targets="q", init="pissa")) == {"head.weight"}
    assert decayed(prepared(freeze_backbone=True)) == {"head.weight"}


def test_b_moves_so_many_times_as_fast_as_a() -> None:
    """AdamW's first step is the rate times the gradient's sign, whatever the gradient's size."""
    module = prepared(peft="dora", blocks="all", targets="q")
    found = factors(module, 0.5, lora_plus=4.0)
    name = "blocks.0.attn.qkv."
    expected = {
        f"{name}lora_A": 1 - LR * DECAY - LR,
        f"{name}lora_B": 1 - 4 * LR * DECAY - 4 * LR,
        f"{name}lora_magnitude_vector": 1 - LR,
        "head.weight": 1 - LR * DECAY - LR,
        "head.bias": 1 - LR,
    }
    for key, value in expected.items():
        # f32, and the 1e-8 that AdamW adds to the root
        torch.testing.assert_close(found[key], torch.full_like(found[key], value), rtol=0, atol=1e-6, msg=key)
    assert len(list(adapter_layers(module))) == 6


FEATURES = np.random.default_rng(0).normal(size=(10, 4))
ONE_HOT = np.eye(3)[np.random.default_rng(1).integers(0, 3, 10)]
STEPS = TrainRecipe(
    epochs=3, batch_size=4, lr=0.05, weight_decay=0.1, warmup_share=0.25, label_smoothing=0.1, patience=9
)


class Rows:
    """Given numbers, for a model that is one linear layer."""

    unit = "rows"
    waited_s = 0.0

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __len__(self) -> int:
        return len(FEATURES)

    def batches(
        self, order: NDArray[np.intp], batch_size: int, *, epoch: int, skipped: int = 0, ranks: Ranks = ONE_PROCESS
    ) -> Generator[Batch]:
        for start in range(skipped * batch_size, len(order), batch_size):
            chosen = order[start : start + batch_size]
            targets = torch.tensor(ONE_HOT[chosen]).float()
            yield Batch(torch.tensor(FEATURES[chosen]).float(), targets, targets)


def by_hand(weight: NDArray[np.float64], bias: NDArray[np.float64], seed: int) -> list[NDArray[np.float64]]:
    """Weight and bias after each epoch. Source: AdamW, arXiv:1711.05101, algorithm 2, with torch's β and ε."""
    theta = np.concatenate([weight, bias[:, None]], axis=1)
    decay = np.concatenate([np.full(weight.shape, 0.1), np.zeros((3, 1))], axis=1)
    m, v, made = np.zeros_like(theta), np.zeros_like(theta), []
    # Nine steps, of which round(9 / 4) = 2 warm up: 1/2, 1, then (1 + cos(πk/7)) / 2 for k = 0 … 6.
    rates = [0.5, 1.0] + [(1 + np.cos(np.pi * k / 7)) / 2 for k in range(7)]
    step = 0
    for epoch in (1, 2, 3):
        order = order_generator(seed, epoch).permutation(10)
        for chosen in (order[:4], order[4:8], order[8:]):
            x = np.concatenate([FEATURES[chosen], np.ones((len(chosen), 1))], axis=1)
            exp = np.exp(x @ theta.T)
            smoothed = 0.9 * ONE_HOT[chosen] + 0.1 / 3
            gradient = (exp / exp.sum(axis=1, keepdims=True) - smoothed).T @ x / len(chosen)
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            rate, step = 0.05 * rates[step], step + 1
            moved = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            theta = theta - rate * (moved + decay * theta)
        made.append(theta)
    return made


def test_the_loop_takes_the_steps_of_adamw_written_by_hand() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    expected = by_hand(module.weight.detach().double().numpy(), module.bias.detach().double().numpy(), seed=5)
    found: list[Tensor] = []
    rates: list[float] = []

    def on_epoch(end: EpochEnd) -> None:
        found.append(torch.cat([module.weight, module.bias[:, None]], dim=1).detach().clone())
        rates.append(end.epoch.lr)

    rows = Rows(module)
    task = Multiclass(Labels.multiclass(("a", "b", "c")))
    training = Training(module, task, rows, rows, STEPS, Balance(10), lr=0.05, bf16=False, seed=5)
    made = fit(training, training.begin(), progress=SILENT, on_epoch=on_epoch)
    assert made is not None
    for epoch in range(3):
        # f32 over nine steps; a step of AdamW is up to 5e-2 in every entry
        torch.testing.assert_close(found[epoch].double(), torch.tensor(expected[epoch]), rtol=0, atol=2e-5)
    # After 3, 6 and 9 steps the next one's rate: k = 1, 4, 7.
    np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.array([1, 4, 7]) / 7)) / 2, rtol=0, atol=1e-9)
    kept = torch.cat([module.weight, module.bias[:, None]], dim=1)
    assert torch.equal(kept, found[made.best.epoch - 1])
