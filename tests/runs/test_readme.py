"""What a model card says and how its code answers, of models whose heads were written by hand: no training."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from tests.conftest import answers_of_card

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import attach
from ftx.adapters.trainable_model import TrainableModel, prepare
from ftx.data.dataset import Dataset, Entry, Split
from ftx.recipe.schema import Recipe
from ftx.recipe.strict_yaml import parse_yaml
from ftx.runs.new_run import new_run, seal
from ftx.runs.readme import KeptEpoch, MergeProof, write_combined_card, write_dense_card, write_trained_card
from ftx.runs.readme_code import trained_code
from ftx.runs.run import Run
from ftx.runs.run_json import InitialWeights, Manifest, RecoverRecord
from ftx.runs.trained import save_trained
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning
from ftx.tasks.task_names import TASK_FACTS, TaskName
from ftx.tasks.thresholds import Thresholds

TINY = {"name": "test_vit", "weights": "none", "image_size": 32}
LINEAR = TINY | {"peft": "none", "freeze_backbone": True}
THREE = Labels.multiclass(("a", "b", "c"))
SINGLES = Labels(("a", "b", "c"), singles=("a", "b", "c"))
# b, and below it c or d.
TREE = Labels(("a", "b", "c", "d"), groups=(("a", "b"), ("c", "d")), parents={"c": "b", "d": "b"})
THRESHOLDS = Thresholds({"a": 0.9, "b": 0.1, "c": 0.5}, 0.5)
PROOF = MergeProof(
    layers=0, relative_error=0.0, layer_bound=1e-6, logit_difference=1e-7, logit_bound=1e-4, images="3 images"
)


def of(labels: Labels = THREE, **settings: object) -> tuple[Recipe, TrainableModel]:
    recipe = Recipe.named(LINEAR | settings)
    return recipe, prepare(recipe, len(labels))


def data(labels: Labels, root: Path) -> Dataset:
    """Three images of each label to train on, and two to choose by."""
    sides: tuple[Split, ...] = ("train", "train", "train", "val", "val")
    entries = [
        Entry(f"{row}-{number}.png", "0" * 64, (name,), side)
        for row, name in enumerate(labels.names)
        for number, side in enumerate(sides)
    ]
    return Dataset(root, labels, tuple(entries))


def kept(**metrics: float) -> KeptEpoch:
    return KeptEpoch(1, 2, "accuracy", {"accuracy": 0.75} | metrics, THRESHOLDS, interrupted=False)


def card(folder: Path, recipe: Recipe, prepared: TrainableModel, labels: Labels = THREE) -> ModelCard:
    write_trained_card(folder, recipe, prepared, data(labels, folder), kept())
    return ModelCard.load(folder / "README.md")


def row(text: str, name: str) -> str:
    """The second cell of a row of a table."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return line.split(" | ")[1].removesuffix(" |")


def recipe_of(text: str) -> Mapping[str, object]:
    document = parse_yaml(text.partition("```yaml\n")[2].partition("```")[0])
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("task", "labels", "bias", "answer"),
    [
        ("multiclass", THREE, [0.5, 2.0, -2.0], "b"),
        # Scores of 0.88, 0.12 and 0.62, against thresholds of 0.9, 0.1 and 0.5.
        ("multilabel", SINGLES, [2.0, -2.0, 0.5], "['b', 'c']"),
        ("hierarchical", TREE, [0.0, np.log(3), 0.0, np.log(4)], "{'a': 0.25, 'b': 0.75, 'c': 0.2, 'd': 0.8}"),
    ],
)
def test_the_code_of_a_card_reads_the_logits_of_its_task(
    task: TaskName, labels: Labels, bias: list[float], answer: str, tmp_path: Path
) -> None:
    recipe, prepared = of(labels, task=task)
    head = prepared.backbone.module.get_submodule("head")
    head.weight.data.zero_()
    head.bias.data = torch.tensor(bias, dtype=torch.float32)
    save_trained(prepared, tmp_path / "trained")
    told = card(tmp_path / "trained", recipe, prepared, labels)
    image = tmp_path / "image.png"
    Image.fromarray(np.full((40, 50, 3), 90, dtype=np.uint8)).save(image)
    ((logits, said),) = answers_of_card(tmp_path / "trained", image)
    np.testing.assert_allclose(logits, [bias], atol=1e-6)
    if task == "hierarchical":
        scores, expected = eval(said), eval(answer)
        assert scores == pytest.approx(expected, abs=1e-6)
    else:
        assert said == answer
    assert row(told.text, "task") == f"{task}, {len(labels)} labels"
    assert ("gives whole paths of the label tree" in told.text) == (task == "hierarchical")
    assert f"This model {TASK_FACTS[task].predicts}. It has {len(labels)} labels." in told.text
    assert f"## Limitations\n\n- {TASK_FACTS[task].limits}\n" in told.text


