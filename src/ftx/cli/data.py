"""``ftx data check``, ``ftx data sample`` and ``ftx data shard``; ``ftx data look`` has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field
from typer.core import TyperGroup

from ftx.cli import console
from ftx.cli.command_list import SUBCOMMANDS
from ftx.cli.data_look import look
from ftx.cli.help_page import CONTEXT, HelpfulCommand, write_commands
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


class DataGroup(TyperGroup):
    """The commands of ``ftx data``, in the order of their list."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(SUBCOMMANDS["data"])

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        write_commands(formatter, "Commands", SUBCOMMANDS["data"])


subcommands = typer.Typer(cls=DataGroup, add_completion=False, rich_markup_mode=None, context_settings=CONTEXT)
_subcommand = partial(subcommands.command, cls=HelpfulCommand, context_settings=CONTEXT)
_subcommand("look")(look)

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
    """The sample images that were unpacked; ``ftx train --data`` takes their ``path``."""

    verb: str = "data sample"
    task: TaskName
    """The task that the labels of the sample are for."""
    path: str = Field(description="A folder or a table of images.")


@subcommands.callback(invoke_without_command=True)
def data(context: typer.Context) -> int | None:
    """Check your images before you train on them."""
    if context.invoked_subcommand is not None:
        return None
    typer.echo(context.get_help())
    return InputError.exit_code  # the help was shown, but no command was given


@_subcommand()
def check(
    path: DataArgument,
    task: DataTaskOption = None,
    form: DataFormatOption = "auto",
    follow_links: FollowLinksFlag = False,
    more_images: Annotated[
        bool,
        typer.Option(
            "--more-images",
            help="Also estimate how much accuracy you would gain with more images (takes a minute for 1,000 images).",
        ),
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Report what ftx finds in a data set, and what is wrong with it.

    The exit status is 0 if you can train on all images, 4 if training would skip some of them, and 2 if you cannot
    train on this data.
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


@_subcommand()
def sample(
    task: SampleTaskOption = "multiclass",
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            show_default=False,
            help="The folder to unpack the images into.  [default: the current folder]",
        ),
    ] = Path(),
    json: JsonFlag = False,
) -> int:
    """Unpack the bundled sample images: small pictures of garments, with labels.

    The sample is 1,000 training and 500 test images of Fashion-MNIST, as ten classes or as a label tree. For
    multilabel, it is 750 training and 300 test collages with up to four garments each. Files that already exist do not
    change.
    """
    from ftx.data.bundled_sample import place_sample

    name = parse_task(task)
    return console.show(SampleReport(task=name, path=str(place_sample(name, out))), _print_sample, json=json)


@_subcommand()
def shard(
    data: DataArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    per_shard: Annotated[
        int, typer.Option("--per-shard", metavar="N", min=1, help="The number of images in each archive.")
    ] = 1000,
    task: DataTaskOption = None,
    form: DataFormatOption = "auto",
    follow_links: FollowLinksFlag = False,
    json: JsonFlag = False,
) -> int:
    """Pack images and labels into shards (WebDataset): tar archives that train, eval and predict can read.

    Use shards for data on a network, or if you have too many images for one folder. The image files do not change. The
    exit status is 4 if ftx skipped images that cannot be read.
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
    drawn = " (val is taken from train)" if report.val_from_train else ""
    uneven = f"; uneven by up to {report.imbalance:g} to 1"
    console.print_facts(
        [
            ("data", f"{report.path}: {_LAYOUTS[report.layout]}"),
            ("task", report.task + ("" if report.task_named else ", found from the labels")),
            ("images", ", ".join(f"{count:,} {split}" for split, count in report.images.items()) + drawn),
            ("labels", f"{len(report.counts)}{uneven if report.imbalance > 1 else ''}"),
            *([("unlabelled", f"{report.unlabelled:,} images have no label")] if report.unlabelled else []),
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
        console.print_note(f"you cannot train on this data yet: {len(report.problems)} problems to fix", "bad")
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
            + ("; independent label" if name in labels.singles else ""),
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
        _print_list(f"ignored files: {files}")
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
