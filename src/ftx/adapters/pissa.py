"""PiSSA: an adapter that starts as the principal part of the weight, which the frozen rest is left without.

While it trains, the layer computes with (W − s·B₀·A₀) + s·B·A, where s·B₀·A₀ is W cut to its first r singular values.
On disk it is a plain adapter of the untouched W, of rank 2r: s·[B, −B₀]·[A; A₀].

Source: arXiv:2404.02948, eq. 2 to 4; the conversion is its appendix C.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ftx.adapters.spec import Part


@torch.no_grad()
def start_from_principal(layer: nn.Module, parts: tuple[Part, ...], scaling: float | Tensor) -> None:
    """Set A and B from the singular vectors of each part's rows and take s·B·A off the frozen weight, in place.

    The factors that training starts from are kept in ``start_A`` and ``start_B``.
    """
    weight_OI = layer.get_parameter("weight")
    lora_A_RI, lora_B_OR = layer.get_parameter("lora_A"), layer.get_parameter("lora_B")
    for part in parts:
        rank = part.ranks.stop - part.ranks.start
        U_OK, sigma_K, V_KI = torch.linalg.svd(weight_OI[part.rows].double(), full_matrices=False)
        s = float(scaling[part.ranks.start]) if isinstance(scaling, Tensor) else scaling
        root_R = (sigma_K[:rank] / s).sqrt()
        lora_A_RI[part.ranks] = (root_R[:, None] * V_KI[:rank]).to(lora_A_RI.dtype)
        lora_B_OR[part.rows, part.ranks] = (U_OK[:, :rank] * root_R).to(lora_B_OR.dtype)
    change_OI = (lora_B_OR.double() * scaling) @ lora_A_RI.double()
    weight_OI.copy_((weight_OI.double() - change_OI).to(weight_OI.dtype))
    layer.register_buffer("start_A", lora_A_RI.clone(), persistent=False)
    layer.register_buffer("start_B", lora_B_OR.clone(), persistent=False)


def starts_from_weight(layer: nn.Module) -> bool:
    """Whether a layer's factors started as a part of its weight."""
    return hasattr(layer, "start_A")


@torch.no_grad()
def plain_factors(layer: nn.Module, parts: tuple[Part, ...]) -> tuple[Tensor, Tensor]:
    """A and B against the untouched weight, each part's trained ranks followed by its starting ones.

    Shape: [2R, I] and [O, 2R] for PiSSA; for an adapter that started from B = 0 its own A and B.
    """
    lora_A_RI, lora_B_OR = layer.get_parameter("lora_A"), layer.get_parameter("lora_B")
    if not starts_from_weight(layer):
        return lora_A_RI, lora_B_OR
    start_A, start_B = layer.get_buffer("start_A"), layer.get_buffer("start_B")
    rows = [half[part.ranks] for part in parts for half in (lora_A_RI, start_A)]
    columns = [half[:, part.ranks] for part in parts for half in (lora_B_OR, -start_B)]
    return torch.cat(rows), torch.cat(columns, dim=1)
