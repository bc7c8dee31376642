"""Which model of a run to predict with: the fastest that is proved on this machine, else the most exact."""

from __future__ import annotations

from pathlib import Path

from ftx.core.errors import ExportError, GateFailed, RunError, shell_command
from ftx.core.progress import Progress
from ftx.recipe.sections import MAX_DROP
from ftx.runs.artifacts import ARTIFACTS, DENSE, EXPORT_IR, IRS, TRAINED, Artifact
from ftx.runs.machine import this_machine
from ftx.runs.parity_json import PARITY_FILE, ParityReport, Transfer, Verdict, read_parity
from ftx.runs.proof_json import RunProof, read_proof
from ftx.runs.run import Run


def best_ir(run: Run) -> tuple[Artifact, str]:
    """The IR of a run to predict with, and why: the fastest that is proved on this machine, else the most exact.

    Raises: RunError if the run holds none; GateFailed if all have failed.
    """
    # Without proof the most exact comes first: it is the likeliest to be what was trained.
    held = [artifact for artifact in IRS.values() if run.has(artifact)]
    if not held:
        raise RunError(
            "this run has no OpenVINO model yet",
            where=run.path,
            found=f"it holds {', '.join(map(str, run.artifacts()))}",
            fix=f"run: {shell_command(EXPORT_IR, run.path)}",
        )
    report = read_parity(run.path)
    why = _why_not_here(report, run) if report else "nothing was validated yet"
    latency_ms = _proved_ms(report, run) if report and why is None else {}
    if latency_ms:
        fastest = min(latency_ms, key=lambda artifact: latency_ms[artifact])
        others = [f"{other} {ms:.1f} ms" for other, ms in latency_ms.items() if other != fastest]
        beside = f"; {', '.join(others)}" if others else ", the only one"
        return fastest, f"the fastest proved one on this machine: {latency_ms[fastest]:.1f} ms an image{beside}"
    failed = _judged(report, "failed", run) if report else set[Artifact]()  # on whatever machine
    left = [artifact for artifact in held if artifact not in failed]
    if not left:
        raise GateFailed(
            "every OpenVINO model of this run failed ftx validate",
            where=run.path / PARITY_FILE,
            fix=f"export it again, or name one to use it all the same: --artifact {run.folder(held[0])}",
        )
    said = None
    if report and why is None and left[0] in _judged(report, "unproved", run):  # asked again it would say the same
        said = report.said.get(left[0].name)
    more = said or shell_command("ftx validate", run.path)
    return left[0], f"the most exact, as {why or 'none is proved'}: {more}"


def furthest(run: Run) -> Artifact:
    """The artifact of a run nearest to the edge: its best IR that has not failed, else dense, else what was trained."""
    if any(run.has(artifact) for artifact in IRS.values()):
        try:
            return best_ir(run)[0]
        except GateFailed:  # each failed: the model that they were made from is the nearest that did not
            pass
    return DENSE if run.has(DENSE) else TRAINED


def _why_not_here(report: ParityReport, run: Run) -> str | None:
    """Why what is proved there is not proved here; None where it is."""
    if report.machine != this_machine():
        return f"ftx validate ran on another machine ({report.machine})"
    if report.max_drop > MAX_DROP and report.max_drop > run.recipe().validation.max_drop:
        return f"ftx validate was asked with a wider margin than the recipe's (--max-drop {report.max_drop:g})"
    return None


def _proved_ms(report: ParityReport, run: Run) -> dict[Artifact, float]:
    """Milliseconds an image of each IR that is proved, as it is deployed."""
    proved = _judged(report, "proved", run)
    return {
        row.subject: row.latency_ms
        for row in report.rows
        if row.subject in proved and row.view == "graph" and row.compute.chosen_by_runtime
    }


def _judged(report: ParityReport, verdict: Verdict, run: Run) -> set[Artifact]:
    """The artifacts of this verdict that are the same files still, made from the dense model that the run holds now."""
    manifest = run.manifest
    named = {ARTIFACTS[name] for name, found in report.verdicts.items() if found == verdict and name in ARTIFACTS}
    return {
        artifact
        for artifact in named
        if run.has(artifact)
        and not manifest.is_stale(artifact)
        and manifest.digest(artifact) == report.digests.get(artifact.name)
    }


def ask_for_proof(folder: Path, progress: Progress) -> None:
    """Say where nobody has validated this very model on this kind of machine, or where it is not proved."""
    found = _found_here(folder)
    if found is None:
        again = shell_command("ftx validate", folder)
        progress.note(f"nobody has validated this model on this CPU and version of OpenVINO: {again}")
    elif found.verdict != "proved":
        progress.note(f"this model is {found.verdict} on this machine: {found.said}")


def _found_here(folder: Path) -> RunProof | Transfer | None:
    """What this machine found of the model, by the margin of its run or a narrower one; None where it found nothing."""
    try:
        proof = read_proof(folder)
    except (ExportError, OSError):  # ftx validate says what does not hold
        return None
    margin = proof.run.max_drop if proof.run else MAX_DROP
    known = [*proof.devices, *([proof.run] if proof.run else [])]
    return next((one for one in known if one.machine == this_machine() and one.max_drop <= margin), None)
