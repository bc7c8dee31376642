"""``ftx tune``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.recipe_flags import read_recipe
from ftx.cli.shared_options import JsonFlag, RecipeArgument, RecipeDataOption, SetOption, parse_duration
from ftx.core.errors import InputError, check_known, shell_command

if TYPE_CHECKING:
    from ftx.tuning.report import TuneReport

# Of many trials the best are shown.
_SHOWN = 10


def command(
    recipe: RecipeArgument,
    data: RecipeDataOption = None,
    space: Annotated[
        Path | None,
        typer.Option(
            "--space",
            metavar="FILE",
            show_default=False,
            help="The keys and values to search, in YAML: `key: [a, b]`, `key: {low: a, high: b, log: true}`.  "
            "[default: depends on the model and method: learning rate, rank, blocks, tokens, image size]",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            metavar="N",
            min=1,
            show_default=False,
            help="Stop when the study has this number of trials. Give --trials, --budget, or both.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            show_default=False,
            help="Start no trial after this time, for example 90s, 10m or 8h.",
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="NAMES",
            help="metric: the metric of the task, for example accuracy. metric,latency: also the time of the fp32 "
            "OpenVINO model for one image.",
        ),
    ] = "metric",
    study: Annotated[
        str, typer.Option("--study", metavar="NAME", help="The name of the study in the storage.")
    ] = "ftx",
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            show_default=False,
            help="A storage of Optuna, for several machines.  [default: study.db in --out]",
        ),
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", show_default=False, help="The folder of the study.  [default: runs/DATA-tuned]"
        ),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Search for the best recipe for your data: each trial trains one model, in a run folder of its own.

    Run the same command again to resume the search, or in another terminal to share the work. best.yaml contains the
    recipe of the best trial, and trials.jsonl all trials.
    """
    read = read_recipe(recipe, set_ or (), {"data.path": data})
    from ftx.tuning.tune import OBJECTIVES, SearchGoal, tune

    names = [name.strip() for name in objective.split(",")]
    check_known("--objective", names, OBJECTIVES)
    if "metric" not in names:
        raise InputError("--objective must include metric", found=objective, fix="write --objective metric,latency")
    report = tune(
        read,
        SearchGoal(
            trials=trials,
            budget_s=parse_duration(budget, "--budget"),
            objectives=tuple(one for one in OBJECTIVES if one in names),
        ),
        out,
        space=space,
        study=study,
        storage=storage,
        progress=console.TerminalProgress(),
    )
    return console.show(report, _print, json=json)


def _print(report: TuneReport) -> None:
    keys = list(report.searched)
    known = sorted(report.trials, key=lambda one: (one.number not in report.best, -(one.metric or 0.0)))
    timed = "latency" in report.objectives
    columns = ("trial", *keys, report.metric.replace("_", " "), *(["ms"] if timed else []), "epochs", "state")
    console.print_table(
        columns,
        [
            (
                str(one.number),
                *(_value(one.keys.get(key)) for key in keys),
                console.figure(one.metric, ".4f"),
                *([console.figure(one.latency_ms, ".1f")] if timed else []),
                console.figure(one.epochs, "d"),
                one.state,
            )
            for one in known[:_SHOWN]
        ],
        styles=["strong" if one.number in report.best else "plain" for one in known[:_SHOWN]],
    )
    others = Counter(one.state for one in report.trials if one.state not in ("complete", "pruned"))
    counted = ", ".join([str(len(report.trials) - others.total()), *(f"{n} {state}" for state, n in others.items())])
    console.print_facts([("trials", counted), ("study", f"{report.study} in {report.storage}")])
    if report.best_recipe is not None and report.run is not None:
        console.print_facts([("best recipe", report.best_recipe), ("run", report.run)], "strong")
        console.print_note(f"next: {shell_command('ftx merge', report.run)}", "dim")


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)
