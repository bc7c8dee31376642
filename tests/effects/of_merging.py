"""What each flag of ``ftx merge`` and ``ftx adapters`` does, by the sums that it stands for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tests.effects.lab import Lab, Tensors, Trained

SCALING = 6 / 4
# A merged entry is rounded to f32 once; the weights are below 0.5.
ROUNDING = 3e-8


def run(lab: Lab, flag: str, value: str) -> None:
    """The run that is named, and not the newest."""
    named, newest = lab.train("seed=3"), lab.train("seed=4")
    lab.done("merge", named.path)
    assert (named.path / "dense").is_dir()
    assert not (newest.path / "dense").exists()


def data(lab: Lab, flag: str, value: str) -> None:
    made = lab.train("seed=5")
    with lab.moved("noise") as elsewhere:
        said = [lab.done("merge", made.path, *words, "--json").json for words in ((), (flag, elsewhere))]
    assert [(one["images_from"], one["images"]) for one in said] == [("random images", 32), ("held-out images", 4)]


def _merged(lab: Lab, *words: object) -> Tensors:
    """What a merge of adapters wrote, and its folder away again."""
    out = lab.root / "joined"
    lab.done("merge", *words, "--out", out)
    tensors = load_file(out / "model.safetensors")
    shutil.rmtree(out)
    return tensors


def _two(lab: Lab) -> tuple[list[Trained], list[object]]:
    runs = [lab.adapted(seed) for seed in (0, 1)]
    return runs, [word for made in runs for word in ("--adapter", made.path)]


def _changes(runs: list[Trained], layer: str) -> list[np.ndarray]:
    """s·B·A of each. Shape: [O, I]."""
    factors = [[made.tensors[f"{layer}.lora_{factor}.weight"].astype(float) for factor in "BA"] for made in runs]
    return [SCALING * B @ A for B, A in factors]


def _layers(lab: Lab) -> dict[str, np.ndarray]:
    weights = load_file(lab.foundation / "model.safetensors")
    adapted = {name.removesuffix(".lora_A.weight") for name in lab.adapted(0).part("lora_A")}
    return {layer: weights[f"{layer}.weight"].astype(float) for layer in sorted(adapted)}


def _is_sum(lab: Lab, tensors: Tensors, shares: tuple[float, float]) -> None:
    runs, _ = _two(lab)
    for layer, weight in _layers(lab).items():
        change = sum(share * one for share, one in zip(shares, _changes(runs, layer), strict=True))
        np.testing.assert_allclose(tensors[f"{layer}.weight"], weight + change, rtol=0, atol=ROUNDING)
    for name in ("head.weight", "head.bias"):
        mean = sum(share * made.tensors[name].astype(float) for share, made in zip(shares, runs, strict=True))
        np.testing.assert_allclose(tensors[name], mean, rtol=0, atol=ROUNDING)


def adapter(lab: Lab, flag: str, value: str) -> None:
    """Each adapter that is named goes in, in equal shares."""
    _, words = _two(lab)
    _is_sum(lab, _merged(lab, *words), (0.5, 0.5))
    _is_sum(lab, _merged(lab, *words[:2]), (1, 0))


def shares(lab: Lab, flag: str, value: str) -> None:
    _, words = _two(lab)
    _is_sum(lab, _merged(lab, *words, flag, value), (0.75, 0.25))


def _elected(changes: list[np.ndarray], least: list[float]) -> np.ndarray:
    """TIES of two in equal shares (arXiv:2306.01708, algorithm 1): trim, elect a sign, average what agrees."""
    trimmed = np.array([np.where(np.abs(one) >= bound, one, 0) for one, bound in zip(changes, least, strict=True)])
    agrees = (np.sign(trimmed) == np.sign(trimmed.sum(axis=0))) & (trimmed != 0)
    return (trimmed * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)


def _share_of_entries(lab: Lab, *words: object) -> float:
    """How much of the weights of one adapter's rows TIES changed; q, k and v own all of a fused layer's."""
    tensors = _merged(lab, *_two(lab)[1][:2], "--combine", "ties", *words)
    changed = [np.abs(tensors[f"{layer}.weight"] - weight) > 1e-9 for layer, weight in _layers(lab).items()]
    return float(np.concatenate([one.ravel() for one in changed]).mean())


def combine(lab: Lab, flag: str, value: str) -> None:
    runs, words = _two(lab)
    tensors, layers = _merged(lab, *words, flag, value), _layers(lab)
    changes = {layer: _changes(runs, layer) for layer in layers}
    # The largest fifth of each adapter's changes over all of its layers.
    every = [np.concatenate([changes[layer][index].ravel() for layer in layers]) for index in (0, 1)]
    least = [float(np.quantile(np.abs(one), 0.8)) for one in every]
    wrong = total = 0
    for layer, weight in layers.items():
        expected = _elected(changes[layer], least)
        wrong += int((np.abs(tensors[f"{layer}.weight"] - weight - expected) > 2 * ROUNDING).sum())
        total += weight.size
    assert wrong <= 5e-5 * total  # those at the threshold itself, of 221,184


def density(lab: Lab, flag: str, value: str) -> None:
    assert abs(_share_of_entries(lab, flag, value) - 0.05) < 0.001
    assert abs(_share_of_entries(lab) - 0.2) < 0.001


def _alone(lab: Lab) -> Path:
    """An adapter without its run, which could say what it was trained on."""
    folder = lab.root / "alone"
    if not folder.exists():
        shutil.copytree(lab.adapted(0).path / "trained", folder)
    return folder


def base(lab: Lab, flag: str, value: str) -> None:
    assert lab.call("merge", "--adapter", _alone(lab), "--out", "joined").status == 2
    _is_sum(lab, _merged(lab, "--adapter", _alone(lab), flag, lab.foundation), (1, 0))


def _doubled(lab: Lab) -> Path:
    path = lab.root / "others.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(lab.foundation / "model.safetensors").items()}, path)
    return path


def weights(lab: Lab, flag: str, value: str) -> None:
    """The file is the base; another one is refused by its digest."""
    words = ("--adapter", _alone(lab), "--base", "test_vit", "--image-size", "32")
    _is_sum(lab, _merged(lab, *words, flag, lab.foundation / "model.safetensors"), (1, 0))
    said = lab.call("merge", *words, flag, _doubled(lab), "--out", "joined")
    assert said.status == 2
    assert "the base must be the one" in said.err


def image_size(lab: Lab, flag: str, value: str) -> None:
    words = ("--adapter", _alone(lab), "--base", "test_vit", "--weights", lab.foundation / "model.safetensors")
    assert _merged(lab, *words, flag, value)["pos_embed"].shape == (1, 3 * 3 + 1, 64)
    assert _merged(lab, *words)["pos_embed"].shape == (1, 10 * 10 + 1, 64)  # 160 px, timm's own


def labels(lab: Lab, flag: str, value: str) -> None:
    words = ("merge", "--adapter", _alone(lab), "--base", lab.foundation)
    for more, names in (((flag, value), ["u", "v"]), ((), ["a", "b"])):
        out = lab.root / f"named-{names[0]}"
        lab.done(*words, *more, "--out", out)
        assert json.loads((out / "config.json").read_text())["label_names"] == names


def no_head(lab: Lab, flag: str, value: str) -> None:
    words = ("--adapter", _alone(lab), "--base", lab.foundation)
    assert set(_merged(lab, *words)) - set(_merged(lab, *words, flag)) == {"head.weight", "head.bias"}


def out(lab: Lab, flag: str, value: str) -> None:
    words = ("merge", "--adapter", lab.adapted(0).path, "--json")
    assert lab.done(*words, flag, value).json["path"] == value
    assert (lab.root / value / "model.safetensors").is_file()
    assert lab.done(*words).json["path"] == "merged"


def adapters(lab: Lab, flag: str, value: str) -> None:
    """‖W' - W‖ / ‖W‖ of each that is named."""
    runs, _ = _two(lab)
    said = lab.done("adapters", *(made.path for made in runs), "--json").json
    layers = _layers(lab)
    size = sum((weight**2).sum() for weight in layers.values()) ** 0.5
    for index, one in enumerate(said["adapters"]):
        moved = sum((_changes(runs, layer)[index] ** 2).sum() for layer in layers) ** 0.5
        assert abs(one["change"] - moved / size) < 1e-6
    assert len(said["overlaps"]) == 1


