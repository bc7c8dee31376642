"""``ftx data check``, and beside it ``ftx data look``, ``ftx data sample`` and ``ftx data shard``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.data_look import look
from ftx.cli.data_sample import sample
from ftx.cli.data_shard import shard
from ftx.cli.shared_options import SKIPPED, DataFormatOption, DataTaskOption, FollowLinksFlag, JsonFlag, parse_task
from ftx.core.errors import InputError, shell_command
from ftx.data.sources.listing import FOLLOW_LINKS

if TYPE_CHECKING:
    from ftx.data.check import DataReport
    from ftx.data.near_duplicates import NearDuplicate
    from ftx.tasks.labels import Labels

verbs = typer.Typer(add_completion=False, rich_markup_mode=None)
verbs.command("look")(look)
verbs.command("sample")(sample)
verbs.command("shard")(shard)

# How many of each kind of finding are listed; --json has all.
_LISTED = 10
# From here on rare labels are seldom learnt without help.
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


@verbs.callback(invoke_without_command=True)
def data(context: typer.Context) -> int | None:
    """Look at data before anything is trained on it."""
    if context.invoked_subcommand is not None:
        return None
    typer.echo(context.get_help())
    return InputError.exit_code  # the help was shown, but nothing was asked for


@verbs.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder, a table, an annotation file, or shards.")],
    task: DataTaskOption = None,
    form: DataFormatOption = "auto",
    follow_links: FollowLinksFlag = False,
    json: JsonFlag = False,
) -> int:
    """Say what is understood of a data set and what is wrong with it: labels, counts, near-duplicates, bad files.

    Exit status 0 if `ftx train` would take it as it is, 4 if it would skip images, 2 if it would refuse.
    """
    from ftx.data.check import check

    named = None if task is None else parse_task(task)
    report = check(path, named, form=form, follow_links=follow_links, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
    else:
        more = [] if form == "auto" else [f"--set data.format={form}"]
        _print(report, [*more, *([FOLLOW_LINKS] if follow_links else [])])
    if not report.ok:
        return InputError.exit_code
    return SKIPPED if report.unreadable else 0


def _print(report: DataReport, more: Sequence[str]) -> None:
    """``more`` is what a training must be told as well."""
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
        console.print_tree("\nlabel tree", _nodes(report.labels, report.counts, None))
    else:
        _print_counts(report)
    _print_findings(report)
    if not report.ok:
        console.print_note(f"ftx train would refuse this: {len(report.problems)} to fix", "bad")
        return
    said = ["--task", report.task, *more, *(["--set train.balance=sampling"] if report.imbalance >= _UNEVEN else [])]
    console.print_note(f"next: {shell_command('ftx train --data', report.path)} {' '.join(said)}", "dim")


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


def _nodes(labels: Labels, counts: dict[str, dict[str, int]], parent: str | None) -> list[console.Node]:
    """The labels below ``parent`` that exclude each other, then the singles."""
    here = [name for name in labels.names if labels.parents.get(name) == parent]
    return [
        console.Node(
            name,
            ", ".join(f"{n} {split}" for split, n in counts[name].items())
            + ("; holds or does not" if name in labels.singles else ""),
            _nodes(labels, counts, name),
        )
        for name in here
    ]


def _print_findings(report: DataReport) -> None:
    twins = [_twin(one) for one in report.near_duplicates]
    if twins:
        _print_list(
            f"held-out images with a near-duplicate in training (results will look too good): {len(twins)}", twins
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


def _twin(one: NearDuplicate) -> str:
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
