"""PiSSA: an adapter that starts as the principal part of the weight; what is frozen is the rest.

While it trains, the layer computes with (W − s·B₀·A₀) + s·B·A, where s·B₀·A₀ is W cut to its first r singular values.
On disk it is a plain adapter of the untouched W, of rank 2r: s·[B, −B₀]·[A; A₀]. Nobody else knows of the doubling.

Source: arXiv:2404.02948, eq. 2 to 4; the conversion is its appendix C.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ftx.adapters.layer import AdaptedLinear, Scaling
from ftx.adapters.spec import AdapterSpec


@torch.no_grad()
def start_from_principal(layer: AdaptedLinear) -> None:
    """Set A and B from the singular vectors of each part's rows and take s·B·A off the frozen weight, in place.

    The factors that training starts from are kept in ``start_A`` and ``start_B``.
    """
    weight_OI, lora_A_RI, lora_B_OR, scaling = layer.weight, layer.lora_A, layer.lora_B, layer.scaling
    for part in layer.parts:
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


def _started_from_principal(layer: AdaptedLinear) -> bool:
    return hasattr(layer, "start_A")


def must_not_decay(layer: AdaptedLinear) -> tuple[nn.Parameter, ...]:
    """The factors that are a part of the pretrained weight, which weight decay would let fade; none of a plain adapter.

    Source: the authors of PiSSA train without any decay.
    """
    return (layer.lora_A, layer.lora_B) if _started_from_principal(layer) else ()


@torch.no_grad()
def plain_factors(layer: AdaptedLinear) -> tuple[Tensor, Tensor, Scaling]:
    """A, B and their scaling against the untouched weight, each part's trained ranks followed by its starting ones.

    Shape: [2R, I] and [O, 2R] for PiSSA; for an adapter that started from B = 0 its own A and B.
    """
    lora_A_RI, lora_B_OR, scaling = layer.lora_A, layer.lora_B, layer.scaling
    if not _started_from_principal(layer):
        return lora_A_RI, lora_B_OR, scaling
    start_A, start_B = layer.get_buffer("start_A"), layer.get_buffer("start_B")
    rows = [half[part.ranks] for part in layer.parts for half in (lora_A_RI, start_A)]
    columns = [half[:, part.ranks] for part in layer.parts for half in (lora_B_OR, -start_B)]
    if isinstance(scaling, Tensor):
        scaling = torch.cat([half[part.ranks] for part in layer.parts for half in (scaling, scaling)])
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
    """What a model card says of how the file differs from the spec; nothing for a plain adapter."""
    return "" if spec.init == "zero" else ", in the file twice the rank, as a plain adapter"
