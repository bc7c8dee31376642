"""The Python that opens what ftx wrote, with the libraries that others use: the code of a model card."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ftx.adapters.trainable_model import TrainableModel
from ftx.backbones.kept_tokens import ALL_TOKENS, TokenFractions
from ftx.core.shipped_files import BUNDLED
from ftx.data.preprocess import crop_fraction
from ftx.recipe.schema import Recipe
from ftx.runs.dense import size_arguments
from ftx.runs.trained import HEAD, MODEL
from ftx.tasks.output_meaning import Meaning


def trained_code(recipe: Recipe, prepared: TrainableModel, meaning: Meaning) -> list[str]:
    """Loads ``trained/`` into its base: peft opens an adapter."""
    imports, opening = _base_code(recipe, prepared, len(meaning.labels))
    imports.append("from timm.data import create_transform")
    if prepared.spec is not None:
        imports.append("from peft import PeftModel")
        opening += [
            *_exposing(prepared.backbone.module),
            'model = PeftModel.from_pretrained(base, ".").eval()  # this folder, or its name on the hub',
        ]
    else:
        imports.append("from safetensors.torch import load_file")
        full = prepared.method == "full"
        opening += [
            f'unfilled, spare = base.load_state_dict(load_file("{MODEL if full else HEAD}"), strict={full})',
            "assert not spare",
            "model = base.eval()",
        ]
    pre = prepared.backbone.preprocess
    opening += [
        "transform = create_transform(",
        f'    (3, {pre.height}, {pre.width}), interpolation="{pre.interpolation}",',
        f"    crop_pct={crop_fraction(pre)!r}, mean={pre.mean!r}, std={pre.std!r},",
        ")",
    ]
    return _script(imports, meaning, opening, "model(transform(image)[None])")


def _base_code(recipe: Recipe, prepared: TrainableModel, classes: int) -> tuple[list[str], list[str]]:
    """Imports, and what builds the base with the weights that training began with."""
    module, pre = prepared.backbone.module, prepared.backbone.preprocess
    size = "".join(f", {name}={value!r}" for name, value in size_arguments(module, pre).items())
    name, weights = prepared.backbone.architecture, recipe.model.weights
    dropping, drops = _dropping("base", recipe.model.token_fractions)
    if prepared.method == "full":
        made = f'base = timm.create_model("{name}", num_classes={classes}{size})'
        return ["import timm", *dropping], [made, *drops]
    if weights == "auto" and recipe.model.name not in BUNDLED:
        made = f'base = timm.create_model("{name}", pretrained=True, num_classes={classes}{size})'
        return ["import timm", *dropping], [made, *drops]
    # What timm cannot find itself: bundled weights, random ones of a seed, and a file of the user's.
    given = {"auto": '"auto"', "none": '"none"'}.get(weights, '"FILE.safetensors"')
    arguments = f"weights={given}, num_classes={classes}, image_size={pre.image_size!r}, seed={recipe.seed}"
    comment = "  # the file that training began with" if given.startswith('"FILE') else ""
    return ["from ftx.backbones.build import build", *dropping], [
        f'base = build("{recipe.model.name}", {arguments}).module{comment}',
        *drops,
    ]


def _dropping(name: str, fractions: TokenFractions) -> tuple[list[str], list[str]]:
    """Imports, and what lets a model of timm drop the tokens that were dropped in training."""
    if not fractions:
        return [], []
    return ["from ftx.backbones.kept_tokens import keep_tokens"], [
        f"keep_tokens({name}, {dict(fractions)!r})  # without this it computes with all tokens, and its outputs differ"
    ]


def _exposing(module: nn.Module) -> list[str]:
    """What ``ftx.backbones.layer_roles.expose`` does, for models that need it."""
    if not any(hasattr(layer, "qkv_bias_separate") for layer in module.modules()):
        return []
    return [
        "for layer in base.modules():",
        '    if hasattr(layer, "qkv_bias_separate"):',
        "        layer.qkv_bias_separate = True  # else timm passes the adapter of qkv by, without a word",
    ]


def timm_code(meaning: Meaning, fractions: TokenFractions = ALL_TOKENS) -> list[str]:
    """Opens ``dense/`` with timm."""
    dropping, drops = _dropping("model", fractions)
    imports = ["import timm", "from timm.data import create_transform, resolve_data_config", *dropping]
    opening = [
        'model = timm.create_model("local-dir:.", pretrained=True).eval()  # or "hf-hub:OWNER/NAME"',
        *drops,
        "transform = create_transform(**resolve_data_config(model.pretrained_cfg))",
    ]
    return _script(imports, meaning, opening, "model(transform(image)[None])")


def transformers_code(meaning: Meaning) -> list[str]:
    """Opens ``dense/`` with transformers."""
    imports = ["from transformers import AutoImageProcessor, AutoModelForImageClassification"]
    opening = [
        'processor = AutoImageProcessor.from_pretrained(".")',
        'model = AutoModelForImageClassification.from_pretrained(".").eval()',
    ]
    return _script(imports, meaning, opening, 'model(**processor(image, return_tensors="pt")).logits')


def _script(imports: Sequence[str], meaning: Meaning, opening: Sequence[str], logits: str) -> list[str]:
    """The whole program: imports, labels, the model, and the prediction for an image."""
    definitions, printing = meaning.open().decoding_code()
    return [
        *sorted({"import torch", *(line for line in imports if line.startswith("import"))}),
        *sorted({"from PIL import Image", *(line for line in imports if line.startswith("from"))}, key=str.lower),
        "",
        f"labels = {list(meaning.labels.names)!r}",
        *definitions,
        *opening,
        'image = Image.open("image.jpg").convert("RGB")',
        "with torch.inference_mode():",
        f"    logits = {logits}",
        *printing,
    ]
