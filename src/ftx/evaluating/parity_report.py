"""What a validation found, as a report: rows, verdicts, and the files of a run and of its exported models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ftx.core.errors import RunError
from ftx.core.progress import Progress
from ftx.evaluating.judge import ParityJudgement
from ftx.evaluating.measure import Measurements
from ftx.evaluating.readme_verdicts import write_verdicts
from ftx.evaluating.releases import Cell
from ftx.runs.artifacts import ARTIFACTS, Artifact
from ftx.runs.card_json import PROOF_FILE
from ftx.runs.kept_logits import keep_logits
from ftx.runs.machine import (
    InstructionSet,
    Machine,
    cpu_flags,
    environment,
    is_emulated,
    sets_of,
    this_machine,
    this_set,
)
from ftx.runs.parity_json import PARITY_FILE, ParityReport, ReleaseVerdict, SetVerdict, Transfer, Verdict, read_parity
from ftx.runs.proof_json import RunProof, keep_proof
from ftx.runs.run import Run


def parity_report(judged: ParityJudgement, max_drop: float, *, whole: bool, split: str, reference: str) -> ParityReport:
    """Rows and verdicts on this machine, of a run or of an exported folder."""
    return ParityReport(
        reference=reference,
        split=split,
        whole=whole,
        max_drop=max_drop,
        machine=this_machine(),
        family=judged.family,
        verdicts=judged.verdicts,
        summary=judged.summary,
        rows=judged.rows,
        problems=judged.problems,
        faulty=sorted(name for name, verdict in judged.verdicts.items() if verdict == "failed"),
        digests={},
    )


def add_transfer(report: ParityReport, found: Transfer) -> None:
    """Take the verdict of another machine for that of an exported folder."""
    (artifact,) = report.verdicts
    report.transfer = found
    report.verdicts, report.summary = {artifact: found.verdict}, {artifact: found.summary}
    report.faulty = [artifact] if found.verdict == "failed" else []


def add_own_set(report: ParityReport, sets: Sequence[InstructionSet]) -> None:
    """This machine's own instruction set, if it is one of ``sets``: its verdicts are those of the report."""
    isa = this_set()
    if isa is not None and isa in sets:
        emulated = is_emulated(isa)
        report.sets += [
            SetVerdict(artifact=name, isa=isa, emulated=emulated, verdict=verdict, summary=report.summary[name])
            for name, verdict in report.verdicts.items()
            if ARTIFACTS[name].tunable
        ]


def add_set(
    report: ParityReport,
    artifact: Artifact,
    isa: InstructionSet,
    judged: ParityJudgement | None,
    found: Transfer | None = None,
) -> None:
    """One model in another instruction set; ``judged`` is None if this CPU lacks the set."""
    emulated, verdict, summary = False, "not_run", "this CPU does not have it"
    if judged is not None:
        report.rows += judged.rows
        emulated = any(row.emulated for row in judged.rows)
        verdict, summary = judged.verdicts[artifact.name], judged.summary[artifact.name]
        if found is not None:
            verdict, summary = found.verdict, found.summary
    report.sets.append(SetVerdict(artifact=artifact.name, isa=isa, emulated=emulated, verdict=verdict, summary=summary))


def add_release(report: ParityReport, cell: Cell, judged: ParityJudgement | None) -> None:
    """One model with another release, or on another device; ``judged`` is None if it cannot run there.

    That fails if the CPU has the set.
    """
    verdict: Verdict | Literal["not_run"] = "failed" if cell.isa in sets_of(cpu_flags()) else "not_run"
    summary = cell.reason
    if judged is not None:
        verdict, summary = judged.verdicts[cell.artifact.name], judged.summary[cell.artifact.name]
    report.releases.append(
        ReleaseVerdict(
            artifact=cell.artifact.name,
            isa=cell.isa,
            emulated=is_emulated(cell.isa),
            openvino=cell.openvino,
            device=cell.device,
            verdict=verdict,
            summary=summary,
        )
    )


def finish(report: ParityReport, *, require_proof: bool) -> ParityReport:
    """With ``ok``: nothing failed, on this machine and in the sets; and all is proved if that is required."""
    cells = [*report.sets, *report.releases]
    in_sets: list[Verdict] = [one.verdict for one in cells if one.verdict != "not_run"]
    allowed = {"proved"} if require_proof else {"proved", "unproved"}
    report.require_proof, report.ok = require_proof, {*report.verdicts.values(), *in_sets} <= allowed
    return report


def set_proof(
    report: ParityReport,
    artifact: Artifact,
    isa: InstructionSet,
    judged: ParityJudgement,
    held: Measurements,
    cell: Cell | None = None,
) -> RunProof:
    """What a run's validation found of a model in another instruction set, release of OpenVINO, or device."""
    machine = held_machine(isa) if isa != this_set() else this_machine()
    return RunProof(
        verdict=judged.verdicts[artifact.name],
        summary=judged.summary[artifact.name],
        max_drop=report.max_drop,
        split=report.split,
        whole=report.whole,
        machine=machine
        if cell is None
        else machine.model_copy(update={"openvino": cell.openvino, "device": cell.device}),
        family=judged.family,
        rows=judged.rows,
        answers=held.on_reference[artifact],
        isa=isa,
        emulated=any(row.emulated for row in judged.rows),
    )


def held_machine(isa: InstructionSet) -> Machine:
    """This machine, as a process that is limited to the set names it."""
    here = this_machine()
    limits = tuple(f"{name}={value}" for name, value in environment(isa).items())
    own = tuple(name for name in here.instructions if "=" not in name)
    return here.model_copy(update={"instructions": own + limits})


def keep(
    run: Run,
    report: ParityReport,
    measured: Measurements,
    irs: dict[Artifact, str],
    proofs: dict[Artifact, list[RunProof]],
    progress: Progress,
) -> None:
    """Write a run's ``parity.json``, its model card, and the ``proof.json`` of each of ``irs``, given with its digest.

    A look at some images leaves them as they are if a validation on all of them found something of the same models.
    """
    if not report.whole and _is_proved_already(run, report):
        progress.note(f"{PARITY_FILE.as_posix()} and {PROOF_FILE} are not changed, as they are of all held-out images")
        return
    run.keep_report("parity", report, progress)
    if len(measured.reference.names) == len(run.report_entries()):
        for (artifact, compute), logits_NC in measured.from_files.items():
            if not artifact.tunable or compute.chosen_by_runtime:  # in the precision that it is deployed in
                keep_logits(run, artifact, compute, logits_NC, progress)
    write_verdicts(run, report, progress)
    for artifact, own in measured.on_reference.items():
        of_sets = proofs.get(artifact)
        keep_proof(run.folder(artifact), irs[artifact], report, artifact, own, progress, sets=of_sets)


def _is_proved_already(run: Run, report: ParityReport) -> bool:
    """Whether the run's report is of these very artifacts, on all images."""
    try:
        run.check_report(PARITY_FILE, "ftx validate")
    except RunError:
        return False
    kept = read_parity(run.path)
    return kept is not None and kept.whole and kept.digests == report.digests
