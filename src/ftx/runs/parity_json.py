"""``reports/parity.json``, what ``ftx validate`` returns: a row an artifact, view and precision, and each verdict."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.untrusted_input import JsonError, read_json
from ftx.runs.artifacts import ARTIFACTS, IR_INT8, Artifact, RuntimeName
from ftx.runs.certificate import Certificate
from ftx.runs.compute_precision import ComputeField
from ftx.runs.machine import CPU, WITHOUT_VNNI, InstructionSet, Machine
from ftx.runs.set_quality import SetRow
from ftx.runs.views import VIEW_OF, View

# Within a run.
PARITY_FILE = Path("reports", "parity.json")

# proved: the margin is kept. failed: it certainly is not. unproved: these images show neither.
Verdict = Literal["proved", "unproved", "failed"]
# What counts as one: an image, or all images of one group of a table (a patient, a part), which are no new evidence
# each.
Unit = Literal["image", "group"]
# A verdict's figures in a sentence. Earlier versions of ftx wrote it as ``said``, which is still read.
_SUMMARY = Field(validation_alias=AliasChoices("summary", "said"))
Summary = Annotated[str, _SUMMARY]


class RowBound(ClosedModel):
    """The bound on the logits of a row."""

    max_abs: float | None
    """The largest difference of a logit that is allowed; null without a bound."""
    cosine: float | None
    """The smallest mean cosine similarity that is allowed; null without a bound."""
    reason: str
    """Why the bound has this value."""

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
    """How much accuracy one label loses."""

    name: str
    """The label."""
    labelled: int
    """The number of units (images or groups) with this label."""
    lost: float
    """How many of these units only the trained model predicts as this label."""
    gained: float
    """How many of these units only the compared model predicts as this label."""
    drop: float
    """(``lost`` - ``gained``) / ``labelled``."""
    drop_low: float
    """The lower end of its one-sided 95 % confidence interval."""
    drop_high: float
    """The upper end of its one-sided 95 % confidence interval."""


class ParityRow(ClosedModel):
    """One comparison of a model with the trained model, in fp32 and before its merge."""

    artifact: str
    """The model of the run, for example ``openvino/int8``."""
    runtime: RuntimeName
    """The library that ran the model."""
    view: View
    """``graph``: both models get the same pixels. ``one_image``: the same, with OpenVINO's kernels for single images.
    ``files``: each runtime reads and resizes the files itself.
    """
    compute: ComputeField
    """The precision that it computed in: ``f32``, or for example ``auto:bf16`` if the runtime chose bf16."""
    images: int
    """The number of images with known labels; if there are none, of all images."""
    max_abs: float | None
    """The largest difference of a logit; null if a logit is not finite."""
    mean_abs: float | None
    """The mean absolute difference of a logit; null if a logit is not finite."""
    cosine: float | None
    """The mean cosine similarity of the logits; null if a logit is not finite."""
    agreement: float
    """The mean agreement of the predicted labels (Dice), from 0 to 1. With one label each, the fraction of images with
    the same label.
    """
    accuracy: float | None
    """The fraction of images that the model predicts correctly; null if the true labels are unknown."""
    accuracy_low: float | None
    """The lower end of the 95 % confidence interval of ``accuracy``."""
    accuracy_high: float | None
    """The upper end of that interval."""
    latency_ms: float
    """The median time of one image in milliseconds; 0 if it is not measured."""
    bound: RowBound
    """The bound on the logits of this row."""
    ok: bool
    """false if a bound is exceeded, or more than ``max_drop`` is certainly lost."""
    verdict: Verdict
    """``proved``: at most ``max_drop`` is lost, with at least 95 % confidence, or in fp32 by the bound. ``failed``:
    ``ok`` is false. ``unproved``: these images show neither.
    """
    unit: Unit
    """What counts as one: an image, or all images of a group in the table, for example a patient."""
    labelled: int
    """The number of units with known labels."""
    lost: float
    """How many units only the trained model predicts correctly. An image of a group counts as its fraction of the
    group.
    """
    gained: float
    """How many units only the compared model predicts correctly."""
    drop: float | None
    """The lost accuracy as a fraction: (``lost`` - ``gained``) / ``labelled``. null if the true labels are unknown."""
    drop_low: float | None
    """The lower end of its one-sided interval at ``confidence``; null if ``drop`` is."""
    drop_high: float | None
    """The upper end of its one-sided interval at ``confidence``; null if ``drop`` is."""
    changed: float
    """The fraction of units with other predicted labels than those of the trained model. It counts instead of ``drop``
    if the true labels are unknown.
    """
    changed_high: float
    """The upper end of its one-sided interval at ``confidence``."""
    confidence: float
    """The confidence of the intervals: 0.95, or more if several models are tested together."""
    max_drop: float
    """The fraction of units that may be lost at most, for example 0.02."""
    needed_images: int | None
    """The number of units that would prove ``max_drop`` without any further loss; null if more images are not what is
    missing.
    """
    worst_class: ClassDrop | None
    """The label that loses most; null if none loses any. It is chosen afterwards, so with many labels its interval is
    too narrow.
    """
    worst: list[str]
    """The images with the largest differences, at most 5, the worst first."""
    tied: int = 0
    """Only for a model that drops patches: the number of images for which rounding may change the kept patches. Their
    logits are in no figure of this row.
    """
    isa: InstructionSet | None = None
    """Only for OpenVINO: the instruction set that decided which kernels ran. Otherwise null."""
    emulated: bool = False
    """Whether the process was limited to ``isa`` on a CPU that has a newer instruction set."""
    primitives: dict[str, int] = {}  # noqa: RUF012  pydantic copies it
    """OpenVINO's kernels for linear layers, convolutions and attention: how many of each, by their name in oneDNN.
    Empty for other runtimes.
    """

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
    """How the error of several tests together is limited."""

    method: Literal["holm"] = "holm"
    """Holm's procedure."""
    alpha: float
    """The largest probability that one of the tests is wrong, for example 0.05."""
    artifacts: list[str]
    """The models that are proved by their labels, and among which ``ftx predict`` chooses."""
    rows: int
    """The number of rows that are tested for a failure."""


