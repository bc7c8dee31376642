"""PiSSA: an adapter that starts as the principal part of the weight; what is frozen is the rest.

While it trains, the layer computes with (W − s·B₀·A₀) + s·B·A, where s·B₀·A₀ is W cut to its first r singular values.
On disk it is a plain adapter of the untouched W, of rank 2r: s·[B, −B₀]·[A; A₀]. No other file doubles the rank.

Source: arXiv:2404.02948, eq. 2 to 4; the conversion is its appendix C.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ftx.adapters.adapter_layer import Scaling
from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.low_rank_layer import LowRankLayer


class PissaLayer(LowRankLayer):
    """Keeps the factors that training starts from in ``start_A`` and ``start_B``."""

    @torch.no_grad()
    def _begin(self) -> None:
        """Set A and B from the singular vectors of each part's rows and take s·B·A off the frozen weight, in place."""
        weight_OI, lora_A_RI, lora_B_OR, scaling = self.weight, self.lora_A, self.lora_B, self.scaling
        for part in self.parts:
            rank = part.ranks.stop - part.ranks.start
            U_OK, sigma_K, V_KI = torch.linalg.svd(weight_OI[part.rows].double(), full_matrices=False)
            s = float(scaling[part.ranks.start]) if isinstance(scaling, Tensor) else scaling
            root_R = (sigma_K[:rank] / s).sqrt()
            lora_A_RI[part.ranks] = (root_R[:, None] * V_KI[:rank]).to(lora_A_RI.dtype)
            lora_B_OR[part.rows, part.ranks] = (U_OK[:, :rank] * root_R).to(lora_B_OR.dtype)
        change_OI = (lora_B_OR.double() * scaling) @ lora_A_RI.double()
        weight_OI.copy_((weight_OI.double() - change_OI).to(weight_OI.dtype))
        self.register_buffer("start_A", lora_A_RI.clone(), persistent=False)
        self.register_buffer("start_B", lora_B_OR.clone(), persistent=False)

    @property
    def undecayed(self) -> tuple[nn.Parameter, ...]:
        """A and B: they are a part of the pretrained weight, which weight decay would let fade.

        Source: the authors of PiSSA train without any decay.
        """
        return self.lora_A, self.lora_B

    @torch.no_grad()
    def plain_factors(self) -> tuple[Tensor, Tensor, Scaling]:
        """A, B and their scaling against the untouched weight, each part's trained ranks followed by its starting ones.

        Shape: [2R, I] and [O, 2R].
        """
        start_A, start_B, scaling = self.get_buffer("start_A"), self.get_buffer("start_B"), self.scaling
        rows = [half[part.ranks] for part in self.parts for half in (self.lora_A, start_A)]
        columns = [half[:, part.ranks] for part in self.parts for half in (self.lora_B, -start_B)]
        if isinstance(scaling, Tensor):
            scaling = torch.cat([half[part.ranks] for part in self.parts for half in (scaling, scaling)])
        return torch.cat(rows), torch.cat(columns, dim=1), scaling


def spec_on_file(spec: AdapterSpec) -> AdapterSpec:
    """The plain adapter that the files hold for a spec."""
    if spec.init == "zero":
        return spec
    grown = math.sqrt(2) if spec.rslora else 2  # so that the scaling stays
    return replace(
        spec,
        init="zero",
        rank={target: 2 * rank for target, rank in spec.rank.items()},
        alpha={target: grown * alpha for target, alpha in spec.alpha.items()},
    )


def file_note(spec: AdapterSpec) -> str:
    """How the file differs from the spec, for the model card; nothing for a plain adapter."""
    return "" if spec.init == "zero" else ", in the file twice the rank, as a plain adapter"
