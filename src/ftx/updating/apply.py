"""``ftx apply``: an adapter, with its head, merged into a base IR on a device; and back again.

The merge is the one of ``ftx.adapters.merge_weight``, which gives the same bytes everywhere. The new model is complete
and was run on the reference images before it gets its name. The model before it is kept next to it.

Shapes: N images, C labels.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ftx.core.command_report import CommandReport
from ftx.core.disk import disk_faults, exchange_folders, settle
from ftx.core.errors import ExportError, GateFailed, InputError, RunError, shell_command
from ftx.core.files import check_space, partial_path, staging
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.measure import graph_logits, measure_folder
from ftx.evaluating.parity_images import reference_names
from ftx.evaluating.transfer import transfer
from ftx.recipe.sections import MAX_DROP
from ftx.runs.card_json import CARD_FILE, REFERENCE_FILE, AppliedUpdate, Card, read_card, write_card
from ftx.runs.parity_json import Transfer, Verdict
from ftx.runs.proof_json import carry_proof, ir_digest, read_proof
from ftx.runs.reference_safetensors import ReferenceFile, write_reference
from ftx.runtimes.model_api import model_info
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.updating.check_update import AdapterToMerge, check_fits, read_adapter
from ftx.updating.merge_constants import ConstantsOf, merge_into

# The weights were compared with the server's by their hashes. It remains to check that this machine computes correctly
# with them in each precision, and a fault of a kernel moves the logits of any image.
F32_IMAGES = 8
# The suffix of the folder of the IR that an update replaced, next to it.
PREVIOUS = ".previous"


class ApplyReport(CommandReport):
    """The result of an update, or of a rollback."""

    verb: str = "apply"
    path: str
    """The folder of the model."""
    base: str | None
    """The folder of the base; null for a rollback."""
    exact: bool | None
    """Whether each merged weight has the hash of the server's; false with an fp16 base. null if there are no hashes to
    compare.
    """
    weight_bound: float | None
    """With an fp16 base, the largest possible difference of a weight from the server's. Otherwise null."""
    max_abs: float | None
    """The largest difference of a logit from the trained model on the reference images in fp32; null if it is not
    known.
    """
    bytes_shipped: int
    """The size of the update in bytes; 0 for a rollback."""
    seconds: float
    """The time of the command in seconds."""
    verdict: Verdict
    """The verdict on the model on this device."""
    summary: str
    """The figures of the verdict, in a sentence."""
    sequence: int | None
    """The number of the update; null for an adapter that is not an update."""
    layers: int
    """The number of merged layers; 0 if nothing was merged."""
    labels: int
    """The number of labels."""
    rolled_back: bool = False
    """Whether the model before this one was restored."""


def apply(
    adapter: Path,
    base: Path,
    out: Path,
    *,
    labels: Sequence[str] = (),
    require_proof: bool = False,
    allow_failed: bool = False,
    progress: Progress = SILENT,
) -> ApplyReport:
    """Merge an update, or a folder in the PEFT format, into a base IR; ``labels`` are those of such a folder.

    Raises: AdapterError, ExportError for invalid or unsuitable files; InputError for an older update; GateFailed if the
    result is not the server's (unless ``allow_failed``), or is not proved (if ``require_proof``); EnvironmentFault for
    the disk. A model at ``out`` then stays as it was.
    """
    started = time.monotonic()
    card = _base_card(base)
    assert card.base is not None
    installed = _installed(out, card, progress)
    with staging(out) as scratch:
        given = read_adapter(adapter, card, scratch / "adapter", labels)
        check_fits(given, base, card)
        if given.proof_unused is not None:
            progress.note(f"the proof in this update is not used: {given.proof_unused}")
        if installed is not None and _is_installed(given, installed, out):
            return _already_installed(given, base, out, started, progress)
        check_space(out.parent, sum(path.stat().st_size for path in base.iterdir()))
        staged = scratch / "ir"
        staged.mkdir()
        model = ConstantsOf(base)
        merged = merge_into(model, given, card.base, progress)
        model.save(staged, model_info(given.meaning.open(), card.preprocess, embedded=True))
        _write_card_and_reference(staged, base, given, card)
        if merged.exact and given.proof is not None:
            carry_proof(staged, given.proof)
        found, max_abs = _compared(staged, given.update.max_drop if given.update else MAX_DROP, progress)
        _check_verdict(found, given, require_proof=require_proof, allow_failed=allow_failed)
        settle(staged)
        _put(staged, out, keep=installed is not None)
    return ApplyReport(
        path=str(out),
        base=str(base),
        exact=merged.exact,
        weight_bound=merged.weight_bound,
        max_abs=max_abs if given.update else None,
        bytes_shipped=given.size_bytes,
        seconds=round(time.monotonic() - started, 3),
        verdict=found.verdict,
        summary=found.summary,
        sequence=given.update and given.update.sequence,
        layers=merged.layers,
        labels=len(given.meaning.labels),
    )


