"""A small run, made by hand: a tiny ViT with seeded weights and images of coloured stripes.

The weights are drawn larger than timm draws them, so that the logits differ from image to image.
"""

from __future__ import annotations

import re
import shutil
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.conftest import Listener, made_once, one_int8_setting
from tests.gates.faults import keep, vouch
from torch import nn

from ftx.backbones.build import Backbone, build
from ftx.core.files import sha256_file
from ftx.data.dataset import SPLITS, Entry, Split
from ftx.data.preprocess import Preprocess, normalise
from ftx.evaluating import ParityReport, validate
from ftx.exporting import ExportReport, export
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import DENSE, IRS
from ftx.runs.dense import DenseConfig, save_dense
from ftx.runs.new_run import new_run, seal
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning

ARCHITECTURE = "test_vit"  # six blocks, 64 wide
# A space and an umlaut: the names that formats stumble over.
LABELS = Labels.multiclass(["red panda", "red_panda", "größe"])
PREPROCESS = Preprocess(
    height=32, width=32, resize=32, interpolation="bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
RECIPE = Recipe.model_validate(
    {
        "data": {"image_size": 32},
        "model": {"name": ARCHITECTURE, "weights": "none", "peft": "none"},
    }
)
MODEL_CARD = "# A model\n\nOf stripes.\n\n## Use\n\nWith timm.\n\n## Verdict of others\n\nNone.\n"
IMAGES_A_CLASS: dict[Split, int] = {"train": 8, "val": 4, "test": 30}


def tiny_backbone() -> Backbone:
    """A ViT-Tiny as full fine-tuning might leave it, seeded."""
    backbone = build(RECIPE.model.name, weights="none", num_classes=len(LABELS), image_size=32, seed=RECIPE.seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    backbone.module.requires_grad_(False)
    return backbone


def make_images(root: Path) -> tuple[Entry, ...]:
    """Noise with a stripe pattern a class; sizes differ, the short side never below the network's."""
    generator = np.random.default_rng(0)
    entries: list[Entry] = []
    for split in SPLITS:
        for index, name in enumerate(LABELS.names):
            for number in range(IMAGES_A_CLASS[split]):
                height, width = generator.integers(32, 65, size=2)
                pixels = generator.integers(0, 120, size=(height, width, 3), dtype=np.uint8)
                pixels[:: index + 2, :, index] += 120
                path = root / split / name / f"{number:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
                entries.append(Entry(path.relative_to(root).as_posix(), sha256_file(path), (name,), split))
    return tuple(entries)


def make_run(folder: Path) -> Run:
    """A run of full fine-tuning, merged."""
    entries = make_images(folder / "data")
    backbone = tiny_backbone()
    module = backbone.module
    with new_run(folder / "run") as new:
        staged = new.folder
        (staged / "trained").mkdir()
        save_file(module.state_dict(), staged / "trained" / "model.safetensors", metadata={"format": "pt"})
        (staged / "recipe.yaml").write_text(RECIPE.dumps())
        manifest = Manifest(
            task="multiclass",
            model=ARCHITECTURE,
            architecture=ARCHITECTURE,
            method="full",
            base_digest=backbone.digest,
            labels=LABELS,
            preprocess=PREPROCESS,
            data_root=str(folder / "data"),
        )
        seal(staged, manifest, entries)
    run = Run.open(folder / "run")
    with run.add(DENSE) as staged:
        save_dense(module, DenseConfig(ARCHITECTURE, Meaning(labels=LABELS), PREPROCESS), staged)
    return run


@dataclass(frozen=True)
class Exported:
    """A run with every artifact, and what its trained model answers in torch f32."""

    run: Run
    report: ExportReport
    int8: ExportReport
    module: nn.Module

    def ir(self, precision: str) -> Path:
        """The folder of one precision."""
        return self.run.require(IRS[precision])

    def normalised(self, count: int) -> np.ndarray:
        """Seeded pixels of the network's size, normalised. Shape: [N, 3, H, W]."""
        return normalise(self.pixels(count), PREPROCESS)

    def pixels(self, count: int) -> np.ndarray:
        """Seeded pixels of the network's size. Shape: [N, H, W, 3]."""
        return np.random.default_rng(1).integers(0, 256, size=(count, 32, 32, 3), dtype=np.uint8)

    def logits(self, images_NCHW: np.ndarray) -> np.ndarray:
        """The oracle."""
        with torch.inference_mode():
            return self.module(torch.from_numpy(images_NCHW)).numpy()

    @staticmethod
    def bound(logits_NC: np.ndarray) -> float:
        """What f32 rounding may move a logit by when the operations come in another order (idea 5 of the design)."""
        return 1e-4 * max(1.0, float(np.abs(logits_NC).max()))


def make_exported(folder: Path) -> None:
    """A run in both formats, OpenVINO in every precision, and a report of each export beside it."""
    with chdir(folder), one_int8_setting():  # a new run writes runs/latest below the current folder
        run = make_run(folder)
        reports = {
            "report": export(run, formats=["onnx", "openvino"], precisions=["fp32", "fp16"]),
            "int8": export(run, formats=["openvino"], precisions=["int8"]),
        }
    for name, report in reports.items():
        (folder / f"{name}.json").write_text(report.model_dump_json())


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Not to be written to: it is one for all workers."""
    folder = made_once(tmp_path_factory, "exported", make_exported, copy=False)
    report, int8 = (
        ExportReport.model_validate_json((folder / f"{name}.json").read_text()) for name in ("report", "int8")
    )
    return Exported(Run.open(folder / "run"), report, int8, tiny_backbone().module)


@dataclass(frozen=True)
class Validated:
    """A copy of the run after ``ftx validate``, what was reported, and who listened."""

    run: Run
    report: ParityReport
    listener: Listener

    def copy(self, folder: Path) -> Run:
        """One to spoil."""
        return Run.open(shutil.copytree(self.run.path, folder / "run"))


@pytest.fixture(scope="session")
def validated(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Validated:
    """On four held-out images of each class, with a model card as ``ftx merge`` leaves one beside the dense model."""
    path = Path(shutil.copytree(exported.run.path, tmp_path_factory.mktemp("validated") / "run"))
    keep(path, "onnx", "openvino/fp32", "openvino/fp16")
    lines = (path / "data.jsonl").read_text().splitlines(keepends=True)
    (path / "data.jsonl").write_text("".join(line for line in lines if re.search(r"/0[0-3]\.png", line)))
    vouch(path)
    run, listener = Run.open(path), Listener()
    run.write_file(f"{DENSE}/README.md", MODEL_CARD.encode())
    return Validated(run, validate(run, progress=listener), listener)


@pytest.fixture
def fresh_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with trained/ and dense/ alone, the same to the byte as the exported one."""
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path)
