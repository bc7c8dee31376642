"""The recipe form of OpenVINO Training Extensions (OTX), read as keys of ours.

    task: MULTI_CLASS_CLS
    model:
      class_path: ...VisionTransformerMulticlassCls
      init_args: {label_info: 1000, model_name: dinov2-small, peft: dora, optimizer: {...}}

The table has our key for each of theirs. A key that is not in it is an error: nothing is dropped. If the same key means
something slightly different in ftx, there is a note.
Source: the recipes and the PEFT page of OTX 2.5 and 2.6.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from ftx.core.errors import nearest
from ftx.tasks.task_names import TASK_FACTS

Keys = Mapping[str, object]

_REMOVE = "remove the key to train without it"
_TASKS = {facts.otx_task: name for name, facts in TASK_FACTS.items()}
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
_PEFT = {"lora": "lora", "dora": "dora", "": "none", None: "none"}
_PRETRAINED = {True: "auto", False: "none"}
_COMPILE = {True: "auto", False: "none"}
# torch's own AdamW, for what a recipe's optimizer does not set.
_ADAMW = {"train.lr": 1e-3, "train.weight_decay": 1e-2}
_REGISTERS = (
    "model_name: ftx carries dinov2-small without register tokens, OTX has it with four "
    "(--model vit_small_patch14_reg4_dinov2)"
)
_RANK = "peft: rank, alpha and targets are ftx's own (adapter.*); OTX's recipe does not have them"
_PATIENCE = "patience: ftx counts epochs since the mean metric of three was highest, OTX since that of one was"
# On our key with this value, or with any.
_NOTES = {
    ("model.name", "dinov2-small"): _REGISTERS,
    ("model.peft", "lora"): _RANK,
    ("model.peft", "dora"): _RANK,
    ("train.patience", ...): _PATIENCE,
}
# By the last name of a key, or the class of a callback.
_HINTS = {
    "scheduler": f"ftx warms up linearly (train.warmup_share) and falls as half a cosine: {_REMOVE}",
    "data": f"name the data with --data, and batch and image size with their flags: {_REMOVE}",
    "ModelCheckpoint": f"the best epoch is kept anyway: {_REMOVE}",
}


def _class_fault(value: object, theirs: Keys) -> str | None:
    # A class is named after its task: VisionTransformerMulticlassCls, in older releases ...ForMulticlassCls.
    of_task = {facts.otx_class: name for name, facts in TASK_FACTS.items()}
    name, task = _last(value), _TASKS.get(str(theirs["task"]))
    found = re.fullmatch(rf"(?:VisionTransformer|TimmModel)(?:For)?({'|'.join(of_task)})Cls", name)
    if found is None:
        return f"must be VisionTransformer...Cls or TimmModel...Cls; found {name!r}"
    return f"must be a class of the task {task}; found {name!r}" if task not in (None, of_task[found[1]]) else None


def _model_fault(value: object, theirs: Keys) -> str | None:
    if isinstance(value, str) and (value in _MODELS or _last(theirs.get("model.class_path")).startswith("TimmModel")):
        return None
    alike = nearest(str(value), _MODELS)
    hint = f", did you mean '{alike}'?" if alike else "; a TimmModel...Cls takes timm's own names"
    return f"must be one of {', '.join(_MODELS)}; found {value!r}{hint}"


def _monitor_fault(value: object, theirs: Keys) -> str | None:
    if value == ("val/accuracy" if theirs["task"] == "MULTI_CLASS_CLS" else None):  # where OTX has the same metric
        return None
    return f"must be the task's own metric, by which ftx chooses the best epoch; found {value!r}; {_REMOVE}"


def _optimizer_fault(value: object, _: Keys) -> str | None:
    return None if _last(value) == "AdamW" else f"must be torch.optim.AdamW; found {value!r}"


def _count_fault(value: object, _: Keys) -> str | None:
    if type(value) is int:
        return None
    return f"must be the number of labels, as their names come from the data; found {value!r}; {_REMOVE}"


@dataclass(frozen=True)
class Row:
    """Our key for the value of one of theirs (None if ftx leaves no choice), and which values it takes.

    ``values`` are those, in a mapping with what they are in ftx; ``error`` is the line about any other. If more than
    this must be checked, ``fault`` returns the problem of a value among the other keys.
    """

    ours: str | None = None
    values: Collection[object] | None = None
    error: str = ""
    fault: Callable[[object, Keys], str | None] | None = None


def _only(value: object, why: str) -> Row:
    return Row(None, (value,), f"must be {value!r} ({why}); found {{found}}; {_REMOVE}")


_TABLE = {
    "task": Row("task", _TASKS, f"must be one of {', '.join(_TASKS)}; found {{found}}: ftx classifies images"),
    "seed": Row("seed"),
    "max_epochs": Row("train.epochs"),
    "overrides.max_epochs": Row("train.epochs"),
    "engine.device": _only("auto", "ftx trains where it can best"),
    "callback_monitor": Row(fault=_monitor_fault),
    "callbacks.EarlyStopping.class_path": Row(),
    "callbacks.EarlyStopping.init_args.patience": Row("train.patience"),
    "model.class_path": Row(fault=_class_fault),
    "model.init_args.label_info": Row("data.classes", fault=_count_fault),
    "model.init_args.model_name": Row("model.name", _MODELS, fault=_model_fault),
    "model.init_args.peft": Row("model.peft", _PEFT, "must be lora, dora, or empty for none; found {found}"),
    "model.init_args.freeze_backbone": Row("model.freeze_backbone"),
    "model.init_args.pretrained": Row("model.weights", _PRETRAINED, "must be true or false; found {found}"),
    "model.init_args.torch_compile": Row("train.compile", _COMPILE, "must be true or false; found {found}"),
    "model.init_args.optimizer.class_path": Row(fault=_optimizer_fault),
    "model.init_args.optimizer.init_args.lr": Row("train.lr"),
    "model.init_args.optimizer.init_args.weight_decay": Row("train.weight_decay"),
    "model.init_args.optimizer.init_args.betas": _only([0.9, 0.999], "as torch's AdamW"),
    "model.init_args.optimizer.init_args.eps": _only(1e-8, "as torch's AdamW"),
    "model.init_args.optimizer.init_args.amsgrad": _only(False, "as torch's AdamW"),
}
_SECTIONS = {"", *(path[: dot.start()] for path in _TABLE for dot in re.finditer(r"\.", path))}


# How OTX trains, where its recipe has no key for it.
_USUAL: Keys = {
    "adapter.blocks": "all",
    "train.augment": "light",
    "train.patch_dropout": 0.0,
    "train.head_init": "random",
}


@dataclass(frozen=True)
class Translation:
    """Our keys, dotted; a line for each of theirs without a counterpart; a note for each that differs a little.

    ``usual`` are keys that OTX's recipe does not have, with the values by which OTX trains.
    """

    ours: dict[str, object]
    problems: list[str]
    notes: list[str]

    @property
    def usual(self) -> Keys:
        has_adapter = self.ours["model.peft"] != "none"
        if self.ours.get("model.freeze_backbone") is True:  # a head that is solved in one go, from unaugmented images
            return {}
        return {key: value for key, value in _USUAL.items() if has_adapter or not key.startswith("adapter.")}


def is_otx(recipe: Keys) -> bool:
    """Whether this is a recipe of theirs: its model has a ``class_path``, or its task a name of theirs."""
    model = recipe.get("model")
    return (isinstance(model, dict) and "class_path" in model) or str(recipe.get("task")) in _TASKS


def from_otx(recipe: Keys) -> Translation:
    """Our keys for theirs."""
    flat = list(_flat({"task": None, **recipe}))
    theirs = {path: value for _, path, value in flat}
    made = Translation({}, [], [])
    given_by: dict[str, str] = {}
    for key, path, value in flat:
        row, fault = _TABLE.get(path, Row()), _fault(path, value, theirs)
        if fault is not None:
            made.problems.append(f"{key}: {fault}")
        elif row.ours is not None:
            if row.ours in given_by:
                made.problems.append(f"{key}: sets the same value as {given_by[row.ours]}; remove one of them")
            given_by[row.ours] = key
            translated = cast("Mapping[object, object]", row.values if isinstance(row.values, dict) else {})
            made.ours[row.ours] = translated.get(value, value) if translated else value
            made.notes.extend(note for (ours, of), note in _NOTES.items() if ours == row.ours and of in (value, ...))
    if "model.name" not in made.ours and not any("model_name" in problem for problem in made.problems):
        made.problems.append("model.init_args.model_name: must be given, as OTX's default model differs from ftx's")
    made.ours.setdefault("model.peft", "none")  # their default; ours is an adapter
    if any(f"{path}.".startswith("model.init_args.optimizer.") for path in theirs):
        made.ours.update({key: usual for key, usual in _ADAMW.items() if key not in made.ours})
    return made


def _flat(value: object, key: str = "", path: str = "") -> Iterator[tuple[str, str, object]]:
    """Each key that holds no others, its path in the table, and its value."""
    if path == "callbacks":
        for number, callback in enumerate(cast("list[object]", value) if isinstance(value, list) else [value]):
            name = _last(cast("Keys", callback).get("class_path", "") if isinstance(callback, dict) else "")
            kind = "EarlyStopping" if name.startswith("EarlyStopping") else name or "without a class_path"
            yield from _flat(callback, f"{key}.{number}", f"callbacks.{kind}")
    elif path in _SECTIONS and isinstance(value, dict) and value:
        for name, inside in cast("Keys", value).items():
            step = repr(name) if "." in name else name  # a name with a dot is no path
            yield from _flat(inside, f"{key}.{name}" if key else name, f"{path}.{step}" if path else step)
    else:
        yield key, path, value


def _fault(path: str, value: object, theirs: Keys) -> str | None:
    """What is wrong with a key of theirs, if anything is."""
    if path in _SECTIONS:
        return None if value in (None, {}) else f"must hold keys; found {value!r}"
    row = _TABLE.get(path)
    if row is None:
        section, _, name = path.rpartition(".")
        what = f"ftx has no callback {name}" if section == "callbacks" else "has no counterpart in ftx"
        return f"{what}; {_HINTS.get(name, _REMOVE)}"
    if row.fault is not None:
        return row.fault(value, theirs)
    # Python takes 1 for True: what is carried over is of the same type, too.
    same = (value == one and (row.ours is None or type(value) is type(one)) for one in row.values or ())
    return None if row.values is None or any(same) else row.error.format(found=repr(value))


def _last(value: object) -> str:
    return str(value).rpartition(".")[2]
