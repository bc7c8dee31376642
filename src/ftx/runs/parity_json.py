"""``reports/parity.json``, what ``ftx validate`` returns: a row an artifact, view and precision, and each verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.untrusted_input import JsonError, read_json
from ftx.runs.artifacts import ARTIFACTS, IR_INT8, Artifact, RuntimeName
from ftx.runs.compute_precision import ComputeField
from ftx.runs.machine import WITHOUT_VNNI, InstructionSet, Machine

# Within a run.
PARITY_FILE = Path("reports", "parity.json")

# By which kernels OpenVINO computes a model in 8 bits: those for batches, or, where these are others, those for single
# images (ftx.runtimes.single_kernels).
KernelPath = Literal["batch", "single"]
# graph: the same pixels into each model. one_image: the same pixels, by the kernels for single images.
PixelView = Literal["graph", "one_image"]
# files: each runtime with its own image path.
View = PixelView | Literal["files"]
VIEW_OF: Mapping[KernelPath, PixelView] = {"batch": "graph", "single": "one_image"}
# proved: the margin is kept. failed: it certainly is not. unproved: these images show neither.
Verdict = Literal["proved", "unproved", "failed"]
# What counts as one: an image, or all images of one group of a table (a patient, a part), which are no new evidence
# each.
Unit = Literal["image", "group"]
# A verdict's figures in a sentence. Earlier versions of ftx wrote it as ``said``, which is still read.
_SUMMARY = Field(validation_alias=AliasChoices("summary", "said"))
Summary = Annotated[str, _SUMMARY]


class RowBound(ClosedModel):
    """The bound of a row's logits: null where there is none. ``max_abs`` in logits, ``cosine`` in [0, 1]."""

    max_abs: float | None
    cosine: float | None
    reason: str

    def exceeded(self, max_abs: float | None, cosine: float | None) -> list[str]:
        """By what a measured row exceeds the bound, in words; None stands for what is no finite number."""
        if max_abs is None or cosine is None:
            return ["logits contain NaN or infinity"]
        faults: list[str] = []
        if self.max_abs is not None and max_abs > self.max_abs:
            faults.append(f"a logit is off by {max_abs:.3g}, the bound is {self.max_abs:.3g}")
        if self.cosine is not None and cosine < self.cosine:
            faults.append(f"the mean cosine is {cosine:.5f}, the bound is {self.cosine:.5f}")
        return faults


class ClassDrop(ClosedModel):
    """One label's drop: of the ``labelled`` units that carry it, how many the artifact no longer calls it.

    ``drop_low`` and ``drop_high`` are one-sided 95 % ends, as shares of those units.
    """

    name: str
    labelled: int
    lost: float
    gained: float
    drop: float
    drop_low: float
    drop_high: float


class ParityRow(ClosedModel):
    """One artifact in one view under one precision, against the trained model in torch f32 before its merge.

    Differences are null where a logit was not finite; accuracies where the truth is unknown.
    ``accuracy_low`` and ``accuracy_high`` are the ends of Wilson's 95 % interval; ``cosine`` and ``agreement`` are
    means over images, the latter of the share of labels that both give (Dice's; with one label each, the share of
    images called the same).

    ``lost`` of ``labelled`` units are right by the trained model and wrong by the artifact, ``gained`` the other way
    round; with ``unit`` group each group counts as one and its images as shares of it. ``drop`` is (lost - gained) /
    labelled, ``drop_low`` and ``drop_high`` the ends of its one-sided intervals at ``confidence``, by which it is
    proved (a row fails at a stricter level, as all rows are tested for it); null without truth,
    and the share of units whose labels ``changed`` (at most ``changed_high``) then stands for it. ``needed_images`` is
    how many units would prove ``max_drop`` with no further loss; null where the row is not unproved for their number.
    ``worst_class`` is the label that lost most, picked after looking, so its interval is too narrow where there are
    many labels, ``worst`` the images furthest off, the worst first.
    """

    artifact: str
    runtime: RuntimeName
    view: View
    compute: ComputeField
    images: int
    max_abs: float | None
    mean_abs: float | None
    cosine: float | None
    agreement: float
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    latency_ms: float
    bound: RowBound
    ok: bool
    verdict: Verdict
    unit: Unit
    labelled: int
    lost: float
    gained: float
    drop: float | None
    drop_low: float | None
    drop_high: float | None
    changed: float
    changed_high: float
    confidence: float
    max_drop: float
    needed_images: int | None
    worst_class: ClassDrop | None
    worst: list[str]
    # Of a model that drops patches: images of which f32 may keep another patch than the trained model, by rounding.
    # Their labels are compared, and their logits stand in no figure of this row.
    tied: int = 0
    # Only of OpenVINO: the instruction set that decided, whether the process was limited to it on a younger CPU, and
    # the kernels that ran the products, by oneDNN's name, with how many each.
    isa: InstructionSet | None = None
    emulated: bool = False
    primitives: dict[str, int] = {}  # noqa: RUF012  pydantic copies it

    @field_validator("artifact")
    @classmethod
    def _of_the_table(cls, name: str) -> str:
        if name not in ARTIFACTS:
            raise ValueError(f"must be one of {', '.join(ARTIFACTS)}")
        return name

    @property
    def subject(self) -> Artifact:
        """The artifact that was compared."""
        return ARTIFACTS[self.artifact]


