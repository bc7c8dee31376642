"""Models and images that several packages are tested with."""

from __future__ import annotations

import fcntl
import gc
import io
import json
import os
import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from safetensors.numpy import save_file
from tests import durations
from tests.zygote import Zygote, zygote

from ftx.data.preprocess import Preprocess
from ftx.runs.card_json import Card, read_card, write_card
from ftx.runtimes.model_api import model_info
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning
from ftx.tasks.thresholds import Thresholds

# Not tests by their names, but full of assertions that shall say what they compare.
pytest.register_assert_rewrite("tests.effects")
# The same examples in every run, so that a change that passed once passes; others each time for ``make fuzz``.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("fuzz", max_examples=2000, print_blob=True)
settings.load_profile("same")


@pytest.fixture
def can_hang_up() -> Iterator[None]:
    """SIGHUP ends a process, as in a terminal: nohup has it ignored, also by what a test starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Listener:
    """A progress that keeps what is noted, and adds up what was announced and what was done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.descriptions: list[str] = []
        self.total = 0
        self.advances: list[int] = []

    @property
    def steps(self) -> int:
        return sum(self.advances)

    @contextmanager
    def track(self, description: str, total: int | None) -> Iterator[Listener]:
        self.descriptions.append(description)
        self.total += total or 0
        yield self

    def advance(self, steps: int = 1, **fields: str) -> None:
        self.advances.append(steps)

    def note(self, text: str) -> None:
        self.said.append(text)


COLOURS = ("red", "green", "blue")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--durations-to",
        type=Path,
        metavar="FILE",
        help="write how long tests take, and fail if one exceeds its limit",
    )


@pytest.hookimpl(trylast=True)  # of those that are selected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # one process needs no order, and others may have given it one
        durations.longest_first(items)


def pytest_collection_finish() -> None:
    # Recording a model makes objects by the million, all alive: by its own defaults the collector walks them, and all
    # that was imported, again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


LATEST = Path(__file__).parents[1] / "runs" / "latest"


def _latest_again(newest: Path | None) -> None:
    if LATEST.is_symlink() and LATEST.readlink() != newest:
        LATEST.unlink()
        if newest is not None:
            LATEST.symlink_to(newest)


def pytest_configure(config: pytest.Config) -> None:
    # Compiled models are kept in the user's cache, which is not the tests' to fill.
    cache = tempfile.TemporaryDirectory(prefix="ftx-cache-")
    os.environ["XDG_CACHE_HOME"] = cache.name
    config.add_cleanup(cache.cleanup)
    # A training here would make this folder's newest run one of the tests', which goes with them.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        newest = LATEST.readlink() if LATEST.is_symlink() else None
        config.add_cleanup(partial(_latest_again, newest))
    target = config.getoption("durations_to")
    if target is not None:
        config.pluginmanager.register(durations.Clock())
        if "PYTEST_XDIST_WORKER" not in os.environ:
            config.pluginmanager.register(durations.Record(target))
    # A shell that starts something in the background lets it ignore Ctrl-C, and what that starts in turn.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A worker for each core keeps to its own, and what it starts as well: OpenVINO and ONNX Runtime else start a thread
    # for each core, and the workers' threads wait for each other.
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) == count:
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % count]})


@dataclass(frozen=True)
class ColourModel:
    """An exported folder whose model names the strongest channel, and images of each colour."""

    folder: Path
    images: Path

    def expected(self, pixels_NHWC: np.ndarray) -> np.ndarray:
        """The model's formula, in numpy."""
        return colour_logits(pixels_NHWC)


def colour_logits(pixels_NHWC: np.ndarray) -> np.ndarray:
    return ((pixels_NHWC.astype(np.float64).mean(axis=(1, 2)) - 100) / 25).astype(np.float32)


