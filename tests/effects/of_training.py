"""What each key below ``train`` does, by numbers of the papers, worked out by hand.

Shapes: N images, C labels.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.effects.lab import FULL, LINEAR, STILL, Lab, Trained
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ftx.training import step
from ftx.training.inputs import Batch

# f32 rounding of a mean of a few logarithms.
ROUNDING = 2e-6
# A rate so small that Adam's own steps, of at most the rate each, are not seen beside a decay of 0.05 a step.
DECAY_ALONE = ("train.lr=1e-8", "train.weight_decay=5e6")
# Four steps of the cosine from 1 to 0: (1 + cos(pi t / 4)) / 2.
COSINE_OF_4 = (1.0, 0.8535534, 0.5, 0.1464466)


def epochs(lab: Lab, value: str) -> None:
    assert len(lab.train(f"train.epochs={value}").log) == 3
    assert len(lab.train().log) == 1
    # Of several the run holds the best: at ten times the rate it is one of the first.
    made = lab.train("train.epochs=6", "train.patience=6", "train.lr=0.1")
    lost, right = made.column("val_loss"), made.column("accuracy")
    means = [np.mean(right[max(index - 2, 0) : index + 1]) for index in range(6)]
    best = max(range(6), key=lambda index: (min(right[index], means[index]), -lost[index]))
    assert made.said.json["best_epoch"] == best + 1
    p_NC, y_NC = lab.scores(made, "val")
    assert abs(-np.log((p_NC * y_NC).sum(axis=1)).mean() - lost[best]) < 10 * ROUNDING
    assert abs(lost[best] - lost[-1]) > 0.1


def _shrunk(lab: Lab, *overrides: str) -> float:
    """By how much decay alone shrinks the first matrix of the network: the product of 1 - 0.05 · f over the steps."""
    name = "blocks.0.attn.qkv.weight"
    made = lab.train(FULL, *DECAY_ALONE, *overrides).tensors[name].astype(float)
    ratio = made / lab.base[name]
    return float(np.median(ratio))


def batch_size(lab: Lab, value: str) -> None:
    # 8 images: one step, or four of two.
    assert abs(_shrunk(lab) - 0.95) < 1e-6
    four = np.prod([1 - 0.05 * factor for factor in COSINE_OF_4])  # 0.880215
    assert abs(_shrunk(lab, f"train.batch_size={value}") - four) < 1e-6


def accumulation_steps(lab: Lab, value: str) -> None:
    passes: list[int] = []
    forward_backward = step.forward_backward

    def noted(network: nn.Module, training: step.Training, batch: Batch) -> Tensor:
        passes.append(len(batch.input))
        return forward_backward(network, training, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "forward_backward", noted)
        parts = lab.train(FULL, f"train.accumulation_steps={value}")
    assert passes == [2, 2, 2, 2]
    assert abs(parts.column("loss")[0] - lab.train(FULL).column("loss")[0]) < ROUNDING
    # The first step of AdamW is the rate times the sign of each gradient: one that is rounding alone may turn.
    apart = [np.abs(tensor - parts.tensors[name]) > 1e-6 for name, tensor in lab.train(FULL).tensors.items()]
    assert np.concatenate([one.ravel() for one in apart]).mean() < 0.002


def recomputed(lab: Lab, value: str) -> None:
    """Of six blocks the last is computed for one token, which is little, and not again."""
    assert value == "true"
    plain, again = (_attentions(lab, f"train.activation_checkpointing={said}", "seed=7") for said in ("false", value))
    assert again[0] == plain[0] + 5
    assert again[1].tensors.keys() == plain[1].tensors.keys()
    for name, tensor in plain[1].tensors.items():
        assert np.array_equal(again[1].tensors[name], tensor), name


def _attentions(lab: Lab, *overrides: str) -> tuple[int, Trained]:
    """How often an attention is computed in a training with these keys, and what it makes."""
    counted = [0]

    def count(layer: nn.Module, *_: object) -> None:
        counted[0] += isinstance(layer, Attention)

    hook = register_module_forward_hook(count)
    try:
        made = lab.train(*overrides)
        return counted[0], made
    finally:
        hook.remove()


def weight_decay(lab: Lab, value: str) -> None:
    """AdamW (arXiv:1711.05101, algorithm 2): w ← w - lr·λ·w beside its step, for matrices and not for vectors."""
    made, start = lab.train(FULL, "train.lr=1e-8", f"train.weight_decay={value}").tensors, lab.base
    for name, weight in start.items():
        # timm's no_weight_decay() names the two embeddings of a plain ViT.
        kept = weight.ndim == 1 or name in ("pos_embed", "cls_token")
        expected = weight if kept else 0.95 * weight
        np.testing.assert_allclose(made[name], expected, rtol=2e-7, atol=2e-8, err_msg=name)
    # DoRA's magnitudes are vectors, and PiSSA's factors are a part of the weight: neither decays.
    for more in (["model.peft=dora"], ["adapter.init=pissa"]):
        still, decayed = (
            lab.train(*more, "train.lr=1e-8", f"train.weight_decay={decay}").tensors for decay in (0, value)
        )
        for name, tensor in still.items():
            # a plain adapter's A decays, and the head's weight
            factor = 0.95 if name == "head.weight" or (name.endswith("lora_A.weight") and "dora" in more[0]) else 1.0
            np.testing.assert_allclose(decayed[name], factor * tensor, rtol=2e-7, atol=2e-8, err_msg=name)


def warmup_share(lab: Lab, value: str) -> None:
    """Two of eight steps up, then half a cosine down (arXiv:1608.03983, eq. 5); a line holds the next step's rate."""
    eight = ("train.epochs=8", "train.patience=9", f"train.warmup_share={value}")
    expected = [1.0, 1.0, 0.9330127, 0.75, 0.5, 0.25, 0.0669873, 0.0]
    np.testing.assert_allclose(lab.train(*eight).column("lr"), np.multiply(0.01, expected), atol=1e-9)
    without = [(1 + np.cos(np.pi * step / 8)) / 2 for step in range(1, 9)]
    np.testing.assert_allclose(lab.train(*eight[:2]).column("lr"), np.multiply(0.01, without), atol=1e-9)
    # And the steps go by it: half of four steps warm up, at 1/2, 1, 1, 1/2 of the peak.
    product = 0.975 * 0.95 * 0.95 * 0.975
    assert abs(_shrunk(lab, "train.batch_size=2", "train.warmup_share=0.5") - product) < 1e-6


