"""The adapted layers: equations in float64, peft as the oracle, with a bias and a B that is not zero."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ftx.adapters.adapter_spec import TargetPart
from ftx.adapters.low_rank import LowRankWeights
from ftx.adapters.low_rank_layer import LowRankLayer, MergedProduct
from ftx.adapters.merge_weight import merged_weight, unmerged_forward
from ftx.recipe.method_defaults import AdapterName

FUSED = (
    TargetPart("q", slice(0, 6), slice(0, 3)),
    TargetPart("v", slice(12, 18), slice(3, 6)),
)  # q and v alone of 3 x 6 rows
WHOLE = (TargetPart("fc1", slice(0, 18), slice(0, 4)),)
SCALING = 1.5


def adapted(
    kind: AdapterName, parts: tuple[TargetPart, ...], *, dropout: float = 0.0, bias: bool = True
) -> LowRankLayer:
    """A trained-looking layer in float64: B not zero within its blocks, magnitudes moved."""
    generator = torch.Generator().manual_seed(7)
    base = nn.Linear(10, 18, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.normal_(generator=generator)
    layer = LowRankLayer(base, parts, dora=kind == "dora", scaling=SCALING, dropout=dropout, generator=generator)
    with torch.no_grad():
        for part in parts:
            layer.lora_B[part.rows, part.ranks].normal_(generator=generator)
        if layer.lora_magnitude_vector is not None:
            for part in parts:
                layer.lora_magnitude_vector[part.rows] *= 1.3
    return layer


@pytest.mark.parametrize("parts", [WHOLE, FUSED], ids=["whole", "q and v"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_gradients_in_float64(kind: AdapterName, bias: bool, parts: tuple[TargetPart, ...]) -> None:
    layer = adapted(kind, parts, bias=bias)
    magnitude = layer.lora_magnitude_vector
    norm = _summed(layer).detach().norm(dim=1)
    x = torch.randn(5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    blocks = [layer.lora_B[part.rows, part.ranks].detach().requires_grad_() for part in parts]
    owned = [] if magnitude is None else [magnitude[part.rows].detach().requires_grad_() for part in parts]

    def answer(x: Tensor, A: Tensor, *given: Tensor) -> Tensor:
        """The product as a function of what the parts own; the rest stays as it is."""
        B = torch.zeros_like(layer.lora_B)
        m = None if magnitude is None else magnitude.detach().clone()
        for number, part in enumerate(parts):
            B[part.rows, part.ranks] = given[number]
            if m is not None:
                m[part.rows] = given[len(parts) + number]
        if m is not None:
            # The gradient holds the norm constant (section 4.3). A function that does so as well: with its magnitude
            # times what the norm grew by, the gain m / norm follows m alone.
            m = m * ((layer.weight + SCALING * B @ A).detach().norm(dim=1) / norm)
        return MergedProduct.apply(x, layer.weight, layer.bias, A, B, m, SCALING, parts)

    assert torch.autograd.gradcheck(answer, [x, layer.lora_A, *blocks, *owned])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_what_no_part_owns_gets_no_gradient(kind: AdapterName, dropout: float) -> None:
    layer = adapted(kind, FUSED, dropout=dropout).train()
    layer(torch.randn(5, 10, dtype=torch.float64)).square().sum().backward()
    rest, rows = torch.ones_like(layer.lora_B), torch.ones(18, dtype=torch.float64)
    for part in FUSED:
        rest[part.rows, part.ranks] = 0
        rows[part.rows] = 0
    assert torch.count_nonzero(layer.lora_B.grad * rest) == 0
    assert torch.count_nonzero(layer.lora_B.grad) > 0
    if layer.lora_magnitude_vector is not None:
        assert torch.count_nonzero(layer.lora_magnitude_vector.grad * rows) == 0
        assert torch.count_nonzero(layer.lora_magnitude_vector.grad) > 0


@pytest.mark.parametrize("parts", [WHOLE, FUSED], ids=["whole", "q and v"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_merged_weight_learns_as_the_layer_does(kind: AdapterName, parts: tuple[TargetPart, ...]) -> None:
    """A product with the merged weight, its gradients by torch's own rules, against the layer's."""
    layer = adapted(kind, parts)
    x, wanted = (torch.randn(5, width, dtype=torch.float64) for width in (10, 18))
    found: list[dict[str, Tensor]] = []
    for y in (layer(x), nn.functional.linear(x, layer.merged_weight(), layer.bias)):
        layer.zero_grad()
        (y - wanted).square().sum().backward()
        found.append({name: one.grad.clone() for name, one in layer.named_parameters() if one.grad is not None})
    of_layer, of_weight = found
    assert of_weight.keys() == of_layer.keys()
    assert "lora_A" in of_layer
    for name in of_weight:  # f64, sums of 5 x 18 products
        torch.testing.assert_close(of_weight[name], of_layer[name], rtol=1e-10, atol=1e-10, msg=name)


def _summed(layer: LowRankLayer) -> Tensor:
    return layer.weight + SCALING * layer.lora_B @ layer.lora_A


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_fresh_adapter_is_the_base_exactly(kind: AdapterName) -> None:
    base = nn.Linear(64, 18)
    x = torch.randn(33, 64)
    expected = base(x)
    generator = torch.Generator().manual_seed(0)
    layer = LowRankLayer(base, WHOLE, dora=kind == "dora", scaling=SCALING, dropout=0.0, generator=generator)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_in_evaluation_nothing_is_dropped(kind: AdapterName) -> None:
    layer = adapted(kind, FUSED, dropout=0.4)
    x = torch.randn(5, 10, dtype=torch.float64)
    expected = nn.functional.linear(x, layer.merged_weight(), layer.bias)
    torch.testing.assert_close(layer.eval()(x), expected, rtol=0, atol=1e-13)  # float64, sums in another order
    assert (layer.train()(x) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("parts", [WHOLE, FUSED], ids=["whole", "q and v"])
def test_what_trains_is_counted_by_what_the_parts_own(parts: tuple[TargetPart, ...], bias: bool) -> None:
    """A of 10 inputs, B of a part's rows and ranks, and for DoRA a magnitude of each of its rows."""
    ranks = sum(part.ranks.stop - part.ranks.start for part in parts)
    owned = sum((part.rows.stop - part.rows.start) * (part.ranks.stop - part.ranks.start) for part in parts)
    rows = sum(part.rows.stop - part.rows.start for part in parts)
    assert adapted("lora", parts, bias=bias).trainable_parameters == 10 * ranks + owned
    assert adapted("dora", parts, bias=bias).trainable_parameters == 10 * ranks + owned + rows


