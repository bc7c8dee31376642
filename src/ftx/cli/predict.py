"""``ftx predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ftx.cli import console
from ftx.cli.shared_options import SKIPPED, check_usage, report_skipped
from ftx.core.addresses import as_typed, if_address
from ftx.core.errors import InputError, check_known

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction
    from ftx.scaling.predict_to_file import PredictReport

# Endings of files of JSON lines, and of tables.
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
            help="Label each image that arrives in DIR, once, until Ctrl-C; a restart continues.",
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
            help="Write the predictions into FILE, which appears when it is whole; started again, it resumes.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Format of the --out file: jsonl or parquet.  [default: by FILE's ending]",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="ENGINE",
            help="Who computes the --out file: local, or workers of ray.",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="HOST:PORT", help="The cluster of --engine ray.  [default: RAY_ADDRESS, or one here]"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, help="Workers of --engine ray.  [default: one for every four cores]"
        ),
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
    next to the file until all of it is.
    """
    of_file = {"--format": form, "--engine": engine != "local", "--address": address, "--workers": workers}
    idle = next((flag for flag, value in of_file.items() if value), "")
    paths = images or []
    if scores and not json and out is None:
        console.print_note("--scores is for --json and --out: a table has space only for the best")
    check_usage(
        (
            watch is not None and paths,
            InputError("--watch labels what arrives in its folder, and takes no images", fix="name one or the other"),
        ),
        (
            watch is None and not paths,
            InputError(
                "there is nothing to predict", fix="name images or folders, - for standard input, or --watch DIR"
            ),
        ),
        (
            Path("-") in paths and len(paths) > 1,
            InputError("- is standard input, and takes no other paths", fix="write the other paths to it, too"),
        ),
        (out is None and idle, InputError(f"{idle} is for a file of predictions", fix="name the file: --out FILE")),
        (
            out is not None and watch is not None,
            InputError("--watch has no end, and --out writes when all is done", fix="give one of them"),
        ),
        (
            engine == "local" and (address or workers),
            InputError("--address and --workers are for --engine ray", fix="add --engine ray"),
        ),
    )
    if out is not None:
        return _predict_to_file(paths, artifact, out, form, engine, address, workers, scores=scores, json=json)
    if watch is not None or paths == [Path("-")]:
        return _predict_arriving(watch, artifact, scores=scores, json=json)
    return _predict_files(paths, artifact, scores=scores, json=json)


def _predict_files(images: list[Path], artifact: Path | None, *, scores: bool, json: bool) -> int:
    """A table of all images, or a line of JSON for each as it is done."""
    from ftx.evaluating.predict import predict

    # Lines that appear one by one and a bar would write over each other on one terminal.
    progress = console.TerminalProgress(bars=not (json and console.results_on_terminal()))
    predictions: list[Prediction] = []
    for prediction in predict(images, artifact, scores=scores, progress=progress):
        if json:
            console.print_line(prediction.to_line())
        predictions.append(prediction)
    labelled = [prediction for prediction in predictions if prediction.error is None]
    if labelled and not json:
        console.print_table(
            ("image", "label", "score"),
            [
                (
                    one.path,
                    ", ".join(label.name for label in one.labels),
                    ", ".join(f"{label.score:.4f}" for label in one.labels),
                )
                for one in labelled
            ],
        )
    return report_skipped(predictions)


def _predict_to_file(
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
    """One file of all predictions, by this process or by Ray; resumed after an interruption."""
    from ftx.evaluating.arrivals import named_on
    from ftx.scaling.predict_to_file import Engine, OutFormat, RayCluster, predict_to_file

    form = form or _BY_ENDING.get(out.suffix.lower())
    if form is None:
        known = " or ".join(get_args(OutFormat))
        raise InputError(f"no format is known by the ending {out.suffix}", where=out, fix=f"--format {known}")
    check_known("--format", [form], get_args(OutFormat))
    check_known("--engine", [engine], get_args(Engine))
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
    console.show(report, _print_job, json=json)
    return SKIPPED if report.skipped else 0


def _predict_arriving(watch: Path | None, artifact: Path | None, *, scores: bool, json: bool) -> int:
    """A line for each image as it comes, whether for people or programs."""
    from ftx.evaluating.arrivals import WatchedFolder, named_on
    from ftx.evaluating.predict import predict_arriving

    progress = console.TerminalProgress(bars=False)
    watched = None if watch is None else WatchedFolder(watch, progress=progress)
    arrivals = named_on(sys.stdin) if watched is None else watched
    total = skipped = 0
    try:
        for prediction in predict_arriving(arrivals, artifact, scores=scores, progress=progress):
            total += 1
            if json:
                console.print_line(prediction.to_line())
            elif prediction.error is None:
                console.print_fields([prediction.path, *(f"{one.name} {one.score:.4f}" for one in prediction.labels)])
            if prediction.error is not None:
                skipped += 1
                console.print_note(f"skipped {prediction.path}: {prediction.error}", "bad")
            if watched is not None:
                watched.predicted(prediction.path)
    except KeyboardInterrupt:  # a signal is how watching ends
        if watched is None:
            raise
        console.print_note(f"stopped after {total} images; started again, it continues after them", "dim")
        return SKIPPED if skipped else 0
    if not total:
        raise InputError("standard input named no images", fix="write paths to it, one a line")
    return SKIPPED if skipped else 0


def _print_job(report: PredictReport) -> None:
    speed = f" ({report.images / report.seconds:,.0f} a second)" if report.seconds and not report.kept else ""
    by = "" if report.engine == "local" else f" by {report.workers} workers"
    done = f"{report.images:,} images in {report.seconds:,.1f} s{by}{speed}"
    console.print_facts([("predictions", f"{report.path}: {done}")])
    if report.skipped:
        note = f"lines that name an image, folder or shard that cannot be read, and why: {report.skipped:,}"
        console.print_note(note, "bad")
