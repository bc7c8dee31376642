"""The architectures of the table of families: one of each layout in timm that has linear layers to adapt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle

import timm
from torch import nn

from ftx.recipe.method_defaults import AdapterName


@dataclass(frozen=True)
class Family:
    """An architecture, the side of its images, how many layers are adapted, and what makes it small enough here."""

    architecture: str
    side: int
    layers: int
    shrunk: Mapping[str, object] = field(default_factory=dict[str, object])
    kind: AdapterName = "dora"
    suffix: str = "shrunk"

    @property
    def name(self) -> str:
        """What timm builds: the architecture itself, or a registered one with other arguments."""
        if not self.shrunk:
            return self.architecture
        name = f"{self.architecture}_{self.suffix}"
        if not timm.is_model(name):

            def entry(pretrained: bool = False, **given: object) -> nn.Module:
                return timm.model_entrypoint(self.architecture)(pretrained, **{**given, **self.shrunk})

            entry.__name__, entry.__module__ = name, __name__  # the module in which timm notes the name
            timm.models.register_model(entry)
        return name


def _at(side: int, **more: object) -> dict[str, object]:
    """The arguments of an architecture that is built for one size."""
    return {"img_size": side, "pretrained_cfg_overlay": {"input_size": (3, side, side)}, **more}


# One of each layout, and more where a family has several; the smallest of its family, and of few blocks where that one
# is large. 224: its blocks need the size.
_FAMILIES = (
    Family("vit_tiny_patch16_224", 32, 48),
    Family("vit_base_patch16_224", 32, 8, {"depth": 2}),
    Family("vit_base_patch16_clip_224", 32, 8, {"depth": 2}),
    Family("vit_base_patch16_siglip_224", 32, 8, {"depth": 2}),
    Family("vit_pe_core_tiny_patch16_384", 32, 8, {"depth": 2}),
    Family("vit_tiny_r_s16_p8_224", 64, 48),
    Family("vit_small_patch16_18x2_224", 32, 24, {"depth": 3}),
    Family("vit_pwee_patch16_reg1_gap_256", 32, 48),
    Family("vit_dpwee_patch16_reg1_gap_256", 32, 32),
    Family("vit_relpos_small_patch16_224", 64, 8, {"depth": 2}),
    Family("vit_srelpos_small_patch16_224", 64, 8, {"depth": 2}),
    Family("flexivit_small", 48, 8, {"depth": 2}),
    Family("naflexvit_base_patch16_gap", 64, 8, {"depth": 2}),
    Family("deit_tiny_patch16_224", 32, 48),
    Family("deit_tiny_distilled_patch16_224", 32, 48),
    Family("deit3_small_patch16_224", 32, 8, {"depth": 2}),
    Family("vit_small_patch14_dinov2", 28, 8, {"depth": 2}),
    Family("vit_small_patch14_reg4_dinov2", 28, 8, {"depth": 2}),
    Family("vit_giant_patch14_reg4_dinov2", 28, 4, {"depth": 1}),
    Family("vit_small_patch16_dinov3", 32, 8, {"depth": 2}),
    Family("vit_small_plus_patch16_dinov3", 32, 10, {"depth": 2}),
    Family("vit_7b_patch16_dinov3", 32, 10, {"depth": 2, "embed_dim": 256, "num_heads": 4}),
    Family("eva02_tiny_patch14_224", 28, 8, {"depth": 2}),
    Family("eva02_base_patch14_224", 28, 14, {"depth": 2}),
    Family("eva_giant_patch14_224", 28, 4, {"depth": 1}),
    Family("beit_base_patch16_224", 64, 8, {"depth": 2}),
    Family("beitv2_base_patch16_224", 64, 8, {"depth": 2}),
    Family("beit3_base_patch16_224", 32, 8, {"depth": 2}),
    Family("aimv2_large_patch14_224", 28, 5, {"depth": 1}),
    Family("vitamin_small_224", 32, 70),
    Family("samvit_base_patch16_224", 64, 12, _at(64, depth=3)),
    Family("gemma4_vit_167m", 96, 7, {"depth": 1}),
    Family("qwen3_vit_88m", 64, 8, {"depth": 2}),
    Family("deepseek_vit_412m", 56, 4, {"depth": 1}),
    Family("cait_xxs24_224", 64, 20, _at(64, depth=2)),
    Family("xcit_nano_12_p16_224", 64, 20, _at(64, depth=2)),
    Family("crossvit_tiny_240", 240, 32, {"depth": ((1, 1, 0), (1, 1, 0))}),
    Family("convit_tiny", 64, 58, _at(64)),
    Family("tnt_s_legacy_patch16_224", 32, 20, _at(32, depth=2)),
    Family("volo_d1_224", 64, 82, _at(64)),
    Family("swin_tiny_patch4_window7_224", 128, 20, {"depths": (2, 1, 1, 1)}),
    Family("swin_s3_tiny_224", 128, 20, {"depths": (2, 1, 1, 1)}),
    Family("swinv2_tiny_window8_256", 128, 20, {"depths": (2, 1, 1, 1)}),
    Family("swinv2_cr_tiny_224", 128, 20, {"depths": (2, 1, 1, 1)}),
    Family("maxvit_tiny_tf_224", 64, 88),
    Family("maxvit_tiny_pm_256", 64, 66),
    Family("maxvit_rmlp_pico_rw_256", 64, 88),
    Family("pvt_v2_b0", 64, 20, {"depths": (1, 1, 1, 1)}),
    Family("twins_svt_small", 64, 81, _at(64)),
    Family("twins_pcpvt_small", 64, 80, _at(64)),
    Family("mvitv2_tiny", 64, 40, _at(64)),
    Family("hiera_tiny_224", 64, 48, _at(64, img_size=(64, 64))),
    Family("sam2_hiera_tiny", 64, 48),
    Family("davit_tiny", 64, 32, {"depths": (1, 1, 1, 1)}),
    Family("gcvit_xxtiny", 64, 48, _at(64)),
    Family("nest_tiny", 64, 48, _at(64)),
    Family("coat_lite_tiny", 64, 32, _at(64)),
    Family("coat_tiny", 64, 40, _at(64, parallel_depth=1)),
    Family("pit_ti_224", 64, 48, _at(64)),
    Family("levit_128s", 224, 46),
    Family("levit_384_s8", 128, 58, _at(128)),
    Family("tiny_vit_5m_224", 64, 40),
    Family("mobilevit_xxs", 64, 36),
    Family("efficientformer_l1", 224, 4),
    Family("fastvit_mci0", 64, 4),
    Family("swiftformer_xs", 64, 16, _at(64)),
    Family("nextvit_small", 64, 16),
    Family("edgenext_xx_small", 64, 30),
    Family("caformer_s18", 64, 48),
    Family("csatv2", 64, 16),
    Family("convnext_tiny", 64, 8, {"depths": (1, 1, 1, 1)}),
    Family("mixer_s32_224", 96, 32, _at(96)),  # of four patches its layers would be narrower than a rank of 8
    Family("gmlp_ti16_224", 64, 60, _at(64)),
    Family("resmlp_12_224", 64, 24, _at(64)),
    Family("sequencer2d_s", 64, 36, _at(64)),
)
# Two blocks of twelve, for the whole way from images to an IR where the depth is not what a test is about: recording
# and converting a model takes as long as it has blocks. In this process alone, as timm has no such name.
SHALLOW = Family("vit_tiny_patch16_224", 32, 8, {"depth": 2}, suffix="shallow")
SHALLOW_DISTILLED = Family("deit_tiny_distilled_patch16_224", 32, 8, {"depth": 2}, suffix="shallow")
SHALLOW_XCIT = Family("xcit_nano_12_p16_224", 32, 20, {"depth": 2}, suffix="shallow")
KINDS: tuple[AdapterName, ...] = ("dora", "lora")
FAMILIES = {family.architecture: replace(family, kind=kind) for family, kind in zip(_FAMILIES, cycle(KINDS))}
