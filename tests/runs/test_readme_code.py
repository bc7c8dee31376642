"""Model cards: the hub's library reads their front matter, and their code runs and answers as the run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file
from tests.conftest import answers_of_card

import ftx
from ftx.core.errors import RunError
from ftx.data.preprocess import load_pixels, normalise
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import DENSE
from ftx.runs.run import Run
from ftx.runs.trained import load_trained
from ftx.training import train

pytestmark = [
    # of torch, for how timm resamples swin's table
    pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
]

# Names that YAML, Markdown or Python could take for something of their own.
NAMES = ('it\'s: "a" | b', "--- `x` ---", "größe {0} <b> \\n", "#4, [c]*")
TINY = {"name": "vit_tiny_patch16_224", "weights": "none", "image_size": 32}
RUNS: dict[str, dict[str, object]] = {
    "dora": TINY | {"peft": "dora", "targets": "q,fc1"},
    "linear": TINY | {"peft": "none", "freeze_backbone": True},
    "full": TINY | {"peft": "none"},
    # qkv is bypassed by timm unless it is told otherwise
    "bypassed": {"name": "eva02_tiny_patch14_224", "weights": "none", "image_size": 28, "peft": "lora"},
    "embedded": {"name": "dinov2-small", "image_size": 28, "peft": "lora"},
    # whose windows are others at another size
    "of another size": {
        "name": "swin_s3_tiny_224",
        "weights": "none",
        "image_size": 128,
        "peft": "lora",
        "targets": "q,proj",
    },
    "convolutional": {"name": "resnet18", "weights": "none", "image_size": 64, "freeze_backbone": True},
    "pyramid": {"name": "pvt_v2_b0", "weights": "none", "image_size": 64, "peft": "dora"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images") / "grey: #1"
    generator = np.random.default_rng(0)
    for level, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.normal(60 + 40 * level, 20, (40, 52, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def recipe(images: Path, **settings: object) -> Recipe:
    return Recipe.named({"path": images, "epochs": 1, "batch_size": 8, "lr": 5e-3, "precision": "f32", **settings})


QUICK = ("dora", "linear", "bypassed")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RUNS]
)
def run(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        made = Run.open(train(recipe(images, **RUNS[request.param]), out=root / "run").run)
        merge(made)
    return made


def test_the_code_of_both_cards_answers_as_the_run_does(run: Run, images: Path) -> None:
    pre = run.manifest.preprocess
    image = images / NAMES[0] / "0.png"
    with torch.inference_mode():
        expected = load_trained(run)(torch.from_numpy(normalise(load_pixels(image, pre)[None], pre))).numpy()
    label = run.manifest.labels.names[int(expected.argmax())]
    answers = [*answers_of_card(run.path / "trained", image), *answers_of_card(run.path / "dense", image)]
    assert len(answers) == 3
    for logits, said in answers:
        # f32: peft sums the adapter's product, ftx its weight; through the layers of a random network
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
        assert said == label


def test_the_hub_reads_the_front_matter(run: Run, images: Path) -> None:
    name, method = run.manifest.model, run.manifest.method
    epoch = json.loads((run.path / "reports" / "train.jsonl").read_text())
    for artifact in ("trained", "dense"):
        card = ModelCard.load(run.path / artifact / "README.md")
        data = card.data
        assert data.library_name == ("peft" if artifact == "trained" and method in ("lora", "dora") else "timm")
        assert data.pipeline_tag == "image-classification"
        assert data.tags == ["image-classification", "timm", method, "ftx"]
        assert data.metrics == ["accuracy"]
        origin = ("facebook/dinov2-small", "apache-2.0") if name == "dinov2-small" else (None, None)
        assert (data.base_model, data.license) == origin
        assert data.model_name == f"{name}-{method}"
        (accuracy,) = [one for one in data.eval_results if one.metric_type == "accuracy"]
        assert (accuracy.dataset_name, accuracy.dataset_split) == (images.name, "validation")
        assert accuracy.metric_value == pytest.approx(epoch["accuracy"], abs=5e-5)  # told in four digits
        assert f"| `accuracy` | {accuracy.metric_value:.4f} |" in card.text
        assert str(images) not in card.content
        assert card.text.count("\n| ") > len(NAMES)


def test_a_card_is_hashed_but_nothing_hangs_on_it(run: Run) -> None:
    digest = run.manifest.digest(DENSE)
    card = run.path / "trained" / "README.md"
    before = card.read_bytes()
    assert "trained/README.md" in run.manifest.files
    card.write_bytes(before + b"altered\n")
    with pytest.raises(RunError, match="changed since ftx wrote it"):
        run.require(DENSE)
    card.write_bytes(before)
    assert run.require(DENSE).is_dir()
    merge(run, data=None)
    assert run.manifest.digest(DENSE) == digest


@pytest.mark.representative
def test_the_same_recipe_gives_the_same_card(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cards: list[bytes] = []
    for name in ("first", "second"):
        made = Run.open(train(recipe(images, **RUNS["dora"]), out=tmp_path / name).run)
        merge(made)
        cards.append(
            (made.path / "trained" / "README.md").read_bytes() + (made.path / "dense" / "README.md").read_bytes()
        )
    assert cards[0] == cards[1]


def test_of_a_file_the_origin_is_not_known(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), file)
    made = Run.open(train(recipe(images, **RUNS["dora"] | {"weights": file}), out=tmp_path / "run").run)
    card = ModelCard.load(made.path / "trained" / "README.md")
    assert (card.data.base_model, card.data.license) == (None, None)
    assert made.manifest.base_digest in card.text
    assert "weights: mine.safetensors" in card.text
    assert str(tmp_path) not in card.content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", ("apache-2.0", None)),
        ("vit_small_patch16_dinov3.lvd1689m", ("other", "dinov3-license")),
    ],
)
def test_weights_of_the_hub_are_named_with_their_tag_and_licence(
    images: Path, tmp_path: Path, name: str, licence: tuple[str, str | None]
) -> None:
    """From the hub's cache, filled here with random weights: the card's code then needs timm and peft alone."""
    snapshot = tmp_path / "hub" / f"models--timm--{name}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    bare = name.partition(".")[0]
    torch.manual_seed(0)
    save_file(timm.create_model(bare).state_dict(), snapshot / "model.safetensors")
    environment = os.environ | {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join((str(Path(ftx.__file__).parents[1]), str(Path(__file__).parents[2]))),
    }
    (tmp_path / "recipe.yaml").write_text(recipe(images, name=bare, image_size=32).dumps(), encoding="utf-8")
    program = f"""if True:
        import torch
        from pathlib import Path
        from ftx.data.preprocess import load_pixels, normalise
        from ftx.recipe.schema import Recipe
        from ftx.runs.run import Run
        from ftx.training import train
        from ftx.runs.trained import load_trained
        from tests.conftest import answers_of_card
        torch.set_num_threads(1)
        run = Run.open(train(Recipe.load(Path("recipe.yaml")), out=Path("run")).run)
        image, pre = Path({str(images / NAMES[0] / "0.png")!r}), run.manifest.preprocess
        expected = load_trained(run)(torch.from_numpy(normalise(load_pixels(image, pre)[None], pre)))
        ((logits, _),) = answers_of_card(run.path.absolute() / "trained", image)
        print((expected - torch.from_numpy(logits)).abs().max().item())"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4  # f32, as above
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").model.name == name
    card = ModelCard.load(tmp_path / "run" / "trained" / "README.md")
    assert card.data.base_model == f"timm/{name}"
    assert (card.data.license, card.data.license_name) == licence
    assert f'timm.create_model("{name}", pretrained=True' in card.text
    assert "from ftx" not in card.text
    assert ("qkv_bias_separate" in card.text) == (bare == "vit_small_patch16_dinov3")
