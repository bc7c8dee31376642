"""``ftx validate``: held-out images through every artifact, each against the trained model in torch f32.

A run is compared with its trained model. An exported folder on a device without torch is compared with the logits of
that model for the reference images next to it. Both are measured, judged and reported the same way; a folder's verdict
may be one from another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ftx.core.errors import ExportError, InputError, RunError, shell_command
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.calibrate import calibrate_run, is_calibrated, set_rows
from ftx.evaluating.calibrate_device import prepare_device
from ftx.evaluating.certify import certified_on, certify_run, is_certified
from ftx.evaluating.held_process import HeldModel, measure_in_sets
from ftx.evaluating.judge import judge
from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.measure import measure_folder, measure_run
from ftx.evaluating.on_device import measure_on_device
from ftx.evaluating.parity_images import run_images
from ftx.evaluating.parity_report import (
    add_own_set,
    add_release,
    add_set,
    add_transfer,
    finish,
    held_machine,
    keep,
    parity_report,
    set_proof,
)
from ftx.evaluating.releases import install_releases, measure_in_releases
from ftx.evaluating.transfer import transfer
from ftx.recipe.sections import MAX_DROP
from ftx.runs.artifacts import DENSE, EXPORT_IR, EXPORTED, IR_FILE, IR_INT8_CHECKED, IRS, TRAINED, Artifact
from ftx.runs.card_json import CARD_FILE, REFERENCE_FILE, read_card
from ftx.runs.certificate import Certificate
from ftx.runs.certificate_json import read_certificates
from ftx.runs.machine import CPU, InstructionSet, this_machine, this_set
from ftx.runs.parity_json import ParityReport
from ftx.runs.proof_json import RunProof, ir_digest, keep_transfer, read_proof
from ftx.runs.run import Run
from ftx.runtimes.compiled_network import core
from ftx.runtimes.device import check_device

OWN_BOUNDS = "bounds of your own prove nothing"


def validate(
    target: Run | Path | str | None = None,
    *,
    data: Path | None = None,
    bounds: Mapping[str, float] | Bounds | None = None,
    images: int | None = None,
    max_drop: float | None = None,
    require_proof: bool = False,
    isa: Sequence[InstructionSet] = (),
    device: str = CPU,
    openvino: Sequence[str] = (),
    wheels: Path | None = None,
    progress: Progress = SILENT,
) -> ParityReport:
    """Compare every artifact of a run, or one exported folder, with the trained model, and give each a verdict.

    ``target`` is the latest run by default. ``data`` is the folder of the images now. ``bounds`` replaces
    values of the table of ``ftx.evaluating.logit_bounds``. ``images`` takes that many of the held-out ones, spread
    evenly, which proves nothing. ``max_drop`` is the fraction of images that may be lost (the recipe's by default).
    ``isa`` also runs the OpenVINO models in processes limited to these instruction sets. ``openvino`` also runs those
    of a run with these releases, on the same sets; pip installs them, from the folder ``wheels`` if it is given.
    ``device`` runs the OpenVINO models of a run on that device too, or an exported folder on that device.
    A run gets ``reports/parity.json``, and each OpenVINO model its ``proof.json``. ``ok`` is false if an artifact
    failed, or, with ``require_proof``, is not proved; nothing is raised for it.
    Raises: RunError if nothing is exported, or a file is altered or stale; ExportError for a folder; DataError.
    """
    table = Bounds.of(bounds)
    if max_drop is not None and not 0 < max_drop < 1:
        raise InputError(
            "--max-drop must be a fraction of the images between 0 and 1",
            found=f"{max_drop:g}",
            fix="use --max-drop 0.02 for 2 in 100",
        )
    path = target.path if isinstance(target, Run) else Run.open().path if target is None else Path(target)
    folder = path.parent if path.is_file() else path
    if (folder / IR_FILE).is_file() and not (folder / CARD_FILE).is_file():
        found = f"no {CARD_FILE} in it"
        raise ExportError(
            "this exported folder is not whole", where=folder, found=found, fix="copy the whole folder again"
        )
    if (folder / CARD_FILE).is_file():
        if images is not None:
            raise InputError(
                "--images must not be given for an exported folder, which has its own reference images",
                where=folder,
                found=f"--images {images}",
                fix="run the command without it, or name the run",
            )
        if openvino:
            raise InputError(
                "--openvino must not be given for an exported folder",
                where=folder,
                fix="name the run, or install that OpenVINO and run ftx validate again",
            )
        if isa and table != Bounds.of(None):
            raise InputError(
                "--bound cannot be combined with --isa", where=folder, fix="run the command with one of them"
            )
        if data is not None and device != CPU:
            raise InputError(
                "--data calibrates the model for the CPU", found=f"--device {device}", fix="leave out --device"
            )
        check_device(device, core())
        if isa and device != CPU:
            raise InputError("--isa is only for the CPU", found=device, fix=f"use --device {CPU}, or leave out --isa")
        report = _validate_folder(folder, table, max_drop, isa, data, device, progress)
        return finish(report, require_proof=require_proof)
    run = target if isinstance(target, Run) else Run.open(path)
    check_device(device, core())  # before minutes of work
    homes = install_releases(openvino, wheels, progress) if openvino else {}
    return _validate_run(run, data, images, table, max_drop, isa, homes, device, require_proof, progress)


def _validate_folder(
    folder: Path,
    table: Bounds,
    max_drop: float | None,
    sets: Sequence[InstructionSet],
    data: Path | None,
    device: str,
    progress: Progress,
) -> ParityReport:
    """``proof.json`` keeps what was found, by machine. ``data`` calibrates the model, and certifies int8-checked.

    Raises: ExportError if the folder is incomplete, altered, or its reference or proof is malformed.
    """
    Run.check_folder(folder)
    checked = read_card(folder).artifact == IR_INT8_CHECKED
    if data is not None:
        prepare_device(folder, data, progress)
    proof = read_proof(folder, progress)
    measured = measure_folder(folder, table, progress, device=device)
    margin = max_drop if max_drop is not None else proof.run.max_drop if proof.run else MAX_DROP
    partial = None if table == Bounds.of(None) else OWN_BOUNDS
    judged = measured.judged(margin, partial)
    reference = f"{REFERENCE_FILE}: the trained model in torch f32, before its merge"
    report = parity_report(judged, margin, whole=partial is None, split="reference", reference=reference)
    report.folder, report.machine = str(folder), this_machine(device)
    certified = certified_on(report.machine, folder, margin) if checked else None
    found = transfer(measured, judged, proof, margin, machine=report.machine, partial=partial, certified=certified)
    add_transfer(report, found)
    if partial is None:
        keep_transfer(folder, proof, found, progress)
    add_own_set(report, sets)
    (artifact,) = measured.on_reference
    for _, isa, held in measure_in_sets(
        {artifact: HeldModel(folder=folder, prepare_on=data)}, sets, measured, progress
    ):
        if held is None:
            add_set(report, artifact, isa, None)
            continue
        proof = read_proof(folder)
        judged = judge(held.comparisons, margin, faults=measured.faults, partial=measured.partial)
        certified = certified_on(held_machine(isa), folder, margin) if checked else None
        found = transfer(held, judged, proof, margin, machine=held_machine(isa), isa=isa, certified=certified)
        keep_transfer(folder, proof, found)
        add_set(report, artifact, isa, judged, found)
    report.certificates = _certificates(folder) if checked else []
    return report


def _validate_run(
    run: Run,
    data: Path | None,
    count: int | None,
    table: Bounds,
    max_drop: float | None,
    sets: Sequence[InstructionSet],
    releases: Mapping[str, Path],
    device: str,
    require_proof: bool,
    progress: Progress,
) -> ParityReport:
    exported = _exported(run)
    # As they are now: what is exported meanwhile is another model than the one that is measured.
    manifest = run.manifest
    irs = {artifact: ir_digest(run.folder(artifact)) for artifact in exported if artifact in IRS.values()}
    margin = run.recipe().validation.max_drop if max_drop is None else max_drop
    entries, images = run_images(run, data, count)
    held_out = len(run.report_entries())
    partial = None if table == Bounds.of(None) else OWN_BOUNDS
    if len(entries) < held_out:
        partial = f"only {len(entries)} of {held_out} held-out images were run, and a proof takes all"
    checked = run.folder(IR_INT8_CHECKED) if IR_INT8_CHECKED in exported else None
    if checked is not None and not is_certified(checked):
        certify_run(run, checked, data, progress)
    for artifact in irs:
        if not is_calibrated(run.folder(artifact)):
            calibrate_run(run, run.folder(artifact), data, progress)
    measured = measure_run(run, exported, entries, images, table, progress)
    judged = measured.judged(margin, partial)
    for artifact, note in measured.notes.items():
        judged.summary[artifact] += f"; {note}"
    reference = f"{TRAINED}/ in torch f32, before its merge"
    report = parity_report(judged, margin, whole=partial is None, split=entries[0].split, reference=reference)
    report.run = str(run.path)
    report.digests = {artifact.name: manifest.digest(artifact) for artifact in (TRAINED, DENSE, *exported)}
    add_own_set(report, sets)
    calibrating = measured.spent[IR_INT8_CHECKED]
    for artifact in irs:
        report.prediction_sets += set_rows(run.folder(artifact), artifact, measured, calibrating)
    proofs: dict[Artifact, list[RunProof]] = {}
    models = {
        artifact: HeldModel(folder=run.folder(artifact), run=run.path, data=data, images=count) for artifact in irs
    }
    for artifact, isa, held in measure_in_sets(models, sets, measured, progress):
        judged = held and judge(held.comparisons, margin, partial=partial)
        add_set(report, artifact, isa, judged)
        if held is not None:
            report.prediction_sets += set_rows(run.folder(artifact), artifact, held, calibrating)
        if held is not None and judged is not None:
            proofs.setdefault(artifact, []).append(set_proof(report, artifact, isa, judged, held))
    own = this_set()
    in_releases = tuple(sets) or ((own,) if own else ())
    folders = {artifact: run.folder(artifact) for artifact in irs if artifact != IR_INT8_CHECKED}
    on_device = measure_on_device(folders, device, images, measured, progress) if device != CPU else ()
    for cell in (*measure_in_releases(folders, releases, in_releases, images, measured, progress), *on_device):
        judged = cell.held and judge(cell.held.comparisons, margin, partial=partial)
        add_release(report, cell, judged)
        if cell.held is not None and judged is not None:
            proof = set_proof(report, cell.artifact, cell.isa, judged, cell.held, cell)
            proofs.setdefault(cell.artifact, []).append(proof)
    report.certificates = [] if checked is None else _certificates(checked)
    finish(report, require_proof=require_proof)
    keep(run, report, measured, irs, proofs, progress)
    return report


def _certificates(folder: Path) -> list[Certificate]:
    """Those of this version of OpenVINO."""
    here = this_machine().openvino
    return [one for one in read_certificates(folder).certificates if one.machine.openvino == here]


def _exported(run: Run) -> list[Artifact]:
    """The exported artifacts of a run, after a check of all hashes and of what each was made from.

    Raises: RunError.
    """
    exported = [artifact for artifact in EXPORTED if run.has(artifact)]
    if not exported:
        raise RunError(
            "there is nothing to validate: this run has no exported model yet",
            where=run.path,
            found=f"it has {', '.join(map(str, run.artifacts()))}",
            fix=f"run: {shell_command(EXPORT_IR, run.path)}",
        )
    for artifact in exported:
        run.require(artifact)
    return exported
