"""``ftx validate``: held-out images through every artifact, each against the trained model in torch f32.

A run is compared with its trained model; an exported folder on a device, where there is no torch, with
the answers of that model which lie beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftx.core.errors import ExportError, InputError, RunError, shell_command
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.folder_parity import validate_folder
from ftx.evaluating.isa_parity import AskedSets, RunInSets, folder_in_sets, other_sets, own_set
from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.read_reference import reference_answers
from ftx.evaluating.readme_verdicts import tell_card
from ftx.evaluating.run_parity import Comparison, Samples, ask_trained, take_samples
from ftx.evaluating.stated_labels import identity_faults
from ftx.evaluating.verdict import judge, passes
from ftx.runs.artifacts import DENSE, EXPORT_IR, EXPORTED, IR_FILE, IRS, TRAINED, Artifact
from ftx.runs.card_json import CARD_FILE, PROOF_FILE
from ftx.runs.compute_precision import Compute
from ftx.runs.instruction_sets import InstructionSet
from ftx.runs.kept_logits import keep_logits
from ftx.runs.machine import this_machine
from ftx.runs.parity_json import PARITY_FILE, KernelPath, ParityReport, Verdict, read_parity
from ftx.runs.proof_json import Answers, ir_digest, keep_proof
from ftx.runs.run import Run
from ftx.runtimes import load_artifact
from ftx.runtimes.openvino import OpenVinoPredictor, kernel_paths


def validate(
    target: Run | Path | str | None = None,
    *,
    data: Path | None = None,
    bounds: Mapping[str, float] | Bounds | None = None,
    images: int | None = None,
    max_drop: float | None = None,
    require_proof: bool = False,
    isa: Sequence[InstructionSet] = (),
    progress: Progress = SILENT,
) -> ParityReport:
    """Compare every artifact of a run, or one exported folder, with the trained model, and give each a verdict.

    ``target`` is the latest run by default; ``data`` says where the run's images are now; ``bounds`` lays values over
    the table of ``ftx.evaluating.logit_bounds``; ``images`` takes so many of the held-out ones, spread over them, which
    proves nothing; ``max_drop`` is the share of images that may be lost (the recipe's by default). A run gets
    ``reports/parity.json``, and each OpenVINO model its ``proof.json``. ``isa`` asks the OpenVINO models in processes
    that are held to these instruction sets as well. ``ok`` is false where an artifact failed, or,
    with ``require_proof``, is not proved; nothing is raised for it.
    Raises: RunError if nothing is exported, or a file is altered or stale; ExportError for a folder; DataError.
    """
    table = Bounds.of(bounds)
    if max_drop is not None and not 0 < max_drop < 1:
        raise InputError(
            f"--max-drop {max_drop:g} is no margin", fix="it is a share of the images between 0 and 1, as 0.02"
        )
    path = target.path if isinstance(target, Run) else Run.open().path if target is None else Path(target)
    folder = path.parent if path.is_file() else path
    if (folder / IR_FILE).is_file() and not (folder / CARD_FILE).is_file():
        found = f"no {CARD_FILE} in it"
        raise ExportError("this exported folder is not whole", where=folder, found=found, fix="copy it again")
    if (folder / CARD_FILE).is_file():
        if data is not None or images is not None:
            raise InputError(
                "an exported folder is validated on its own reference images, and takes neither --data nor --images",
                where=folder,
                fix="leave them out, or name the run",
            )
        Run.check_folder(folder)
        if isa and table != Bounds.of(None):
            raise InputError(
                "instruction sets are asked by the bounds of ftx", where=folder, fix="leave --bound or --isa out"
            )
        report = validate_folder(folder, table, max_drop, progress)
        if isa:
            rows, sets = folder_in_sets(folder, max_drop, other_sets(isa), progress)
            report.sets = own_set(isa, report) + sets
            report.rows += rows
        report.require_proof, report.ok = require_proof, _passes(report, require_proof=require_proof)
        return report
    run = target if isinstance(target, Run) else Run.open(path)
    return _validate_run(run, _Wish(data, table, images, max_drop, require_proof, tuple(isa)), progress)


@dataclass(frozen=True)
class _Wish:
    """What the caller of ``validate`` chose for a run's validation."""

    data: Path | None
    table: Bounds
    images: int | None
    max_drop: float | None
    require_proof: bool
    isa: tuple[InstructionSet, ...]


def _validate_run(run: Run, wish: _Wish, progress: Progress) -> ParityReport:
    exported = [artifact for artifact in EXPORTED if run.has(artifact)]
    if not exported:
        raise RunError(
            "there is nothing to validate: this run has no exported model yet",
            where=run.path,
            found=f"it holds {', '.join(map(str, run.artifacts()))}",
            fix=f"run: {shell_command(EXPORT_IR, run.path)}",
        )
    for artifact in exported:  # hashes and lineage of all, before the first number
        run.require(artifact)
    # As they are now: what is exported meanwhile is another model than the one that is asked.
    manifest = run.manifest
    irs = {artifact: ir_digest(run.folder(artifact)) for artifact in exported if artifact in IRS.values()}
    margin = run.recipe().validation.max_drop if wish.max_drop is None else wish.max_drop
    samples = take_samples(run, wish.data, wish.images)
    partial = _partial(run, samples, wish.table)
    asked = list(_ways(run, [DENSE, *exported]))
    total = samples.asked_of_trained + sum(samples.asked_of(*way) for way in asked)
    mistaken: dict[str, list[str]] = {}
    answers: dict[Artifact, list[Answers]] = {}
    all_tokens = ""
    with progress.track("validating", total) as bar:
        comparison, of_trained = ask_trained(run, samples, wish.table, bar)
        compared = [of_trained]
        for artifact, compute, paths in asked:
            predictor = load_artifact(run, artifact, compute=compute)
            if compute == "f32":
                mistaken[artifact.name] = identity_faults(run, artifact, predictor)
            compared += comparison.rows(artifact, predictor)
            if artifact == DENSE and (others := comparison.with_all_tokens(run)) is not None:
                all_tokens = others
            if isinstance(predictor, OpenVinoPredictor):
                own = answers.setdefault(artifact, [])
                own.append(reference_answers(predictor))
                if "single" in paths:
                    predictor = OpenVinoPredictor(predictor.folder, compute, kernels="single")  # the other is dropped
                    compared.append(comparison.row_of_pixels(artifact, predictor, "single"))
                    own.append(reference_answers(predictor, "single"))
    judged = judge(compared, margin, mistaken=mistaken, partial=partial)
    if all_tokens:
        judged.summary[DENSE.name] += f"; {all_tokens}"
    sets = _ask_sets(run, wish, comparison, exported, margin, partial, progress)
    report = ParityReport(
        run=str(run.path),
        ok=True,
        require_proof=wish.require_proof,
        reference=f"{TRAINED}/ in torch f32, before its merge",
        split=samples.entries[0].split,
        whole=partial is None,
        max_drop=margin,
        machine=this_machine(),
        family=judged.family,
        verdicts=judged.verdicts,
        summary=judged.summary,
        rows=judged.rows + sets.rows,
        problems=judged.problems,
        faulty=[name for name, verdict in sorted(judged.verdicts.items()) if verdict == "failed"],
        digests={artifact.name: manifest.digest(artifact) for artifact in (TRAINED, DENSE, *exported)},
        sets=sets.verdicts,
    )
    report.sets[:0] = own_set(wish.isa, report)
    report.ok = _passes(report, require_proof=wish.require_proof)
    if partial is not None and _is_proved_already(run, report):
        progress.note(
            f"{PARITY_FILE.as_posix()} and {PROOF_FILE} stay as all held-out images left them: this was for looking"
        )
        return report
    run.keep_report("parity", report, progress)
    if len(samples.entries) == len(run.report_entries()):
        _keep_logits(run, comparison, progress)
    tell_card(run, report, progress)
    for artifact, own in answers.items():
        of_sets = sets.proofs.get(artifact)
        keep_proof(run.folder(artifact), irs[artifact], report, artifact, own, progress, sets=of_sets)
    return report


def _keep_logits(run: Run, comparison: Comparison, progress: Progress) -> None:
    """What each artifact answered in the precision that it is deployed in."""
    for (artifact, compute), logits_NC in comparison.from_files.items():
        if not artifact.tunable or compute.chosen_by_runtime:
            keep_logits(run, artifact, compute, logits_NC, progress)


def _ask_sets(
    run: Run,
    wish: _Wish,
    comparison: Comparison,
    exported: Sequence[Artifact],
    margin: float,
    partial: str | None,
    progress: Progress,
) -> AskedSets:
    sets = other_sets(wish.isa)
    if not sets:
        return AskedSets([], [], {})
    asked = RunInSets(run, wish.data, wish.images, comparison.whole, comparison.chosen, wish.table, margin, partial)
    return asked.ask([artifact for artifact in exported if artifact in IRS.values()], sets, progress)


def _passes(report: ParityReport, *, require_proof: bool) -> bool:
    """Whether nothing failed, on this machine and in the sets; and all is proved, where that is asked for."""
    in_sets: list[Verdict] = [one.verdict for one in report.sets if one.verdict != "not_run"]
    return passes([*report.verdicts.values(), *in_sets], require_proof=require_proof)


def _is_proved_already(run: Run, report: ParityReport) -> bool:
    """Whether the run's report is of these very artifacts, on all images."""
    try:
        run.check_report(PARITY_FILE, "ftx validate")
    except RunError:
        return False
    kept = read_parity(run.path)
    return kept is not None and kept.whole and kept.digests == report.digests


def _partial(run: Run, samples: Samples, table: Bounds) -> str | None:
    """Why what was asked is no proof; None where it may be one."""
    held_out = len(run.report_entries())
    if len(samples.entries) < held_out:
        return f"only {len(samples.entries)} of {held_out} held-out images were asked, and a proof takes all"
    return None if table == Bounds.of(None) else "bounds of your own prove nothing"


def _ways(run: Run, artifacts: Sequence[Artifact]) -> Iterator[tuple[Artifact, Compute, tuple[KernelPath, ...]]]:
    """In which precisions each artifact is run, and by which kernels."""
    computes: tuple[Compute, ...] = ("f32", "auto")
    for artifact in artifacts:
        if not artifact.tunable:
            yield artifact, "f32", ("batch",)
            continue
        for compute in computes:
            yield artifact, compute, kernel_paths(run.folder(artifact), compute)
