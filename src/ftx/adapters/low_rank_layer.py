"""A linear layer with an adapter: LoRA, and DoRA, which is LoRA with a magnitude for each output.

Legend: N tokens, I inputs, O outputs, R ranks (summed over the parts of a fused layer).

    W' = g · (W + s·B·A)    g = m / ‖W + s·B·A‖, row by row, for DoRA; 1 for LoRA

Forward: W' is built once, here, of the factors that the gradient goes to (2·O·I·R operations against 2·N·O·I of the
product itself), then y = x·W'ᵀ + b is one dense product. Backward needs W' for dx and products with a thin side for dA
and dB; the dense dW' of [O, I] is never formed.

Source: LoRA, arXiv:2106.09685, eq. 3; DoRA, arXiv:2402.09353, eq. 5, where the bias is not scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import linear

from ftx.adapters.adapter_layer import AdapterLayer, Scaling
from ftx.adapters.adapter_spec import TargetPart
from ftx.adapters.low_rank import LORA_A, LORA_B, MAGNITUDE, LowRank


class LowRankLayer(AdapterLayer):
    """LoRA's layer, with ``dora`` DoRA's, whose magnitude is that of the base weight: load the weights before.

    The magnitude is None for LoRA.
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_magnitude_vector: nn.Parameter | None

    def __init__(
        self,
        base: nn.Linear,
        parts: tuple[TargetPart, ...],
        *,
        dora: bool,
        scaling: Scaling,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        rank = max(part.ranks.stop for part in parts)
        super().__init__(base, parts, method=LowRank(dora), rank=rank, scaling=scaling, generator=generator)
        if not dora:
            self.register_parameter(MAGNITUDE, None)
        self.dropout = dropout
        self._begin()

    def _begin(self) -> None:
        """What a way to initialise the factors does to a fresh layer."""

    def _fresh(self, name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """A drawn, B zero, and the magnitude that the base weight has."""
        return row_norms(self.weight) if name == MAGNITUDE else super()._fresh(name, shape, generator)

    @property
    def trainable_parameters(self) -> int:
        """How many entries train: A's, and those of B and of the magnitude that a part owns."""
        count = self.lora_A.numel()
        for part in self.parts:
            count += self.lora_B[part.rows, part.ranks].numel()
            if self.lora_magnitude_vector is not None:
                count += self.lora_magnitude_vector[part.rows].numel()
        return count

    @property
    def faster(self) -> tuple[nn.Parameter, ...]:
        """B. Source: LoRA+, arXiv:2402.12354, section 4."""
        return (self.lora_B,)

    def untrained_targets(self) -> list[str] | None:
        """After a backward: the targets whose block of B no gradient reaches; None if the layer was not called."""
        gradient = self.lora_B.grad
        if gradient is None:
            return None
        return [part.target for part in self.parts if not gradient[part.rows, part.ranks].norm() > 0]

    def plain_factors(self) -> tuple[Tensor, Tensor, Scaling]:
        """A, B and their scaling against the untouched base weight."""
        return self.lora_A, self.lora_B, self.scaling

    def stored(self) -> tuple[dict[str, Tensor], int, float]:
        """A, B and the one scaling that a layer has in peft; if targets differ in theirs, the rest goes into B."""
        lora_A, lora_B, scaling = self.plain_factors()
        if isinstance(scaling, Tensor):
            largest = scaling.max()
            lora_B, scaling = lora_B * (scaling / largest), float(largest)
        return {**self.factors, LORA_A: lora_A, LORA_B: lora_B}, len(lora_A), scaling

    def merged_weight(self) -> Tensor:
        """W', with gradients to A, and to what the parts own of B and the magnitude. Shape: [O, I]."""
        owned_OR = torch.zeros_like(self.lora_B)
        for part in self.placed_parts:
            owned_OR[part.rows, part.ranks] = self.lora_B[part.rows, part.ranks]
        summed_OI = summed_weight(self.weight, self.lora_A, owned_OR, self.scaling)
        if self.lora_magnitude_vector is None:
            return summed_OI
        # The norm is a constant of the gradient (section 4.3).
        norm_O = row_norms(summed_OI.detach())
        return summed_OI * gain(self._owned_magnitude(self.lora_magnitude_vector), norm_O)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """y = x·W'ᵀ + b, in autocast's dtype if that is on. Shape: [..., I] to [..., O]."""
        if self.training and self.dropout > 0:
            return self._with_dropout(x)
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        magnitude_O = self.lora_magnitude_vector
        adapter = (self.lora_A, self.lora_B, magnitude_O, self.scaling, self.placed_parts)
        # Inside, every cast is written out: autocast would round A and B before they are summed into W'.
        with torch.autocast(device, enabled=False):
            y_NO = MergedProduct.apply(x.reshape(-1, x.shape[-1]), self.weight, self.bias, *adapter)
        y = y_NO.view(*x.shape[:-1], -1)
        # The product may be kept for the magnitude's gradient; who adds to it in place is given a copy.
        return y.clone() if self.added_to_in_place and magnitude_O is not None else y

    def _with_dropout(self, x: Tensor) -> Tensor:
        """x·Wᵀ + b + s·x̃·(B·A)ᵀ for the dropped x̃, which only the adapter gets, so no merged weight can express it.

        With a magnitude, in peft's meaning: x·Wᵀ + b + (g − 1)·x̃·Wᵀ + g·s·x̃·(B·A)ᵀ.
        """
        x_dropped = dropped(x, self.dropout)
        side = self._side_product(x_dropped)
        if self.lora_magnitude_vector is not None:
            with torch.no_grad():  # the norm is a constant of the gradient (section 4.3)
                norm_O = row_norms(summed_weight(self.weight, self.lora_A, self.lora_B, self.scaling))
            gain_O = gain(self._owned_magnitude(self.lora_magnitude_vector), norm_O)
            side = (gain_O - 1) * linear(x_dropped, self.weight) + gain_O * side
        return linear(x, self.weight, self.bias) + side

    def _side_product(self, x: Tensor) -> Tensor:
        """s·x·(B·A)ᵀ part by part, so that the zeros of a fused layer's B get no gradient. Shape: [..., O]."""
        down = linear(x, self.lora_A) * self.scaling
        up = down.new_zeros(*x.shape[:-1], self.out_features)
        for part in self.placed_parts:
            up[..., part.rows] = linear(down[..., part.ranks], self.lora_B[part.rows, part.ranks])
        return up

    def _owned_magnitude(self, magnitude_O: Tensor) -> Tensor:
        """The magnitude, held constant in rows that no part owns. Shape: [O]."""
        return torch.where(_owned_rows(self.placed_parts, magnitude_O), magnitude_O, magnitude_O.detach())


class MergedProduct(torch.autograd.Function):
    """y = x · (g·(W + s·B·A))ᵀ + b, where ``magnitude`` is None for LoRA.

    DoRA's norm of W + s·B·A is a constant of the gradient (arXiv:2402.09353, section 4.3). Each tensor is an
    argument of its own, because torch gives gradients to no others.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x_NI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        lora_A_RI: Tensor,
        lora_B_OR: Tensor,
        magnitude_O: Tensor | None,
        scaling: Scaling,
        parts: tuple[TargetPart, ...],
    ) -> Tensor:
        """Shape: [N, O], in the dtype of x; W' is summed in the dtype of W and rounded once."""
        compute = x_NI.dtype
        bias = None if bias_O is None else bias_O.to(compute)
        product_NO: Tensor | None = None
        summed_OI = summed_weight(weight_OI, lora_A_RI, lora_B_OR, scaling)
        if magnitude_O is None:
            gain_O = None
            merged_OI = summed_OI.to(compute)
            y_NO = linear(x_NI, merged_OI, bias)
        else:
            gain_O = gain(magnitude_O, row_norms(summed_OI))
            merged_OI = summed_OI.mul_(gain_O[:, None]).to(compute)
            if _reduced(compute) and bias is not None:
                # The magnitude's gradient needs the product before its bias. To subtract the bias
                # from a bf16 output leaves a gradient that is 1.4 % off.
                product_NO = linear(x_NI, merged_OI)
                y_NO = product_NO + bias
            else:
                product_NO = y_NO = linear(x_NI, merged_OI, bias)
        ctx.scaling, ctx.parts = scaling, parts
        ctx.save_for_backward(x_NI, merged_OI, lora_A_RI, lora_B_OR, gain_O, magnitude_O, product_NO, bias_O)
        return y_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of x, A, B and the magnitude; the base weight and its bias are frozen."""
        x_NI, merged_OI, lora_A_RI, lora_B_OR, gain_O, magnitude_O, product_NO, bias_O = ctx.saved_tensors
        compute = x_NI.dtype
        dx_NI = dy_NO @ merged_OI if ctx.needs_input_grad[0] else None

        scaling = ctx.scaling if gain_O is None else gain_O[:, None] * ctx.scaling
        scaled_B_OR = lora_B_OR * scaling
        # Laid out as [R, O], and dB computed as its transpose: a thin side that comes first is up to
        # nine times as fast in the CPU's f32 products.
        scaled_B_RO = scaled_B_OR.to(compute).mT.contiguous()
        down_NR = linear(x_NI, lora_A_RI.to(compute))
        if _is_one_for_all(ctx.parts, len(lora_B_OR)):
            up_NR = linear(dy_NO, scaled_B_RO)
            dB_OR = torch.empty_like(lora_B_OR).copy_((down_NR.mT @ dy_NO).mT)
        else:
            up_NR = torch.empty_like(down_NR)
            dB_OR = torch.zeros_like(lora_B_OR)
            for part in ctx.parts:
                dy_part = dy_NO[:, part.rows]
                up_NR[:, part.ranks] = linear(dy_part, scaled_B_RO[part.ranks, part.rows])
                dB_OR[part.rows, part.ranks] = (down_NR[:, part.ranks].mT @ dy_part).mT.to(dB_OR.dtype)
        dB_OR *= scaling
        dA_RI = (up_NR.mT @ x_NI).to(lora_A_RI.dtype)

        dm_O = None
        if magnitude_O is not None:
            dm_O = _magnitude_gradient(dy_NO, product_NO, bias_O, magnitude_O, ctx.parts)
        return dx_NI, None, None, dA_RI, dB_OR, dm_O, None, None


_ROWS = 1024


def _magnitude_gradient(
    dy_NO: Tensor, product_NO: Tensor, bias_O: Tensor | None, magnitude_O: Tensor, parts: tuple[TargetPart, ...]
) -> Tensor:
    """dm = Σ_N dy·(y − b) / m; zero for rows that no part owns. Shape: [O]."""
    # A product in bf16 holds no bias.
    unbiased = None if bias_O is None or _reduced(product_NO.dtype) else bias_O.to(product_NO.dtype)
    sum_O = magnitude_O.new_zeros(magnitude_O.shape)
    # So few rows n at a time that what lies between stays in a CPU's cache: all at once takes twice as long there.
    chunks = max(-(-len(dy_NO) // _ROWS), 1) if dy_NO.device.type == "cpu" else 1
    for dy_nO, product_nO in zip(dy_NO.chunk(chunks), product_NO.chunk(chunks), strict=True):
        terms_nO = dy_nO * product_nO if unbiased is None else (product_nO - unbiased).mul_(dy_nO)
        # torch sums bf16 in f32 and rounds once; with dtype f32 it would convert every term first.
        sum_O += terms_nO.sum(0)
    # A magnitude of zero leaves no trace of the direction in y; such a row cannot be trained by y.
    trained_O = magnitude_O != 0
    if not _is_one_for_all(parts, len(magnitude_O)):
        trained_O &= _owned_rows(parts, magnitude_O)
    return torch.where(trained_O, sum_O / magnitude_O, 0.0)


def _owned_rows(parts: tuple[TargetPart, ...], outputs_O: Tensor) -> Tensor:
    """Which outputs of a layer its parts own. Shape: [O]."""
    owned_O = torch.zeros_like(outputs_O, dtype=torch.bool)
    for part in parts:
        owned_O[part.rows] = True
    return owned_O


def _is_one_for_all(parts: tuple[TargetPart, ...], outputs: int) -> bool:
    """Whether the layer has one part, as all have that are not fused."""
    return len(parts) == 1 and isinstance(parts[0].rows, slice) and parts[0].rows == slice(0, outputs)


def _reduced(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16)


def summed_weight(weight_OI: Tensor, lora_A_RI: Tensor, lora_B_OR: Tensor, scaling: Scaling) -> Tensor:
    """W + s·B·A in the dtype of the weight. Shape: [O, I]."""
    if isinstance(scaling, Tensor):
        return torch.addmm(weight_OI, lora_B_OR * scaling, lora_A_RI)
    return torch.addmm(weight_OI, lora_B_OR, lora_A_RI, alpha=scaling)


def row_norms(weight_OI: Tensor) -> Tensor:
    """The Euclidean norm of each output's weights. Shape: [O]."""
    return torch.linalg.vector_norm(weight_OI, dim=1)


def gain(magnitude_O: Tensor, norm_O: Tensor) -> Tensor:
    """DoRA's m / ‖W + s·B·A‖; a row of norm zero has no direction and keeps gain 1. Shape: [O]."""
    return torch.where(norm_O > 0, magnitude_O / norm_O, torch.ones_like(norm_O))
