"""Layers as people read them: those alike but for their numbers under one name."""

from __future__ import annotations

import re


def numberless(layer: str) -> str:
    """``blocks.N.attn.qkv`` for ``blocks.3.attn.qkv``."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "N", layer)