def test_each_size_of_an_adapter_is_told_with_its_targets(tmp_path: Path) -> None:
    sizes = {"rank": {"q": 2, "v": 2, "fc1": 3}, "alpha": {"q": 8.0, "v": 8.0, "fc1": 5.0}}
    recipe, prepared = of(**TINY, freeze_backbone=False, peft="lora", targets="q,v,fc1", blocks="all", **sizes)
    told = card(tmp_path, recipe, prepared)
    assert row(told.text, "training method") == "LoRA in 12 layers; q, v: rank 2, alpha 8; fc1: rank 3, alpha 5"
    assert told.data.library_name == "peft"
    adapter = recipe_of(told.text)["adapter"]
    assert isinstance(adapter, dict)
    assert adapter["rank"] == sizes["rank"]


def test_the_recipe_of_a_card_speaks_of_what_was_done_and_of_no_path(tmp_path: Path) -> None:
    recipe, prepared = of(path=str(tmp_path))
    document = recipe_of(card(tmp_path, recipe, prepared).text)
    assert "adapter" not in document
    assert document["model"] == recipe.model.model_dump(mode="json")
    assert isinstance(document["data"], dict)
    assert "path" not in document["data"]


@pytest.mark.parametrize(
    ("weights", "architecture", "origin", "licence"),
    [
        ("none", "test_vit", None, (None, None)),
        ("auto", "test_vit.r160_in1k", "timm/test_vit.r160_in1k", ("apache-2.0", None)),
        (
            "auto",
            "vit_small_patch16_dinov3.lvd1689m",
            "timm/vit_small_patch16_dinov3.lvd1689m",
            ("other", "dinov3-license"),
        ),
    ],
)
def test_the_base_is_named_with_its_place_on_the_hub_and_its_licence(
    weights: str, architecture: str, origin: str | None, licence: tuple[str | None, str | None], tmp_path: Path
) -> None:
    recipe, prepared = of()
    recipe = recipe.replace(model={"weights": weights, "name": architecture})
    prepared = replace(prepared, backbone=replace(prepared.backbone, architecture=architecture))
    told = card(tmp_path, recipe, prepared)
    assert told.data.base_model == origin
    assert (told.data.license, told.data.license_name) == licence
    where = f"weights from [{origin}](https://huggingface.co/{origin})" if origin else "random weights"
    assert row(told.text, "base model") == f"timm's `{architecture}`, {where}"


@pytest.mark.parametrize("size", [32, "32x48"])
def test_the_code_for_weights_of_the_hub_builds_the_model_that_was_trained(size: int | str) -> None:
    """With timm alone, here without the hub: of this size, with this head."""
    recipe, prepared = of(image_size=size)
    recipe = recipe.replace(model={"weights": "auto", "name": "test_vit.r160_in1k"})
    prepared = replace(prepared, backbone=replace(prepared.backbone, architecture="test_vit.r160_in1k"))
    code = trained_code(recipe, prepared, Meaning(labels=THREE))
    (base,) = [line for line in code if line.startswith("base = ")]
    assert "pretrained=True" in base
    assert "import timm" in code
    assert not any("ftx" in line for line in code)
    scope: dict[str, object] = {"timm": timm}
    exec(base.replace("pretrained=True", "pretrained=False"), scope)
    built = scope["base"]
    assert isinstance(built, torch.nn.Module)
    shapes = {name: tensor.shape for name, tensor in prepared.backbone.module.state_dict().items()}
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == shapes


@pytest.mark.parametrize("size", [32, "32x48"])
def test_the_code_for_weights_that_travel_with_ftx_builds_with_ftx(size: int | str) -> None:
    recipe, prepared = of(image_size=size)
    code = trained_code(
        recipe.replace(model={"weights": "auto", "name": "dinov2-small"}), prepared, Meaning(labels=THREE)
    )
    (base,) = [line for line in code if line.startswith("base = ")]
    assert base.startswith(f'base = build("dinov2-small", weights="auto", num_classes=3, image_size={size!r}, seed=')
    assert "from ftx.backbones.build import build" in code


