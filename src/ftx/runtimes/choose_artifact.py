"""Which model of a run, or of a folder of exported models, to predict with.

The fastest that is proved on this machine; else the fastest proved for its instruction set; else the most exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ftx.core.errors import ExportError, GateFailed, RunError, shell_command
from ftx.core.progress import Progress
from ftx.recipe.sections import MAX_DROP
from ftx.runs.artifacts import ARTIFACTS, DENSE, EXPORT_IR, IR_FP32, IR_INT8_CHECKED, IRS, TRAINED, Artifact
from ftx.runs.card_json import CARD_FILE, read_card
from ftx.runs.certificate import MOST_TIME
from ftx.runs.machine import CPU, this_machine, this_set
from ftx.runs.parity_json import PARITY_FILE, ParityReport, Transfer, Verdict, latency_rows, read_parity
from ftx.runs.proof_json import RunProof, read_proof
from ftx.runs.run import Run
from ftx.runs.tuning_json import tuned_here


def best_ir(run: Run, device: str = CPU) -> tuple[Artifact, str]:
    """The IR of a run to predict with, and why: the fastest that is proved on this machine, else the most exact.

    On another ``device`` than the CPU, the proof is that of the device.

    Raises: RunError if the run has none, or their reports were altered; GateFailed if all have failed.
    """
    # Without proof the most exact comes first: it is most likely to predict as the trained model.
    present = [artifact for artifact in IRS.values() if run.has(artifact)]
    if not present:
        raise no_ir(run)
    run.check_report(PARITY_FILE, shell_command("ftx validate", run.path))
    if device != CPU:
        return _best_by_files({artifact: run.folder(artifact) for artifact in present}, run.path, device)
    report = read_parity(run.path)
    why = why_not_here(report, run) if report else "nothing was validated yet"
    latency_ms = _proved_ms(report, run) if report and why is None else {}
    if latency_ms:
        return _fastest(_tuned_ms(latency_ms, run), "verified model here")
    if report and report.machine != this_machine():
        proved = _judged(report, "proved", run)
        in_set = _proved_for_set({one: run.folder(one) for one in present if one in proved})
        if in_set is not None:
            return in_set
    failed = _judged(report, "failed", run) if report else set[Artifact]()  # on whatever machine
    left = [artifact for artifact in present if artifact not in failed]
    if not left:
        again = shell_command(EXPORT_IR, run.path)
        raise GateFailed(
            "every OpenVINO model of this run failed ftx validate",
            where=run.path / PARITY_FILE,
            fix=f"export again: {again}; or use one anyway: --allow-failed --artifact {run.folder(present[0])}",
        )
    summary = None
    if report and why is None and left[0] in _judged(report, "unproved", run):  # validating again gives the same
        summary = report.summary.get(left[0].name)
    more = summary or shell_command("ftx validate", run.path)
    return left[0], f"the most exact, as {why or 'none is proved'}: {more}"


def no_ir(run: Run) -> RunError:
    """The error for a run that has no OpenVINO model."""
    command = shell_command(EXPORT_IR if run.has(DENSE) else DENSE.made_by, run.path)
    return RunError(
        "this run has no OpenVINO model yet",
        where=run.path,
        found=run.another_with(*IRS.values()) or f"only {', '.join(map(str, run.artifacts()))}",
        fix=f"run: {command}" if run.has(DENSE) else f"run: {command}, then {shell_command(EXPORT_IR, run.path)}",
    )


def best_of(folder: Path, device: str = CPU) -> tuple[Path, str]:
    """The model to predict with from a folder of exported models, as ``openvino/`` copied to a device, and why.

    Raises: ExportError if there is none; GateFailed if all have failed here.
    """
    present = {read_card(file.parent).artifact: file.parent for file in sorted(folder.glob(f"*/{CARD_FILE}"))}
    if not present:
        raise ExportError(
            "there is no model here that ftx can open",
            where=folder,
            fix="name a run, or a folder that ftx export wrote",
        )
    chosen, why = _best_by_files(present, folder, device)
    return present[chosen], why


def _best_by_files(folders: Mapping[Artifact, Path], where: Path, device: str) -> tuple[Artifact, str]:
    """By the ``proof.json`` of each. Raises: GateFailed if all have failed."""
    if device != CPU:
        folders = {one: folder for one, folder in folders.items() if one != IR_INT8_CHECKED}
    proved = _proved_by_files(folders, device)
    if proved is not None:
        return proved
    left = [one for one in IRS.values() if one in folders and not _failed_here(folders[one], device)]
    if not left:
        found = next(iter(folders.values()), None)
        raise GateFailed(
            f"every model of this folder failed ftx validate{_on(device)}",
            where=where,
            fix=f"export again: {EXPORT_IR}"
            + (f"; or use one anyway: --allow-failed --artifact {found}" if found else ""),
        )
    again = _validate_command(folders[left[0]], device)
    for_what = "this machine or its instruction set" if device == CPU else f"{device} on this machine"
    return left[0], f"the most exact, as none is proved for {for_what}: {again}"


def _on(device: str) -> str:
    return "" if device == CPU else f" on {device}"


def _validate_command(folder: Path, device: str) -> str:
    return shell_command("ftx validate", folder) + ("" if device == CPU else f" --device {device}")


def _fastest(latency_ms: Mapping[Artifact, float], of_what: str) -> tuple[Artifact, str]:
    pays = latency_ms.get(IR_INT8_CHECKED, 0.0) <= MOST_TIME * latency_ms.get(IR_FP32, math.inf)
    worth = [artifact for artifact in latency_ms if pays or artifact != IR_INT8_CHECKED]
    fastest = min(worth, key=lambda artifact: latency_ms[artifact])
    only = "; the only one" if len(latency_ms) == 1 else ""
    return fastest, f"the fastest {of_what} ({latency_ms[fastest]:.1f} ms per image{only})"


def _tuned_ms(latency_ms: Mapping[Artifact, float], run: Run) -> Mapping[Artifact, float]:
    """The latencies with the settings of ``ftx bench --save``, if it measured all these models; else the same."""
    tuned = {artifact: tuned_here(run.folder(artifact)) for artifact in latency_ms}
    known = {artifact: one.p50_ms for artifact, one in tuned.items() if one is not None}
    return known if len(known) == len(latency_ms) else latency_ms


def _proved_by_files(folders: Mapping[Artifact, Path], device: str) -> tuple[Artifact, str] | None:
    """The fastest that its own ``proof.json`` proves for this machine, else for this instruction set."""
    found = {artifact: _found_here(folder, device) for artifact, folder in folders.items()}
    here = {artifact: one for artifact, one in found.items() if one is not None}
    proved_here = [artifact for artifact, one in here.items() if one.verdict == "proved"]
    if not proved_here and device != CPU:
        return None
    if not proved_here:
        return _proved_for_set({artifact: folder for artifact, folder in folders.items() if artifact not in here})
    timed = {artifact: _latency_ms(folders[artifact], _proved_in_set(folders[artifact])) for artifact in proved_here}
    known = {artifact: ms for artifact, ms in timed.items() if ms is not None}
    if len(known) < len(timed):  # without all latencies: the fewest bits are the fastest here
        chosen = proved_here[-1]
        return chosen, f"proved on this machine; ftx bench --save {folders[chosen].parent} finds the fastest"
    return _fastest(known, "verified model here")


def _proved_for_set(folders: Mapping[Artifact, Path]) -> tuple[Artifact, str] | None:
    """The fastest that another machine proved for the instruction set of this one, by its own CPU or emulated."""
    in_set = {artifact: proof for artifact, folder in folders.items() if (proof := _proved_in_set(folder)) is not None}
    if not in_set:
        return None
    latency_ms = {artifact: _latency_ms(folders[artifact], proof) or math.inf for artifact, proof in in_set.items()}
    how = " (emulated)" if any(proof.emulated for proof in in_set.values()) else " on another machine"
    chosen, summary = _fastest(latency_ms, f"model that is proved{how} for {this_set()}")
    return chosen, f"{summary}; this machine proves it by: {shell_command('ftx validate', folders[chosen])}"


def _failed_here(folder: Path, device: str) -> bool:
    found = _found_here(folder, device)
    return found is not None and found.verdict == "failed"


def _proved_in_set(folder: Path) -> RunProof | None:
    """The proof for this instruction set by another machine, whether by its CPU or emulated, with the same OpenVINO."""
    try:
        proof = read_proof(folder)
    except (ExportError, OSError):
        return None
    known = [one for one in (proof.run, *proof.sets) if one is not None and one.isa is not None]
    alike = [one for one in known if one.isa == this_set() and one.machine.openvino == this_machine().openvino]
    return next((one for one in alike if one.verdict == "proved" and one.machine.device == CPU), None)


def _latency_ms(folder: Path, proof: RunProof | None) -> float | None:
    """By this machine's bench, else by the rows of a proof."""
    tuned = tuned_here(folder)
    if tuned is not None:
        return tuned.p50_ms
    rows = [row for row in latency_rows(proof.rows) if row.compute.chosen_by_runtime] if proof else []
    return rows[0].latency_ms if rows else None


