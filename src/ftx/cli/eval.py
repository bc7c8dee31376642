"""``ftx eval``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import DataOption, JsonFlag, RunArgument, open_run
from ftx.runs.artifacts import ARTIFACTS

if TYPE_CHECKING:
    from ftx.evaluating.evaluate import EvalReport


def command(
    run: RunArgument = None,
    artifact: Annotated[
        str | None,
        typer.Option(
            "--artifact",
            metavar="NAME",
            help=f"One of {', '.join(ARTIFACTS)}.  [default: the best IR, or what the run holds]",
        ),
    ] = None,
    data: DataOption = None,
    json: JsonFlag = False,
) -> int:
    """Accuracy, per-class precision, recall and F1, and the confusion matrix of one artifact.

    On the held-out images of the run, read from their files, in the precision that the artifact is deployed in.
    """
    open_run(run, data, needs_images=True)
    from ftx.evaluating.evaluate import evaluate

    report = evaluate(run, artifact, data=data, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
    else:
        print_evaluation(report)
    return 0


# Classes whose confusion matrix fits beside their names on 80 columns; of more the largest mistakes are listed.
_MATRIX_MOST = 12
_MISTAKES = 20


def print_evaluation(report: EvalReport) -> None:
    """A line of totals, a row a class, and who is taken for whom."""
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
                "-" if score.average_precision is None else f"{score.average_precision:.4f}",
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
        title="\nconfusion: a row a true class, a column an answer",
    )


def _print_mistakes(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    mistakes = sorted(
        (
            (-count, truth, answer)
            for truth, counts in enumerate(confusion)
            for answer, count in enumerate(counts)
            if count and answer != truth
        ),
    )
    console.print_table(
        ("truth", "answer", "images"),
        [(names[truth], names[answer], str(-count)) for count, truth, answer in mistakes[:_MISTAKES]],
        title="\nthe most frequent mistakes; --json holds the whole confusion matrix",
    )
