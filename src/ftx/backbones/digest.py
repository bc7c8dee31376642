"""The name of a set of weights: what a merge must find again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def base_digest(state: Mapping[str, Tensor], heads: tuple[str, ...]) -> str:
    """SHA-256 over the tensors in the order of their names, as f32, without the head.

    Taken before any resampling, so that neither dtype, container nor input size changes it; after weights made on
    grey images are widened to RGB, which the same file does to the same bytes again.
    """
    total = hashlib.sha256()
    for name in sorted(state):
        if any(name.startswith(f"{head}.") for head in heads):
            continue
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        total.update(f"{name} {list(tensor.shape)}\n".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
