"""The two proofs of ``ftx merge`` fire, and what they let through is what was trained.

Both sides of a proof read the same files, so a fault that one side alone has must come from the files all the same: an
adapter whose answer float64 does not give away, one that f32 cannot compute, and a dense folder altered while it is
written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tests.conftest import Listener
from tests.gates.faults import Tensors, as_lora, edit_json, edit_tensors, keep, vouch
from tests.zygote import Zygote

from ftx.adapters.low_rank import LowRankWeights
from ftx.adapters.merge_weight import merged_weight
from ftx.adapters.trainable_model import base_of
from ftx.core.errors import DataError, GateFailed
from ftx.core.progress import SILENT, ProgressTask
from ftx.merging.merge_and_prove import LAYER_BOUND, LayerProof, check_layers, layer_error, merge, prove_layers
from ftx.runs.run import Run

LAYER = "blocks.5.mlp.fc1"
A, B = (f"base_model.model.{LAYER}.lora_{factor}.weight" for factor in "AB")
ALPHA_OVER_RANK = 16 / 8


def base_weight(run: Path, name: str) -> np.ndarray:
    return base_of(Run.open(run).recipe(), 4).module.state_dict()[name].numpy()


def dense_bytes(run: Path) -> bytes:
    return (run / "dense" / "model.safetensors").read_bytes()


def damaged(run: Path, change: Callable[[Tensors], object]) -> bytes:
    """Alter what was trained, fix every hash, and give the dense weights that must stay as they are."""
    keep(run)
    edit_tensors(run / "trained" / "adapter_model.safetensors", change)
    vouch(run)
    return dense_bytes(run)


@pytest.mark.representative
def test_a_layer_whose_products_do_not_give_the_merged_weight_fails(run: Path, fresh_ftx: Zygote) -> None:
    row_I = base_weight(run, f"{LAYER}.weight")[3]

    def nearly_cancelled(tensors: Tensors) -> None:
        """W + s·B·A of one row is a millionth of W: what the expanded norm of DoRA has lost, the merge has not."""
        tensors[A][0] = row_I
        tensors[B][3] = 0
        tensors[B][3, 0] = -(1 - 1e-6) / ALPHA_OVER_RANK

    before = damaged(run, nearly_cancelled)
    done = fresh_ftx("merge", run)
    assert done.returncode == 1, done.stderr
    assert "a merged layer does not compute the same as its unmerged forward" in done.stderr
    assert f"where: {LAYER}" in done.stderr
    assert dense_bytes(run) == before
    assert not list(run.glob(".ftx-partial-*"))


def test_a_dense_model_that_does_not_answer_as_the_trained_one_fails(run: Path, fresh_ftx: Zygote) -> None:
    row_I = base_weight(run, f"{LAYER}.weight")[0]

    def opposed(tensors: Tensors) -> None:
        """Two ranks of ten million times the weight take each other away: float64 sums them, f32 cannot."""
        almost_one = np.float32(1 + 2**-9)
        tensors[A][0] = 1e7 * row_I
        tensors[A][1] = tensors[A][0] * almost_one
        tensors[B][:, 0] = np.random.default_rng(0).standard_normal(len(tensors[B]))
        tensors[B][:, 1] = -tensors[B][:, 0] / almost_one

    as_lora(run)
    before = damaged(run, opposed)
    done = fresh_ftx("merge", run, "--json")
    assert done.returncode == 1, done.stderr
    assert "the dense model does not compute the same logits as the trained one" in done.stderr
    assert json.loads(done.stdout)["ok"] is False
    assert dense_bytes(run) == before


class WhenWritten:
    """A listener that alters the staged dense folder before it is opened again: when the proof's images are read."""

    def __init__(self, run: Path, change: Callable[[Tensors], object]) -> None:
        self.run, self.change, self.done = run, change, False

    def track(self, description: str, total: int | None) -> AbstractContextManager[ProgressTask]:
        staged = [path for path in self.run.glob(".*/model.safetensors") if not self.done]
        for path in staged:
            edit_tensors(path, self.change)
            self.done = True
        return SILENT.track(description, total)

    def note(self, text: str) -> None:
        raise AssertionError(text)


