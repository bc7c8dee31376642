"""Adapters from anywhere, opened together with the base that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import timm
from timm.models.vision_transformer import VisionTransformer

from ftx.adapters.files import AdapterFile, read_adapter, saved_rows
from ftx.backbones.families import head_names
from ftx.backbones.foundation import Foundation, of_backbone, open_foundation
from ftx.errors import AdapterError, FtxError, InputError, MergeError
from ftx.progress import SILENT, Progress
from ftx.run import Run
from ftx.training.prepare import base_of
from ftx.training.trained import require_base, run_recipe


@dataclass(frozen=True)
class Opened:
    """An adapter folder, the run that it is of, and what it holds."""

    path: Path
    run: Run | None
    file: AdapterFile


def open_adapters(
    paths: Sequence[Path],
    *,
    base: str | None = None,
    weights: str = "auto",
    image_size: int | str = "auto",
    head: bool = True,
    progress: Progress = SILENT,
) -> tuple[Foundation, list[Opened]]:
    """Open adapters of one base: run folders, their ``trained/``, or folders that peft wrote; and the base.

    Raises: AdapterError, ModelError or MergeError for what does not hold or does not belong together.
    """
    located = [_locate(path) for path in paths]
    foundation = _foundation(located, base, weights, image_size)
    module = foundation.module
    without = _head(foundation, [folder for folder, _ in located], wanted=head)
    opened: list[Opened] = []
    for folder, run in located:
        file = read_adapter(folder, module, foundation.namings, without=without)
        _require_same_base(file, folder, foundation, base, progress)
        opened.append(Opened(folder, run, file))
    if head and getattr(module, "num_classes", 0) == 0:
        raise AdapterError(
            "neither the adapter nor the base has a head",
            where=located[0][0],
            mend="--no-head merges the backbone alone, to train a head on it: ftx train --weights",
        )
    return foundation, opened


def _locate(path: Path) -> tuple[Path, Run | None]:
    """The adapter's folder, and the run that it is of."""
    inside = path.name == "trained" and (path.absolute().parent / "run.json").is_file()
    if inside or (path / "run.json").is_file():
        run = Run.open(path.parent if inside else path)
        if run.manifest.method not in ("lora", "dora"):
            raise AdapterError("this run has no adapter", where=path, found=f"method {run.manifest.method}")
        return run.require("trained"), run
    if not path.is_dir():
        raise AdapterError("there is no such adapter", where=path, mend="name a run, or a folder that peft wrote")
    return path, None


def _foundation(
    located: Sequence[tuple[Path, Run | None]], base: str | None, weights: str, image_size: int | str
) -> Foundation:
    if base is not None:
        try:
            return open_foundation(base, weights=weights, image_size=image_size)
        except FtxError as fault:  # which speaks of the flag by which training names a model
            fault.mend = fault.mend and fault.mend.replace("--model", "--base")
            raise
    run = next((run for _, run in located if run is not None), None)
    if run is None:
        raise InputError(
            "which base was the adapter trained on?", where=located[0][0], mend="--base NAME of timm, or --base DIR"
        )
    backbone = base_of(run_recipe(run), 0)
    require_base(run, backbone.digest)
    return of_backbone(backbone)


def _head(foundation: Foundation, folders: Sequence[Path], *, wanted: bool) -> list[str]:
    """Give the base the head that the adapters bring.

    Returns: the modules in their files that are left out.
    """
    heads = head_names(foundation.module)
    named = foundation.namings[0].modules if foundation.namings else {head: head for head in heads}
    theirs = [name for name, ours in named.items() if ours in heads]
    module = cast("VisionTransformer", foundation.module)  # as every classifier of timm
    if not wanted:
        module.reset_classifier(0)
        return theirs
    rows = {saved_rows(folder, name) for folder in folders for name in theirs} - {None}
    if rows and (alien := [name for name in theirs if name in foundation.alien_heads]):
        raise AdapterError(
            f"the head {alien[0]} of this adapter cannot be carried over",
            where=folders[0],
            found=foundation.alien_heads[alien[0]],
            mend="--no-head merges the backbone alone, to train a head on it: ftx train --weights",
        )
    if len(rows) > 1:
        raise AdapterError("the adapters' heads have different classes", found=", ".join(sorted(map(str, rows))))
    for classes in rows:
        if classes != getattr(module, "num_classes", None):
            module.reset_classifier(cast("int", classes))
    return []


def _require_same_base(
    file: AdapterFile, folder: Path, foundation: Foundation, base: str | None, progress: Progress
) -> None:
    config = file.config
    if config.base_digest is not None:
        if config.base_digest != foundation.digest:
            raise MergeError(
                "the adapter was trained on another base",
                where=folder,
                found=f"digest {config.base_digest[:12]}…, this base has {foundation.digest[:12]}…",
                mend=f"--base {config.base_model or 'NAME or DIR'} with the weights that training used",
            )
        return
    named = (config.base_model or "").removeprefix("timm/").partition(".")[0]
    ours = foundation.architecture.partition(".")[0]
    if timm.is_model(named) and not foundation.namings and named != ours:
        raise MergeError(
            "the adapter was trained on another base",
            where=folder,
            found=f"{named}, this is {ours}",
            mend=f"--base {named}",
        )
    said = f"says of its base no more than '{config.base_model}'" if config.base_model else "says nothing of its base"
    progress.note(f"{folder}: {said}, so whether {base} has the weights it was trained on cannot be checked")
