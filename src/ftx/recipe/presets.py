"""Three ways to train, each a few keys of the recipe; whatever a recipe, a flag or ``--set`` says wins over them.

What they were chosen by: docs/decisions/0018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Preset = Literal["fast", "balanced", "best"]
PRESET_NAMES: tuple[Preset, ...] = get_args(Preset)
DEFAULT_PRESET: Preset = "balanced"

PRESETS: Mapping[Preset, Mapping[str, object]] = {
    # The head alone, solved on frozen features: one pass over the images.
    "fast": {"model.peft": "none", "model.freeze_backbone": True, "train.augment": "none"},
    # The adapter in the last two fifths of the blocks, in each step on two fifths of the patches; the other blocks are
    # computed once, for images as they are. Where nothing is computed once, images vary.
    "balanced": {"adapter.blocks": "auto", "train.augment": "auto", "train.patch_dropout": "auto"},
    # The adapter in all blocks, on images that vary.
    "best": {"adapter.blocks": "all", "train.augment": "light"},
}
