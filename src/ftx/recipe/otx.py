"""The recipe form of OpenVINO Training Extensions (OTX), read as keys of ours.

    task: MULTI_CLASS_CLS
    model:
      class_path: ...VisionTransformerMulticlassCls
      init_args: {label_info: 1000, model_name: dinov2-small, peft: dora, optimizer: {...}}

What says the same in both is carried over, and what cannot be is an error: nothing is dropped. Where the same word
means something a little different in ftx, a note says so.
Source: the recipes and the PEFT page of OTX 2.5 and 2.6, as they describe it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from ftx.core.errors import nearest

Keys = Mapping[str, object]

_TASKS = {"MULTI_CLASS_CLS": "multiclass", "MULTI_LABEL_CLS": "multilabel", "H_LABEL_CLS": "hierarchical"}
# A class is called after its task: VisionTransformerMulticlassCls, in older releases ...ForMulticlassCls.
_CLASSES = {"Multiclass": "multiclass", "Multilabel": "multilabel", "HLabel": "hierarchical"}
_CLASS = r"(VisionTransformer|TimmModel)(?:For)?(Multiclass|Multilabel|HLabel)Cls"
# Their names of backbones -> timm's; their dinov2 have register tokens. A TimmModel's are timm's own.
_MODELS = {
    "dinov2-small": "dinov2-small",
    "dinov2-base": "vit_base_patch14_reg4_dinov2",
    "dinov2-large": "vit_large_patch14_reg4_dinov2",
    "dinov2-giant": "vit_giant_patch14_reg4_dinov2",
    "deit-tiny": "deit_tiny_patch16_224",
    "deit-small": "deit_small_patch16_224",
    "deit-base": "deit_base_patch16_224",
}
_NOTES = {
    "dinov2-small": "model_name: ftx carries dinov2-small without register tokens, OTX has it with four "
    "(--model vit_small_patch14_reg4_dinov2)",
    "peft": "peft: rank, alpha and targets are ftx's own (adapter.* below); OTX's recipe does not say them",
}
# What an AdamW without these keys trains with, in torch.
_ADAMW_DEFAULTS = {"lr": 1e-3, "weight_decay": 1e-2}
# What torch's AdamW does anyway.
_ADAMW = {"betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False}
_PEFT = ("lora", "dora")
# What ftx chooses the best epoch by, where OTX has the same.
_MONITORS = {"multiclass": "val/accuracy"}
_REMOVE = "remove the key to go on without it"


def is_otx(recipe: Keys) -> bool:
    """Whether this is a recipe of theirs: its model has a ``class_path``, or its task a name of theirs."""
    model = recipe.get("model")
    return (isinstance(model, dict) and "class_path" in model) or str(recipe.get("task")) in _TASKS


@dataclass(frozen=True)
class Translation:
    """Our keys; a line for each of theirs that has no counterpart; a line for each that means a little else in ftx."""

    ours: dict[str, object]
    problems: list[str]
    notes: list[str]


def from_otx(recipe: Keys) -> Translation:
    """Our keys for theirs."""
    model = recipe.get("model")
    class_path = cast("Keys", model).get("class_path") if isinstance(model, dict) else None
    reader = _Reader(_TASKS.get(str(recipe.get("task"))), str(class_path).rpartition(".")[2])
    if reader.task is None:
        reader.problems.append(
            f"task: must be one of {', '.join(_TASKS)}; found {recipe.get('task')!r}: ftx classifies images"
        )
    else:
        reader.put("task", "task", reader.task)
    reader.read(recipe, "", {
        "task": lambda key, value: None,
        "seed": reader.taking("seed"),
        "model": reader.inside({"class_path": reader.of_task, "init_args": reader.inside(_init_args(reader))}),
        "engine": reader.inside({"device": reader.meaning("auto", "ftx trains where it can best")}),
        "max_epochs": reader.taking("train.epochs"),
        "overrides": reader.inside({"max_epochs": reader.taking("train.epochs")}),
        "callback_monitor": reader.monitor,
        "callbacks": reader.callbacks,
    })  # fmt: skip
    given = cast("Keys", reader.ours.get("model") or {})
    if "name" not in given and not any("model_name" in problem for problem in reader.problems):
        reader.problems.append("model.init_args.model_name: is missing, and OTX's default is another model than ftx's")
    if "peft" not in given:
        reader.put("model.init_args.peft", "model.peft", "none")  # their default; ours is an adapter
    return Translation(reader.ours, reader.problems, reader.notes)


Rule = Callable[[str, object], None]


def _init_args(reader: _Reader) -> dict[str, Rule]:
    return {
        "label_info": reader.label_info,
        "model_name": reader.model_name,
        "peft": reader.peft,
        "freeze_backbone": reader.taking("model.freeze_backbone"),
        "pretrained": reader.pretrained,
        "optimizer": reader.optimizer,
        "torch_compile": reader.meaning(False, "ftx does not compile the model"),
    }


class _Reader:
    """Collects our keys, and what has none; each rule takes a key of theirs, for its complaint, and the value."""

    def __init__(self, task: str | None, class_name: str) -> None:
        self.task, self.class_name = task, class_name
        self.ours: dict[str, object] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._put_by: dict[str, str] = {}

    def put(self, key: str, ours: str, value: object) -> None:
        if ours in self._put_by:
            self.problems.append(f"{key}: says again what {self._put_by[ours]} says; keep one of them")
        self._put_by[ours] = key
        section, _, leaf = ours.rpartition(".")
        into = cast("dict[str, object]", self.ours.setdefault(section, {})) if section else self.ours
        into[leaf] = value

    def read(self, keys: Keys, prefix: str, rules: Mapping[str, Rule]) -> None:
        for name, value in keys.items():
            if name in rules:
                rules[name](prefix + name, value)
            else:
                self.problems.append(f"{prefix}{name}: has no counterpart in ftx; {_hint(name)}")

    def inside(self, rules: Mapping[str, Rule]) -> Rule:
        def rule(key: str, value: object) -> None:
            if isinstance(value, dict):
                self.read(cast("Keys", value), f"{key}.", rules)
            elif value is not None:
                self.problems.append(f"{key}: must hold keys; found {value!r}")

        return rule

    def taking(self, ours: str) -> Rule:
        return lambda key, value: self.put(key, ours, value)

    def meaning(self, wanted: object, why: str) -> Rule:
        def rule(key: str, value: object) -> None:
            if value != wanted:
                self.problems.append(f"{key}: ftx has {wanted!r} ({why}); found {value!r}; {_REMOVE}")

        return rule

    def of_task(self, key: str, value: object) -> None:
        named = re.fullmatch(_CLASS, self.class_name)
        if named is None:
            self.problems.append(
                f"{key}: ftx trains VisionTransformer...Cls and TimmModel...Cls; found {self.class_name!r}"
            )
        elif self.task is not None and _CLASSES[named[2]] != self.task:
            self.problems.append(f"{key}: {self.class_name} contradicts the task, which is {self.task} in ftx")

    def model_name(self, key: str, value: object) -> None:
        if isinstance(value, str) and (value in _MODELS or self.class_name.startswith("TimmModel")):
            self.put(key, "model.name", _MODELS.get(value, value))
            if value in _NOTES:
                self.notes.append(_NOTES[value])
        else:
            alike = nearest(str(value), _MODELS)
            hint = f", did you mean '{alike}'?" if alike else "; a TimmModel...Cls takes timm's own names"
            self.problems.append(f"{key}: ftx knows {', '.join(_MODELS)}; found {value!r}{hint}")

    def peft(self, key: str, value: object) -> None:
        if value in ("", None):
            self.put(key, "model.peft", "none")
        elif value in _PEFT:
            self.put(key, "model.peft", value)
            self.notes.append(_NOTES["peft"])
        else:
            self.problems.append(f"{key}: must be one of {', '.join(_PEFT)}, or empty for none; found {value!r}")

    def pretrained(self, key: str, value: object) -> None:
        if isinstance(value, bool):
            self.put(key, "model.weights", "auto" if value else "none")
        else:
            self.problems.append(f"{key}: must be true or false; found {value!r}")

    def label_info(self, key: str, value: object) -> None:
        if isinstance(value, int) and not isinstance(value, bool):
            self.put(key, "data.classes", value)
        else:
            self.problems.append(f"{key}: names and groups come from the data, here only their number; {_REMOVE}")

    def optimizer(self, key: str, value: object) -> None:
        self.inside({
            "class_path": self.adamw,
            "init_args": self.inside({
                "lr": self.taking("train.lr"),
                "weight_decay": self.taking("train.weight_decay"),
                **{name: self.meaning(usual, "as torch's AdamW") for name, usual in _ADAMW.items()},
            }),
        })(key, value)  # fmt: skip
        for name, usual in _ADAMW_DEFAULTS.items():
            if f"train.{name}" not in self._put_by:
                self.put(f"{key}.init_args.{name}", f"train.{name}", usual)

    def adamw(self, key: str, value: object) -> None:
        if str(value).rpartition(".")[2] != "AdamW":
            self.problems.append(f"{key}: ftx trains with torch.optim.AdamW; found {value!r}")

    def monitor(self, key: str, value: object) -> None:
        if value != _MONITORS.get(str(self.task)):
            self.problems.append(
                f"{key}: ftx chooses the best epoch by the task's own metric; found {value!r}; {_REMOVE}"
            )

    def callbacks(self, key: str, value: object) -> None:
        for number, callback in enumerate(cast("list[object]", value) if isinstance(value, list) else [value]):
            given = cast("Keys", callback) if isinstance(callback, dict) else {}
            name = str(given.get("class_path", "without a class_path")).rpartition(".")[2]
            if name.startswith("EarlyStopping"):
                patience = self.inside({"patience": self.taking("train.patience")})
                rules: dict[str, Rule] = {"class_path": lambda key, value: None, "init_args": patience}
                self.inside(rules)(f"{key}.{number}", callback)
            else:
                self.problems.append(f"{key}.{number}: ftx has no callback {name}; {_hint(name)}")


def _hint(name: str) -> str:
    hints = {
        "scheduler": "ftx warms up linearly (train.warmup_share) and falls as half a cosine",
        "data": "name the data with --data, and batch and image size with their flags",
        "ModelCheckpoint": "the best epoch is kept anyway",
    }
    return f"{hints[name]}: {_REMOVE}" if name in hints else _REMOVE