def _largest(tensors: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(tensor).max()) for tensor in tensors.values())


def learning_rate(lab: Lab, value: str) -> None:
    """Adam's first step is the rate itself, whatever the gradient (arXiv:1412.6980, section 2.1); B begins at 0."""
    assert abs(_largest(lab.train(f"train.lr={value}").part("lora_B")) / 0.02 - 1) < 1e-4
    assert abs(_largest(lab.train().part("lora_B")) / 0.01 - 1) < 1e-4
    # By the same gradient again, at half of the peak, it is the rate again. Were the first gradient still in it, Adam
    # would step 0.965 of it: (0.9 · 0.1 + 0.1 · 2) / 0.19 over √((0.999 · 0.001 + 0.001 · 4) / 0.001999).
    two = lab.train("train.lr=1e-6", "train.epochs=2", data="flat")
    assert two.said.json["best_epoch"] == 2
    assert abs(_largest(two.part("lora_B")) / 1.5e-6 - 1) < 1e-3


def automatic_rate(lab: Lab, value: str) -> None:
    """As docs/decisions/0004 sets it."""
    known = {("model.peft=lora",): 1e-3, ("model.peft=dora",): 1e-3, LINEAR: 5e-3, (FULL,): 2e-5}
    for method, rate in known.items():
        made = lab.train(*method, f"train.lr={value}")
        assert made.recipe["train"]["lr"] == rate
        start = 0 if made.part("lora_B") else lab.base["head.bias"]
        moved = made.part("lora_B") or {"bias": made.tensors["head.bias"] - start}
        assert abs(_largest(moved) / rate - 1) < 1e-3  # the bias is subtracted in f32


