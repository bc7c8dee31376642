"""``ftx apply``: an adapter, with its head, merged into a base IR on a device; and back again.

The merge is THE merge, of ``ftx.adapters.merge_weight``, which gives the same bytes everywhere. What comes of it is
whole and has answered the server's questions before it gets its name; the one before it stays beside it.

Shapes: N images, C labels.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ftx.core.command_report import CommandReport
from ftx.core.disk import disk_faults, exchange_folders, settle
from ftx.core.errors import ExportError, GateFailed, InputError, RunError, shell_command
from ftx.core.files import check_space, partial_path, staging
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.judge import judge
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
from ftx.updating.constants import ConstantsOf
from ftx.updating.given_adapter import Given, read_given, refuse_another
from ftx.updating.merge_constants import merge_into

# The weights were held to the server's by their hashes: what is left to see is whether this machine computes with them
# as it should, in each precision, and a fault of a kernel moves the logits of any image.
F32_IMAGES = 8
# Where the IR that an update replaced lies, beside it.
PREVIOUS = ".previous"


class ApplyReport(CommandReport):
    """What came of an update.

    ``exact``: every merged constant has the SHA-256 of the server's; null where nobody says what that is. From a base
    in float16 it is false, and ``weight_bound`` is how far a weight may lie from the server's. ``max_abs`` is the
    largest difference of a logit from the trained model's, of the reference images in f32; null without its answers.
    """

    verb: str = "apply"
    path: str
    base: str | None
    exact: bool | None
    weight_bound: float | None
    max_abs: float | None
    bytes_shipped: int
    seconds: float
    verdict: Verdict
    summary: str
    sequence: int | None
    layers: int
    labels: int
    rolled_back: bool = False


def apply(
    adapter: Path, base: Path, out: Path, *, labels: Sequence[str] = (), progress: Progress = SILENT
) -> ApplyReport:
    """Merge an update, or a folder in the PEFT format, into a base IR; ``labels`` are those of such a folder.

    Raises: AdapterError, ExportError for what does not hold or fit; InputError for an older update; GateFailed if the
    result is not the server's; EnvironmentFault for the disk. Whatever was at ``out`` is whole then and goes on.
    """
    started = time.monotonic()
    card = _base_card(base)
    assert card.base is not None
    held = _held(out, card, progress)
    with staging(out) as scratch:
        given = read_given(adapter, card, scratch / "adapter", labels)
        refuse_another(given, base, card)
        if given.proof_unused is not None:
            progress.note(f"the proof that came with this update is not used: {given.proof_unused}")
        if held is not None and _is_there(given, held, out):
            return _already_there(given, base, out, started, progress)
        check_space(out.parent, sum(path.stat().st_size for path in base.iterdir()))
        staged = scratch / "ir"
        staged.mkdir()
        model = ConstantsOf(base)
        merged = merge_into(model, given, card.base, progress)
        model.save(staged, model_info(given.meaning.open(), card.preprocess, embedded=True))
        _write_beside(staged, base, given, card)
        if merged.exact and given.proof is not None:
            carry_proof(staged, given.proof)
        verdict, summary, max_abs = _asked(staged, given, progress)
        settle(staged)
        _put(staged, out, keep=held is not None)
    return ApplyReport(
        path=str(out),
        base=str(base),
        exact=merged.exact,
        weight_bound=merged.weight_bound,
        max_abs=max_abs,
        bytes_shipped=given.size_bytes,
        seconds=round(time.monotonic() - started, 3),
        verdict=verdict,
        summary=summary,
        sequence=given.update and given.update.sequence,
        layers=merged.layers,
        labels=len(given.meaning.labels),
    )


def rollback(out: Path, progress: Progress = SILENT) -> ApplyReport:
    """Swap an IR with the one before it; again, and it is the newer one.

    Raises: RunError if there is none; ExportError if it does not hold; EnvironmentFault for the disk.
    """
    started = time.monotonic()
    before = _previous(out)
    if not (before / CARD_FILE).is_file():
        raise RunError(
            "there is no model before this one" if out.exists() else "there is no such model",
            where=out,
            found=f"no {before.name} beside it",
            fix="name a model that ftx apply wrote, and has written again since",
        )
    card = read_card(before)
    with disk_faults(out):
        if out.exists():
            exchange_folders(before, out)
        else:
            before.rename(out)
    found, max_abs = _answers(out, MAX_DROP, progress)
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
        whole = "nothing can be merged into 8 bits" if int8 else "it has no map of its weights"
        raise ExportError(
            "this model is no base that adapters can be merged into",
            where=base,
            found=f"an IR in {card.precision}: {whole}",
            fix="on the server: ftx export RUN --base DIR, in fp32 or fp16; int8 is made there from the merged model",
        )
    return card


def _held(out: Path, base: Card, progress: Progress) -> Card | None:
    """The model that is there, if one is, and is whole: what is damaged is replaced, and not kept.

    Raises: InputError for what is no model of this kind.
    """
    if not out.exists():
        return None
    if not (out / CARD_FILE).is_file():
        raise InputError("there is something else already", where=out, fix="choose another name, or move it away")
    try:
        held = read_card(out)
    except ExportError as error:
        progress.note(f"the model that is there is damaged, and is replaced: {error.what} ({error.where})")
        return None
    if held.base is not None:
        raise InputError("this is a base itself", where=out, fix="choose another name: a base serves many updates")
    if held.precision != base.precision:
        raise InputError(
            "there is a model in another precision already",
            where=out,
            found=f"{held.precision}, and the base is in {base.precision}",
            fix="choose another name, or move it away",
        )
    return held


def _is_there(given: Given, held: Card, out: Path) -> bool:
    """Whether an update is the one that is there, as where a device tries again after a lost answer.

    Raises: InputError if it is older.
    """
    if given.update is None or held.update is None or held.update.sequence is None:
        return False
    if held.update.update == given.digest:
        return True
    if given.update.sequence <= held.update.sequence:
        raise InputError(
            "the update is no newer than the one that is there",
            where=given.path,
            found=f"sequence {given.update.sequence}, {out} has {held.update.sequence}",
            fix=f"to go back: {shell_command('ftx apply --rollback', out)}",
        )
    return False


def _already_there(given: Given, base: Path, out: Path, started: float, progress: Progress) -> ApplyReport:
    """What is known of an update that was applied before."""
    assert given.update is not None
    found, max_abs = _answers(out, given.update.max_drop, progress)
    return ApplyReport(
        path=str(out),
        base=str(base),
        exact=None,
        weight_bound=None,
        max_abs=max_abs,
        bytes_shipped=given.size_bytes,
        seconds=round(time.monotonic() - started, 3),
        verdict=found.verdict,
        summary=f"it was there already; {found.summary}",
        sequence=given.update.sequence,
        layers=0,
        labels=len(given.meaning.labels),
    )


def _write_beside(staged: Path, base: Path, given: Given, card: Card) -> None:
    """The card, and the reference: the base's images, with the trained model's answers.

    Where nobody gave these they are the new model's own, and the card says so by an update without a sequence: by them
    it can be told from another, and not proved.
    """
    update, pixels_NHWC = given.update, load_file(base / REFERENCE_FILE)["images"]
    names, groups = reference_names(base)
    own = card.model_copy(
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
    classes = len(given.meaning.labels)
    logits_NC, clear_N = given.answers.get("logits"), given.answers.get("clear")
    targets_NC = given.answers.get("targets", np.zeros((0, classes), np.float32))
    if logits_NC is None:
        unanswered = ReferenceFile(names, pixels_NHWC, np.zeros((len(names), classes), np.float32), targets_NC, groups)
        write_reference(unanswered, staged)
        write_card(staged, own)
        with SILENT.track("", None) as bar:
            logits_NC = graph_logits(OpenVinoPredictor(staged, "f32"), pixels_NHWC, bar)
    write_reference(ReferenceFile(names, pixels_NHWC, logits_NC, targets_NC, groups, clear_N), staged)
    write_card(staged, own)


def _asked(staged: Path, given: Given, progress: Progress) -> tuple[Verdict, str, float | None]:
    """The verdict of the reference images; unproved where nobody gave the trained model's answers.

    Raises: GateFailed if it does not answer as the trained model did.
    """
    found, max_abs = _answers(staged, given.update.max_drop if given.update else MAX_DROP, progress)
    if found.verdict == "failed":
        raise GateFailed(
            "the updated model does not answer as the trained one, and is not kept",
            where=given.path,
            found=found.summary,
            fix="the model before it goes on; have the update made again",
        )
    return found.verdict, found.summary, max_abs if given.update else None


def _answers(folder: Path, max_drop: float, progress: Progress) -> tuple[Transfer, float | None]:
    """What a model's reference images prove here, with the proof beside it; and how far a logit is off in f32."""
    measured = measure_folder(folder, Bounds.of(None), progress, timed=False, f32_images=F32_IMAGES)
    judged = judge(measured.comparisons, max_drop, faults=measured.faults, partial=measured.partial)
    return transfer(measured, judged, read_proof(folder), max_drop), judged.rows[0].max_abs


def _put(staged: Path, out: Path, *, keep: bool) -> None:
    """Give the new IR its name; the one that had it is kept beside it. At each moment a whole one has the name."""
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
    """The same file under a second name, or a copy where the file system has no such thing."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _previous(out: Path) -> Path:
    return out.with_name(out.name + PREVIOUS)
