"""The head first: it begins as the linear probe of the frozen features, and linear probing is that probe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ftx.backbones.build import Backbone
from ftx.backbones.layer_roles import head_names
from ftx.core.byte_store import ByteStore
from ftx.core.progress import SILENT
from ftx.data.loader import TrainingImages
from ftx.data.preprocess import Preprocess, load_pixels, normalise
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import TrainRecipe
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.training import dry_run, train
from ftx.training.class_balance import Balance
from ftx.training.frozen_part import FrozenPart, FrozenTrunk
from ftx.training.head_start import HeadStart, bytes_to_fit, mean_loss, start_head
from ftx.training.inputs import FeatureInputs, ImageInputs, Inputs
from ftx.training.step import Training

PRE = Preprocess(32, 32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CPU = torch.device("cpu")
IMAGES, WIDTH, CLASSES = 600, 500, 600
FLAT = Labels.multiclass(("a", "b", "c"))
TREE = Labels(
    ("animal", "plant", "tall", "cat", "dog"),
    groups=(("animal", "plant"), ("cat", "dog")),
    singles=("tall",),
    parents={"cat": "animal", "dog": "animal"},
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("data")
    found = [root / f"{number:02}.png" for number in range(36)]
    for number, path in enumerate(found):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        coarse[:, number % 3] //= 2
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    return found


def truth(labels: Labels, count: int) -> np.ndarray:
    targets_NC = np.zeros((count, len(labels)), np.float32)
    for row in range(count):
        carried = [labels.names[row % 3]] if labels is FLAT else [("cat", "dog", "plant")[row % 3]]
        for name in [*carried, *(labels.parents[one] for one in carried if one in labels.parents)]:
            targets_NC[row, labels.index(name)] = 1
        if "tall" in labels.names:
            targets_NC[row, labels.index("tall")] = row % 2
    return targets_NC


def gradient(module: nn.Module, labels: Labels, images_N3HW: Tensor, targets_NC: np.ndarray) -> list[Tensor]:
    """Of the mean loss, to the head's parameters."""
    heads = [module.get_submodule(name) for name in head_names(module)]
    for head in heads:
        head.requires_grad_(True)
        head.zero_grad()
    logits_NC = module.eval()(images_N3HW)
    mean_loss(logits_NC.double(), torch.from_numpy(targets_NC).double(), labels).backward()
    return [one.grad for head in heads for one in head.parameters() if one.grad is not None]


class Exact(FrozenPart):
    """Keeps f32, so that the equation of the head's minimum holds for the model and not for rounded features alone."""

    def __init__(self, frozen: FrozenTrunk, store: ByteStore) -> None:
        super().__init__(frozen, store)
        self.dtype = torch.float32


@pytest.fixture
def store() -> Iterator[ByteStore]:
    with ByteStore(None, 1e9) as made:
        yield made


def started(
    module: nn.Module, labels: Labels, paths: list[Path], kind: str, store: ByteStore
) -> tuple[HeadStart | None, Inputs]:
    targets_NC = truth(labels, len(paths))

    def inputs(chosen: slice) -> Inputs:
        images = TrainingImages(paths[chosen], targets_NC[chosen], PRE, augment="none")
        if kind == "images":
            return ImageInputs(module, images, CPU)
        frozen = FrozenTrunk(Backbone(module, "", "", PRE), {"head": 0, "blocks": 2}[kind], bf16=False)
        return FeatureInputs(Exact(frozen, store), images, views=1)

    known, held_out, task = (
        inputs(slice(0, 24)),
        inputs(slice(24, 36)),
        Multiclass(labels),
    )  # only its labels are read
    training = Training(module, task, known, held_out, TrainRecipe(), Balance(24), lr=0.0, bf16=False, seed=0)
    return start_head(training, SILENT), known


@pytest.mark.parametrize("labels", [FLAT, TREE], ids=["flat", "tree"])
@pytest.mark.parametrize("kind", ["images", "head", "blocks"])
def test_the_model_answers_as_the_probe_with_the_least_penalised_loss(
    paths: list[Path], labels: Labels, kind: str, store: ByteStore
) -> None:
    torch.manual_seed(0)
    module = timm.create_model("test_vit", img_size=32, num_classes=len(labels))
    found, _ = started(module, labels, paths, kind, store)
    assert found is not None
    images = torch.from_numpy(normalise(np.stack([load_pixels(path, PRE) for path in paths]), PRE))
    targets = truth(labels, len(paths))
    # At the minimum of loss + strength/2 |w|² of standardised features the gradient of the loss is -strength · w ·
    # deviation², where w is the weight of the features as they are.
    with torch.no_grad():
        features = module.forward_head(module.forward_features(images[:24]), pre_logits=True).double()
    deviation = features.std(0, correction=0)
    weight, bias = gradient(module, labels, images[:24], targets[:24])
    expected = -found.strength * module.head.weight.double() * deviation.square()
    # 1e-5 is where the solver stops (of standardised features); the rest is the rounding of an f32 network.
    assert ((weight.double() - expected) / deviation).abs().max() < 5e-5
    assert bias.abs().max() < 5e-5
    with torch.no_grad():
        said = mean_loss(module(images[24:]).double(), torch.from_numpy(targets[24:]).double(), labels)
    assert found.val_loss == pytest.approx(float(said), abs=1e-4)