def lora_plus(lab: Lab, value: str) -> None:
    """B at 16 times the rate of A (arXiv:2402.12354); A has its first gradient in the second step."""
    name = f"train.lora_plus={value}"
    one, two = lab.train(name), lab.train(name, "train.batch_size=4")
    assert abs(_largest(one.part("lora_B")) / 0.16 - 1) < 1e-4
    moved = {key: two.tensors[key] - tensor for key, tensor in one.part("lora_A").items()}
    # Adam with a first gradient in step 2, at half of the peak: 0.1 g / (1 - 0.9²) over √(0.001 g² / (1 - 0.999²)).
    assert abs(_largest(moved) / (0.01 * 0.5 * 0.744137) - 1) < 1e-3


def precision(lab: Lab, value: str) -> None:
    """bf16 keeps 8 bits of a logit, f32 24: of one picture with one label the loss is log(1 + e^-z)."""
    for kind, is_short in ((value, True), ("f32", False)):
        words = ("task=multilabel", "train.loss=bce", STILL, f"train.precision={kind}")
        made = lab.train(*words, data="one/table.csv")
        assert (made.recipe["train"]["precision"], made.said.json["precision"]) == (kind, kind)
        for column in ("loss", "val_loss"):
            z = -np.log(np.expm1(made.log[0][column]))
            mantissa, exponent = np.frexp(z)
            rest = abs(mantissa * 256 - round(mantissa * 256)) / 256
            assert (rest < 1e-6) == is_short, (kind, column, z)
        assert exponent > -8  # a logit that is all but 0 would say nothing


def loss(lab: Lab, value: str) -> None:
    """Cross-entropy, or the asymmetric loss (arXiv:2009.14119, eq. 6, with 0, 4 and 0.05)."""
    marks = ("task=multilabel", STILL)
    for kind in (value, "asymmetric"):
        made = lab.train(*marks, f"train.loss={kind}", data="marks/table.csv")
        for column, side in (("loss", "train"), ("val_loss", "val")):
            p_NC, y_NC = lab.scores(made, side)
            shifted_NC = np.maximum(p_NC - 0.05, 0)
            negative_NC = np.log(1 - p_NC) if kind == "bce" else shifted_NC**4 * np.log(1 - shifted_NC)
            expected = -(y_NC * np.log(p_NC) + (1 - y_NC) * negative_NC).mean()
            assert abs(made.log[0][column] - expected) < ROUNDING, (kind, column)


def label_smoothing(lab: Lab, value: str) -> None:
    """Targets (1 - ε) y + ε / C (arXiv:1512.00567, section 7), in training alone."""
    made = lab.train(STILL, f"train.label_smoothing={value}")
    p_NC, y_NC = lab.scores(made, "train")
    smoothed_NC = 0.7 * y_NC + 0.3 / 2
    assert abs(made.log[0]["loss"] + (smoothed_NC * np.log(p_NC)).sum(axis=1).mean()) < ROUNDING
    p_NC, y_NC = lab.scores(made, "val")
    assert abs(made.log[0]["val_loss"] + (y_NC * np.log(p_NC)).sum(axis=1).mean()) < ROUNDING


