"""``ftx apply``: a LoRA or DoRA adapter, with its head, merged into a base IR on a device; and back again.

The merge is THE merge, of ``ftx.adapters.merge_weight``, which gives the same bytes everywhere. What comes of it is
whole and has answered the server's questions before it gets its name; the one before it stays beside it.

Shapes: I inputs, O outputs, R ranks, N images, C labels.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, load_file

from ftx.adapters.merge_weight import AdapterWeights, Float64, merged_weight
from ftx.adapters.peft_file import PREFIX, WEIGHTS, PeftFile, read_peft_file
from ftx.core.errors import AdapterError, ExportError, GateFailed, InputError, RunError, shell_command
from ftx.core.exchange_folders import exchange_folders
from ftx.core.files import check_space, disk_faults, partial_path, settle, sha256_file, staging
from ftx.core.progress import SILENT, Progress
from ftx.core.verb_report import VerbReport
from ftx.evaluating.answers import ask_graph
from ftx.evaluating.folder_parity import ask_folder
from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.read_reference import reference_names
from ftx.recipe.sections import MAX_DROP
from ftx.runs.card_json import CARD_FILE, REFERENCE_FILE, AppliedUpdate, BaseIr, Card, read_card, write_card
from ftx.runs.parity_json import Verdict
from ftx.runs.proof_json import ir_digest
from ftx.runs.reference_safetensors import ReferenceFile, write_reference
from ftx.runs.update_zip import ANSWERS_FILE, Update, read_update, tensor_digest
from ftx.runtimes.model_api import model_info
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning
from ftx.updating.constants import ConstantsOf

# The weights were held to the server's by their hashes: what is left to see is whether this machine computes with them
# as it should, in each precision, and a fault of a kernel moves the logits of any image.
F32_IMAGES = 8
# Where the IR that an update replaced lies, beside it.
PREVIOUS = ".previous"


class ApplyReport(VerbReport):
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
    said: str
    sequence: int | None
    layers: int
    labels: int
    rolled_back: bool = False


@dataclass(frozen=True)
class _Given:
    """What is to be merged: an adapter, and what its server says of it, if it came as an update."""

    path: Path
    file: PeftFile
    size_bytes: int
    update: Update | None
    answers: dict[str, NDArray[Any]]
    meaning: Meaning

    @property
    def digest(self) -> str:
        """SHA-256 of the update, or of the tensors of a plain adapter."""
        if self.path.is_file():
            return sha256_file(self.path)
        return sha256_file(self.path / WEIGHTS)


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
    _refuse_what_is_no_update(out)
    with staging(out) as scratch:
        given = _read(adapter, card, scratch / "adapter", labels)
        _refuse_another(given, base, card)
        _refuse_older(given, out)
        check_space(out.parent, sum(path.stat().st_size for path in base.iterdir()))
        staged = scratch / "ir"
        staged.mkdir()
        model = ConstantsOf(base)
        exact, bound, layers = _merge(model, given, card.base, progress)
        model.save(staged, model_info(given.meaning.open(), card.preprocess, embedded=True))
        _write_beside(staged, base, given, card)
        verdict, said, max_abs = _asked(staged, given, progress)
        settle(staged)
        _put(staged, out)
    return ApplyReport(
        path=str(out),
        base=str(base),
        exact=exact,
        weight_bound=bound,
        max_abs=max_abs,
        bytes_shipped=given.size_bytes,
        seconds=round(time.monotonic() - started, 3),
        verdict=verdict,
        said=said,
        sequence=given.update and given.update.sequence,
        layers=layers,
        labels=len(given.meaning.labels),
    )


def rollback(out: Path, progress: Progress = SILENT) -> ApplyReport:
    """Swap an IR with the one before it; again, and it is the newer one.

    Raises: RunError if there is none; ExportError if it does not hold; EnvironmentFault for the disk.
    """
    started = time.monotonic()
    before = _previous(out)
    if not (before / CARD_FILE).is_file():
        raise RunError("there is no model before this one", where=out, found=f"no {before.name} beside it")
    card = read_card(before)
    with disk_faults(out):
        exchange_folders(before, out)
    judged = ask_folder(out, Bounds.of(None), progress, timed=False, f32_images=F32_IMAGES).judge(MAX_DROP)
    name = card.artifact.name
    return ApplyReport(
        path=str(out),
        base=None,
        exact=None,
        weight_bound=None,
        max_abs=judged.rows[0].max_abs,
        bytes_shipped=0,
        seconds=round(time.monotonic() - started, 3),
        verdict=judged.verdicts[name],
        said=judged.said[name],
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


def _refuse_what_is_no_update(out: Path) -> None:
    if out.exists() and not (out / CARD_FILE).is_file():
        raise InputError("there is something else already", where=out, fix="choose another name, or move it away")
    if out.exists() and read_card(out).base is not None:
        raise InputError("this is a base itself", where=out, fix="choose another name: a base serves many updates")


def _read(adapter: Path, card: Card, scratch: Path, labels: Sequence[str]) -> _Given:
    if adapter.is_dir():
        file = read_peft_file(adapter)
        size_bytes = sum(path.stat().st_size for path in adapter.iterdir() if path.is_file())
        return _Given(adapter, file, size_bytes, None, {}, _meaning(file, card, labels, adapter))
    if labels:
        raise InputError("an update has its own labels", where=adapter, fix="leave --labels out")
    if not adapter.exists():
        raise ExportError(
            "there is no such update", where=adapter, fix="name the file that ftx export --as-update wrote"
        )
    update, files = read_update(adapter)
    scratch.mkdir()
    answers = load(files.pop(ANSWERS_FILE))
    for name, content in files.items():
        (scratch / Path(name).name).write_bytes(content)
    file = read_peft_file(scratch)
    return _Given(adapter, file, adapter.stat().st_size, update, answers, update.meaning)


def _meaning(file: PeftFile, card: Card, labels: Sequence[str], adapter: Path) -> Meaning:
    """What the logits of a plain adapter mean: the base's labels, or those that are named, in the order of its head."""
    assert card.base is not None
    own = next((file.tensors[PREFIX + name] for name in card.base.head if PREFIX + name in file.tensors), None)
    if own is None:
        raise AdapterError(
            "the adapter brings no head, and the base has none of its own",
            where=adapter,
            found=f"no {', '.join(card.base.head)}",
            fix="train it with modules_to_save for the head, as ftx does",
        )
    if not labels and len(own) == len(card.labels):
        return card.meaning
    if len(labels) != len(own):
        raise InputError(
            "the adapter's head has another number of labels",
            where=adapter,
            found=f"{len(own)} outputs, {len(labels) or len(card.labels)} labels",
            fix="name them in order: --labels a,b,c",
        )
    return Meaning(task="multiclass", labels=Labels.multiclass(labels))


