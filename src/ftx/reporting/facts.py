"""What a run contains and lacks, which of its files are no longer what was written, and where it came from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from operator import attrgetter
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
from ftx.runs.machine import this_machine
from ftx.runs.parity_json import ParityReport, ParityRow, Verdict, read_parity
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.runs.train_jsonl import EPOCHS_FILE, Epoch, read_epochs

Value = TypeVar("Value")
# The versions that a page shows.
_PACKAGES = ("openvino", "nncf", "onnxruntime", "torch", "timm", "numpy")
# Within a run: the page.
REPORT_FILE = Path("reports", "report.html")


# Of the files in run.json, those that a report makes again and nothing else depends on.
MADE_AGAIN = (f"{KEPT_LOGITS.as_posix()}/", REPORT_FILE.as_posix(), LEAKAGE_FILE.as_posix())


@dataclass(frozen=True)
class Lack:
    """Something that a run could have and has not, and the command that gives it; None where none does."""

    what: str
    command: str | None


@dataclass(frozen=True)
class RunFacts:
    """A run as it lies on disk.

    ``entries`` and ``recipe`` are None if their files are invalid; ``faults`` then lists them, as each other file that
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

    def verdict(self, artifact: Artifact) -> Verdict | None:
        """Of the artifact as it is now; None where nobody validated it."""
        if self.parity is None or self.manifest.is_stale(artifact):
            return None
        same = self.parity.digests.get(artifact.name) == self.manifest.digest(artifact)
        return self.parity.verdicts.get(artifact.name) if same else None

    def rows_of(self, artifact: Artifact) -> list[ParityRow]:
        """What was compared of an artifact as it is now, on this CPU's own instruction set."""
        if self.parity is None or self.verdict(artifact) is None:
            return []
        return [row for row in self.parity.own_rows if row.subject == artifact]

    @cached_property
    def lacks(self) -> list[Lack]:
        """What is missing, in the order of the pipeline."""
        run, parity, bench = self.run, self.parity, self.bench
        exported = [artifact for artifact in EXPORTED if run.has(artifact)]
        timed = {row.artifact for row in bench.rows} if bench else set[str]()
        validate, time = shell_command("ftx validate", run.path), shell_command("ftx bench", run.path)
        rows = [
            (not run.has(DENSE), "the merged model", DENSE.command(run.path)),
            (not any(map(run.has, IRS.values())), "a model for OpenVINO", shell_command(EXPORT_IR, run.path)),
            (exported and parity is None, "a validation of the exported models", validate),
            (
                parity is not None and any(self.verdict(artifact) is None for artifact in exported),
                "a validation of the models exported since the last one",
                validate,
            ),
            (
                bench and not {artifact.name for artifact in exported} <= timed,
                "a benchmark of the models exported since the last one",
                time,
            ),
            (exported and bench is None, "a benchmark of latency and throughput", time),
            (not self.epochs, "the training curves (reports/train.jsonl)", None),
        ]
        return [Lack(what, command) for lacking, what, command in rows if lacking]


def gather(run: Run) -> RunFacts:
    """Read a run; what cannot be read is missing from it, and is among its faults."""
    manifest = run.manifest
    return RunFacts(
        run=run,
        manifest=manifest,
        recipe=_read(run.recipe),
        entries=_read(run.entries),
        epochs=read_epochs(run.path),
        parity=read_parity(run.path),
        bench=read_bench(run, manifest),
        faults=_faults(run, manifest),
    )


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
            found.append(f"{name} changed since ftx wrote it")
    found += [
        f"{artifact}/ is stale: it was made from another {artifact.made_from}/ than the one in this run"
        f" (run: {artifact.command(run.path)})"
        for artifact in run.artifacts()
        if manifest.is_stale(artifact)
    ]
    return found


def _read(read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except FtxError:  # its file stands among the faults
        return None


@dataclass(frozen=True)
class Provenance:
    """Facts as name and value, digests of the artifacts, the recipe, and the commands that repeat the run."""

    facts: Sequence[tuple[str, str]]
    digests: Sequence[tuple[str, str]]
    recipe: str
    commands: Sequence[str]


def provenance(facts: RunFacts) -> Provenance:
    """From the run's own files; the versions are those that make this page."""
    run, manifest = facts.run, facts.manifest
    found = [
        ("run", str(run.path)),
        ("trained with", f"ftx {manifest.ftx}"),
        ("base model", f"{manifest.model} ({manifest.architecture})"),
        ("digest of the base model", manifest.base_digest),
        ("training method", manifest.method),
        ("validated on", str(facts.parity.machine) if facts.parity else "not validated"),
        ("page written on", str(this_machine())),
        ("software of this page", ", ".join([f"Python {platform.python_version()}", *_versions()])),
    ]
    digests = [(artifact.name, manifest.digest(artifact)) for artifact in run.artifacts()]
    path = run.path / "recipe.yaml"
    recipe = path.read_text(encoding="utf-8") if facts.recipe is not None else "recipe.yaml is invalid"
    return Provenance(found, digests, recipe, _commands(facts))


def dates(facts: RunFacts) -> str:
    """When the training ended, by the file that it wrote last, and when this page is made."""
    curves, page = facts.run.path / EPOCHS_FILE, f"report of {datetime.now(UTC):%Y-%m-%d}"
    if not curves.is_file():
        return page
    return f"trained {datetime.fromtimestamp(curves.stat().st_mtime, UTC):%Y-%m-%d}, {page}"


def _versions() -> list[str]:
    found: list[str] = []
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return found


def _commands(facts: RunFacts) -> list[str]:
    """The commands that make the same run again, next to this one."""
    run = facts.run
    again = run.path.with_name(f"{run.path.resolve().name}-again")
    commands = [f"{shell_command('ftx train --config', run.path / 'recipe.yaml')} {shell_command('--out', again)}"]
    if run.has(DENSE):
        commands.append(shell_command("ftx merge", again))
    for form, held in groupby(filter(run.has, EXPORTED), attrgetter("runtime")):
        kinds = "".join(f" --precision {artifact.variant}" for artifact in held if artifact.variant)
        commands.append(f"{shell_command('ftx export', again)} --format {form}{kinds}")
    if facts.parity is not None:
        commands.append(shell_command("ftx validate", again))
    return [*commands, shell_command("ftx report", again)]