def latency_rows(rows: Iterable[ParityRow]) -> list[ParityRow]:
    """Of each artifact, dtype and instruction set the row whose latency is that of one image as ``ftx.load`` runs it.

    Where the CPU chooses f32 that is one row for both, pinned and chosen.
    """
    found = {
        (row.artifact, row.compute.dtype, row.isa, row.emulated): row
        for row in sorted(rows, key=lambda row: (row.view == VIEW_OF["single"], row.compute.chosen_by_runtime))
        if row.view != "files"
    }
    return list(found.values())


class Family(ClosedModel):
    """How the error of several tests together is limited to ``alpha``.

    ``artifacts`` are those whose proof rests on labels and among which ``ftx predict`` chooses; ``rows`` are tested for
    failing.
    """

    method: Literal["holm"] = "holm"
    alpha: float
    artifacts: list[str]
    rows: int


class Transfer(ClosedModel):
    """Whether an exported folder has the logits here that it had where ``ftx validate`` judged it within its run.

    ``same``: its logits for the reference images are its own from there, within ``bound`` (null without any from
    there). ``changed`` is the share of reference images with other labels, ``changed_high`` its one-sided 95 % end.
    """

    verdict: Verdict
    summary: Summary
    max_drop: float
    machine: Machine
    same: bool
    max_abs: float | None
    bound: float | None
    changed: float
    changed_high: float


class SetVerdict(ClosedModel):
    """What was found of one OpenVINO model on one instruction set.

    ``emulated``: in a process limited to the set on a CPU that has a younger one. The kernels are those of the set, so
    their numbers are; their speed is a hint. ``not_run`` where this CPU lacks the set.
    """

    artifact: str
    isa: InstructionSet
    emulated: bool
    verdict: Verdict | Literal["not_run"]
    summary: Summary

    def __str__(self) -> str:
        return f"{self.verdict} (emulated)" if self.emulated and self.verdict == "proved" else self.verdict


class ParityReport(CommandReport):
    """All rows, and a message for each fault.

    ``verdicts`` has one for each artifact, and ``summary`` its figures in a sentence. ``ok`` is false where one failed,
    or, with ``require_proof``, is not proved. ``problems`` says each bound that was exceeded and each label or image
    path that differs; ``faulty`` names their artifacts. ``digests`` are those of the artifacts at the time, ``machine``
    what they ran on. ``whole``: on every held-out image and with no bound changed; without it nothing is proved.
    ``transfer`` is only of an exported folder. ``sets`` are the instruction sets that were chosen in addition to this
    machine's own; their rows say ``emulated``, and ``verdicts`` are not about them.
    """

    verb: str = "validate"
    folder: str | None = None
    reference: str
    split: str
    whole: bool
    max_drop: float
    require_proof: bool = False
    machine: Machine
    family: Family
    verdicts: dict[str, Verdict]
    summary: Annotated[dict[str, str], _SUMMARY]
    rows: list[ParityRow]
    problems: list[str]
    faulty: list[str]
    digests: dict[str, str]
    transfer: Transfer | None = None
    sets: list[SetVerdict] = []  # noqa: RUF012  pydantic copies it

    @property
    def int8_saturates(self) -> bool:
        """Whether int8 fails without VNNI, and nowhere else: there two products of 8 bits are added in 16 bits."""
        of_int8 = [one for one in self.sets if one.artifact == IR_INT8.name]
        failed = {one.isa for one in of_int8 if one.verdict == "failed"}
        own = {one.isa for one in of_int8 if not one.emulated}
        fails_here = self.verdicts.get(IR_INT8.name) == "failed" and not own & WITHOUT_VNNI
        return bool(failed) and failed <= WITHOUT_VNNI and not fails_here

    @property
    def own_rows(self) -> list[ParityRow]:
        """Those of the machine as it is."""
        return [row for row in self.rows if not row.emulated]


def read_parity(run: Path) -> ParityReport | None:
    """The last validation of a run folder; None where there is none, or one by another version."""
    try:
        return ParityReport.model_validate(read_json(run / PARITY_FILE))
    except (OSError, JsonError, ValidationError):
        return None