def one_percent(tensors: Tensors) -> None:
    tensors["blocks.5.mlp.fc2.weight"] *= np.float32(1.01)


def bias_scaled(tensors: Tensors) -> None:
    """DoRA scales the weight alone (arXiv:2402.09353, eq. 5); a tenth, as magnitudes move."""
    tensors["blocks.5.mlp.fc1.bias"] *= np.float32(1.1)
    tensors["blocks.5.attn.qkv.bias"] += np.float32(0.01)


def kept_in_bf16(tensors: Tensors) -> None:
    for name, values in tensors.items():
        tensors[name] = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def head_forgotten(tensors: Tensors) -> None:
    tensors["head.weight"] = np.random.default_rng(0).normal(0, 0.02, tensors["head.weight"].shape).astype(np.float32)


@pytest.mark.parametrize("change", [one_percent, bias_scaled, kept_in_bf16, head_forgotten])
def test_what_was_written_otherwise_than_merged_fails(run: Path, change: Callable[[Tensors], object]) -> None:
    keep(run)
    before = dense_bytes(run)
    listener = WhenWritten(run, change)
    with pytest.raises(GateFailed, match="does not compute the same logits as the trained one"):
        merge(Run.open(run), progress=listener)
    assert listener.done
    assert dense_bytes(run) == before


def test_images_that_are_named_must_be_there(run: Path, tmp_path: Path) -> None:
    """Noise stands for them only where nobody said where they are."""
    keep(run)
    before, other = dense_bytes(run), tmp_path / "other"
    (other / "test" / "red").mkdir(parents=True)
    for wrong in (tmp_path / "gone", tmp_path / "other", other / "test"):
        with pytest.raises(DataError):
            merge(Run.open(run), data=wrong, progress=SILENT)
    assert dense_bytes(run) == before
    edit_json(run / "run.json", lambda raw: raw.update(data_root=str(tmp_path / "gone")))
    listener = Listener()
    report = merge(Run.open(run), progress=listener)
    assert (report.images, report.images_from) == (32, "random images")
    assert len([text for text in listener.said if "logits are compared on random images" in text]) == 1
    with pytest.raises(DataError):
        merge(Run.open(run), data=other)


@pytest.mark.parametrize("held_out", [5, 32, 70])
def test_the_report_counts_the_images_that_were_compared(held_out: int, run: Path) -> None:
    """Up to 32 of those held out; and what else it says is what was merged."""
    keep(run)
    lines = (run / "data.jsonl").read_text().splitlines(keepends=True)
    test = [line for line in lines if '"split": "test"' in line or '"split":"test"' in line]
    assert len(test) == 240
    kept = [line for line in lines if line not in test[held_out:]]
    (run / "data.jsonl").write_text("".join(kept))
    vouch(run)
    report = merge(Run.open(run))
    assert (report.images, report.images_from) == (min(held_out, 32), "held-out images")
    assert f"{min(held_out, 32)} held-out images" in (run / "dense" / "README.md").read_text()
    assert (report.method, report.run, report.path) == ("dora", str(run), str(run / "dense"))
    assert report.size_bytes == (run / "dense" / "model.safetensors").stat().st_size
    assert len({proof.layer for proof in report.layers}) == len(report.layers) == 24
    assert report.max_relative_error == max(proof.relative_error for proof in report.layers) > 0
    assert 0 < report.max_logit_difference <= report.logit_bound
    assert json.loads((run / "reports" / "merge.json").read_text()) == json.loads(report.model_dump_json())


def test_all_but_adapted_layers_and_head_is_the_base_to_the_bit(whole_run: Path) -> None:
    dense = load_file(whole_run / "dense" / "model.safetensors")
    trained = load_file(whole_run / "trained" / "adapter_model.safetensors")
    base = base_of(Run.open(whole_run).recipe(), 4).module.state_dict()
    assert dense.keys() == base.keys()
    assert {values.dtype for values in dense.values()} == {np.dtype(np.float32)}
    # qkv, proj, fc1 and fc2 of six blocks, and the head's two
    changed = {name for name, values in dense.items() if not np.array_equal(values, base[name].numpy())}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{number}.{layer}.weight" for number in range(6) for layer in layers}
    assert changed == expected | {"head.weight", "head.bias"}
    for name in ("head.weight", "head.bias"):
        np.testing.assert_array_equal(dense[name], trained[f"base_model.model.{name}"])