def rollback(out: Path, progress: Progress = SILENT) -> ApplyReport:
    """Exchange an IR with the one before it; a second time restores the newer one.

    Raises: RunError if there is none; ExportError if it is damaged; EnvironmentFault for the disk.
    """
    started = time.monotonic()
    before = _previous(out)
    if not (before / CARD_FILE).is_file():
        raise RunError(
            "--rollback needs a model before this one" if out.exists() else "there is no such model",
            where=out,
            found=f"no {before.name} next to it",
            fix="name a model that ftx apply wrote at least twice",
        )
    card = read_card(before)
    with disk_faults(out):
        if out.exists():
            exchange_folders(before, out)
        else:
            before.rename(out)
    found, max_abs = _compared(out, MAX_DROP, progress)
    return ApplyReport(
        path=str(out),
        base=None,
        exact=None,
        weight_bound=None,
        max_abs=max_abs,
        bytes_shipped=0,
        seconds=round(time.monotonic() - started, 3),
        verdict=found.verdict,
        summary=found.summary,
        sequence=card.update and card.update.sequence,
        layers=0,
        labels=len(card.labels),
        rolled_back=True,
    )


def _base_card(base: Path) -> Card:
    card = read_card(base)
    if card.base is None:
        int8 = card.precision.startswith("int8")
        reason = "nothing can be merged into 8 bits" if int8 else "it has no map of its weights"
        raise ExportError(
            "BASE must be a base that adapters can be merged into",
            where=base,
            found=f"an IR in {card.precision}: {reason}",
            fix="write it on the server in fp32 or fp16: ftx export RUN --base DIR"
            + ("; for int8, export the whole model" if int8 else ""),
        )
    return card


def _installed(out: Path, base: Card, progress: Progress) -> Card | None:
    """The card of the model at ``out``, if there is a valid one: a damaged model is replaced, and not kept.

    Raises: InputError if something else is there.
    """
    if not out.exists():
        return None
    if not (out / CARD_FILE).is_file():
        raise InputError(
            "OUT must be a new folder or a model",
            where=out,
            fix="choose another folder for OUT, or move the existing one",
        )
    try:
        card = read_card(out)
    except ExportError as error:
        progress.note(f"the existing model is damaged, and will be replaced: {error.what} ({error.where})")
        return None
    if card.base is not None:
        raise InputError(
            "OUT must not be a base", where=out, fix="choose another folder for OUT: a base serves many updates"
        )
    if card.precision != base.precision:
        raise InputError(
            "OUT must be a new folder or a model in the precision of the base",
            where=out,
            found=f"{card.precision}, and the base is in {base.precision}",
            fix="choose another folder for OUT, or move the existing one",
        )
    return card


def _is_installed(given: AdapterToMerge, installed: Card, out: Path) -> bool:
    """Whether an update is installed already, as when a device repeats a command whose result was lost.

    Raises: InputError if the update is older.
    """
    if given.update is None or installed.update is None or installed.update.sequence is None:
        return False
    if installed.update.update == given.digest:
        return True
    if given.update.sequence <= installed.update.sequence:
        raise InputError(
            "the update must be newer than the installed one",
            where=given.path,
            found=f"sequence {given.update.sequence}, {out} has {installed.update.sequence}",
            fix=f"to go back: {shell_command('ftx apply --rollback', out)}",
        )
    return False