def furthest(run: Run) -> Artifact:
    """The last artifact of a run: its best IR that has not failed, else the dense model, else the trained one."""
    if any(run.has(artifact) for artifact in IRS.values()):
        try:
            return best_ir(run)[0]
        except GateFailed:  # each failed: the model that they were made from is the last that did not
            pass
    return DENSE if run.has(DENSE) else TRAINED


def why_not_here(report: ParityReport, run: Run) -> str | None:
    """Why a proof in the report is none here; None if it is one."""
    if report.machine != this_machine():
        return f"ftx validate ran on another machine ({report.machine})"
    if report.max_drop > MAX_DROP and report.max_drop > run.recipe().validation.max_drop:
        return f"ftx validate ran with a wider margin than the recipe's (--max-drop {report.max_drop:g})"
    return None


def _proved_ms(report: ParityReport, run: Run) -> dict[Artifact, float]:
    """Milliseconds an image of each IR that is proved, as it is deployed."""
    proved = _judged(report, "proved", run)
    return {
        row.subject: row.latency_ms
        for row in latency_rows(report.own_rows)
        if row.subject in proved and row.compute.chosen_by_runtime
    }


def _judged(report: ParityReport, verdict: Verdict, run: Run) -> set[Artifact]:
    """The artifacts of this verdict whose files are unchanged, made from the dense model that the run has now."""
    manifest = run.manifest
    named = {ARTIFACTS[name] for name, found in report.verdicts.items() if found == verdict and name in ARTIFACTS}
    return {
        artifact
        for artifact in named
        if run.has(artifact)
        and not manifest.is_stale(artifact)
        and manifest.digest(artifact) == report.digests.get(artifact.name)
    }


