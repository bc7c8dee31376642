"""Requests of a network that takes a batch, and of one in 8 bits that is compiled for one image."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op
from safetensors.numpy import save_file
from tests.conftest import ColourModel
from tests.effects.lab import call
from tests.runtimes.test_single_kernels import SIGNED, Layer, rounded

from ftx.core.errors import EnvironmentFault, ExportError
from ftx.core.memory import is_out_of_memory
from ftx.data.preprocess import Preprocess
from ftx.evaluating.bench_process import BenchJob, measure
from ftx.exporting.openvino import name_canonically
from ftx.exporting.preprocess_graph import embed_preprocessing
from ftx.runs.card_json import Card, write_card
from ftx.runs.machine import InstructionSet, this_set
from ftx.runs.views import KernelPath
from ftx.runtimes import load_folder
from ftx.runtimes.compiled_network import CompiledNetwork, core
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.runtimes.single_kernels import single_parts
from ftx.tasks.labels import Labels

SIDE, LABELS = 8, 5
# Grey levels an eighth apart: all that follows lies on grids of powers of two, and nothing rounds.
PREPROCESS = Preprocess(
    height=SIDE, width=SIDE, resize=SIDE, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(8 / 255,) * 3
)
F32 = {"INFERENCE_PRECISION_HINT": "f32"}
PATH = Path("somewhere/model.xml")


def network(*, int8: bool = True, maps: bool = False, pre: Preprocess = PREPROCESS) -> ov.Model:
    """Twelve tokens (of larger images more), a layer, and the sum of its answers, named as in a file."""
    layer = Layer.drawn(1, LABELS, 16)
    image = op.parameter([-1, 3, -1, -1], np.float32, name="body")
    tokens = op.reshape(image, np.array([0, 3 * pre.height * pre.width // 16, 16]), special_zero=True)
    made = layer.built(rounded(tokens, SIGNED) if int8 else tokens)
    logits = op.reduce_sum(made, np.array([1]), keep_dims=False)
    outputs = [logits]
    if maps:
        outputs.append(op.reshape(op.transpose(made, np.array([0, 2, 1])), np.array([0, 0, 3, 4]), special_zero=True))
        outputs.append(op.reduce_max(made, np.array([1]), keep_dims=False))
    model = embed_preprocessing(ov.Model(outputs, [image], "body"), pre)
    name_canonically(model, "network")
    return model


def opened(model: ov.Model, **properties: object) -> CompiledNetwork:
    return CompiledNetwork(model, PREPROCESS, {**F32, **properties}, PATH, "avx2", kernels="batch")  # always


def images(count: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(count + height).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def whole(model: ov.Model, pixels: np.ndarray) -> list[np.ndarray]:
    """As OpenVINO by itself answers a batch."""
    answered = core().compile_model(model, "CPU", F32)([pixels], share_inputs=False)
    return [np.array(answered[which]) for which in range(len(model.outputs))]


def test_only_a_network_in_8_bits_is_compiled_for_one_image() -> None:
    assert opened(network()).kernel_path == "single"
    assert opened(network(int8=False)).kernel_path == "batch"


@pytest.mark.parametrize(
    ("side", "isa", "is_for_one"),
    [
        (8, "avx2", True),
        (8, "avx2_vnni", False),  # twelve tokens
        (28, "avx2_vnni", False),  # 147
        (40, "avx2_vnni", True),  # 300
        (40, "avx512_bf16", True),
        (40, "amx", False),
        (40, None, False),
    ],
)
def test_it_goes_by_tokens_and_instruction_set(side: int, isa: InstructionSet | None, is_for_one: bool) -> None:
    pre = replace(PREPROCESS, height=side, width=side, resize=side)
    assert (single_parts(network(pre=pre), pre, isa) is not None) == is_for_one


@pytest.mark.parametrize("kernels", ["single", "batch"])
def test_with_vnni_it_is_for_one_image_if_one_is_asked_for(kernels: KernelPath) -> None:
    pre = replace(PREPROCESS, height=40, width=40, resize=40)
    model = network(pre=pre)
    compiled = CompiledNetwork(model, pre, F32, PATH, "avx512_vnni", kernels=kernels)
    assert compiled.kernel_path == kernels
    pixels = images(2, 40, 40)
    np.testing.assert_array_equal(compiled.request()(pixels)[0], whole(model, pixels)[0])


@pytest.mark.skipif(this_set() in (None, "amx"), reason="int8 is computed whole here")
def test_who_asks_for_latency_has_it_for_one_image(tmp_path: Path) -> None:
    pre = replace(PREPROCESS, height=40, width=40, resize=40)
    ov.save_model(network(pre=pre), tmp_path / "model.xml", compress_to_fp16=False)
    tensors = {"images": images(2, 40, 40), "logits": np.zeros((2, LABELS), np.float32)}
    save_file(tensors, tmp_path / "reference.safetensors")
    labels = Labels.multiclass([f"label {number}" for number in range(LABELS)])
    card = Card(
        task="multiclass", architecture="layers", precision="int8", labels=labels, preprocess=pre, dense_digest="",
        files={},
    )  # fmt: skip
    write_card(tmp_path, card)
    found = {goal: load_folder(tmp_path, goal=goal) for goal in ("latency", "throughput")}
    assert all(isinstance(one, OpenVinoPredictor) for one in found.values())
    assert found["latency"].kernel_path == "single"  # pyright: ignore[reportAttributeAccessIssue]
    assert (found["throughput"].kernel_path == "single") == (this_set() == "avx2")  # pyright: ignore[reportAttributeAccessIssue]
    job = BenchJob(
        artifact="openvino/int8", folder=tmp_path, run=None, compute="f32", batch=1, threads=1, streams=1,
        seconds=0.01, cached=False,
    )  # fmt: skip
    assert measure(job).kernels == "single"
    assert (measure(job.model_copy(update={"batch": 2})).kernels == "single") == (this_set() == "avx2")


def test_one_that_was_exported_before_stays_whole() -> None:
    model = network()
    for node in model.get_ordered_ops():
        node.set_friendly_name(node.get_friendly_name().replace("normalised", "other"))
    assert single_parts(model, PREPROCESS, "avx2") is None


@pytest.mark.parametrize(("height", "width"), [(SIDE, SIDE), (20, 12), (5, 30)])
@pytest.mark.parametrize("count", [1, 3])
def test_image_by_image_it_answers_as_the_batch(height: int, width: int, count: int) -> None:
    model, pixels = network(maps=True), images(count, height, width)
    found, expected = opened(model).request()(pixels), whole(model, pixels)
    assert [one.shape for one in found] == [(count, LABELS), (count, LABELS, 3, 4), (count, LABELS)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(np.unique(expected[0])) > LABELS / 2


@pytest.mark.representative
@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("streams", [1, 2])
def test_batches_in_flight_come_back_whole_and_in_order(int8: bool, streams: int) -> None:
    model = network(int8=int8, maps=True)
    batches = [images(count, 6 + count, 9) for count in (2, 1, 4, 1, 3)] * 3
    # Two at a time, where the process has two processors.
    answered = list(opened(model, NUM_STREAMS=streams).in_flight(iter(batches)))
    assert len(answered) == len(batches)
    for (found, took_ms), pixels in zip(answered, batches, strict=True):
        assert 0 < took_ms < 10_000
        np.testing.assert_array_equal(found, whole(model, pixels)[0])


def test_answers_are_given_while_others_are_asked_for() -> None:
    asked = 0

    def batches() -> object:
        nonlocal asked
        for _ in range(50):
            asked += 1
            yield images(1)

    in_flight = opened(network(), NUM_STREAMS=2).in_flight(batches())  # pyright: ignore[reportArgumentType]
    next(in_flight)
    assert asked < 10


def test_no_image_has_no_answer() -> None:
    compiled = opened(network(maps=True))
    assert [one.shape for one in compiled.request()(images(0))] == [(0, LABELS), (0, LABELS, 3, 4), (0, LABELS)]
    ((found, took_ms),) = compiled.in_flight([images(0)])
    assert found.shape == (0, LABELS)
    assert took_ms >= 0


@pytest.mark.parametrize("int8", [True, False])
def test_images_of_other_channels_are_refused(int8: bool) -> None:
    compiled, grey = opened(network(int8=int8)), np.zeros((1, SIDE, SIDE, 1), np.uint8)
    with pytest.raises(ExportError, match="cannot run on these images") as refused:
        compiled.request()(grey)
    assert str(refused.value.where) == str(PATH)
    assert "1x8x8x1" in str(refused.value.found)
    with pytest.raises(ExportError, match="cannot run on these images"):
        list(compiled.in_flight([images(1), grey]))
    compiled.request()(images(1))  # and goes on


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("said", ["std::bad_alloc", "could not create a memory object"])
def test_memory_that_runs_out_during_an_answer_is_no_fault_of_the_model(
    int8: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO has no class of its own for it: a RuntimeError that says so."""
    compiled = opened(network(int8=int8))
    request = compiled.request()

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(ov.InferRequest, "start_async", refused)
    for asked in (lambda: request(images(1)), lambda: list(compiled.in_flight([images(1)]))):
        with pytest.raises(RuntimeError, match=said) as caught:
            asked()
        assert is_out_of_memory(caught.value)