def balance_by_loss(lab: Lab, value: str) -> None:
    """Weights N / (C · count), as scikit-learn's class_weight="balanced": 22 / 40 and 22 / 4."""
    made = lab.train(STILL, f"train.balance={value}", data="flat")
    p_NC, y_NC = lab.scores(made, "train")
    each_N = -(y_NC * np.log(p_NC)).sum(axis=1)
    weight_N = y_NC @ np.array([0.55, 5.5])
    assert abs(made.log[0]["loss"] - (weight_N * each_N).mean()) < ROUNDING
    plain = lab.train(STILL, data="flat")
    assert abs(plain.log[0]["loss"] - each_N.mean()) < ROUNDING
    assert (made.said.json["metric"], plain.said.json["metric"]) == ("macro_f1", "accuracy")


def drawn(lab: Lab, *overrides: str) -> np.ndarray:
    """How many of the 22 images of each epoch were rare: with a model that stands still the loss counts them."""
    made = lab.train(STILL, *overrides, data="flat")
    p_NC, y_NC = lab.scores(made, "train")
    common, rare = (float(-np.log(p_NC[y_NC[:, column] > 0, column]).mean()) for column in (0, 1))
    counts = 22 * (np.array(made.column("loss")) - common) / (rare - common)
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
    return counts.round()


def balance_by_sampling(lab: Lab, value: str) -> None:
    """2 of 22 images are rare, and half of those that are drawn; without it each is drawn once an epoch."""
    twenty = ("train.epochs=20", "train.patience=20")
    assert abs(drawn(lab, *twenty, f"train.balance={value}", "seed=0").sum() / 440 - 0.5) < 0.1  # 4 deviations of 0.024
    assert set(drawn(lab, "train.balance=none", "train.epochs=3")) == {2}


def augment(lab: Lab, value: str) -> None:
    """Crops and mirrors change the pixels of noise and none of one colour; none is the image path of evaluation."""
    for kind, data, same in ((value, "noise", False), (value, "flat", True), ("none", "noise", True)):
        made = lab.train(STILL, FULL, f"train.augment={kind}", data=data)
        for column, side, alike in (("loss", "train", same), ("val_loss", "val", True)):
            p_NC, y_NC = lab.scores(made, side)
            expected = -(y_NC * np.log(p_NC)).sum(axis=1).mean()
            assert (abs(made.log[0][column] - expected) < ROUNDING) == alike, (kind, data, column)


def patch_dropout(lab: Lab, value: str) -> None:
    """A model that stands still, asked about two of four patches in training and about all in validation."""
    for trains in ((FULL,), ("adapter.blocks=2", "train.cache_views=4")):
        made, whole = (lab.train(STILL, *trains, f"train.patch_dropout={share}") for share in (value, "0"))
        assert abs(made.log[0]["loss"] - whole.log[0]["loss"]) > 10 * ROUNDING
        assert made.log[0]["val_loss"] == pytest.approx(whole.log[0]["val_loss"], abs=ROUNDING)
        assert made.recipe["train"]["patch_dropout"] == float(value)


# A model that stands still, four of whose six blocks are frozen, on images that vary.
_FROZEN = (STILL, "adapter.blocks=2", "train.augment=light", "train.epochs=3", "train.patience=3")


def cache_views(lab: Lab, value: str) -> None:
    """With two views of an image the third epoch is the first again; anew in each, none is."""
    first, second, third = lab.train(*_FROZEN, f"train.cache_views={value}").column("loss")
    assert abs(first - third) < ROUNDING
    assert abs(first - second) > 10 * ROUNDING
    anew = lab.train(*_FROZEN, "train.cache_views=0").column("loss")
    assert abs(anew[0] - anew[2]) > 10 * ROUNDING
    assert abs(anew[1] - second) < 1e-3  # the same view, but for features in bf16


@contextmanager
def _own_cache() -> Iterator[Path]:
    """What trainings keep in the user's cache, in one of their own until the block ends."""
    before = os.environ["XDG_CACHE_HOME"]
    with tempfile.TemporaryDirectory() as home:
        os.environ["XDG_CACHE_HOME"] = home
        try:
            yield Path(home, "ftx")
        finally:
            os.environ["XDG_CACHE_HOME"] = before