def check_proof(
    folder: Path,
    progress: Progress,
    *,
    device: str = CPU,
    require_proof: bool = False,
    allow_failed: bool = False,
) -> None:
    """Note that nobody has validated exactly this model on this kind of machine, or that it is not proved.

    Raises: GateFailed if it failed, unless ``allow_failed``; or, with ``require_proof``, if it is not proved here, or
    for this instruction set and release of OpenVINO.
    """
    found, again = _found_here(folder, device), _validate_command(folder, device)
    if found is not None and found.verdict == "failed" and not allow_failed:
        raise GateFailed(
            f"this model failed ftx validate on this machine{_on(device)}",
            where=folder,
            found=found.summary,
            fix=f"export again: {EXPORT_IR}; or use it anyway: --allow-failed",
        )
    if found is None:
        which = "on this CPU and version of OpenVINO" if device == CPU else f"on {device} of this machine"
        doubt = f"this model is not validated yet {which}"
    elif found.verdict != "proved":
        doubt = f"this model is {found.verdict} on this machine{_on(device)}: {found.summary}"
    else:
        return
    if require_proof and not (device == CPU and found is None and _proved_in_set(folder)):
        raise GateFailed(
            "--require-proof needs a model that is proved on this machine",
            where=folder,
            found=doubt,
            fix=f"verify it: {again}; or run the command without --require-proof",
        )
    progress.note(doubt if found else f"{doubt}: run {again}")


def _found_here(folder: Path, device: str) -> RunProof | Transfer | None:
    """What this machine found of the model, by the margin of its run or a narrower one; None if it found nothing."""
    try:
        proof = read_proof(folder)
    except (ExportError, OSError):  # ftx validate reports what is invalid
        return None
    margin = proof.run.max_drop if proof.run else MAX_DROP
    known = [*proof.devices, *([proof.run] if proof.run else []), *proof.sets]
    return next((one for one in known if one.machine == this_machine(device) and one.max_drop <= margin), None)