def adapters_base(lab: Lab, flag: str, value: str) -> None:
    assert lab.call("adapters", _alone(lab)).status == 2
    assert lab.done("adapters", _alone(lab), flag, lab.foundation, "--json").json["base"] == "test_vit"


def adapters_weights(lab: Lab, flag: str, value: str) -> None:
    words = ("adapters", _alone(lab), "--base", "test_vit")
    lab.done(*words, flag, lab.foundation / "model.safetensors")
    assert lab.call(*words, flag, _doubled(lab)).status == 2


def adapters_layers(lab: Lab, flag: str, value: str) -> None:
    plain, each = (lab.done("adapters", lab.adapted(0).path, *words).out for words in ((), (flag,)))
    assert "blocks.3.attn.qkv" in each
    assert "blocks.3.attn.qkv" not in plain
    assert "blocks.N.attn.qkv" in plain


def adapters_json(lab: Lab, flag: str, value: str) -> None:
    said = lab.done("adapters", lab.adapted(0).path, flag).json
    assert (said["verb"], len(said["adapters"])) == ("adapters", 1)


def as_object(lab: Lab, flag: str, value: str) -> None:
    path = lab.adapted(0).path
    assert lab.done("merge", path, flag).json["verb"] == "merge"
    assert lab.done("merge", path).out.startswith("merged")
    assert lab.done("merge", "--adapter", path, "--out", "object", flag).json["verb"] == "merge"
