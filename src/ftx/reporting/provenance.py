"""What it takes to know this very model again, and to make it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from operator import attrgetter

from ftx.core.errors import shell_command
from ftx.reporting.facts import RunFacts
from ftx.runs.artifacts import DENSE, EXPORTED
from ftx.runs.machine import this_machine
from ftx.runs.train_jsonl import EPOCHS_FILE

_PACKAGES = ("openvino", "nncf", "onnxruntime", "torch", "timm", "numpy")


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
        ("made by", f"ftx {manifest.ftx}"),
        ("base", f"{manifest.model} ({manifest.architecture})"),
        ("digest of the base", manifest.base_digest),
        ("method", manifest.method),
        ("validated on", str(facts.parity.machine) if facts.parity else "not validated"),
        ("this page was made on", str(this_machine())),
        ("with", ", ".join([f"Python {platform.python_version()}", *_versions()])),
    ]
    digests = [(artifact.name, manifest.digest(artifact)) for artifact in run.artifacts()]
    path = run.path / "recipe.yaml"
    recipe = path.read_text(encoding="utf-8") if facts.recipe is not None else "recipe.yaml is invalid"
    return Provenance(found, digests, recipe, _commands(facts))


def dates(facts: RunFacts) -> str:
    """When the training ended, by the file that it wrote last, and when this page is made."""
    curves, page = facts.run.path / EPOCHS_FILE, f"page of {datetime.now(UTC):%Y-%m-%d}"
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
