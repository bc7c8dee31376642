"""The errors of a recipe, as lines that a person can act on.

``train.lrate: unknown key, did you mean 'lr'?``
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from ftx.core.errors import LINES, cut, nearest, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# pydantic's type of an error -> what the value must be, with the names of its context in braces.
_EXPECTED = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
}
# Names of the same keys in peft, transformers and timm.
_SYNONYMS = {
    "learning_rate": "lr",
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "use_rslora": "rslora",
    "target_modules": "targets",
    "num_train_epochs": "epochs",
    "img_size": "image_size",
    "pretrained": "weights",
    "loraplus_lr_ratio": "lora_plus",
    "init_lora_weights": "init",
}


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a model and of the models inside it, as ``train.lr``, in order."""
    for name, field in model.model_fields.items():
        key, inner = field.alias or name, field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from dotted_keys(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def unknown_key(key: str, model: type[BaseModel]) -> str:
    """One line about a key that does not exist, with the nearest that does."""
    section, _, leaf = key.rpartition(".")
    keys = list(dotted_keys(model))
    leaf = _SYNONYMS.get(leaf, leaf)
    siblings = [known.removeprefix(f"{section}.") for known in keys if section and known.startswith(f"{section}.")]
    if not section:
        siblings = [field.alias or name for name, field in model.model_fields.items()]
    elsewhere = [known for known in keys if known.rpartition(".")[2] == leaf]
    if leaf in siblings:
        found = leaf
    elif elsewhere:  # the same word in another section beats a word alike in this one
        found = elsewhere[0]
    else:
        alike = nearest(leaf, [known.rpartition(".")[2] for known in keys])
        found = (
            nearest(leaf, siblings)
            or (nearest(key, keys) or "").removeprefix(f"{section}.")
            or next((known for known in keys if known.rpartition(".")[2] == alike), None)
        )
    hint = f"did you mean '{found}'?" if found else f"known here: {', '.join(siblings)}"
    return f"{key}: unknown key, {hint}"


def error_lines(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each error, in the order of the model's keys, as many as one message lists."""
    return [_line(details, model) for details in error.errors(include_url=False)[:LINES]]


def _line(details: ErrorDetails, model: type[BaseModel]) -> str:
    key = cut(".".join(str(part) for part in details["loc"] if isinstance(part, str)))
    found = _shown(details["input"])
    if details["type"] == "extra_forbidden":
        return unknown_key(key, model)
    if details["type"] in ("model_type", "model_attributes_type", "dict_type"):
        inside = [known.removeprefix(f"{key}.") for known in dotted_keys(model) if known.startswith(f"{key}.")]
        return f"{key}: must hold keys ({', '.join(inside)}); found {found}"
    if details["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", str(details.get("ctx", {}).get("expected", "")))
        return f"{key}: must be one of {', '.join(choices)}; found {found}{_nearest_choice(details['input'], choices)}"
    known = _EXPECTED.get(details["type"])
    expected = known.format(**details.get("ctx", {})) if known else details["msg"].replace("Input should be", "must be")
    return f"{key}: {expected}; found {found}"


def _nearest_choice(value: object, choices: list[str]) -> str:
    text = value if isinstance(value, str) else shown(value)
    # 'qvk' is like none of q, k and v, yet made of them.
    like = nearest(text, choices) or (", ".join(text) if 0 < len(text) < 10 and set(text) <= set(choices) else None)
    return f", did you mean '{like}'?" if like else ""


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else shown(value)
