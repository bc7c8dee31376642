"""The recipe form of OpenVINO Training Extensions (OTX), read as keys of ours.

    task: MULTI_CLASS_CLS
    model:
      class_path: ...VisionTransformerMulticlassCls
      init_args: {label_info: 1000, model_name: dinov2-small, peft: dora, optimizer: {...}}

What says the same in both is carried over, and what cannot be is an error: nothing is dropped.
Source: the recipes and the PEFT page of OTX 2.5 and 2.6, as they describe it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

Keys = Mapping[str, object]

_TASKS = {"MULTI_CLASS_CLS": "multiclass", "MULTI_LABEL_CLS": "multilabel", "H_LABEL_CLS": "hierarchical"}
# A class is called after its task: VisionTransformerMulticlassCls, in older releases ...ForMulticlassCls.
_CLASSES = {"Multiclass": "multiclass", "Multilabel": "multilabel", "HLabel": "hierarchical"}
_CLASS = r"(VisionTransformer|TimmModel)(?:For)?(Multiclass|Multilabel|HLabel)Cls"
# Their names of backbones -> timm's; dinov2-small is ours as well. A TimmModel's are timm's own.
_MODELS = {
    "dinov2-small": "dinov2-small",
    "dinov2-base": "vit_base_patch14_dinov2",
    "dinov2-large": "vit_large_patch14_dinov2",
    "dinov2-giant": "vit_giant_patch14_dinov2",
    "deit-tiny": "deit_tiny_patch16_224",
    "deit-small": "deit_small_patch16_224",
    "deit-base": "deit_base_patch16_224",
}
# What torch's AdamW does anyway.
_ADAMW = {"betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False}
_REMOVE = "remove the key to go on without it"


def is_otx(recipe: Keys) -> bool:
    """Whether this is a recipe of theirs: its model has a ``class_path``."""
    model = recipe.get("model")
    return isinstance(model, dict) and "class_path" in model


def from_otx(recipe: Keys) -> tuple[dict[str, object], list[str]]:
    """Our keys for theirs, and a line for each of theirs that has no counterpart."""
    reader = _Reader()
    task = _TASKS.get(str(recipe.get("task")))
    if task is None:
        reader.problems.append(
            f"task: must be one of {', '.join(_TASKS)}; found {recipe.get('task')!r}: ftx classifies images"
        )
    else:
        reader.put("task", task)
    reader.read(recipe, "", {
        "task": lambda key, value: None,
        "seed": reader.taking("seed"),
        "model": reader.inside({"class_path": reader.of_task(task), "init_args": reader.inside(_init_args(reader))}),
        "engine": reader.inside({"device": reader.meaning("auto", "ftx trains where it can best")}),
        "max_epochs": reader.taking("train.epochs"),
        "overrides": reader.inside({"max_epochs": reader.taking("train.epochs")}),
        "callback_monitor": reader.monitor(task),
        "callbacks": reader.callbacks,
    })  # fmt: skip
    model = reader.ours.get("model")
    if not isinstance(model, dict) or "peft" not in model:
        reader.put("model.peft", "none")  # their default; ours is an adapter
    return reader.ours, reader.problems


Rule = Callable[[str, object], None]


def _init_args(reader: _Reader) -> dict[str, Rule]:
    return {
        "label_info": reader.label_info,
        "model_name": reader.model_name,
        "peft": lambda key, value: reader.put("model.peft", value or "none"),
        "freeze_backbone": reader.taking("model.freeze_backbone"),
        "pretrained": lambda key, value: reader.put("model.weights", "auto" if value else "none"),
        "optimizer": reader.inside({
            "class_path": reader.optimizer,
            "init_args": reader.inside({
                "lr": reader.taking("train.lr"),
                "weight_decay": reader.taking("train.weight_decay"),
                **{name: reader.meaning(value, "that of AdamW in ftx") for name, value in _ADAMW.items()},
            }),
        }),
        "torch_compile": reader.meaning(False, "ftx does not compile the model"),
    }  # fmt: skip


class _Reader:
    """Collects our keys, and what has none; each rule takes a key of theirs, for its complaint, and the value."""

    def __init__(self) -> None:
        self.ours: dict[str, object] = {}
        self.problems: list[str] = []
        self.class_name = ""

    def put(self, key: str, value: object) -> None:
        section, _, leaf = key.rpartition(".")
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
        return lambda key, value: self.put(ours, value)

    def meaning(self, wanted: object, why: str) -> Rule:
        def rule(key: str, value: object) -> None:
            if value != wanted:
                self.problems.append(f"{key}: is {wanted!r} in ftx ({why}); found {value!r}; {_REMOVE}")

        return rule

    def of_task(self, task: str | None) -> Rule:
        def rule(key: str, value: object) -> None:
            self.class_name = str(value).rpartition(".")[2]
            named = re.fullmatch(
                r"(VisionTransformer|TimmModel)(?:For)?(Multiclass|Multilabel|HLabel)Cls", self.class_name
            )
            if named is None:
                self.problems.append(
                    f"{key}: ftx trains VisionTransformer...Cls and TimmModel...Cls; found {self.class_name!r}"
                )
            elif task is not None and _CLASSES[named[2]] != task:
                self.problems.append(f"{key}: {self.class_name} contradicts the task, which is {task} in ftx")

        return rule

    def model_name(self, key: str, value: object) -> None:
        name = str(value)
        if self.class_name.startswith("TimmModel") or name in _MODELS:
            self.put("model.name", _MODELS.get(name, name))
        else:
            self.problems.append(f"{key}: ftx knows {', '.join(_MODELS)} by these names; found {name!r}")

    def label_info(self, key: str, value: object) -> None:
        names: object = cast("Keys", value).get("label_names") if isinstance(value, dict) else value
        self.put("data.classes", len(cast("list[object]", names)) if isinstance(names, list) else names)

    def optimizer(self, key: str, value: object) -> None:
        if str(value).rpartition(".")[2] != "AdamW":
            self.problems.append(f"{key}: ftx trains with torch.optim.AdamW; found {value!r}")

    def monitor(self, task: str | None) -> Rule:
        if task == "multiclass":
            return self.meaning("val/accuracy", "the best epoch is that of the best accuracy on validation images")
        return lambda key, value: self.problems.append(
            f"{key}: ftx chooses the best epoch by the task's own metric; found {value!r}; {_REMOVE}"
        )

    def callbacks(self, key: str, value: object) -> None:
        for number, callback in enumerate(cast("list[object]", value) if isinstance(value, list) else [value]):
            given = cast("Keys", callback) if isinstance(callback, dict) else {}
            name = str(given.get("class_path")).rpartition(".")[2]
            if name.startswith("EarlyStopping"):
                self.inside({"patience": self.taking("train.patience")})(
                    f"{key}.{number}.init_args", given.get("init_args")
                )
            else:
                self.problems.append(f"{key}.{number}: ftx has no callback {name}; {_hint(name)}")


def _hint(name: str) -> str:
    hints = {
        "scheduler": "ftx warms up linearly (train.warmup_share) and falls as half a cosine",
        "data": "name the data with --data, and batch and image size with their flags",
        "ModelCheckpoint": "the best epoch is kept anyway",
    }
    return f"{hints[name]}: {_REMOVE}" if name in hints else _REMOVE