def test_who_predicts_without_enough_memory_is_told_so(
    colour_model: ColourModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("Exception from src/inference: std::bad_alloc")

    monkeypatch.setattr(ov.InferRequest, "start_async", refused)
    image = next(colour_model.images.rglob("*.png"))
    said = call("predict", str(image), "--artifact", str(colour_model.folder))
    assert said.status == EnvironmentFault.exit_code
    assert "there is not enough memory" in said.err
    assert "export it again" not in said.err


# Reads the numbers of two tensors in two threads: the second begins when the first lets go of the interpreter. Each is
# one call in C, so that it is let go of nowhere else.
TWO_THREADS = """
import sys, threading
from functools import partial
from operator import call
from pathlib import Path
from ftx.runtimes.compiled_network import core

compiled = core().compile_model(core().read_model(Path(sys.argv[1])), "CPU", {})
first, second = (request.input_tensors[0] for request in [compiled.create_infer_request() for _ in range(2)])
turn = threading.Lock()
turn.acquire()

def in_a_row(*steps):
    list(map(call, steps))

other = threading.Thread(target=in_a_row, args=(turn.acquire, partial(getattr, second, "data")))
other.start()
in_a_row(turn.release, partial(sum, range(20_000_000)), partial(getattr, first, "data"))
other.join()
print("both")
"""


def test_the_first_requests_of_a_process_do_not_wait_for_each_other(colour_model: ColourModel) -> None:
    """Where two threads read a tensor for the first time, OpenVINO's Python stood still (2026.4.1)."""
    command = [sys.executable, "-c", TWO_THREADS, str(colour_model.folder / "model.xml")]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "both\n"


# A process of its own, which can be ended: threads that wait for ever hold up the one that they are in.
ALL_REFUSED = """
import numpy as np
from tests.runtimes.test_compiled_network import SIDE, ExportError, network, opened

compiled = opened(network(int8=False))
try:
    list(compiled.in_flight([np.zeros((1, SIDE, SIDE, 1), np.uint8)] * (compiled.streams + 2)))
except ExportError:
    print("refused")
"""


@pytest.mark.representative
def test_where_all_is_refused_nothing_is_waited_for() -> None:
    """More than are computed at a time: each hands its request back."""
    command = [sys.executable, "-c", ALL_REFUSED]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "refused\n"
