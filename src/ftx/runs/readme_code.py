"""The Python that opens what ftx wrote, with the libraries that others use: the code of a model card."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ftx.adapters.trainable_model import TrainableModel
from ftx.backbones.kept_tokens import ALL_TOKENS, TokenFractions
from ftx.core.shipped_files import BUNDLED
from ftx.data.preprocess import Preprocess, crop_share
from ftx.recipe.schema import Recipe
from ftx.runs.dense import size_arguments
from ftx.runs.trained import HEAD, MODEL
from ftx.tasks.output_meaning import Meaning


def trained_code(recipe: Recipe, prepared: TrainableModel, meaning: Meaning) -> list[str]:
    """Lays ``trained/`` over its base: peft opens an adapter."""
    imports, base = _base_code(recipe, prepared, len(meaning.labels))
    if prepared.spec is not None:
        imports.append("from peft import PeftModel")
        load = [*_exposing(prepared.backbone.module), 'model = PeftModel.from_pretrained(base, ".").eval()']
        load[-1] += "  # this folder, or its name on the hub"
    else:
        imports.append("from safetensors.torch import load_file")
        file = MODEL if prepared.method == "full" else HEAD
        load = [f'unfilled, spare = base.load_state_dict(load_file("{file}"), strict={prepared.method == "full"})']
        load += ["assert not spare", "model = base.eval()"]
    transform = _transform(prepared.backbone.preprocess)
    imports.append("from timm.data import create_transform")
    return [
        *_imports(imports),
        *_names(meaning),
        *base,
        *load,
        *transform,
        *_asking("model(transform(image)[None])"),
        *_telling(meaning),
    ]


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
    # What timm alone cannot find: embedded weights, random ones of a seed, and a file of the user's.
    given = {"auto": '"auto"', "none": '"none"'}.get(weights, '"FILE.safetensors"')
    arguments = f"weights={given}, num_classes={classes}, image_size={pre.image_size!r}, seed={recipe.seed}"
    comment = "  # the file that training began with" if given.startswith('"FILE') else ""
    return ["from ftx.backbones.build import build", *dropping], [
        f'base = build("{recipe.model.name}", {arguments}).module{comment}',
        *drops,
    ]


def _dropping(name: str, shares: TokenFractions) -> tuple[list[str], list[str]]:
    """Imports, and what lets a model of timm drop the tokens that were dropped in training."""
    if not shares:
        return [], []
    return ["from ftx.backbones.kept_tokens import keep_tokens"], [
        f"keep_tokens({name}, {dict(shares)!r})  # without this it computes with all tokens, and answers otherwise"
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


def timm_code(meaning: Meaning, shares: TokenFractions = ALL_TOKENS) -> list[str]:
    """Opens ``dense/`` with timm."""
    dropping, drops = _dropping("model", shares)
    return [
        *_imports(["import timm", "from timm.data import create_transform, resolve_data_config", *dropping]),
        *_names(meaning),
        'model = timm.create_model("local-dir:.", pretrained=True).eval()  # or "hf-hub:OWNER/NAME"',
        *drops,
        "transform = create_transform(**resolve_data_config(model.pretrained_cfg))",
        *_asking("model(transform(image)[None])"),
        *_telling(meaning),
    ]


def transformers_code(meaning: Meaning) -> list[str]:
    """Opens ``dense/`` with transformers."""
    return [
        *_imports(["from transformers import AutoImageProcessor, AutoModelForImageClassification"]),
        *_names(meaning),
        'processor = AutoImageProcessor.from_pretrained(".")',
        'model = AutoModelForImageClassification.from_pretrained(".").eval()',
        *_asking('model(**processor(image, return_tensors="pt")).logits'),
        *_telling(meaning),
    ]


def _imports(more: Sequence[str]) -> list[str]:
    plain = sorted({"import torch", *(line for line in more if line.startswith("import"))})
    return [
        *plain,
        *sorted({"from PIL import Image", *(line for line in more if line.startswith("from"))}, key=str.lower),
        "",
    ]


def _names(meaning: Meaning) -> list[str]:
    """What the code needs to know of the labels."""
    definitions, _ = meaning.open().decoding_code()
    return [f"labels = {list(meaning.labels.names)!r}", *definitions]


def _asking(call: str) -> list[str]:
    return ['image = Image.open("image.jpg").convert("RGB")', "with torch.inference_mode():", f"    logits = {call}"]


def _telling(meaning: Meaning) -> list[str]:
    _, printing = meaning.open().decoding_code()
    return printing


def _transform(pre: Preprocess) -> list[str]:
    return [
        "transform = create_transform(",
        f'    (3, {pre.height}, {pre.width}), interpolation="{pre.interpolation}",',
        f"    crop_pct={crop_share(pre)!r}, mean={pre.mean!r}, std={pre.std!r},",
        ")",
    ]
