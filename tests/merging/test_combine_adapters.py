"""Several adapters of one base: shares, TIES, and what they have in common."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file
from tests.conftest import Listener, write_data
from tests.gates.faults import edit_json

from ftx.adapters.low_rank import LowRankWeights
from ftx.adapters.trainable_model import base_of
from ftx.backbones.build import build
from ftx.core.errors import AdapterError, GateFailed, InputError, MergeError, RunError
from ftx.interop.open_adapters import open_adapters
from ftx.merging.combine_adapters import combine
from ftx.merging.compare_adapters import compare, subspace_overlap
from ftx.merging.merge_and_prove import merge
from ftx.merging.ties import elected
from ftx.recipe.schema import Recipe
from ftx.runs.dense import load_dense
from ftx.runs.run import Run
from ftx.training import train

SETTINGS = {
    "name": "vit_tiny_patch16_224",
    "weights": "none",
    "image_size": 32,
    "epochs": 1,
    "lr": 5e-3,
    "precision": "f32",
    "blocks": 2,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of one base, one of another base and one of other labels."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("several")
    data = write_data(root / "data", 8)
    fewer = Path(shutil.copytree(data, root / "fewer"))
    shutil.rmtree(fewer / "red")
    made = {
        "dora": {"path": data, "peft": "dora", "rank": 4},
        "lora": {"path": data, "peft": "lora", "rank": 2, "targets": "mlp", "lr": 2e-3},
        "fewer": {"path": fewer, "peft": "lora"},
        "q": {"path": data, "peft": "dora", "targets": "q"},
        "other": {"path": data, "peft": "lora", "seed": 1},
        "linear": {"path": data, "freeze_backbone": True, "peft": None, "blocks": None},
    }
    with chdir(root):
        return {
            name: Path(train(Recipe.named({**SETTINGS, **own}), out=root / "runs" / name).run or "")
            for name, own in made.items()
        }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


def base_weights(run: Path) -> dict[str, torch.Tensor]:
    state = base_of(Recipe.load(run / "recipe.yaml"), 0).module.state_dict()
    return {name: tensor.double() for name, tensor in state.items()}


def test_one_adapter_alone_is_what_merge_makes_of_its_run(runs: dict[str, Path], tmp_path: Path) -> None:
    merge(Run.open(runs["dora"]))
    combine([runs["dora"] / "trained"], tmp_path / "out")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (runs["dora"] / "dense" / name).read_bytes()


def test_the_card_says_what_was_merged(runs: dict[str, Path], tmp_path: Path) -> None:
    combine([runs["dora"], runs["lora"]], tmp_path / "out", shares=[0.75, 0.25])
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    for told in ("| 0.75 of | dora |", "| 0.25 of | lora |", "8 merged layers", "amber, blue, green, red"):
        assert told in card.text


@pytest.mark.representative
def test_shares_are_shares_of_the_weights(runs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("dora", "lora"):
        combine([runs[name]], tmp_path / name)
    report = combine([runs["dora"], runs["lora"]], tmp_path / "both", shares=[0.7, 0.3])
    assert report.max_relative_error < 1e-6
    dora, lora, both = (weights(tmp_path / name) for name in ("dora", "lora", "both"))
    for name, tensor in both.items():
        expected = 0.7 * dora[name] + 0.3 * lora[name]
        # each of the three is rounded to f32 once
        torch.testing.assert_close(tensor, expected, rtol=0, atol=2e-7 * max(float(expected.abs().max()), 1e-3))
    assert load_dense(tmp_path / "both").num_classes == 4


def test_ties_of_an_adapter_with_itself_is_its_largest_changes(runs: dict[str, Path], tmp_path: Path) -> None:
    combine([runs["dora"]], tmp_path / "whole")
    combine([runs["dora"], runs["dora"]], tmp_path / "ties", how="ties", density=0.1)
    merged, ties = weights(tmp_path / "whole"), weights(tmp_path / "ties")
    base = base_weights(runs["dora"])
    kept = total = 0
    for name, before in base.items():
        change, found = merged[name] - before, ties[name] - before
        if not change.any():
            continue
        stays = found != 0
        kept, total = kept + int(stays.sum()), total + change.numel()
        torch.testing.assert_close(found[stays], change[stays], rtol=0, atol=1e-7)  # stored in f32
    assert kept / total == pytest.approx(0.1, abs=0.002)


@settings(max_examples=40, deadline=None)
@given(changes=arrays(np.float64, (4, 4, 5), elements=st.integers(-6, 6).map(float)))
def test_the_election_is_that_of_peft(changes: np.ndarray) -> None:
    from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge

    stacked = torch.from_numpy(changes)
    expected = disjoint_merge(stacked, calculate_majority_sign_mask(stacked, method="total"))
    found = elected(list(changes), [0.25] * 4, [0.0] * 4)
    # Where the votes cancel, peft lets both signs count; the paper elects none.
    voted = stacked.sum(0) != 0
    np.testing.assert_allclose(found[voted], expected[voted], rtol=1e-12)
    assert not found[~voted].any()


def test_the_election_by_hand() -> None:
    # Entries: trimmed, outvoted by share, agreed on, alone, cancelled, and at the threshold itself, which stays.
    first = np.array([[0.1, -2.0, 4.0, 3.0, 1.0, 0.5]])
    second = np.array([[0.1, 3.0, 2.0, 0.1, -1.0, 0.5]])
    third = np.array([[0.1, -1.0, 1.0, 0.1, 0.1, 0.4999]])
    found = elected([first, second, third], [0.5, 0.25, 0.25], [0.5, 0.5, 0.5])
    # The vote of the second: 0.5·-2 + 0.25·3 - 0.25·1 = -0.5. Of the last: 0.5 - 0.25 = 0.25.
    expected = [[0, (0.5 * -2 + 0.25 * -1) / 0.75, (0.5 * 4 + 0.25 * 2 + 0.25) / 1, 3, 1, 0.5]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_density_counts_the_rows_that_an_adapter_has(runs: dict[str, Path], tmp_path: Path) -> None:
    combine([runs["q"]], tmp_path / "whole")
    combine([runs["q"], runs["q"]], tmp_path / "ties", how="ties", density=0.25)
    merged, ties, before = weights(tmp_path / "whole"), weights(tmp_path / "ties"), base_weights(runs["q"])
    name = "blocks.11.attn.qkv.weight"
    # k and v stay as they are, but for the rounding of their magnitudes to f32
    torch.testing.assert_close(merged[name][192:], before[name][192:], rtol=4e-7, atol=0)
    assert torch.equal(ties[name][192:], before[name][192:])
    kept = [(ties[one] - before[one])[:192] != 0 for one in ("blocks.10.attn.qkv.weight", name)]
    assert float(torch.stack(kept).double().mean()) == pytest.approx(0.25, abs=0.005)


def test_a_wrong_election_is_found(monkeypatch: pytest.MonkeyPatch, runs: dict[str, Path], tmp_path: Path) -> None:
    monkeypatch.setattr("ftx.merging.combine_adapters.elected", lambda changes, *_: 1.1 * changes[0])
    with pytest.raises(GateFailed):
        combine([runs["dora"], runs["lora"]], tmp_path / "out", how="ties")
    assert not (tmp_path / "out").exists()


def test_a_wrong_merge_is_found(monkeypatch: pytest.MonkeyPatch, runs: dict[str, Path], tmp_path: Path) -> None:
    """By the base with the adapters beside it, should the layers' own proofs not see it."""
    monkeypatch.setattr("ftx.merging.combine_adapters.layer_error", lambda *_: 0.0)
    monkeypatch.setattr(
        "ftx.merging.combine_adapters.rounded", lambda weight_OI, _: (1.001 * weight_OI).astype(np.float32)
    )
    with pytest.raises(GateFailed, match="with its adapters"):
        combine([runs["dora"]], tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "settings", "error", "said"),
    [
        (("dora", "lora"), {"shares": [0.7, 0.7]}, InputError, "add up to 1"),
        (("dora", "lora"), {"shares": [1.0]}, InputError, "one number above 0 for each"),
        (("dora", "lora"), {"shares": [1.0, 0.0]}, InputError, "one number above 0 for each"),
        (("dora", "lora"), {"shares": [1.5, -0.5]}, InputError, "one number above 0 for each"),
        (("dora", "lora"), {"shares": [0.7, 0.30001]}, InputError, "add up to 1"),
        (("dora", "lora"), {"how": "ties", "density": 1.01}, InputError, "density"),
        (("dora", "fewer"), {}, AdapterError, "same number of classes"),
        (("dora", "other"), {}, MergeError, "the base must be the one"),
        (("linear",), {}, AdapterError, "must have an adapter"),
        (("dora",), {"labels": ["a"]}, InputError, "--labels must not be given for an adapter of a run"),
        (("dora", "lora"), {"how": "ties", "density": 0}, InputError, "density"),
        ((), {}, InputError, "one number above 0|at least one adapter must be given"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    runs: dict[str, Path],
    tmp_path: Path,
    names: tuple[str, ...],
    settings: dict[str, list[float]],
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error, match=said):
        combine([runs[name] for name in names], tmp_path / "out", **settings)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()


def test_as_many_labels_of_other_names_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs["lora"], tmp_path / "other"))
    document = (other / "run.json").read_text()
    (other / "run.json").write_text(document.replace('"amber"', '"scratch"'))
    with pytest.raises(MergeError, match="trained for the same task and labels") as caught:
        combine([runs["dora"], other], tmp_path / "out")
    assert caught.value.where == str(other)
    assert caught.value.found == f"scratch, blue, green, …, {runs['dora']} has amber, blue, green, …"
    assert not (tmp_path / "out").exists()