def _refuse_another(given: _Given, base: Path, card: Card) -> None:
    assert card.base is not None
    digest = given.update.base_digest if given.update else given.file.config.base_digest
    if digest is not None and digest != card.base.base_digest:
        raise AdapterError(
            "the adapter is of another base",
            where=given.path,
            found=f"digest {digest[:12]}, the base's is {card.base.base_digest[:12]}",
            fix="name the base that it was made for",
        )
    if given.update is None:
        if (kept := given.file.config.token_shares) != card.keep_tokens:
            raise AdapterError(
                "the adapter was trained with other tokens",
                where=given.path,
                found=f"{dict(kept) or 'all'}, the base keeps {card.keep_tokens or 'all'}",
                fix="name the base that it was made for",
            )
        return
    if given.update.image_size != card.preprocess.image_size:
        raise ExportError(
            "the update is for another image size",
            where=given.path,
            found=f"{given.update.image_size} px, the base has {card.preprocess.image_size}",
            fix="name the base that it was made for",
        )
    if given.update.base_ir_digest != ir_digest(base):
        raise ExportError(
            "the update is for another base IR",
            where=given.path,
            found=f"digest {given.update.base_ir_digest[:12]}, this one's is {ir_digest(base)[:12]}",
            fix="copy the base again that the server has, or have the update made for this one",
        )


def _refuse_older(given: _Given, out: Path) -> None:
    if given.update is None or not out.exists():
        return
    held = read_card(out).update
    if held is not None and held.sequence is not None and given.update.sequence <= held.sequence:
        raise InputError(
            "the update is no newer than the one that is there",
            where=given.path,
            found=f"sequence {given.update.sequence}, {out} has {held.sequence}",
            fix=f"to go back: {shell_command('ftx apply --rollback', out)}",
        )


