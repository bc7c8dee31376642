"""``ftx predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ftx.cli import console
from ftx.cli.shared_options import SKIPPED, status_of
from ftx.core.addresses import as_typed, if_address
from ftx.core.errors import InputError, check_known

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction

# What a file is called that holds lines of JSON, or a table.
_BY_ENDING = {"": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


def command(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES",
            show_default=False,
            help="Images, folders that hold some, or patterns; - for paths on standard input, one a line.",
        ),
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact",
            metavar="IR|RUN",
            help="An exported folder, which needs no torch, or a run.  [default: the best IR of runs/latest]",
        ),
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch",
            metavar="DIR",
            help="Label each image that arrives in DIR, once, until Ctrl-C; a restart goes on.",
        ),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="With --json or --out: the score of every label too.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            show_default=False,
            help="Write the answers into FILE, which appears when it is whole; started again, it goes on.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="Of --out: jsonl or parquet.  [default: by FILE's ending]"),
    ] = None,
    engine: Annotated[
        str,
        typer.Option("--engine", metavar="ENGINE", help="Of --out: local, or ray for workers on one machine or many."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="HOST:PORT", help="Of --engine ray: the cluster.  [default: RAY_ADDRESS, or one here]"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Of --engine ray.  [default: one for every four cores]"),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one line of JSON an image on stdout, with --out one for the file, and all else on stderr.",
        ),
    ] = False,
) -> int:
    """Label images, or those in shards, with an exported model or a run.

    Images that cannot be read are reported and skipped; the exit status is then 4. With --out what is done is kept
    beside the file until all of it is.
    """
    from ftx.evaluating.predict import predict

    if scores and not json and out is None:
        console.print_note("--scores is for --json and --out: a table has room for the best alone")
    if watch is not None and images:
        raise InputError("--watch labels what arrives in its folder, and takes no images", fix="name one or the other")
    if watch is None and not images:
        raise InputError(
            "there is nothing to predict", fix="name images or folders, - for standard input, or --watch DIR"
        )
    if images and Path("-") in images and len(images) > 1:
        raise InputError("- is for standard input, which is named alone", fix="write the other paths to it, too")
    if out is None and (given := [flag for flag, value in _of_out(form, engine, address, workers) if value]):
        raise InputError(f"{given[0]} is for answers in a file", fix="name the file: --out FILE")
    if out is not None:
        if watch is not None:
            raise InputError(
                "--watch goes on without an end, and --out writes when all is done", fix="give one of them"
            )
        return _into_file(images or [], artifact, out, form, engine, address, workers, scores=scores, json=json)
    if watch is not None or images == [Path("-")]:
        return _arriving(watch, artifact, scores=scores, json=json)
    # Lines that appear one by one and a bar would write over each other on one terminal.
    progress = console.TerminalProgress(bars=not (json and console.answers_on_terminal()))
    answers: list[Prediction] = []
    for answer in predict(images or [], artifact, scores=scores, progress=progress):
        if json:
            console.print_line(answer.to_line())
        answers.append(answer)
    if not json:
        _print_answers([answer for answer in answers if answer.error is None])
    return status_of(answers)


def _of_out(form: str | None, engine: str, address: str | None, workers: int | None) -> tuple[tuple[str, object], ...]:
    """The flags that say something of a file of answers, and whether they do."""
    return ("--format", form), ("--engine", engine != "local"), ("--address", address), ("--workers", workers)


def _into_file(
    images: list[Path],
    artifact: Path | None,
    out: Path,
    form: str | None,
    engine: str,
    address: str | None,
    workers: int | None,
    *,
    scores: bool,
    json: bool,
) -> int:
    from ftx.evaluating.arrivals import named_on
    from ftx.scaling.predict_to_file import Engine, OutFormat, RayCluster, predict_to_file

    if form is None:
        form = _BY_ENDING.get(out.suffix.lower())
    if form is None:
        known = " or ".join(get_args(OutFormat))
        raise InputError(f"no format is known by the ending {out.suffix}", where=out, fix=f"--format {known}")
    check_known("--format", [form], get_args(OutFormat))
    check_known("--engine", [engine], get_args(Engine))
    if engine == "local" and (address or workers):
        raise InputError("--address and --workers are for --engine ray", fix="add --engine ray")
    if images == [Path("-")]:
        images = [Path(path) for some in named_on(sys.stdin) for path in some]
        if elsewhere := next(filter(None, map(if_address, images)), None):
            raise InputError(
                "standard input must not contain an address",
                found=as_typed(elsewhere),
                fix="name it in the command",
            )
    report = predict_to_file(
        images,
        out,
        artifact,
        scores=scores,
        form=cast("OutFormat", form),
        ray=RayCluster(address, workers) if engine == "ray" else None,
        progress=console.TerminalProgress(),
    )
    if json:
        console.print_json(report)
    else:
        speed = f" ({report.images / report.seconds:,.0f} a second)" if report.seconds and not report.kept else ""
        by = "" if engine == "local" else f" by {report.workers} workers"
        console.print_facts([("answers", f"{out}: {report.images:,} images in {report.seconds:,.1f} s{by}{speed}")])
        if report.skipped:
            console.print_note(
                f"lines that say which image, folder or shard cannot be read, and why: {report.skipped:,}", "bad"
            )
    return SKIPPED if report.skipped else 0


def _arriving(watch: Path | None, artifact: Path | None, *, scores: bool, json: bool) -> int:
    """A line for each image as it comes, whether for people or programs."""
    from ftx.evaluating.arrivals import WatchedFolder, named_on
    from ftx.evaluating.predict import predict_arriving

    progress = console.TerminalProgress(bars=False)
    watched = None if watch is None else WatchedFolder(watch, progress=progress)
    arrivals = named_on(sys.stdin) if watched is None else watched
    total = skipped = 0
    try:
        for answer in predict_arriving(arrivals, artifact, scores=scores, progress=progress):
            total += 1
            if json:
                console.print_line(answer.to_line())
            elif answer.error is None:
                console.print_fields([answer.path, *(f"{one.name} {one.score:.4f}" for one in answer.labels)])
            if answer.error is not None:
                skipped += 1
                console.print_note(f"skipped {answer.path}: {answer.error}", "bad")
            if watched is not None:
                watched.answered(answer.path)
    except KeyboardInterrupt:  # a signal is how watching ends
        if watched is None:
            raise
        console.print_note(f"stopped after {total} images; started again, it goes on behind them", "dim")
        return SKIPPED if skipped else 0
    if not total:
        raise InputError("standard input named no images", fix="write paths to it, one a line")
    return SKIPPED if skipped else 0


def _print_answers(answers: list[Prediction]) -> None:
    if answers:
        console.print_table(
            ("image", "label", "score"),
            [
                (
                    answer.path,
                    ", ".join(label.name for label in answer.labels),
                    ", ".join(f"{label.score:.4f}" for label in answer.labels),
                )
                for answer in answers
            ],
        )
