"""``ftx data check``, ``ftx data sample`` and ``ftx data shard``; ``ftx data look`` has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ftx.cli import console
from ftx.cli.data_look import look
from ftx.cli.shared_options import (
    SKIPPED,
    DataArgument,
    DataFormatOption,
    DataTaskOption,
    FollowLinksFlag,
    JsonFlag,
    SampleTaskOption,
    parse_task,
)
from ftx.core.command_report import CommandReport
from ftx.core.errors import InputError, shell_command
from ftx.data.sources.listing import FOLLOW_LINKS
from ftx.tasks.task_names import TaskName

if TYPE_CHECKING:
    from ftx.data.check import DataReport, LearningCurve
    from ftx.data.near_duplicates import NearDuplicate
    from ftx.data.shards.write import ShardReport
    from ftx.tasks.labels import Labels

subcommands = typer.Typer(add_completion=False, rich_markup_mode=None)
subcommands.command("look")(look)

# How many of each kind of finding are listed; --json has all.
_LISTED = 10
# From here on training seldom learns rare labels without help.
_UNEVEN = 10

_LAYOUTS = {
    "folders": "class folders",
    "splits": "train/, val/ or test/ of class folders",
    "table": "a table",
    "coco": "COCO annotations",
    "datumaro": "Datumaro annotations",
    "foreign": "read by datumaro",
    "shards": "shards",
}


class SampleReport(CommandReport):
    """The ``--json`` object of ``ftx data sample``; ``path`` is what ``ftx train --data`` takes."""

    verb: str = "data sample"
    task: TaskName
    path: str = Field(description="A folder or a table of images.")


@subcommands.callback(invoke_without_command=True)
def data(context: typer.Context) -> int | None:
    """Look at data before anything is trained on it."""
    if context.invoked_subcommand is not None:
        return None
    typer.echo(context.get_help())
    return InputError.exit_code  # the help was shown, but no command was given


@subcommands.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder, a table, an annotation file, or shards.")],
    task: DataTaskOption = None,
    form: DataFormatOption = "auto",
    follow_links: FollowLinksFlag = False,
    more_images: Annotated[
        bool,
        typer.Option(
            "--more-images", help="Also estimate how much more images would help, with probes (1,000 images: a minute)."
        ),
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Say what is understood of a data set and what is wrong with it: labels, counts, near-duplicates, bad files.

    Exit status 0 if `ftx train` would take it as it is, 4 if it would skip images, 2 if it would end with an error.
    """
    from ftx.data.check import check, open_and_check

    named, progress = None if task is None else parse_task(task), console.TerminalProgress()
    if more_images:  # first, as a missing extra must not cost the reading of all images
        from ftx.curating.learning_curve import with_learning_curve
        from ftx.recipe.schema import Recipe

        checked = open_and_check(path, named, form=form, follow_links=follow_links, progress=progress)
        report = with_learning_curve(Recipe(), checked, progress)
    else:
        report = check(path, named, form=form, follow_links=follow_links, progress=progress)
    flags = [*([] if form == "auto" else [f"--set data.format={form}"]), *([FOLLOW_LINKS] if follow_links else [])]
    if console.show(report, partial(_print_check, flags=flags), json=json):
        return InputError.exit_code
    return SKIPPED if report.unreadable else 0


@subcommands.command()
def sample(
    task: SampleTaskOption = "multiclass",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder that it is put into.  [default: this one]")
    ] = Path(),
    json: JsonFlag = False,
) -> int:
    """Unpack the sample that comes with ftx: pictures of garments with labels for one of the tasks.

    1,000 images of Fashion-MNIST to train on and 500 held out, as ten classes or as a tree with an independent label;
    for multilabel 750 collages of up to four garments and 300 held out. Files that already exist do not change.
    """
    from ftx.data.bundled_sample import place_sample

    name = parse_task(task)
    return console.show(SampleReport(task=name, path=str(place_sample(name, out))), _print_sample, json=json)


@subcommands.command()
def shard(
    data: DataArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that is made.")],
    per_shard: Annotated[int, typer.Option("--per-shard", metavar="N", min=1, help="Images in each archive.")] = 1000,
    task: DataTaskOption = None,
    form: DataFormatOption = "auto",
    follow_links: FollowLinksFlag = False,
    json: JsonFlag = False,
) -> int:
    """Write images and their labels as WebDataset's shards: tar archives that train, eval and predict read.

    For data that is read over a network, or is too much for a folder. Images keep their bytes, and equal data give
    equal shards. Exit status 4 if images that cannot be read were left out.
    """
    from ftx.data.shards.write import write_shards

    report = write_shards(
        data,
        out,
        per_shard=per_shard,
        task=None if task is None else parse_task(task),
        form=form,
        follow_links=follow_links,
        progress=console.TerminalProgress(),
    )
    console.show(report, partial(_print_shards, task=task), json=json)
    return SKIPPED if report.skipped else 0


