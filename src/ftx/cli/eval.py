"""``ftx eval``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import DataOption, JsonFlag, RunArgument, open_run, run_of_artifact
from ftx.runs.artifacts import ARTIFACTS

if TYPE_CHECKING:
    from ftx.evaluating.evaluate import EvalReport


def command(
    run: RunArgument = None,
    artifact: Annotated[
        str | None,
        typer.Option(
            "--artifact",
            metavar="NAME|PATH",
            help=f"The model: {', '.join(ARTIFACTS)}; or its folder.  [default: the best exported one]",
        ),
    ] = None,
    data: DataOption = None,
    json: JsonFlag = False,
) -> int:
    """Measure the accuracy of one model on the test images: in total, for each class, and which classes it confuses.

    The model reads the image files and computes in the precision that it is deployed in.
    """
    run, artifact = run_of_artifact(run, artifact)
    open_run(run, data, needs_images=True)
    from ftx.evaluating.evaluate import evaluate

    report = evaluate(run, artifact, data=data, progress=console.TerminalProgress())
    return console.show(report, print_evaluation, json=json)


# Classes whose confusion matrix fits next to their names on 80 columns; with more, the largest mistakes are listed.
_MATRIX_MOST = 12
_MISTAKES = 20


def print_evaluation(report: EvalReport) -> None:
    """The totals, a row a class, and which class is predicted for which."""
    console.print_facts(
        [
            ("artifact", f"{report.artifact} ({report.runtime}, {report.compute})"),
            ("images", f"{report.images} of {report.split}"),
            ("accuracy", f"{report.accuracy:.2%}  95 %: {report.accuracy_low:.2%} to {report.accuracy_high:.2%}"),
            *((name.replace("_", " "), f"{value:.4f}") for name, value in report.metrics.items() if name != "accuracy"),
        ]
    )
    console.print_table(
        ("class", "precision", "recall", "F1", "FPR", "AP", "images"),
        [
            (
                score.name,
                f"{score.precision:.4f}",
                f"{score.recall:.4f}",
                f"{score.f1:.4f}",
                f"{score.false_positive_rate:.4f}",
                console.figure(score.average_precision, ".4f"),
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
        ("truth", *(str(index + 1) for index in range(len(names)))),
        [
            (f"{index + 1} {name}", *(str(count) if count else "." for count in counts))
            for index, (name, counts) in enumerate(zip(names, report.confusion, strict=True))
        ],
        title="\nconfusion: a row a true class, a column a prediction",
    )


def _print_mistakes(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    counts = {
        (truth, predicted): count
        for truth, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and predicted != truth
    }
    console.print_table(
        ("truth", "prediction", "images"),
        [
            (names[truth], names[predicted], str(count))
            for (truth, predicted), count in sorted(counts.items(), key=lambda item: -item[1])[:_MISTAKES]
        ],
        title="\nthe most frequent mistakes; --json holds the whole confusion matrix",
    )