def edited(run: Path, folder: Path, change: Callable[[Any], object]) -> Path:
    """A copy of a run whose run.json says something else."""
    copy = Path(shutil.copytree(run, folder))
    edit_json(copy / "run.json", change)
    return copy


def as_multilabel(document: Any) -> None:
    """The same names, each decided by itself from a threshold of its own on."""
    names = document["labels"]["names"]
    document["labels"] |= {"groups": [], "singles": names}
    document |= {"task": "multilabel", "thresholds": {"labels": dict(zip(names, (0.2, 0.4, 0.6, 0.8), strict=True))}}


def test_runs_of_another_task_are_refused_though_their_labels_have_the_same_names(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    other = edited(runs["lora"], tmp_path / "other", as_multilabel)
    with pytest.raises(MergeError, match="trained for the same task and labels") as caught:
        combine([runs["dora"], other], tmp_path / "out")
    assert caught.value.where == str(other)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("mean", [0.5, 0.5, 0.4]), ("std", [0.5, 0.4, 0.5]), ("interpolation", "bilinear"), ("resize", 40)],
)
def test_runs_on_images_that_were_prepared_otherwise_are_refused(
    key: str, value: object, runs: dict[str, Path], tmp_path: Path
) -> None:
    other = edited(runs["lora"], tmp_path / "other", lambda document: document["preprocess"].update({key: value}))
    for pair in ([runs["dora"], other], [runs["dora"], runs["lora"], other]):
        with pytest.raises(MergeError, match="one size and one normalisation"):
            combine(pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_thresholds_stay_those_of_a_run_that_is_merged_alone_only(runs: dict[str, Path], tmp_path: Path) -> None:
    run = edited(runs["dora"], tmp_path / "run", as_multilabel)
    elsewhere = Path(shutil.copytree(runs["lora"] / "trained", tmp_path / "elsewhere"))
    thresholds = {"amber": 0.2, "blue": 0.4, "green": 0.6, "red": 0.8}
    for number, (paths, kept) in enumerate([([run], thresholds), ([run, elsewhere], {})]):
        listener = Listener()
        combine(paths, tmp_path / str(number), progress=listener)
        meaning = json.loads((tmp_path / str(number) / "config.json").read_text())["ftx"]
        assert (meaning["task"], meaning["thresholds"]["labels"]) == ("multilabel", kept)
        assert [text for text in listener.said if "thresholds were tuned" in text] == (
            [] if kept else ["thresholds were tuned for each adapter separately: the merged model uses 0.5"]
        )


def folder_of(run: Path, folder: Path, side: int) -> Path:
    """The base of a run as a folder of timm whose images are normalised otherwise."""
    module = build(SETTINGS["name"], weights="none", num_classes=0, image_size=side, seed=0).module
    folder.mkdir()
    save_file(module.state_dict(), folder / "model.safetensors")
    config = {"architecture": SETTINGS["name"], "num_classes": 0, "model_args": {"img_size": side}}
    stated = {"input_size": [3, side, side], "mean": [0.1, 0.2, 0.3], "std": [0.6, 0.7, 0.8], "crop_pct": 1.0}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": stated}))
    return folder


@pytest.mark.representative
def test_images_go_into_a_named_base_as_into_the_run(runs: dict[str, Path], tmp_path: Path) -> None:
    """At another size, which the run was not trained at, as the base says."""
    pre = Run.open(runs["dora"]).manifest.preprocess
    base = str(folder_of(runs["dora"], tmp_path / "base", 224))
    for size, side in (("auto", 32), (32, 32), (48, 48), ("48x32", (48, 32))):
        found = open_adapters([runs["dora"]], base=base, image_size=size, head=False)[0].preprocess
        if side == 32:
            assert found == pre
        else:
            assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.6, 0.7, 0.8))
            assert (found.height, found.width) == (side if isinstance(side, tuple) else (side, side))
    report = combine([runs["dora"]], tmp_path / "out", base=base)
    assert (report.image_size, report.base) == (32, base)
    stated = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert (stated["mean"], stated["std"], stated["input_size"]) == ([*pre.mean], [*pre.std], [3, 32, 32])