def test_only_where_timm_passes_qkv_by_the_code_says_otherwise() -> None:
    """eva computes qkv by its weight unless it is told to call the layer; a plain ViT always calls it."""
    spec = AdapterSpec("lora", {"q": 2}, {"q": 2.0})
    for name, arguments, needed in (
        ("eva02_tiny_patch14_224", {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 28}, True),
        ("test_vit", {"img_size": 32}, False),
    ):
        recipe, prepared = of()
        module = timm.create_model(name, num_classes=3, **arguments)
        layers = attach(module, spec, generator=torch.Generator())
        prepared = TrainableModel(replace(prepared.backbone, module=module), "lora", spec, tuple(layers))
        code = trained_code(recipe, prepared, Meaning(labels=THREE))
        assert any("qkv_bias_separate = True" in line for line in code) == needed
        opening = next(index for index, line in enumerate(code) if "PeftModel.from_pretrained" in line)
        assert not any("qkv_bias_separate" in line for line in code[opening:])


def test_names_are_shown_as_they_are_whatever_markdown_makes_of_their_characters(tmp_path: Path) -> None:
    names = ("größe 2", "a|b *c*", "<b>_x_ & $y$", "[d]#`e`~!")
    recipe, prepared = of(Labels.multiclass(names))
    text = card(tmp_path, recipe, prepared, Labels.multiclass(names)).text
    lines = text.partition("## Labels")[2].partition("## Training procedure")[0].strip().splitlines()[-len(names) :]
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    assert [html.unescape(name) for name, *_ in cells] == list(names)
    assert {tuple(counts) for _, *counts in cells} == {("3", "2")}
    assert cells[0][0] == names[0]  # what means nothing to Markdown stays as it is
    assert not set("|*<>_[]`~!$") & set("".join(name for name, *_ in cells))