def colour_pixels(colour: int, height: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng([seed, colour])
    pixels = generator.integers(20, 140, size=(height, width, 3), dtype=np.uint8)
    pixels[..., colour] += 80
    return pixels


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> ColourModel:
    """Built node by node: openvino alone, so that what needs no torch is tested without."""
    root = tmp_path_factory.mktemp("colour")
    folder = root / "fp32"
    folder.mkdir()
    write_colour_ir(folder)
    images = root / "images"
    for colour, name in enumerate(COLOURS):
        (images / name).mkdir(parents=True)
        for number, (height, width) in enumerate([(16, 16), (16, 16), (24, 40), (16, 16)]):
            path = images / name / f"{number}.png"
            Image.fromarray(colour_pixels(colour, height, width, number)).save(path)
    return ColourModel(folder, images)


def write_colour_ir(folder: Path, *, maps: bool = False) -> None:
    """With ``maps`` each label's is the same all over."""
    import openvino
    from openvino import opset13 as op

    image = op.parameter([-1, -1, -1, 3], np.uint8, name="image")
    mean = op.reduce_mean(op.convert(image, np.float32), np.array([1, 2]), keep_dims=False)
    logits = op.divide(op.subtract(mean, np.float32(100)), np.float32(25))
    logits.output(0).set_names({"logits"})
    outputs = [logits]
    if maps:
        every = op.tile(op.unsqueeze(op.sigmoid(logits), np.array([2, 3])), np.array([1, 1, 2, 2]))
        every.output(0).set_names({"saliency_map"})
        outputs.append(every)
    model = openvino.Model(outputs, [image], "colour")
    labels = Labels.multiclass(COLOURS)
    preprocess = Preprocess(
        height=16, width=16, resize=16, interpolation="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    for key, value in model_info(Meaning(labels=labels).open(), preprocess, embedded=True).items():
        model.set_rt_info(value, ["model_info", key])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    pixels = np.stack([colour_pixels(index % 3, 16, 16, 100 + index) for index in range(12)])
    metadata = {"paths": json.dumps([f"{COLOURS[index % 3]}/{index}.png" for index in range(12)])}
    targets = np.eye(3, dtype=np.float32)[np.arange(12) % 3]
    tensors = {"images": pixels, "logits": colour_logits(pixels), "targets": targets}
    save_file(tensors, folder / "reference.safetensors", metadata=metadata)
    card = Card(
        task="multiclass",
        architecture="mean colour",
        precision="fp32",
        labels=labels,
        preprocess=preprocess,
        dense_digest="",
        files={},
    )
    write_card(folder, card)


# What each colour must exceed to be called where an image has several: not the same for any two.
MARK_THRESHOLDS = {"red": 0.9, "green": 0.05, "blue": 0.6}


def calibrate(folder: Path, scores: Sequence[float], images: int = 100, **changed: object) -> Path:
    """Give a model one calibration, for how it runs here: of so many images, those with ``scores`` are wrong."""
    from ftx.runs.calibration import Calibration, SetScores
    from ftx.runs.machine import this_machine, this_set
    from ftx.runs.proof_json import keep_calibrations
    from ftx.runtimes.openvino import OpenVinoPredictor

    predictor = OpenVinoPredictor(folder)
    known = Calibration(
        machine=this_machine(),
        isa=this_set(),
        compute=predictor.compute,
        kernels=predictor.kernel_path,
        source="val",
        sets=[SetScores(label=None, images=images, scores=list(scores))],
    )
    keep_calibrations(folder, [known.model_copy(update=changed)])
    return folder


def write_marks_ir(folder: Path) -> None:
    """The colours' model where each holds by itself, with maps: a label's map has its score everywhere."""
    write_colour_ir(folder, maps=True)
    meaning = {
        "task": "multilabel",
        "labels": Labels(COLOURS, singles=COLOURS),
        "thresholds": Thresholds(MARK_THRESHOLDS),
    }
    write_card(folder, read_card(folder).model_copy(update=meaning))


# Four, so that no axis of a weight but the labels' is as long (three are the colours and the heads of a tiny ViT).
HUES = {"amber": (200, 150, 40), "blue": (40, 60, 200), "green": (50, 180, 70), "red": (190, 40, 50)}


def write_data(root: Path, count: int = 30, *, first: int = 0) -> Path:
    """Noisy squares whose colour, and nothing else, is their class: swapped channels change the label."""
    for number, (name, hue) in enumerate(HUES.items()):
        (root / name).mkdir(parents=True)
        for index in range(first, first + count):
            generator = np.random.default_rng([number, index])
            height, width = ((32, 32), (40, 52), (70, 33))[index % 3]
            pixels = np.array(hue) + generator.normal(0, 30, size=(height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def made_once(workers: pytest.TempPathFactory, name: str, make: Callable[[Path], None], *, copy: bool = True) -> Path:
    """A folder that the first worker of a session makes; each of them has a copy of its own, or all read the one."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        own = workers.mktemp(name)
        make(own)
        return own
    shared = workers.getbasetemp().parent / name
    done = shared.with_suffix(".done")
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(shared, ignore_errors=True)
            shared.mkdir()
            make(shared)
            done.touch()
    return Path(shutil.copytree(shared, workers.mktemp(name), symlinks=True, dirs_exist_ok=True)) if copy else shared


@contextmanager
def one_int8_setting() -> Iterator[None]:
    """One strength of SmoothQuant instead of the search for the best of four, which takes as long as all the rest.

    The search itself is tested in tests/exporting/int8/test_quantize.py.
    """
    from ftx.exporting.int8 import search as quantizing

    one = (quantizing.Int8Setting(alpha=0.5),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizing, "quantize_body", partial(quantizing.quantize_body, settings=one))
        yield


def make_whole_run(root: Path, image_size: int = 32, precisions: Sequence[str] = ("fp32", "fp16", "int8")) -> None:
    import torch

    from ftx.exporting import export
    from ftx.merging.merge_and_prove import merge
    from ftx.recipe.schema import Recipe
    from ftx.runs.run import Run
    from ftx.training import train

    torch.set_num_threads(1)
    data = root / "data"
    write_data(data / "train")
    write_data(data / "test", 60, first=100)
    recipe = Recipe().with_overrides(
        [
            f"data.path={data}",
            f"data.image_size={image_size}",
            "model.name=test_vit",  # six blocks, 64 wide
            "model.weights=none",
            "adapter.blocks=all",
            "train.augment=light",
            "train.patch_dropout=0",
            "train.head_init=random",
            "train.epochs=6",
            "train.lr=5e-3",
            "train.precision=f32",
        ]
    )
    with chdir(root), one_int8_setting():  # runs/latest is written below the current folder
        out = root / "runs" / "colours"
        train(recipe, out=out)
        run = Run.open(out)
        merge(run)
        export(run, formats=["onnx", "openvino"], precisions=precisions)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by DoRA on 96 images, merged, exported in every format; 24 to choose by, 240 to report on.

    Without a loss, two points are proved of three models together from 222 images on.
    """
    return made_once(tmp_path_factory, "pipeline", make_whole_run) / "runs" / "colours"


@pytest.fixture(scope="session")
def validated_run(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it that has passed ``ftx validate``."""
    from ftx.evaluating import validate

    def make(root: Path) -> None:
        report = validate(Path(shutil.copytree(whole_run, root / "run")))
        assert report.ok, report.problems

    return made_once(tmp_path_factory, "validated", make) / "run"


@pytest.fixture(scope="session")
def fresh_ftx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """The program, in a fresh process for each call."""
    with zygote(tmp_path_factory.mktemp("ftx")) as command:
        yield command


def answers_of_card(folder: Path, image: Path) -> list[tuple[np.ndarray, str]]:
    """Run each block of Python in a model card in its folder: the logits for one image, and what was printed."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.M)
    found: list[tuple[np.ndarray, str]] = []
    for block in blocks:
        scope: dict[str, object] = {}
        said = io.StringIO()
        with chdir(folder), redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's on the key "ftx" of the config
            exec(block.replace('"image.jpg"', repr(str(image))), scope)
        found.append((scope["logits"].numpy(), said.getvalue().strip()))  # pyright: ignore[reportAttributeAccessIssue]
    return found
