"""``ftx validate --isa``: the OpenVINO models in processes held to other instruction sets than this machine's.

An int8 model that is proved here is not proved for a CPU without VNNI, where products saturate. The kernels of an older
set run on a younger CPU as they are, so what they answer is what they answer there; how fast they do is a hint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftx.core.child_process import run_in_child
from ftx.core.progress import Progress
from ftx.evaluating import isa_folder_process, isa_run_process
from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.parity_row import Compared, Reference, Subject, compare
from ftx.evaluating.verdict import Judged, judge
from ftx.runs.artifacts import ARTIFACTS, Artifact
from ftx.runs.card_json import read_card
from ftx.runs.instruction_sets import InstructionSet, Kernels, environment, is_held, sets_of
from ftx.runs.machine import Machine, cpu_flags, this_machine, this_set
from ftx.runs.parity_json import ParityReport, ParityRow, SetVerdict
from ftx.runs.proof_json import RunProof
from ftx.runs.run import Run


@dataclass(frozen=True)
class AskedSets:
    """The rows of all sets, what was found of each model on each, and the proofs to lay beside the models."""

    rows: list[ParityRow]
    verdicts: list[SetVerdict]
    proofs: dict[Artifact, list[RunProof]]


@dataclass(frozen=True)
class RunInSets:
    """What the processes are asked about a run: the trained model's answers to all images, and to some (``chosen``)."""

    run: Run
    data: Path | None
    images: int | None
    whole: Reference
    chosen: Reference
    table: Bounds
    max_drop: float
    partial: str | None

    def ask(self, artifacts: Sequence[Artifact], sets: Sequence[InstructionSet], progress: Progress) -> AskedSets:
        """Ask each OpenVINO model in each set that this CPU has and does not use by itself."""
        found = AskedSets([], [], {})
        with progress.track("instruction sets", len(sets) * len(artifacts)) as bar:
            for isa in sets:
                if isa not in sets_of(cpu_flags()):
                    found.verdicts.extend(_not_run(artifact.name, isa) for artifact in artifacts)
                    bar.advance(len(artifacts), isa=isa)
                    continue
                for artifact in artifacts:
                    self._ask_one(artifact, isa, found)
                    bar.advance(isa=isa, artifact=artifact.name)
        return found

    def _ask_one(self, artifact: Artifact, isa: InstructionSet, found: AskedSets) -> None:
        question = isa_run_process.Question(
            run=self.run.path, artifact=artifact.name, data=self.data, images=self.images
        )
        answered = run_in_child(isa_run_process.MODULE, question, isa_run_process.HeldModel, environment(isa)).rows
        judged = judge([self._compared(artifact, held) for held in answered], self.max_drop, partial=self.partial)
        held = answered[0]
        found.rows.extend(judged.rows)
        found.verdicts.append(_set_verdict(judged, artifact, held.isa, emulated=held.emulated))
        found.proofs.setdefault(artifact, []).append(
            RunProof(
                verdict=judged.verdicts[artifact.name],
                summary=judged.summary[artifact.name],
                max_drop=self.max_drop,
                split=self.run.report_entries()[0].split,
                whole=self.partial is None,
                machine=_held_machine(isa),
                family=judged.family,
                rows=judged.rows,
                answers=[one.reference for one in answered],
                isa=held.isa,
                emulated=held.emulated,
            )
        )

    def _compared(self, artifact: Artifact, held: isa_run_process.HeldRow) -> Compared:
        compute = held.asked.compute
        subject = Subject(
            artifact, held.asked.view, compute, held.latency_ms, Kernels(held.isa, held.emulated, held.primitives)
        )
        reference = self.whole if held.whole else self.chosen
        return compare(
            reference,
            held.asked.array,
            subject,
            self.table.pick(artifact, held.asked.view, compute, drops_patches=reference.drops_patches),
        )


def folder_in_sets(
    folder: Path, max_drop: float | None, sets: Sequence[InstructionSet], progress: Progress
) -> tuple[list[ParityRow], list[SetVerdict]]:
    """Validate an exported folder in each set; ``proof.json`` keeps what was found, by set."""
    rows: list[ParityRow] = []
    verdicts: list[SetVerdict] = []
    question = isa_folder_process.Question(folder=folder, max_drop=max_drop)
    with progress.track("instruction sets", len(sets)) as bar:
        for isa in sets:
            if isa not in sets_of(cpu_flags()):
                verdicts.append(_not_run(read_card(folder).artifact.name, isa))
            else:
                report = run_in_child(isa_folder_process.MODULE, question, ParityReport, environment(isa))
                ((artifact, verdict),) = report.verdicts.items()
                rows += report.rows
                emulated = any(row.emulated for row in report.rows)
                summary = report.summary[artifact]
                verdicts.append(
                    SetVerdict(artifact=artifact, isa=isa, emulated=emulated, verdict=verdict, summary=summary)
                )
            bar.advance(isa=isa)
    return rows, verdicts


def other_sets(asked: Sequence[InstructionSet]) -> list[InstructionSet]:
    """Those that need a process of their own: this machine's own set is what it is asked in anyway."""
    return [isa for isa in dict.fromkeys(asked) if isa != this_set()]


def own_set(asked: Sequence[InstructionSet], report: ParityReport) -> list[SetVerdict]:
    """This machine's own set among those that are asked for: what was found without holding a process to anything."""
    isa = this_set()
    if isa is None or isa not in asked:
        return []
    irs = [name for name in report.verdicts if ARTIFACTS[name].tunable]
    emulated = is_held(cpu_flags())
    return [
        SetVerdict(
            artifact=name, isa=isa, emulated=emulated, verdict=report.verdicts[name], summary=report.summary[name]
        )
        for name in irs
    ]


def _set_verdict(judged: Judged, artifact: Artifact, isa: InstructionSet, *, emulated: bool) -> SetVerdict:
    verdict, summary = judged.verdicts[artifact.name], judged.summary[artifact.name]
    return SetVerdict(artifact=artifact.name, isa=isa, emulated=emulated, verdict=verdict, summary=summary)


def _not_run(artifact: str, isa: InstructionSet) -> SetVerdict:
    return SetVerdict(
        artifact=artifact, isa=isa, emulated=False, verdict="not_run", summary="this CPU does not have it"
    )


def _held_machine(isa: InstructionSet) -> Machine:
    """This machine, as a process that is held to the set names it."""
    here = this_machine()
    limits = tuple(f"{name}={value}" for name, value in environment(isa).items())
    kept = tuple(name for name in here.instructions if "=" not in name)
    return here.model_copy(update={"instructions": kept + limits})
