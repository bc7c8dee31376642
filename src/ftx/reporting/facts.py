"""What a run holds, what it lacks, and what in it is no longer what was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ftx.core.errors import FtxError, shell_command
from ftx.core.files import cached_sha256
from ftx.data.dataset import Entry
from ftx.recipe.schema import Recipe
from ftx.reporting.leakage import LEAKAGE_FILE
from ftx.runs.artifacts import DENSE, EXPORT_IR, EXPORTED, IRS, Artifact
from ftx.runs.bench_json import BenchReport, read_bench
from ftx.runs.kept_logits import KEPT_LOGITS
from ftx.runs.parity_json import ParityReport, Verdict, read_parity
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.runs.train_jsonl import Epoch, read_epochs

Value = TypeVar("Value")
# Within a run: the page.
REPORT_FILE = Path("reports", "report.html")


# Of the files that run.json knows, what a report makes anew and nothing else rests on.
MADE_AGAIN = (f"{KEPT_LOGITS.as_posix()}/", REPORT_FILE.as_posix(), LEAKAGE_FILE.as_posix())


@dataclass(frozen=True)
class Lack:
    """Something that a run could have and has not, and the command that gives it; None where none does."""

    what: str
    command: str | None


@dataclass(frozen=True)
class RunFacts:
    """A run as it lies on disk.

    ``entries`` and ``recipe`` are None where their files do not hold; ``faults`` then says it, as each other file that
    was altered or is stale.
    """

    run: Run
    manifest: Manifest
    recipe: Recipe | None
    entries: tuple[Entry, ...] | None
    epochs: Sequence[Epoch]
    parity: ParityReport | None
    bench: BenchReport | None
    faults: Sequence[str]
    lacks: Sequence[Lack]

    def verdict(self, artifact: Artifact) -> Verdict | None:
        """Of the artifact as it is now; None where nobody validated it."""
        if self.parity is None or self.manifest.is_stale(artifact):
            return None
        same = self.parity.digests.get(artifact.name) == self.manifest.digest(artifact)
        return self.parity.verdicts.get(artifact.name) if same else None


def gather(run: Run) -> RunFacts:
    """Read a run; what cannot be read is missing from it, and said."""
    manifest = run.manifest
    faults = _faults(run, manifest)
    parity, bench = read_parity(run.path), read_bench(run, manifest)
    facts = RunFacts(
        run=run,
        manifest=manifest,
        recipe=_read(run.recipe),
        entries=_read(run.entries),
        epochs=read_epochs(run.path),
        parity=parity,
        bench=bench,
        faults=faults,
        lacks=(),
    )
    return replace(facts, lacks=_lacks(facts))


def _faults(run: Run, manifest: Manifest) -> list[str]:
    """Each file that is missing or not what was written, and each artifact that is stale."""
    found: list[str] = []
    for name, digest in sorted(manifest.files.items()):
        if name.startswith(MADE_AGAIN):
            continue
        path = run.path / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif cached_sha256(path) != digest:
            found.append(f"{name} is not what was written")
    stale = [artifact for artifact in run.artifacts() if manifest.is_stale(artifact)]
    found += [
        f"{artifact}/ is stale: it was made from another {artifact.made_from}/ than the run holds now"
        f" (run: {artifact.command(run.path)})"
        for artifact in stale
    ]
    return found


def _lacks(facts: RunFacts) -> list[Lack]:
    run, found = facts.run, list[Lack]()
    exported = [artifact for artifact in EXPORTED if run.has(artifact)]
    if not run.has(DENSE):
        found.append(Lack("the merged model", DENSE.command(run.path)))
    if not any(run.has(artifact) for artifact in IRS.values()):
        found.append(Lack("a model for OpenVINO", shell_command(EXPORT_IR, run.path)))
    if exported and facts.parity is None:
        found.append(Lack("a validation of what was exported", shell_command("ftx validate", run.path)))
    if facts.parity is not None and any(facts.verdict(artifact) is None for artifact in exported):
        found.append(Lack("a validation of what was exported since", shell_command("ftx validate", run.path)))
    timed = {row.artifact for row in facts.bench.rows} if facts.bench else set[str]()
    if facts.bench is not None and not {artifact.name for artifact in exported} <= timed:
        found.append(Lack("a bench of what was exported since", shell_command("ftx bench", run.path)))
    if exported and facts.bench is None:
        found.append(Lack("a bench of latency and throughput", shell_command("ftx bench", run.path)))
    if not facts.epochs:
        found.append(Lack("the curves of its training (reports/train.jsonl)", None))
    return found


def _read(read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except FtxError:  # its file stands among the faults
        return None