def test_factors_lie_where_the_weight_lies() -> None:
    base = nn.Linear(10, 18, device="meta", dtype=torch.float16)
    generator = torch.Generator().manual_seed(0)
    layer = LowRankLayer(base, FUSED, dora=True, scaling=SCALING, dropout=0.0, generator=generator)
    assert {(one.device.type, one.dtype) for one in layer.parameters()} == {("meta", torch.float16)}


@pytest.mark.parametrize("parts", [WHOLE, FUSED], ids=["whole", "q and v"])
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_peft_answers_and_learns_the_same(use_dora: bool, dropout: float, parts: tuple[TargetPart, ...]) -> None:
    import peft

    layer = adapted("dora" if use_dora else "lora", parts, dropout=dropout)
    base = nn.Sequential(nn.Linear(10, 18, dtype=torch.float64))
    base[0].load_state_dict({"weight": layer.weight, "bias": layer.bias})
    # q and v alone are, for peft, one adapter of the summed rank whose B is zero outside its blocks.
    rank = layer.lora_A.shape[0]
    config = peft.LoraConfig(
        r=rank, lora_alpha=SCALING * rank, lora_dropout=dropout, use_dora=use_dora, target_modules=["0"]
    )
    oracle = peft.get_peft_model(base, config, autocast_adapter_dtype=False).double()
    theirs = oracle.base_model.model[0]
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(layer.lora_A)
        theirs.lora_B["default"].weight.copy_(layer.lora_B)
        if use_dora:
            theirs.lora_magnitude_vector["default"].weight.copy_(layer.lora_magnitude_vector)
    x = torch.randn(7, 10, dtype=torch.float64)
    layer.train()
    oracle.train()
    torch.manual_seed(3)  # the same dropped entries on both sides
    mine = layer(x)
    torch.manual_seed(3)
    expected = oracle(x)
    # float64, sums in another order
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
    mine.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(layer.lora_A.grad, theirs.lora_A["default"].weight.grad, rtol=1e-10, atol=1e-10)
    their_B = theirs.lora_B["default"].weight.grad
    for part in parts:
        block = (part.rows, part.ranks)
        torch.testing.assert_close(layer.lora_B.grad[block], their_B[block], rtol=1e-10, atol=1e-10)
        if use_dora:
            their_m = theirs.lora_magnitude_vector["default"].weight.grad[part.rows]
            torch.testing.assert_close(layer.lora_magnitude_vector.grad[part.rows], their_m, rtol=1e-10, atol=1e-10)