def test_a_merged_backbone_without_a_head_is_offered_for_features(tmp_path: Path) -> None:
    for number, (meaning, task) in enumerate(
        ((Meaning(labels=THREE), "image-classification"), (None, "image-feature-extraction"))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_combined_card(folder, "test_vit", [("0.5 of", "a|b")], meaning, "Proved.")
        told = ModelCard.load(folder / "README.md")
        assert told.data.pipeline_tag == task
        assert told.data.tags == [task, "timm", "ftx"]
        assert row(told.text, "0.5 of") == "a&#124;b"
        assert ("## How to use" in told.text) == (meaning is not None)
        assert ("- Its accuracy was not measured." in told.text) == (meaning is not None)


def test_the_dense_card_holds_what_training_measured_where_its_card_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, prepared = of()
    dataset, epoch = data(THREE, tmp_path), kept(macro_f1=0.625)
    manifest = Manifest(
        task="multiclass",
        model="test_vit",
        architecture="test_vit",
        method="linear",
        base_digest=prepared.backbone.digest,
        labels=THREE,
        preprocess=prepared.backbone.preprocess,
        data_root=str(tmp_path),
    )
    for name in ("with", "without"):
        with new_run(tmp_path / name) as new:
            save_trained(prepared, new.folder / "trained")
            if name == "with":
                write_trained_card(new.folder / "trained", recipe, prepared, dataset, epoch)
            (new.folder / "recipe.yaml").write_text(recipe.dumps())
            seal(new.folder, manifest, dataset.entries)
        write_dense_card(tmp_path, Run.open(tmp_path / name), PROOF)
        told = ModelCard.load(tmp_path / "README.md")
        measured = {one.metric_type: one.metric_value for one in told.data.eval_results or []}
        assert measured == ({"accuracy": 0.75, "macro_f1": 0.625} if name == "with" else {})
        assert told.data.metrics == (["accuracy"] if name == "with" else None)
        assert ("| `macro_f1` | 0.6250 |" in told.text) == (name == "with")
        assert "by at most 1.0e-07 on 3 images (bound 1.0e-04)" in told.text


def run_of(root: Path, labels: Labels = THREE, **settings: object) -> Run:
    """A trained head, with its card, as a run."""
    recipe, prepared = of(labels, **settings)
    manifest = Manifest(
        task=recipe.task,
        model="test_vit",
        architecture="test_vit",
        method="linear",
        base_digest=prepared.backbone.digest,
        labels=labels,
        preprocess=prepared.backbone.preprocess,
        data_root=str(root),
    )
    dataset = data(labels, root)
    with new_run(root / "run") as new:
        save_trained(prepared, new.folder / "trained")
        write_trained_card(new.folder / "trained", recipe, prepared, dataset, kept())
        (new.folder / "recipe.yaml").write_text(recipe.dumps())
        seal(new.folder, manifest, dataset.entries)
    return Run.open(root / "run")


def test_layers_and_logits_have_each_their_bound_in_the_proof_of_a_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    proof = MergeProof(
        layers=7,
        relative_error=2.5e-9,
        layer_bound=3e-6,
        logit_difference=4.5e-7,
        logit_bound=1.7e-4,
        images="9 images",
    )
    write_dense_card(tmp_path, run_of(tmp_path), proof)
    (said,) = [line for line in (tmp_path / "README.md").read_text().splitlines() if "merged layers" in line]
    assert "Each of the 7 merged layers" in said
    assert "at most 2.5e-09 of the largest one (bound 3e-06). " in said
    assert "Its logits differ from those of the trained model by at most 4.5e-07 on 9 images (bound 1.7e-04)." in said


def test_the_dense_card_counts_the_images_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dense_card(tmp_path, run_of(tmp_path), PROOF)
    text = (tmp_path / "README.md").read_text()
    assert row(text, "task") == "multiclass, 3 labels"
    assert "| label | train | val |" in text
    assert {line.rpartition(" | 3 | 2 |")[0] for line in text.splitlines() if line.endswith(" | 3 | 2 |")} == {
        "| a", "| b", "| c"
    }  # fmt: skip
    assert "Each of the" not in text  # there are no layers to prove where nothing was folded in


def test_a_card_says_how_many_images_epochs_and_parameters_there_were(tmp_path: Path) -> None:
    recipe, prepared = of(epochs=9)
    dataset = data(THREE, tmp_path)
    save_trained(prepared, tmp_path)
    for interrupted, epochs in ((False, 9), (True, 6), (False, 1)):
        epoch = replace(kept(), number=min(4, epochs), epochs=epochs, interrupted=interrupted)
        write_trained_card(tmp_path, recipe, prepared, dataset, epoch)
        text = (tmp_path / "README.md").read_text()
        told = row(text, "epoch kept")
        assert told.startswith(f"{min(4, epochs)} of {epochs}, chosen by `accuracy`")
        assert ("and its mean over three epochs" in told) == (epochs > 1)
        assert told.endswith("; training was interrupted, the recipe has 9") == interrupted
        assert row(text, "images") == "9 train, 6 val"
        # A head of 64 inputs for three labels, with its bias; what else the file takes is its header.
        size_bytes = (tmp_path / "head.safetensors").stat().st_size
        assert row(text, "trained parameters") == f"195 ({size_bytes} bytes)"
        assert size_bytes > 4 * 195


def test_a_card_says_what_the_training_began_with_and_what_was_recovered(tmp_path: Path) -> None:
    recipe, prepared = of()
    dataset = data(THREE, tmp_path)
    begun = InitialWeights(trained="0123456789abcdef", labels_kept=2, labels_new=("c",))
    write_trained_card(tmp_path, recipe, prepared, dataset, kept(), init_from=begun)
    text = (tmp_path / "README.md").read_text()
    assert row(text, "initial weights") == (
        "`trained/` 0123456789ab… of another run, which has 2 of these 3 labels; new labels: c"
    )
    assert row(text, "epoch kept")
    none_new = begun.model_copy(update={"labels_kept": 3, "labels_new": ()})
    write_trained_card(tmp_path, recipe, prepared, dataset, kept(), init_from=none_new)
    assert row((tmp_path / "README.md").read_text(), "initial weights").endswith("which has 3 of these 3 labels")
    recovered = RecoverRecord(trained="0", steps=17, lr=0.5, error_before=0.375, error_after=0.125)
    write_trained_card(tmp_path, recipe, prepared, dataset, kept(), recovered)
    text = (tmp_path / "README.md").read_text()
    assert row(text, "recovery for int8") == (
        "17 steps with int8 rounding, from the weights of another run; error of a logit: 0.375 before, 0.125 after"
    )
    assert "| epoch kept |" not in text  # that is of the run before
