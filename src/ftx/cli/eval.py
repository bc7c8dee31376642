"""``ftx eval``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import DataOption, JsonFlag, RunArgument, open_run, run_of_artifact
from ftx.core.errors import shell_command
from ftx.runs.artifacts import ARTIFACTS

if TYPE_CHECKING:
    from ftx.evaluating.evaluate import EvalReport
    from ftx.runs.set_quality import SetQuality


def command(
    run: RunArgument = None,
    artifact: Annotated[
        str | None,
        typer.Option(
            "--artifact",
            metavar="NAME|PATH",
            help=f"The model: {', '.join(ARTIFACTS)}; or its folder.  [default: the fastest verified model]",
        ),
    ] = None,
    data: DataOption = None,
    json: JsonFlag = False,
) -> int:
    """Measure the accuracy of one model on the test images, in total and for each class.

    ftx also lists the classes that the model confuses. ftx evaluates the model on the image files, in the precision of
    its deployment.
    """
    run, artifact = run_of_artifact(run, artifact)
    open_run(run, data, needs_images=True)
    from ftx.evaluating.evaluate import evaluate

    report = evaluate(run, artifact, data=data, progress=console.TerminalProgress())
    status = console.show(report, print_evaluation, json=json)
    if not json:
        console.print_note(f"next: {shell_command('ftx report', report.run)}", "dim")
    return status


# Classes whose confusion matrix fits next to their names on 80 columns; with more, the largest mistakes are listed.
_MATRIX_MOST = 12
_MISTAKES = 20


def _set_facts(sets: SetQuality | None) -> list[tuple[str, str]]:
    """How often prediction sets are right, how large they are, and what is guaranteed."""
    if sets is None:
        return []
    right = f"coverage {100 * sets.coverage:.1f} %, with {sets.size:.2f} labels on average"
    return [("prediction sets", right), ("guarantee", sets.guarantee)]


def print_evaluation(report: EvalReport) -> None:
    """The totals, a row a class, and which class is predicted for which."""
    interval = f"{100 * report.accuracy_low:.1f} to {100 * report.accuracy_high:.1f} %"
    console.print_facts(
        [
            ("model", f"{report.artifact} ({report.runtime}, {report.compute.title})"),
            ("images", f"{report.images:,} of {report.split}"),
            ("accuracy", f"{100 * report.accuracy:.1f} %, with 95 % confidence {interval}"),
            *(
                (name.replace("_", " "), f"{100 * value:.1f} %")
                for name, value in report.metrics.items()
                if name != "accuracy"
            ),
            *_set_facts(report.sets),
        ]
    )
    details = console.shows_details()
    console.print_table(
        ("class", "precision", "recall", "F1", *(("false positives", "AP") if details else ()), "images"),
        [
            (
                score.name,
                f"{100 * score.precision:.1f} %",
                f"{100 * score.recall:.1f} %",
                f"{100 * score.f1:.1f} %",
                *(
                    (
                        f"{100 * score.false_positive_rate:.1f} %",
                        "-" if score.average_precision is None else f"{100 * score.average_precision:.1f} %",
                    )
                    if details
                    else ()
                ),
                str(score.support),
            )
            for score in report.classes
        ],
        title="\nby class",
    )
    if report.confusion is None:
        return
    names = [score.name for score in report.classes]
    if len(names) > _MATRIX_MOST:
        _print_mistakes(report.confusion, names)
        return
    # Headers by number: names side by side are wider than any terminal.
    console.print_table(
        ("true class", *(str(index + 1) for index in range(len(names)))),
        [
            (f"{index + 1} {name}", *(str(count) if count else "." for count in counts))
            for index, (name, counts) in enumerate(zip(names, report.confusion, strict=True))
        ],
        title="\nconfusion matrix: a row for each true class, a column for each predicted class",
    )


def _print_mistakes(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    counts = {
        (truth, predicted): count
        for truth, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and predicted != truth
    }
    console.print_table(
        ("true class", "predicted", "images"),
        [
            (names[truth], names[predicted], str(count))
            for (truth, predicted), count in sorted(counts.items(), key=lambda item: -item[1])[:_MISTAKES]
        ],
        title="\nmost frequent errors (--json contains the whole confusion matrix)",
    )
