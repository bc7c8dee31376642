"""Adapters from anywhere, opened together with the base that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import timm
from timm.models.vision_transformer import VisionTransformer

from ftx.adapters.peft_config import PeftConfig, check_adapter_folder, read_config
from ftx.adapters.peft_file import is_factor, stored_shapes
from ftx.adapters.peft_network import FittedAdapter, read_adapter
from ftx.adapters.trainable_model import base_of
from ftx.backbones.kept_tokens import keep_tokens, kept_fractions
from ftx.backbones.layer_roles import head_names
from ftx.core.errors import AdapterError, FtxError, InputError, MergeError
from ftx.core.progress import SILENT, Progress
from ftx.interop.base_folder import Base
from ftx.interop.base_model import of_backbone, open_base
from ftx.recipe.method_defaults import ADAPTERS
from ftx.runs.artifacts import TRAINED
from ftx.runs.run import Run
from ftx.runs.run_json import MANIFEST_FILE
from ftx.runs.trained import require_base

WITHOUT_HEAD = "run again with --no-head to merge only the backbone, then train a head: ftx train --weights FILE"


@dataclass(frozen=True)
class AdapterLocation:
    """An adapter's folder, and the run that it is of."""

    folder: Path
    run: Run | None

    @property
    def name(self) -> str:
        """What people call it: the run, or the folder."""
        return (self.folder if self.run is None else self.run.path).resolve().name


@dataclass(frozen=True)
class OpenedAdapter:
    """An adapter with its location and its contents."""

    at: AdapterLocation
    fitted: FittedAdapter


def open_adapters(
    paths: Sequence[Path],
    *,
    base: str | None = None,
    weights: str = "auto",
    image_size: int | str = "auto",
    head: bool = True,
    progress: Progress = SILENT,
) -> tuple[Base, list[OpenedAdapter]]:
    """Open adapters of one base: run folders, their ``trained/``, or folders that peft wrote; and the base.

    Raises: AdapterError, ModelError or MergeError for what is invalid or does not belong together.
    """
    if not paths:
        raise InputError("at least one adapter must be given", fix="run again with --adapter DIR")
    located = [_locate(path) for path in paths]
    base_model = _base(located, base, weights, image_size)
    _drop_their_tokens(base_model, located)
    without = _theirs(base_model)
    if head:
        _give_head(base_model, [one.folder for one in located], without)
        without = []
    else:
        cast("VisionTransformer", base_model.module).reset_classifier(0)  # as every classifier of timm
    opened: list[OpenedAdapter] = []
    for one in located:
        _require_same_base(read_config(one.folder), one, base_model, base, weights, progress)
        opened.append(
            OpenedAdapter(one, read_adapter(one.folder, base_model.module, base_model.namings, without=without))
        )
    return base_model, opened


def _locate(path: Path) -> AdapterLocation:
    inside = path.name == TRAINED.name and (path.absolute().parent / MANIFEST_FILE).is_file()
    if inside or (path / MANIFEST_FILE).is_file():
        run = Run.open(path.parent if inside else path)
        if run.manifest.method not in ADAPTERS:
            raise AdapterError(
                "the run must have an adapter",
                where=path,
                found=f"method {run.manifest.method}",
                fix="give a run that was trained with --method lora, dora or lokr",
            )
        return AdapterLocation(run.require(TRAINED), run)
    check_adapter_folder(path)
    read_config(path)  # that it is no adapter is reported before a missing --base
    return AdapterLocation(path, None)


def _base(located: Sequence[AdapterLocation], base: str | None, weights: str, image_size: int | str) -> Base:
    """The base that is named, else that of the first run; images go into it as they went into the runs' training."""
    runs = [one.run for one in located if one.run is not None]
    if runs and image_size == "auto":
        image_size = runs[0].manifest.preprocess.image_size
    if weights == "none":
        raise InputError(
            "--weights must be the weights that the adapter was trained on",
            found="none",
            fix="run again with --weights FILE.safetensors",
        )
    if base is not None:
        try:
            base_model = open_base(base, weights=weights, image_size=image_size)
        except FtxError as fault:  # which names the flag of ftx train
            fault.fix = fault.fix and fault.fix.replace("--model", "--base")
            raise
    elif not runs:
        where, fix = located[0].folder, "run again with --base NAME (a model of timm) or --base DIR"
        raise InputError("--base must be given for an adapter without a run", where=where, fix=fix)
    elif weights != "auto" or image_size != runs[0].manifest.preprocess.image_size:
        raise InputError(
            "--weights and --image-size must be used with --base",
            fix="run again without them: the run contains both values",
        )
    else:
        backbone = base_of(runs[0].recipe(), 0)
        require_base(runs[0], backbone.digest)
        base_model = of_backbone(backbone)
    if any(run.manifest.preprocess != runs[0].manifest.preprocess for run in runs):
        raise MergeError(
            "the adapters must be trained on images of one size and one normalisation",
            found=", ".join(f"{run.path}: {run.manifest.preprocess.image_size} px" for run in runs),
            fix="train all adapters with the same --image-size",
        )
    same_size = runs and base_model.preprocess.image_size == runs[0].manifest.preprocess.image_size
    return replace(base_model, preprocess=runs[0].manifest.preprocess) if same_size else base_model


