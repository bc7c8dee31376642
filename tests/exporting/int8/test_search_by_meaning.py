"""The search judges by what a run's labels mean and by the margin of its recipe, within its budget of work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op
from PIL import Image
from tests.conftest import Listener
from tests.exporting.conftest import ARCHITECTURE
from tests.exporting.int8.test_quantize import IMAGES, body, images, in_8_bits, weights

from ftx.core.files import sha256_file
from ftx.core.statistics import Paired
from ftx.data.dataset import Entry
from ftx.data.preprocess import Preprocess, load_pixels, normalise
from ftx.exporting.int8.products import Product
from ftx.exporting.int8.quantize import compress_weights, logits_of
from ftx.exporting.int8.search import CONFIDENCE, MOST_ADDED, Candidate, Quantized, Sensitivity, _Search, quantize_body
from ftx.exporting.int8.setting import Setting
from ftx.exporting.shared_parts import Source, calibration_images
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import MAX_DROP
from ftx.runs.new_run import new_run, seal
from ftx.runs.reference_safetensors import ReferenceFile
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.tasks.labels import Labels
from ftx.tasks.thresholds import Thresholds

NAMES = tuple(f"label {number:02}" for number in range(60))
# So that few labels are decided as they would be at 0.5, and the highest of all says nothing.
THRESHOLDS = dict(zip(NAMES, np.linspace(0.3, 0.9, len(NAMES)).round(3).tolist(), strict=True))
PRE = Preprocess(8, 8, 8, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def make_run(root: Path, max_drop: float) -> Run:
    """Forty images with several labels each, all for training: 32 calibrate and 8 choose."""
    entries: list[Entry] = []
    (root / "data").mkdir()
    for number in range(40):
        path = root / "data" / f"{number:02}.png"
        pixels = np.random.default_rng([number]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        entries.append(Entry(path.name, sha256_file(path), (NAMES[number], NAMES[number + 1]), "train"))
    with new_run(root / "run") as new:
        (new.folder / "trained").mkdir()
        (new.folder / "trained" / "weights").write_text("")
        (new.folder / "recipe.yaml").write_text(Recipe().replace(validation={"max_drop": max_drop}).dumps())
        manifest = Manifest(
            task="multilabel",
            model=ARCHITECTURE,
            architecture=ARCHITECTURE,
            method="full",
            base_digest="0",
            labels=Labels(names=NAMES, singles=NAMES),
            thresholds=Thresholds(labels=THRESHOLDS),
            preprocess=PRE,
            data_root=str(root / "data"),
        )
        seal(new.folder, manifest, tuple(entries))
    return Run.open(root / "run")


class SmallSource(Source):
    """With three linear layers in the place of a network, and no reference answers."""

    def __init__(self, run: Run) -> None:
        super().__init__(run, None, Listener())
        self.body = body(labels=len(NAMES))
        none = np.zeros((1, len(NAMES)), np.float32)
        self.reference = ReferenceFile(("a",), np.zeros((1, 8, 8, 3), np.uint8), none, none)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, SmallSource, Quantized]:
    """By a margin so wide that no change of labels is too many."""
    root = tmp_path_factory.mktemp("meaning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = make_run(root, max_drop=0.99)
    source = SmallSource(run)
    (root / "made").mkdir()
    return run, source, source.write_int8(root / "made")


@pytest.mark.representative
def test_labels_are_those_that_the_runs_thresholds_call(searched: tuple[Run, SmallSource, Quantized]) -> None:
    run, source, quantized = searched
    _, choosing = calibration_images(run.entries("train"))
    pixels = [load_pixels(run.data_root() / entry.path, PRE)[None] for entry in choosing]
    batches = [normalise(one, PRE) for one in pixels]
    # With 32 images to calibrate the model that was judged is the one that is kept.
    found_NC, exact_NC = (logits_of(model, batches) for model in (quantized.model, source.parted))
    best = next(one for one in quantized.candidates if one.setting == quantized.setting)
    assert best.mean_abs == pytest.approx(float(np.abs(found_NC - exact_NC).mean()), rel=1e-5)

    def called(logits_NC: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-logits_NC.astype(float))) >= np.array(list(THRESHOLDS.values()))

    by_threshold = (called(found_NC) != called(exact_NC)).any(axis=1)
    by_top = found_NC.argmax(axis=1) != exact_NC.argmax(axis=1)
    assert by_threshold.sum() > by_top.sum()
    assert (best.changed, best.images) == (by_threshold.sum(), 8)


@pytest.mark.representative
def test_the_margin_of_the_recipe_decides_about_accuracy_control(searched: tuple[Run, SmallSource, Quantized]) -> None:
    """So many labels change that the default margin would have asked for it."""
    _, _, quantized = searched
    changed = min(one.changed for one in quantized.candidates)
    assert MAX_DROP < Paired(changed, 0, 8).drop_at_least(CONFIDENCE) < 0.99
    assert not any(one.setting.accuracy_control for one in quantized.candidates)


PLAIN = (Setting(alpha=-1.0), Setting(alpha=0.5))


def searching(work: float, sensitivities: list[Sensitivity], whole: int) -> _Search:
    """A search that has come to the step in which products go back into float."""
    found = _Search.__new__(_Search)
    found.known = [Product("all", "linear", whole)]
    found.best = Candidate(PLAIN[0], mean_abs=1.0, changed=0, images=8, work=work, latency_ms=1.0)
    found.sensitivities = sensitivities
    return found


def test_products_go_back_into_float_until_the_work_of_all_has_grown_by_a_tenth() -> None:
    """A product in 8 bits takes a quarter of its work, so three quarters of it come on top; attention is another."""
    assert MOST_ADDED == 0.1

    def product(name: str, added: int, gain: float = 1.0) -> Sensitivity:
        return Sensitivity(Product(name, "linear", added * 4 // 3), gain)

    # A tenth of half of 6000: 300 in all.
    order = [product("a", 120), product("b", 120), product("c", 90), product("d", 60), product("e", 3)]
    assert searching(0.5, order, 6000).affordable() == ["a", "b", "d"]
    assert searching(0.5, order[2:], 6000).affordable() == ["c", "d", "e"]
    assert searching(0.5, [product("a", 300), product("b", 3)], 6000).affordable() == ["a"]
    assert searching(0.5, [product("a", 303), product("b", 300)], 6000).affordable() == ["b"]
    assert searching(0.25, order, 6000).affordable() == ["a", "e"]
    # What gains nothing stays in 8 bits, and takes nothing of the budget.
    assert searching(0.5, [product("a", 240, 0.0), product("b", 240, -1.0), product("c", 240)], 6000).affordable() == [
        "c"
    ]
    attention = Sensitivity(Product("attention", "attention", 800, int8_work=5 / 8), 1.0)
    assert searching(0.5, [attention, product("b", 3)], 6000).affordable() == ["attention"]


def explained_body() -> ov.Model:
    """Logits, and beside them maps of the same weights on other features."""
    generator = np.random.default_rng(0)
    image = op.parameter([-1, 3, 8, 8], np.float32, name="image")
    flat = op.reshape(image, np.array([0, -1]), special_zero=True)
    hidden = op.gelu(op.matmul(flat, weights(generator, 192, 64), False, False), "erf")
    head = op.constant(weights(generator, 64, 60))
    logits = op.matmul(hidden, head, False, False)
    maps = op.matmul(op.multiply(hidden, np.float32(0.5)), head, False, False)
    logits.output(0).set_names({"logits"})
    maps.output(0).set_names({"saliency_map"})
    return ov.Model([logits, maps], [image], "explained")


def test_the_weights_that_logits_and_maps_share_stay_exact() -> None:
    """And with them the maps, which are the logits but for what is before."""
    made = compress_weights(explained_body())
    assert [one.size for one in in_8_bits(made)] == [192 * 64]
    whole = np.sort(np.concatenate([one.ravel() for one in floats(explained_body()) if one.size == 64 * 60]))
    kept = np.sort(np.concatenate([one.ravel() for one in floats(made) if one.size == 64 * 60]))
    np.testing.assert_array_equal(kept, whole)


def floats(model: ov.Model) -> list[np.ndarray]:
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    return [node.data for node in constants if node.get_element_type() == ov.Type.f32]


def test_maps_are_not_rounded_and_count_as_no_product() -> None:
    """INT8 leaves what is beside the logits as it is: it is not judged by them."""
    given = images(1)
    made = quantize_body(explained_body(), given, images(2), settings=(Setting(alpha=-1.0),))
    assert len(given) == IMAGES
    assert [one.size for one in in_8_bits(made.model)] == [192 * 64]