def _already_installed(given: AdapterToMerge, base: Path, out: Path, started: float, progress: Progress) -> ApplyReport:
    """The report on an update that was applied before."""
    assert given.update is not None
    found, max_abs = _compared(out, given.update.max_drop, progress)
    return ApplyReport(
        path=str(out),
        base=str(base),
        exact=None,
        weight_bound=None,
        max_abs=max_abs,
        bytes_shipped=given.size_bytes,
        seconds=round(time.monotonic() - started, 3),
        verdict=found.verdict,
        summary=f"it was installed already; {found.summary}",
        sequence=given.update.sequence,
        layers=0,
        labels=len(given.meaning.labels),
    )


def _write_card_and_reference(staged: Path, base: Path, given: AdapterToMerge, card: Card) -> None:
    """The card, and the reference: the base's images, with the trained model's logits.

    An adapter without those gets the logits of the new model itself, and an update without a sequence in its card: they
    distinguish it from another model, and prove nothing.
    """
    update, classes = given.update, len(given.meaning.labels)
    names, groups = reference_names(base)
    new_card = card.model_copy(
        update={
            "task": given.meaning.task,
            "labels": given.meaning.labels,
            "thresholds": given.meaning.thresholds,
            "dense_digest": update.dense_digest if update else given.digest,
            "base": None,
            "update": AppliedUpdate(
                sequence=update.sequence if update else None, update=given.digest, base_ir=ir_digest(base)
            ),
        }
    )
    reference = ReferenceFile(
        paths=names,
        pixels_NHWC=load_file(base / REFERENCE_FILE)["images"],
        logits_NC=given.logits.get("logits", np.zeros((len(names), classes), np.float32)),
        targets_NC=given.logits.get("targets", np.zeros((0, classes), np.float32)),
        groups=groups,
        clear_N=given.logits.get("clear"),
    )
    write_reference(reference, staged)
    write_card(staged, new_card)
    if "logits" not in given.logits:
        with SILENT.track("", None) as bar:
            own_NC = graph_logits(OpenVinoPredictor(staged, "f32"), reference.pixels_NHWC, bar)
        write_reference(replace(reference, logits_NC=own_NC), staged)
        write_card(staged, new_card)


def _check_verdict(found: Transfer, given: AdapterToMerge, *, require_proof: bool, allow_failed: bool) -> None:
    """Raises: GateFailed if the model does not predict what the trained model does, or a proof is required."""
    if found.verdict == "failed" and not allow_failed:
        what = "predicts differently from the trained one"
        fix = "have the update made again; the model before it stays in use. To install it anyway: --allow-failed"
    elif found.verdict != "proved" and require_proof:
        what = "is not proved on this machine"
        fix = "run the command without --require-proof, or have the update made again after ftx validate"
    else:
        return
    raise GateFailed(f"the updated model {what}, and is not kept", where=given.path, found=found.summary, fix=fix)


def _compared(folder: Path, max_drop: float, progress: Progress) -> tuple[Transfer, float | None]:
    """What a model's reference images and its proof show here; and the largest difference of a logit in f32."""
    measured = measure_folder(folder, Bounds.of(None), progress, timed=False, f32_images=F32_IMAGES)
    judged = measured.judged(max_drop)
    return transfer(measured, judged, read_proof(folder), max_drop), judged.rows[0].max_abs


def _put(staged: Path, out: Path, *, keep: bool) -> None:
    """Give the new IR its name, and keep the one before it. At each moment the name is that of a complete model."""
    if not out.exists():
        staged.rename(out)
        return
    if not keep:
        exchange_folders(staged, out)
        return
    kept = partial_path(out.parent)
    shutil.copytree(out, kept, copy_function=_linked)
    settle(kept)
    before = _previous(out)
    if before.exists():
        exchange_folders(kept, before)
        shutil.rmtree(kept, ignore_errors=True)
    else:
        kept.rename(before)
    exchange_folders(staged, out)


def _linked(source: str, target: str) -> None:
    """The same file under a second name, or a copy if the file system has no hard links."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _previous(out: Path) -> Path:
    return out.with_name(out.name + PREVIOUS)