@pytest.mark.parametrize("words", [{"image_size": 48}, {"image_size": "32x48"}, {"weights": "other.safetensors"}])
def test_a_run_alone_says_its_size_and_weights(words: dict[str, Any], runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--weights and --image-size must be used with --base"):
        combine([runs["dora"]], tmp_path / "out", **words)
    with pytest.raises(InputError, match="--weights must be the weights that the adapter was trained on"):
        combine([runs["dora"]], tmp_path / "out", base=str(SETTINGS["name"]), weights="none")
    assert combine([runs["dora"]], tmp_path / "out", image_size=32).image_size == 32


def test_the_report_says_what_was_laid_over_what(runs: dict[str, Path], tmp_path: Path) -> None:
    paths = [runs["lora"], runs["dora"] / "trained", runs["q"]]
    report = combine(paths, tmp_path / "out", shares=[0.5, 0.2, 0.3])
    assert (report.adapters, report.shares) == ([str(path) for path in paths], [0.5, 0.2, 0.3])
    assert (report.how, report.density, report.base) == ("linear", None, SETTINGS["name"])
    assert (report.image_size, report.labels, report.path) == (32, 4, str(tmp_path / "out"))
    assert report.size_bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert report.max_relative_error == max(proof.relative_error for proof in report.layers)
    assert len({proof.layer for proof in report.layers}) == len(report.layers) == 8
    assert 0 < report.max_logit_difference < report.logit_bound
    assert report.max_logit_difference != report.max_relative_error
    assert json.loads((tmp_path / "out" / "merge.json").read_text()) == json.loads(report.model_dump_json())
    bare = combine(paths, tmp_path / "bare", head=False, how="ties", density=0.3)
    assert (bare.how, bare.density, bare.labels) == ("ties", 0.3, 0)
    assert bare.shares == pytest.approx([1 / 3] * 3)


def test_a_folder_that_exists_is_left_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="must not exist yet"):
        combine([runs["dora"]], tmp_path / "out")