def test_the_magnitude_learns_in_bf16_as_in_float64() -> None:
    base = nn.Linear(64, 48)
    with torch.no_grad():
        base.bias.fill_(3.0)  # much larger than the product: what a bias taken off a bf16 output would drown
    layer = LowRankLayer(
        base,
        (TargetPart("fc1", slice(0, 48), slice(0, 4)),),
        dora=True,
        scaling=2.0,
        dropout=0.0,
        generator=torch.Generator().manual_seed(0),
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2048, 64, generator=generator)
    dy = torch.randn(2048, 48, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.backward(dy.bfloat16())
    with torch.no_grad():
        direction = base.weight.double() / base.weight.double().norm(dim=1, keepdim=True)
        expected = (dy.bfloat16().double() * (x.double() @ direction.T)).sum(0)
    error = (layer.lora_magnitude_vector.grad.double() - expected).norm() / expected.norm()
    # bf16 keeps 8 bits: 0.4 % an entry, averaged over 2,048 tokens; measured 0.3 %. The bias' trace would be 1.4 %.
    assert error < 0.008


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_row_of_norm_zero(kind: AdapterName) -> None:
    base = nn.Linear(10, 18)
    with torch.no_grad():
        base.weight[3] = 0
    generator = torch.Generator().manual_seed(0)
    layer = LowRankLayer(base, WHOLE, dora=kind == "dora", scaling=SCALING, dropout=0.0, generator=generator)
    layer(torch.randn(4, 10)).sum().backward()
    assert all(
        layer.get_parameter(n).grad.isfinite().all() for n, _ in layer.named_parameters() if n.startswith("lora")
    )


@settings(max_examples=30, deadline=None)
@given(
    outputs=st.integers(1, 12),
    inputs=st.integers(1, 12),
    rank=st.integers(1, 5),
    dora=st.booleans(),
    scaling=st.floats(0.1, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_merge_answers_as_separate_products(
    outputs: int, inputs: int, rank: int, dora: bool, scaling: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    normal = partial(rng.standard_normal)
    weight = normal((outputs, inputs))
    magnitude = np.abs(normal(outputs)) if dora else None
    adapter = LowRankWeights(normal((rank, inputs)), normal((outputs, rank)), scaling, magnitude)
    x = normal((9, inputs))
    merged = merged_weight(weight, adapter)
    found, expected = x @ merged.T, unmerged_forward(x, weight, adapter)
    # float64: sums of at most 17 terms, each rounded to 1.1e-16 of the terms' own size.
    A, B = abs(adapter.lora_A_RI), abs(adapter.lora_B_OR)
    size = abs(x) @ (abs(weight) + scaling * B @ A).T
    if magnitude is not None:
        summed = weight + scaling * adapter.lora_B_OR @ adapter.lora_A_RI
        norm = np.linalg.norm(summed, axis=1)
        # The expanded norm, too, is rounded by its terms, which are larger where W and B·A nearly cancel.
        cancelled = (np.linalg.norm(abs(weight) + scaling * B @ A, axis=1) / norm) ** 2
        size = magnitude / norm * (size + cancelled * (abs(x) @ abs(summed).T))
    assert (abs(found - expected) <= 1e-14 * size).all()


@pytest.mark.parametrize("dora", [False, True])
def test_the_merge_is_summed_in_float64(dora: bool) -> None:
    """Against sums of rational numbers, which round nothing: f32 anywhere on the way is off by 1e-8 and more."""
    rng = np.random.default_rng(0)
    weight, A, B = rng.standard_normal((40, 6)), rng.standard_normal((3, 6)), rng.standard_normal((40, 3))
    magnitude = 1 + rng.random(40)
    found = merged_weight(weight, LowRankWeights(A, B, 0.3, magnitude if dora else None))
    exact = [
        [Fraction(w) + Fraction(0.3) * sum(Fraction(b) * Fraction(a) for b, a in zip(row_R, column_R, strict=True))
         for w, column_R in zip(row_I, A.T, strict=True)]
        for row_I, row_R in zip(weight, B, strict=True)
    ]  # fmt: skip
    if dora:
        gains = [
            Fraction(m) / Fraction(math.sqrt(sum(one**2 for one in row)))
            for m, row in zip(magnitude, exact, strict=True)
        ]
        exact = [[gain * one for one in row] for gain, row in zip(gains, exact, strict=True)]
    # A dozen roundings of numbers up to 10.
    np.testing.assert_allclose(found, np.array(exact, np.float64), rtol=0, atol=1e-14)


def test_rows_that_dora_takes_away_answer_nothing() -> None:
    """B·A = -W: the merged rows are zeros, whose expanded norm is a sum of roundings, of either sign."""
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((200, 12)), rng.standard_normal((5, 12))
    adapter = LowRankWeights(np.eye(12), -weight, 1.0, np.ones(200))
    assert not merged_weight(weight, adapter).any()
    # m / ‖·‖ of a norm of √1e-15 makes 1e-8 of products that are off by 1e-15; filterwarnings hears of the roots.
    np.testing.assert_allclose(unmerged_forward(x, weight, adapter), 0, atol=1e-6)


def test_the_layer_computes_with_the_merged_weight() -> None:
    for kind in ("lora", "dora"):
        layer = adapted(kind, FUSED)
        magnitude = layer.lora_magnitude_vector
        adapter = LowRankWeights(
            layer.lora_A.detach().numpy(),
            layer.lora_B.detach().numpy(),
            SCALING,
            None if magnitude is None else magnitude.detach().numpy(),
        )
        merged = torch.from_numpy(merged_weight(layer.weight.numpy(), adapter))
        # float64, sums in another order
        torch.testing.assert_close(layer.merged_weight(), merged, rtol=0, atol=1e-13)
        x = torch.randn(5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(layer(x), x @ merged.T + layer.bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_rows_that_are_listed_compute_as_a_run_of_rows_and_go_where_the_layer_goes(
    kind: AdapterName, dropout: float
) -> None:
    """As families have them that put q, k and v of one head behind each other."""
    listed = tuple(TargetPart(part.target, list(range(part.rows.start, part.rows.stop)), part.ranks) for part in FUSED)
    layers = [adapted(kind, parts, dropout=dropout).train() for parts in (FUSED, listed)]
    layers[1].load_state_dict(layers[0].state_dict())  # the rows are no part of it
    x = torch.randn(5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    answers: list[Tensor] = []
    for layer in layers:
        torch.manual_seed(0)
        answers.append(layer(x))
        answers[-1].square().sum().backward()
    assert torch.equal(*answers)
    for name, parameter in layers[0].named_parameters():
        other = layers[1].get_parameter(name)
        assert (parameter.grad is None) == (other.grad is None)
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, other.grad)
    placed = layers[1].to("meta").placed_parts
    assert [part.rows.device.type for part in placed] == ["meta", "meta"]