def test_a_fault_of_a_tenth_above_the_bound_is_found_and_one_below_is_not() -> None:
    # With one input the measure is the relative error of the entry itself.
    base, adapter = np.ones((5, 1)), LowRankWeights(np.full((1, 1), 0.5), np.full((5, 1), 2.0), 3.0)
    exact = np.full((5, 1), 4.0)  # 1 + 3 · 2 · 0.5
    for share, passes in ((0.9, True), (1.1, False)):
        merged = exact.copy()
        merged[2] /= 1 - share * 2.0**-23
        error = layer_error(base, merged, [(1.0, adapter)], np.random.default_rng(0))
        assert error == pytest.approx(share * 2.0**-23, rel=1e-6)
        assert (error <= LAYER_BOUND) is passes


def test_one_entry_of_a_large_layer_that_is_off_by_a_thousandth_is_found() -> None:
    rng = np.random.default_rng(1)
    base = rng.standard_normal((64, 768))
    adapter = LowRankWeights(rng.standard_normal((8, 768)), 0.01 * rng.standard_normal((64, 8)), 2.0)
    merged = merged_weight(base, adapter).astype(np.float32).astype(np.float64)
    shares = [(1.0, adapter)]
    assert layer_error(base, merged, shares, np.random.default_rng(0)) < LAYER_BOUND / 4  # measured 1.0e-8
    merged[17, 300] *= 1.001
    assert layer_error(base, merged, shares, np.random.default_rng(0)) > 2 * LAYER_BOUND


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 9),
    inputs=st.integers(1, 9),
    size=st.sampled_from([1e-44, 1e-38, 1e-6, 1.0, 1e30]),
    dora=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_rounding_to_f32_stays_within_the_bound(
    outputs: int, inputs: int, size: float, dora: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    base = size * rng.standard_normal((outputs, inputs))
    magnitude = size * (0.5 + rng.random(outputs)) if dora else None
    adapter = LowRankWeights(
        rng.standard_normal((2, inputs)), 0.1 * size * rng.standard_normal((outputs, 2)), 1.5, magnitude
    )
    stored = merged_weight(base, adapter).astype(np.float32).astype(np.float64)
    error = layer_error(base, stored, [(1.0, adapter)], np.random.default_rng(0))
    # Half a step of f32 an entry, and sums of a dozen terms in float64, whose parts may cancel to a thousandth.
    assert error <= 2.0**-24 * (1 + 1e-3)


def test_a_wrong_layer_is_named_and_so_is_one_whose_error_is_no_number() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 3))
    rng = np.random.default_rng(2)
    layers = {
        name: LowRankWeights(rng.standard_normal((2, side)), rng.standard_normal((outputs, 2)), 2.0)
        for name, side, outputs in (("0", 6, 4), ("1", 4, 3))
    }
    state = module.state_dict()
    merged = {
        f"{name}.weight": torch.from_numpy(merged_weight(state[f"{name}.weight"].double().numpy(), layer)).float()
        for name, layer in layers.items()
    }
    assert 0 < check_layers(prove_layers(module, merged, layers)) <= 2.0**-24 * (1 + 1e-6)
    wrong = {**merged, "1.weight": 1.00001 * merged["1.weight"]}
    with pytest.raises(GateFailed) as caught:
        check_layers(prove_layers(module, wrong, layers))
    assert caught.value.where == "1"
    with pytest.raises(GateFailed) as caught:  # an adapter left out: the weight is the base's own
        check_layers(prove_layers(module, {**merged, "0.weight": state["0.weight"]}, layers))
    assert caught.value.where == "0"
    errors = [LayerProof(layer="a", relative_error=0.0), LayerProof(layer="b", relative_error=float("nan"))]
    with pytest.raises(GateFailed) as caught:
        check_layers(errors)
    assert caught.value.where == "b"
    assert check_layers([]) == 0.0