def test_adapters_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    report = compare([runs["dora"], runs["lora"], runs["dora"]])
    for name in ("dora", "lora"):
        combine([runs[name]], tmp_path / name)
    base = base_weights(runs["dora"])
    for index, name in enumerate(("dora", "lora")):
        merged = weights(tmp_path / name)
        for layer in report.layers:
            key, norm = f"{layer.layer}.weight", layer.norms[index]
            # f32 rounding of the stored weights
            assert float((merged[key] - base[key]).norm()) == pytest.approx(norm or 0.0, abs=1e-5)
    assert [one.layers for one in report.adapters] == [8, 4, 8]
    same = next(one for one in report.overlaps if (one.first, one.second) == (0, 2))
    assert same.inputs == pytest.approx(1)
    assert same.outputs == pytest.approx(1)


def test_overlap_of_subspaces() -> None:
    rng = np.random.default_rng(0)
    first = LowRankWeights(rng.standard_normal((3, 40)), rng.standard_normal((30, 3)), 2.0)
    inside = LowRankWeights(first.lora_A_RI[:2] @ np.eye(40), first.lora_B_OR[:, :2], 1.0)
    reads, writes = first.directions()
    np.testing.assert_allclose(reads.T @ reads, np.eye(3), atol=1e-12)
    assert subspace_overlap(reads, inside.directions()[0]) == pytest.approx(1)
    assert subspace_overlap(writes, inside.directions()[1]) == pytest.approx(1)
    away = LowRankWeights(np.linalg.svd(first.lora_A_RI)[2][3:5], first.lora_B_OR[:, :2], 1.0)
    assert subspace_overlap(reads, away.directions()[0]) == pytest.approx(0, abs=1e-12)
    dead = LowRankWeights(first.lora_A_RI, np.zeros((30, 3)), 1.0)
    assert dead.directions()[0].shape == (40, 0)