class Transfer(ClosedModel):
    """The verdict on an exported model on a machine, compared with the machine that validated its run."""

    verdict: Verdict
    """The verdict on this machine."""
    summary: Summary
    """The figures of the verdict, in a sentence."""
    max_drop: float
    """The fraction of images that may be lost at most, for example 0.02."""
    machine: Machine
    """The machine that ran the model."""
    same: bool
    """Whether its logits for the reference images are those of the other machine, within ``bound``."""
    max_abs: float | None
    """The largest difference of a logit between the machines; null if nothing can be compared."""
    bound: float | None
    """The largest ``max_abs`` that counts as the same; null if no other machine judged the model."""
    changed: float
    """The fraction of reference images with other labels than on the other machine, or if there is none, than the
    trained model predicts.
    """
    changed_high: float
    """The upper end of its one-sided 95 % confidence interval."""


class SetVerdict(ClosedModel):
    """The verdict on one OpenVINO model on one instruction set."""

    artifact: str
    """The model of the run, for example ``openvino/int8``."""
    isa: InstructionSet
    """The instruction set, as in ``--isa``."""
    emulated: bool
    """Whether the process was limited to ``isa`` on a CPU that has a newer instruction set. The outputs are those of
    ``isa``; the speed is only a hint.
    """
    verdict: Verdict | Literal["not_run"]
    """The verdict; ``not_run`` if this CPU does not have the instruction set."""
    summary: Summary
    """The figures of the verdict, in a sentence."""

    def __str__(self) -> str:
        return f"{self.verdict} (emulated)" if self.emulated and self.verdict == "proved" else self.verdict


class ReleaseVerdict(SetVerdict):
    """The verdict on one OpenVINO model on one instruction set with another release of OpenVINO, or on a device."""

    openvino: str
    """The version of OpenVINO; the release as it was given if nothing ran."""
    device: str = CPU
    """The device that ran the model, by OpenVINO's name; on another than the CPU, ``isa`` is that of the machine."""

    @property
    def runtime(self) -> str:
        """The version of OpenVINO, and the device unless it is the CPU."""
        return self.openvino if self.device == CPU else f"{self.openvino}, {self.device}"


class ParityReport(CommandReport):
    """How much accuracy the exported models lose, compared with the trained model."""

    verb: str = "validate"
    folder: str | None = None
    """The exported folder; null for a run."""
    reference: str
    """What the models are compared with."""
    split: str
    """The split of the images; ``reference`` for the images in an exported folder."""
    whole: bool
    """Whether all images were run with the default bounds. Otherwise nothing is proved."""
    max_drop: float
    """The fraction of images that may be lost at most, for example 0.02."""
    require_proof: bool = False
    """Whether ``ok`` is also false if a model is not proved (``--require-proof``)."""
    machine: Machine
    """The machine that ran the models."""
    family: Family
    """How the error of all tests together is limited."""
    verdicts: dict[str, Verdict]
    """The verdict on each model; ``ok`` is false if one failed."""
    summary: Annotated[dict[str, str], _SUMMARY]
    """The figures of each verdict, in a sentence."""
    rows: list[ParityRow]
    """All comparisons, also those in other instruction sets."""
    problems: list[str]
    """One message for each exceeded bound or margin, wrong label and different preprocessing."""
    faulty: list[str]
    """The models that failed."""
    digests: dict[str, str]
    """The hash of each model when it was validated; empty for an exported folder."""
    transfer: Transfer | None = None
    """Only for an exported folder: its verdict here, from the verdict of another machine. Otherwise null."""
    sets: list[SetVerdict] = []  # noqa: RUF012  pydantic copies it
    """The verdicts on the instruction sets of ``--isa``."""
    releases: list[ReleaseVerdict] = []  # noqa: RUF012  pydantic copies it
    """The verdicts with the releases of ``--openvino``, on the same instruction sets."""
    prediction_sets: list[SetRow] = []  # noqa: RUF012  pydantic copies it
    """How often prediction sets are right, for each model, instruction set and way to run it."""
    certificates: list[Certificate] = []  # noqa: RUF012  pydantic copies it
    """Only for int8-checked: what is certified, for each instruction set and version of OpenVINO."""

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