def _drop_their_tokens(base_model: Base, located: Sequence[AdapterLocation]) -> None:
    """Let the base drop the tokens that it dropped when the adapters were trained.

    Raises: MergeError if they were trained with different ones.
    """
    fractions = [dict(read_config(one.folder).token_fractions) for one in located]
    if any(one != fractions[0] for one in fractions):
        raise MergeError(
            "the adapters must be trained with the same tokens",
            found=", ".join(f"{one.folder}: {kept or 'all'}" for one, kept in zip(located, fractions, strict=True)),
            fix="train all adapters with the same model.keep_tokens",
        )
    if fractions[0] and not kept_fractions(base_model.module):
        keep_tokens(base_model.module, fractions[0])


def _theirs(base_model: Base) -> list[str]:
    """What the adapters' library calls the heads of the base."""
    heads = head_names(base_model.module)
    named = base_model.namings[0].modules if base_model.namings else {head: head for head in heads}
    return [name for name, ours in named.items() if ours in heads]


def _give_head(base_model: Base, folders: Sequence[Path], theirs: Sequence[str]) -> None:
    """Give the base a head of the classes that the adapters bring.

    Raises: AdapterError for a head that cannot be carried over, heads that differ, or none at all.
    """
    module = cast("VisionTransformer", base_model.module)
    classes: dict[int, Path] = {}
    for folder in folders:
        for name, count in _heads_in(folder, theirs).items():
            if name in base_model.alien_heads:
                raise AdapterError(
                    f"the head {name} of this adapter cannot be used",
                    where=folder,
                    found=base_model.alien_heads[name],
                    fix=WITHOUT_HEAD,
                )
            if count is not None:
                classes.setdefault(count, folder)
    if len(classes) > 1:
        found = ", ".join(f"{folder}: {count}" for count, folder in classes.items())
        fix = "combine adapters that were trained on the same labels"
        raise AdapterError("the adapters must have the same number of classes", found=found, fix=fix)
    count = next(iter(classes), None)
    if count is not None and count != getattr(module, "num_classes", None):
        module.reset_classifier(count)
    if getattr(module, "num_classes", 0) == 0:
        raise AdapterError("the adapter or the base must have a head", where=folders[0], fix=WITHOUT_HEAD)


def _heads_in(folder: Path, theirs: Sequence[str]) -> dict[str, int | None]:
    """The heads in an adapter's file, and their classes; None if it adapts a head that it does not contain."""
    shapes = stored_shapes(folder)
    found: dict[str, int | None] = {}
    for name in theirs:
        of_head = {key: shape for key, shape in shapes.items() if key.startswith(f"{name}.")}
        # The last layer of a head gives the logits; an adapter of the head itself does not.
        saved = [shape[0] for key, shape in of_head.items() if len(shape) > 1 and not is_factor(key)]
        if of_head:
            found[name] = saved[-1] if saved else None
    return found


def _require_same_base(
    config: PeftConfig, at: AdapterLocation, base_model: Base, base: str | None, weights: str, progress: Progress
) -> None:
    if config.base_digest is not None:
        if config.base_digest != base_model.digest:
            raise MergeError(
                "the base must be the one that the adapter was trained on",
                where=at.folder,
                found=f"the adapter was trained on {config.base_model} (hash {config.base_digest[:12]}…), "
                f"{'the base' if base is None else '--base'} is {base_model.architecture} (digest "
                f"{base_model.digest[:12]}…)",
                fix=f"run again with --base {config.base_model or 'NAME'} and the weights that training used",
            )
        return
    theirs, ours = _published(config.base_model or ""), _published(base_model.architecture)
    if theirs and ours and not base_model.namings:
        # The tag names the weights, unless they came from a file.
        compared = 2 if base is not None and weights == "auto" and not Path(base).is_dir() else 1
        if theirs[:compared] != ours[:compared]:
            raise MergeError(
                "the base must be the one that the adapter was trained on",
                where=at.folder,
                found=f"the base model is {'.'.join(ours)}, but the adapter was trained on {'.'.join(theirs)}",
                fix=f"run again with --base {'.'.join(theirs)}",
            )
    named = f"names its base only '{config.base_model}'" if config.base_model else "does not name its base"
    where = base or base_model.architecture
    progress.note(f"{at.folder}: {named}, so whether {where} has the weights it was trained on cannot be checked")


def _published(name: str) -> tuple[str, str] | None:
    """Architecture and tag of a name on the hub or in timm, the default's if it has none; None if it is neither."""
    architecture, _, tag = name.removeprefix("timm/").partition(".")
    if not timm.is_model(architecture):
        return None
    default = timm.get_pretrained_cfg(architecture)
    return architecture, tag or (default.tag if default and default.tag else "")