def _print_sample(report: SampleReport) -> None:
    console.print_facts([("sample", report.path)])
    console.print_note(f"next: {shell_command('ftx data check', report.path)}", "dim")


def _print_shards(report: ShardReport, task: str | None) -> None:
    megabytes = f"{report.bytes / 1e6:,.1f} MB"
    console.print_facts([("shards", f"{report.path}: {report.shards}, with {report.images:,} images in {megabytes}")])
    named = "" if task is None else f" --task {task}"
    console.print_note(f"next: {shell_command('ftx train --data', report.path)}{named}", "dim")


def _print_check(report: DataReport, flags: Sequence[str]) -> None:
    """``flags`` are those that a training needs as well."""
    uneven = f"; uneven by up to {report.imbalance:g} to 1"
    console.print_facts(
        [
            ("data", f"{report.path}: {_LAYOUTS[report.layout]}"),
            ("task", report.task + ("" if report.task_named else ", by what the labels look like")),
            ("images", ", ".join(f"{count:,} {split}" for split, count in report.images.items())),
            ("labels", f"{len(report.counts)}{uneven if report.imbalance > 1 else ''}"),
            *([("unlabelled", f"{report.unlabelled} images have no label")] if report.unlabelled else []),
        ]
    )
    if report.labels.parents or len(report.labels.groups) > 1:
        console.print_tree("\nlabel tree", _tree_lines(report.labels, report.counts, None))
    else:
        _print_counts(report)
    _print_findings(report)
    if report.learning_curve is not None:
        _print_learning_curve(report.learning_curve)
    if not report.ok:
        console.print_note(f"ftx train would end with an error: {len(report.problems)} to fix", "bad")
        return
    balance = ["--set train.balance=sampling"] if report.imbalance >= _UNEVEN else []
    words = " ".join([shell_command("ftx train --data", report.path), "--task", report.task, *flags, *balance])
    console.print_note(f"next: {words}", "dim")


def _print_learning_curve(curve: LearningCurve) -> None:
    low, high = (f"{100 * end:+.1f}" for end in (curve.gain_low, curve.gain_high))
    console.print_facts(
        [
            (
                "more images",
                f"{100 * curve.gain:+.1f} points from 40 % of them to 80 % (95 %: {low} to {high}), by linear probes",
            ),
            ("", f"{curve.accuracy_40:.1%}, then {curve.accuracy_80:.1%} of images correct: {curve.summary}"),
        ]
    )


def _print_counts(report: DataReport) -> None:
    splits = list(report.images)
    most = max((n.get("train", 0) for n in report.counts.values()), default=1)
    console.print_table(
        ("label", *splits, "training images"),
        [
            (name, *(str(n.get(split, 0)) for split in splits), console.bar(n.get("train", 0) / max(most, 1)))
            for name, n in report.counts.items()
        ],
        title="\nby label",
    )


def _tree_lines(labels: Labels, counts: dict[str, dict[str, int]], parent: str | None) -> list[console.TreeLine]:
    """The mutually exclusive labels below ``parent``, then the independent ones."""
    return [
        console.TreeLine(
            name,
            ", ".join(f"{n} {split}" for split, n in counts[name].items())
            + ("; holds or does not" if name in labels.singles else ""),
            _tree_lines(labels, counts, name),
        )
        for name in labels.names
        if labels.parents.get(name) == parent
    ]


def _print_findings(report: DataReport) -> None:
    if report.near_duplicates:
        _print_list(
            "held-out images with a near-duplicate in training (results will look too good): "
            f"{len(report.near_duplicates)}",
            [_near_duplicate(one) for one in report.near_duplicates],
        )
    if report.unreadable:
        _print_list(f"images that cannot be read: {len(report.unreadable)}", report.unreadable)
    if report.copies:
        _print_list(f"copies of other images in their split: {report.copies}")
    if report.ignored:
        files = ", ".join(f"{count} {ending}" for ending, count in sorted(report.ignored.items()))
        _print_list(f"ignored, as no images of a class: {files}")
    for finding in [*report.warnings, *report.problems]:
        _print_list(finding)


def _near_duplicate(one: NearDuplicate) -> str:
    if one.correlation == 1:
        return f"{one.held_out} is {one.train}"
    return f"{one.held_out} looks like {one.train} (correlation {one.correlation:.3f})"


def _print_list(headline: str, lines: Sequence[str] = ()) -> None:
    console.print_note("")
    console.print_note(headline, "bad")
    for line in lines[:_LISTED]:
        console.print_note(f"  {line}")
    if len(lines) > _LISTED:
        console.print_note(f"  and {len(lines) - _LISTED} more; --json lists all")