def _merge(
    model: ConstantsOf, given: _Given, base: BaseIr, progress: Progress
) -> tuple[bool | None, float | None, int]:
    """Merge every layer, and lay the head in; whether all are the server's, else how far a weight may be off."""
    adapters = given.file.layers()
    lacking = [layer for layer in adapters if f"{layer}.weight" not in base.constants]
    if lacking:
        raise AdapterError(
            "the adapter is for layers that this IR lacks",
            where=given.path,
            found=f"{len(lacking)} layers ({', '.join(lacking[:3])})",
            fix="name the base that it was made for",
        )
    expected = given.update.tensors if given.update else {}
    digests: dict[str, str] = {}
    bound = 0.0
    rounded = False
    with progress.track("merging", len(adapters)) as bar:
        for layer, adapter in adapters.items():
            name = f"{layer}.weight"
            held = model[base.constants[name]]
            weight_OI = held.astype(np.float64).reshape(len(held), -1)
            if (len(adapter.lora_B_OR), adapter.lora_A_RI.shape[1]) != weight_OI.shape:
                own = f"{len(adapter.lora_B_OR)}x{adapter.lora_A_RI.shape[1]}"
                found = f"{layer}: {own}, the base has {'x'.join(map(str, weight_OI.shape))}"
                raise AdapterError("the adapter does not fit its base", where=given.path, found=found)
            merged_OI = merged_weight(weight_OI, adapter)
            rounded = rounded or held.dtype == np.float16
            if held.dtype == np.float16:
                bound = max(bound, _f16_bound(weight_OI, merged_OI, adapter))
            merged = merged_OI.astype(np.float32).reshape(held.shape)
            digests[name] = tensor_digest(merged)
            model.replace(base.constants[name], merged)
            bar.advance()
    for name in base.head:
        tensor = given.file.tensors.get(PREFIX + name)
        if tensor is None:
            raise AdapterError("the adapter brings no head", where=given.path, found=f"no {name}")
        digests[name] = tensor_digest(tensor)
        held = model[base.constants[name]]
        # A bias lies in the graph as [1, C].
        shape = tensor.shape if tensor.ndim == held.ndim else (*held.shape[: held.ndim - tensor.ndim], *tensor.shape)
        model.replace(base.constants[name], tensor.reshape(shape))
    if not given.update:
        return None, bound if rounded else None, len(adapters)
    exact = digests == expected and not rounded
    if not exact and not rounded:
        other = sorted(name for name in digests.keys() | expected.keys() if digests.get(name) != expected.get(name))
        raise GateFailed(
            "the merged weights are not those of the server",
            where=given.path,
            found=f"{len(other)} of {len(expected)} ({', '.join(other[:3])})",
            fix="have the update made again from the merged run: ftx merge, then ftx export --as-update",
        )
    return exact, bound if rounded else None, len(adapters)


def _f16_bound(weight_OI: Float64, merged_OI: Float64, adapter: AdapterWeights) -> float:
    """How far an entry may lie from what an f32 base gives: by the rounding before the merge, and after it.

    Rounding to float16 moves a weight by 2^-11 of itself, or 2^-25 where that is more: by d. LoRA adds d as it is.
    DoRA scales a row of V = W + s·B·A by g = m / ‖V‖, and the norm moves by η = ‖d‖ / ‖V‖ of itself at most, so the
    row moves by (g·d + |g·V|·η) / (1 - η).
    """
    moved_OI = np.maximum(np.abs(weight_OI) * 2.0**-11, 2.0**-25)
    if adapter.magnitude_O is not None:
        unscaled_OI = merged_weight(weight_OI, replace(adapter, magnitude_O=None))
        norm_O1 = np.linalg.norm(unscaled_OI, axis=1, keepdims=True)
        norm_O1 = np.where(norm_O1 > 0, norm_O1, np.inf)  # a row of zeros is not scaled
        gain_O1 = np.where(np.isinf(norm_O1), 1.0, np.abs(adapter.magnitude_O[:, None]) / norm_O1)
        eta_O1 = np.linalg.norm(moved_OI, axis=1, keepdims=True) / norm_O1
        moved_OI = (gain_O1 * moved_OI + np.abs(merged_OI) * eta_O1) / np.maximum(1 - eta_O1, 2.0**-20)
    return float((moved_OI + np.maximum(np.abs(merged_OI) * 2.0**-11, 2.0**-25)).max())


def _write_beside(staged: Path, base: Path, given: _Given, card: Card) -> None:
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
            logits_NC = ask_graph(OpenVinoPredictor(staged, "f32"), pixels_NHWC, bar)
    write_reference(ReferenceFile(names, pixels_NHWC, logits_NC, targets_NC, groups, clear_N), staged)
    write_card(staged, own)


def _asked(staged: Path, given: _Given, progress: Progress) -> tuple[Verdict, str, float | None]:
    """The verdict of the reference images; unproved where nobody gave the trained model's answers.

    Raises: GateFailed if it does not answer as the trained model did.
    """
    asked = ask_folder(staged, Bounds.of(None), progress, timed=False, f32_images=F32_IMAGES)
    judged = asked.judge(given.update.max_drop if given.update else MAX_DROP)
    name = asked.artifact.name
    verdict, said = judged.verdicts[name], judged.said[name]
    if verdict == "failed":
        raise GateFailed(
            "the updated model does not answer as the trained one, and is not kept",
            where=given.path,
            found=said,
            fix="the model before it goes on; have the update made again",
        )
    return verdict, said, judged.rows[0].max_abs if given.update else None


def _put(staged: Path, out: Path) -> None:
    """Give the new IR its name; the one that had it is kept beside it. At each moment a whole one has the name."""
    if not out.exists():
        staged.rename(out)
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