def _cached(lab: Lab, *overrides: str) -> tuple[dict[str, int], Trained]:
    """The files that a training leaves in a user's cache of its own, by kind and name, with their bytes."""
    with _own_cache() as cache:
        made = lab.train(*_FROZEN, "train.cache_views=1", *overrides)
        files = [path for path in cache.rglob("*") if path.is_file()]
        kinds = [path.relative_to(cache).parts[0] for path in files]
        return {f"{kind}/{path.name}": path.stat().st_size for kind, path in zip(kinds, files, strict=True)}, made


def cache_gb(lab: Lab, value: str) -> None:
    """A row is that of five tokens of 64 numbers, in two bytes each."""
    kept, made = _cached(lab)
    views = len(made.images("train")) + len(made.images("val"))
    assert kept["features/content"] == views * 5 * 64 * 2
    nothing, made = _cached(lab, f"train.cache_gb={value}")
    assert nothing["features/content"] == 0
    assert kept["pixels/content"] > 0
    assert "pixels/content" not in nothing
    assert "train.cache_gb" in made.said.err


def frozen_runtime(lab: Lab, value: str) -> None:
    kept, _ = _cached(lab, f"train.frozen_runtime={value}")
    assert {"features/model.xml", "features/model.bin"} <= kept.keys()
    plain, _ = _cached(lab)  # fewer images than converting pays for
    assert not {"features/model.xml", "features/model.bin"} & plain.keys()


def compile_blocks(lab: Lab, value: str) -> None:
    """Code in the user's cache, and the weights of other kernels: those of the plain training but for rounding."""
    plain = lab.train("seed=7")
    with _own_cache() as cache:
        compiled = lab.train("seed=7", f"train.compile={value}")
        assert list(cache.joinpath("compiled").rglob("*.so"))
    assert compiled.log[-1]["loss"] == pytest.approx(plain.log[-1]["loss"], rel=1e-4)


def head_init(lab: Lab, value: str) -> None:
    """Linear probing is solved: one line, and a loss that twenty epochs of steps come near to from above."""
    linear = ("model.peft=none", "model.freeze_backbone=true", "train.label_smoothing=0")
    solved = lab.train(*linear, f"train.head_init={value}").log
    stepped = lab.train(*linear, "train.epochs=20", "train.patience=20").log
    assert (len(solved), len(stepped)) == (1, 20)
    assert solved[0]["val_loss"] < min(line["val_loss"] for line in stepped) + 0.02


def patience(lab: Lab, value: str) -> None:
    """A model that stands still has its best epoch first, and goes on for as many as patience says."""
    eight = (STILL, "train.epochs=8")
    assert len(lab.train(*eight, f"train.patience={value}").log) == 3
    assert len(lab.train(*eight, "train.patience=none").log) == 8


@contextmanager
def _moved() -> Iterator[list[str]]:
    """The files that get their names until the block ends, as Python tells of them."""
    names: list[str] = []
    watching = True

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "os.rename":
            names.append(Path(str(arguments[1])).name)

    sys.addaudithook(hear)
    try:
        yield names
    finally:
        watching = False


def checkpoint_minutes(lab: Lab, value: str) -> None:
    """The state after each step of two epochs of two, or at an epoch's end alone, where that costs next to nothing."""
    for minutes, steps in ((value, [[1, 2, 3, 4]]), ("5", [[2], [2, 4]])):
        with _moved() as names:
            lab.train("train.epochs=2", "train.batch_size=6", f"train.checkpoint_minutes={minutes}")
        written = [int(name[:-5]) for name in names if name[:-5].isdecimal() and name.endswith(".json")]
        assert written in steps


def tensorboard(lab: Lab, value: str) -> None:
    assert value == "true"
    made = lab.train("train.tensorboard=true")
    assert _curves(made.path)
    assert not _curves(lab.train().path)


def _curves(run: Path) -> list[Path]:
    return list((run / "reports").glob("tensorboard/events.*"))
