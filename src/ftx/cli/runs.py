"""``ftx runs``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ftx.cli import console
from ftx.cli.shared_options import JsonFlag
from ftx.core.errors import InputError, check_known, shell_command

if TYPE_CHECKING:
    from ftx.runs.inventory import ListedRun, RunsReport, Sort


def command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", show_default=False, help="Run folders.  [default: all runs in runs/]"),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            show_default=False,
            help="The metric to show: accuracy, eval.accuracy, bench.p50_ms, …  [default: the metric that chose the "
            "best epoch]",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="ORDER", help="Sort by started, name, metric, size or seconds.")
    ] = "started",
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the runs that you name, with everything in them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --remove: delete without confirmation.")] = False,
    json: JsonFlag = False,
) -> int:
    """List your runs with their results, compare runs, or delete runs.

    The newest comes first. If you name runs, ftx also shows which recipe keys differ. --remove deletes a run with its
    exported models and checkpoints; runs that started from it stay.
    """
    from ftx.runs.inventory import SORTS, list_runs

    if remove:
        return console.show(_remove(runs or [], confirm=not yes), _print_removed, json=json)
    check_known("order", [sort], SORTS)
    report = list_runs(runs, metric=metric, sort=cast("Sort", sort))
    return console.show(report, partial(print_runs, named=bool(runs)), json=json)


def _remove(runs: Sequence[Path], *, confirm: bool) -> RunsReport:
    from ftx.runs.inventory import list_runs, remove_runs

    if not runs:
        raise InputError("no run is named to be removed", fix="ftx runs lists them; ftx runs --remove RUN...")
    if confirm:
        if not sys.stdin.isatty():
            raise InputError("removing a run must be confirmed", found="no terminal", fix="ftx runs --remove --yes RUN")
        everything, going = list_runs().runs, list_runs(runs).runs
        for one in going:
            console.print_note(
                f"{one.run}: {one.size_bytes / 1e6:.1f} MB, {', '.join([*one.artifacts, *one.stale]) or one.state}"
            )
            if after := [other.run for other in everything if other.begun_from == one.run]:
                console.print_note(f"these started from it, and stay: {', '.join(after)}")
        question = "Remove it for good?" if len(going) == 1 else f"Remove these {len(going)} runs for good?"
        confirmed = False
        with suppress(typer.Abort):  # Ctrl-D is no
            confirmed = typer.confirm(question, err=True)
        if not confirmed:
            return list_runs(runs)
    return remove_runs(runs)


def _print_removed(report: RunsReport) -> None:
    for one in report.removed:
        console.print_facts([("removed", one)])
    note = f"runs/latest: {report.latest or 'no run'}" if report.removed else "nothing was removed"
    console.print_note(note, "dim")


def print_runs(report: RunsReport, *, named: bool) -> None:
    """A line a run; for named runs also the keys that differ."""
    from ftx.runs.inventory import different_keys

    if not report.runs:
        console.print_note("there is no run below runs/ yet: ftx train makes one", "dim")
        return
    metrics = {one.metric for one in report.runs}
    shared = next(iter(metrics)) if len(metrics) == 1 else None
    console.print_table(
        ("run", "method", "model", "size", "epochs", shared or "metric", "time", "MB", "holds", "started"),
        [
            (
                f"{one.run} *" if one.run == report.latest else one.run,
                one.method or "-",
                one.model or "-",
                str(one.keys.get("data.image_size", "-")),
                f"{one.epochs}/{one.of_epochs}" if one.of_epochs else "-",
                _figure(one) if shared else f"{one.metric or ''} {_figure(one)}".strip(),
                _minutes(one.seconds),
                f"{one.size_bytes / 1e6:.1f}",
                _holds(one),
                one.started.astimezone().strftime("%Y-%m-%d %H:%M") if one.started else "-",
            )
            for one in report.runs
        ],
        styles=["plain" if one.state == "finished" else "dim" for one in report.runs],
        spare=("size", "model", "started", "epochs", "holds", "MB", "time", "method"),
    )
    if named and len(report.runs) > 1 and (differ := different_keys(report.runs)):
        names = [Path(one.run).name for one in report.runs]
        rows = [(key, *("-" if value is None else str(value) for value in values)) for key, values in differ.items()]
        console.print_table(("key", *names), rows, title="\nwhere their recipes differ")
    if report.latest:
        console.print_note("*: runs/latest", "dim")
    if pair := _comparable(report.runs):
        console.print_note(
            f"which is better, and how surely: {shell_command(shell_command('ftx report', pair[0]), pair[1])}", "dim"
        )


def _comparable(runs: Sequence[ListedRun]) -> tuple[str, str] | None:
    """The first two that are finished, of one task and on images of one place."""
    first_of: dict[tuple[object, object], str] = {}
    for one in runs:
        if one.state == "finished":
            other = first_of.setdefault((one.task, one.keys.get("data.path")), one.run)
            if other != one.run:
                return other, one.run
    return None


def _holds(one: ListedRun) -> str:
    if one.state == "unreadable":
        return f"unreadable: {one.problem}"
    if one.state != "finished":
        return one.state
    from_ = f"; started from {one.begun_from}" if one.begun_from else ""
    return ", ".join([*one.artifacts, *(f"{name} (stale)" for name in one.stale)]) + from_


def _figure(one: ListedRun) -> str:
    metric, value = one.metric or "", one.figures.get(one.metric or "")
    return console.figure(value, ".1f") if metric.endswith("_ms") or value is None else f"{100 * value:.1f} %"


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