def test_two_heads_whose_answers_are_averaged_are_one_probe(paths: list[Path], store: ByteStore) -> None:
    torch.manual_seed(0)
    module = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2, num_classes=3)
    found, inputs = started(module, FLAT, paths, "head", store)
    assert found is not None
    images = torch.from_numpy(normalise(np.stack([load_pixels(path, PRE) for path in paths[:24]]), PRE))
    with torch.no_grad():
        ((features, *_),) = inputs.batches(np.arange(24), 24, epoch=0)
        logits_NC = inputs.network(features)
        torch.testing.assert_close(logits_NC, module.eval()(images), rtol=0, atol=1e-4)
        # It is as sure of the truth as one head alone could be: the two hold one probe's columns.
        right = logits_NC.argmax(1).numpy() == truth(FLAT, 24).argmax(1)
    assert right.mean() > 0.8
    assert torch.equal(module.head.bias, module.head_dist.bias)


def test_a_head_that_reads_many_rows_of_an_image_stays(paths: list[Path], store: ByteStore) -> None:
    class Tokens(nn.Module):
        """Classifies each token, and averages."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(48, 3)

        def forward(self, images_N3HW: Tensor) -> Tensor:
            return self.head(images_N3HW.unflatten(3, (2, 16)).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)).mean(1)

    module, read = Tokens(), list[int]()
    module.head.register_forward_hook(lambda _head, inputs, _output: read.append(len(inputs[0])))
    found, _ = started(module, FLAT, paths, "images", store)
    assert (found, len(read)) == (None, 2)  # the first batch of each, though the training images are one batch


@pytest.mark.representative
def test_memory_of_a_fit_is_foreseen() -> None:
    """Of more labels than features, where the solver's memory of its steps is most of it."""
    script = f"""
import torch
from pathlib import Path
from ftx.tasks.labels import Labels
from ftx.training.head_start import Scale, fit
images, width, classes = {IMAGES}, {WIDTH}, {CLASSES}
labels = Labels.multiclass(tuple(map(str, range(classes))))
targets = torch.nn.functional.one_hot(torch.arange(images) % classes, classes).double()
fit(torch.zeros(8, 4).double(), targets[:8, :], labels, 1.0, torch.zeros(5, classes).double())
def status(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if key in line)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
before = status("VmRSS")
torch.manual_seed(0)
features = torch.randn(images, width).double() + targets[:, :width]
scaled = Scale.of(features).standardised(features)
weights = torch.zeros(width + 1, classes).double()
for strength in (1.0, 0.1, 0.01):
    weights = fit(scaled, targets, labels, strength, weights)
print(1024 * (status("VmHWM") - before))
"""
    taken = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
    module = nn.Module()
    module.head = nn.Linear(WIDTH, CLASSES)
    foreseen = bytes_to_fit(module, IMAGES, CLASSES)
    assert taken / 1.2 < foreseen < 2 * taken  # allocators keep some of what is freed


def test_a_head_that_is_no_linear_layer_stays(paths: list[Path], store: ByteStore) -> None:
    module = timm.create_model("test_vit", img_size=32, num_classes=3)
    module.head = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 3))
    before = [parameter.clone() for parameter in module.parameters()]
    found, _ = started(module, FLAT, paths, "images", store)
    assert found is None
    assert all(torch.equal(*pair) for pair in zip(before, module.parameters(), strict=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of coloured noise."""
    root = tmp_path_factory.mktemp("images")
    for number in range(60):
        name = FLAT.names[number % 3]
        pixels = np.random.default_rng(number).integers(0, 160, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 3] += 60
        (root / name).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def recipe(folders: Path, **more: object) -> Recipe:
    flags = {"data.path": str(folders), "model.name": "test_vit", "model.weights": "none", "data.image_size": "32"}
    return Recipe.build(
        None, (), flags | {"train.precision": "f32"} | {k.replace("__", "."): v for k, v in more.items()}
    )


def test_linear_probing_is_the_solve_and_takes_no_epochs(folders: Path, tmp_path: Path) -> None:
    linear = {"model__peft": "none", "model__freeze_backbone": True, "train__head_init": "probe"}
    found = train(recipe(folders, **linear), tmp_path / "run")
    assert (found.epochs, found.best_epoch) == (1, 1)
    assert found.accuracy > 0.9
    assert dry_run(recipe(folders, **linear)).epochs == 1
    again = train(recipe(folders, **linear), tmp_path / "again")
    assert again.loss == found.loss


def test_adapters_go_on_from_the_probe(folders: Path, tmp_path: Path) -> None:
    """With a rate of next to nothing the first epoch is the probe's own."""
    still = {"model__peft": "lora", "train__lr": 1e-9, "train__epochs": 1, "train__head_init": "probe"}
    found = train(recipe(folders, **still), tmp_path / "lora")
    linear = {"model__peft": "none", "model__freeze_backbone": True, "train__head_init": "probe"}
    probe = train(recipe(folders, **linear), tmp_path / "linear")
    # Fitted to images as they are, though steps vary them; rounded elsewhere, and one step further.
    assert found.accuracy == probe.accuracy
    assert found.loss == pytest.approx(probe.loss, rel=1e-3)
