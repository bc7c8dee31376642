"""The search judges by what a run's labels mean and by the margin of its recipe, within its budget of work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op
from PIL import Image
from tests.conftest import Listener
from tests.exporting.conftest import ARCHITECTURE
from tests.exporting.int8.test_quantize import IMAGES, body, images, in_8_bits, weights

from ftx.core.errors import GateFailed
from ftx.core.files import sha256_file
from ftx.core.statistics import PairedCounts
from ftx.data.dataset import Entry
from ftx.data.preprocess import Preprocess, load_pixels, normalise
from ftx.exporting.chosen_images import calibration_images
from ftx.exporting.export_source import Source
from ftx.exporting.int8.products import Product
from ftx.exporting.int8.quantize import Int8Setting, compress_weights, logits_of
from ftx.exporting.int8.search import CONFIDENCE, MOST_ADDED, Candidate, QuantizedBody, _Search, quantize_body
from ftx.exporting.writers import WRITERS, check_accuracy
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import MAX_DROP
from ftx.runs.artifacts import DENSE, IR_FP16, IR_FP32, IR_INT8, IR_INT8_SAFE, IR_INT8_WEIGHTS, Artifact
from ftx.runs.card_json import read_card
from ftx.runs.new_run import new_run, seal
from ftx.runs.quantize_json import LayerSensitivity
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


def write(source: Source, artifact: Artifact, folder: Path) -> Any:
    """How INT8 was made, if it is."""
    return WRITERS[artifact].write(source, artifact, folder)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, SmallSource, QuantizedBody]:
    """By a margin so wide that no change of labels is too many."""
    root = tmp_path_factory.mktemp("meaning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = make_run(root, max_drop=0.99)
    source = SmallSource(run)
    (root / "made").mkdir()
    return run, source, write(source, IR_INT8, root / "made")


@pytest.mark.representative
def test_labels_are_those_that_the_runs_thresholds_call(searched: tuple[Run, SmallSource, QuantizedBody]) -> None:
    run, source, quantized = searched
    _, choosing = calibration_images(run.entries("train"))
    pixels = [load_pixels(run.data_root() / entry.path, PRE)[None] for entry in choosing]
    batches = [normalise(one, PRE) for one in pixels]
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
def test_the_margin_of_the_recipe_decides_about_accuracy_control(
    searched: tuple[Run, SmallSource, QuantizedBody],
) -> None:
    """So many labels change that the default margin would have asked for it."""
    _, _, quantized = searched
    changed = min(one.changed for one in quantized.candidates)
    assert MAX_DROP < PairedCounts(changed, 0, 8).drop_at_least(CONFIDENCE) < 0.99
    assert not any(one.setting.accuracy_control for one in quantized.candidates)


@pytest.mark.parametrize(
    ("artifact", "share_of_fp32"),
    [(IR_FP32, 1.0), (IR_FP16, 0.5), (IR_INT8_WEIGHTS, 0.4)],
    ids=str,
)
def test_each_folder_has_the_card_of_its_run_and_the_weights_of_its_precision(
    artifact: Artifact, share_of_fp32: float, searched: tuple[Run, SmallSource, QuantizedBody], tmp_path: Path
) -> None:
    run, source, _ = searched
    write(source, artifact, tmp_path)
    card, manifest = read_card(tmp_path), run.manifest
    assert (card.precision, card.task, card.labels) == (artifact.variant, "multilabel", manifest.labels)
    assert (card.thresholds.labels, card.preprocess) == (THRESHOLDS, PRE)
    assert card.dense_digest == manifest.digest(DENSE)
    assert card.keep_tokens == {}
    # Three layers of 192, 64 and 64 inputs, of which the last stays f32 in 8 bits; shapes and resizing come on top.
    weights_bytes = 4 * (192 * 64 + 64 * 64 + 64 * len(NAMES))
    size = (tmp_path / "model.bin").stat().st_size
    assert share_of_fp32 * weights_bytes <= size < (share_of_fp32 + 0.15) * weights_bytes


@pytest.mark.representative
def test_for_cpus_without_vnni_the_weights_have_seven_bits(
    searched: tuple[Run, SmallSource, QuantizedBody], tmp_path: Path
) -> None:
    _, source, quantized = searched
    safe = write(source, IR_INT8_SAFE, tmp_path)
    assert read_card(tmp_path).precision == "int8-overflow-safe"
    assert {int(np.abs(one).max()) for one in in_8_bits(quantized.model)} == {127}
    assert all(np.abs(one).max() <= 64 for one in in_8_bits(safe.model))
    assert len(in_8_bits(safe.model)) > 0


@pytest.mark.parametrize(("max_drop", "verdict"), [(0.02, "unproved"), (0.3, "unproved"), (0.4, "proved")])
def test_the_gate_of_an_export_goes_by_the_margin_of_the_recipe(
    max_drop: float, verdict: str, searched: tuple[Run, SmallSource, QuantizedBody], tmp_path: Path
) -> None:
    """Of eight images without a loss at most 31 points may be lost: 0.05 to the power of an eighth is 0.69."""
    (tmp_path / "own").mkdir()
    (tmp_path / "ir").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        source = SmallSource(make_run(tmp_path / "own", max_drop))
    pixels = np.random.default_rng(5).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    logits = logits_of(source.body, [normalise(pixels, PRE)])
    targets = (np.random.default_rng(6).random(logits.shape) < 0.1).astype(np.float32)
    source.reference = ReferenceFile(tuple(f"{number}.png" for number in range(8)), pixels, logits, targets)
    write(source, IR_FP32, tmp_path / "ir")
    found, said = check_accuracy(source, IR_FP32, tmp_path / "ir")
    assert found == verdict, said
    source.reference = ReferenceFile(source.reference.paths, pixels, -logits, targets)
    write(source, IR_FP16, tmp_path / "ir")
    with pytest.raises(GateFailed, match="openvino/fp16 predicts differently from the trained model") as caught:
        check_accuracy(source, IR_FP16, tmp_path / "ir")
    assert caught.value.fix == "export in a finer precision: --precision fp32"


PLAIN = (Int8Setting(alpha=-1.0), Int8Setting(alpha=0.5))


def searching(work: float, sensitivities: list[LayerSensitivity], whole: int) -> _Search:
    """A search that has come to the step in which products go back into float."""
    found = _Search.__new__(_Search)
    found.products = [Product("all", "linear", whole)]
    # Of attention half is in 8 bits.
    left = {"attention": 5 / 8, "linear": 1 / 4}
    found.by_name = {
        one.layer: Product(one.layer, one.kind, one.multiplications, left[one.kind]) for one in sensitivities
    }
    found.best = Candidate(PLAIN[0], mean_abs=1.0, changed=0, images=8, work=work)
    found.sensitivities = sensitivities
    return found


def test_products_go_back_into_float_until_the_work_of_all_has_grown_by_a_tenth() -> None:
    """A product in 8 bits takes a quarter of its work, so three quarters of it come on top; attention is another."""
    assert MOST_ADDED == 0.1

    def product(name: str, added: int, gain: float = 1.0) -> LayerSensitivity:
        return LayerSensitivity(layer=name, kind="linear", multiplications=added * 4 // 3, gain=gain)

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
    attention = LayerSensitivity(layer="attention", kind="attention", multiplications=800, gain=1.0)
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
    made = quantize_body(explained_body(), given, images(2), settings=(Int8Setting(alpha=-1.0),))
    assert len(given) == IMAGES
    assert [one.size for one in in_8_bits(made.model)] == [192 * 64]
