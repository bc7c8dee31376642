"""``ftx predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ftx.cli import console
from ftx.cli.prediction_lines import PredictionLines
from ftx.cli.shared_options import (
    SKIPPED,
    AllowFailedFlag,
    DeviceOption,
    RequireVerifiedFlag,
    check_usage,
    report_skipped,
)
from ftx.core.addresses import as_typed, if_address
from ftx.core.errors import InputError, check_known
from ftx.runs.calibration import COVERAGE
from ftx.runs.machine import CPU

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction
    from ftx.runtimes import LoadOptions
    from ftx.scaling.predict_to_file import PredictReport

# Endings of files of JSON lines, and of tables.
_BY_ENDING = {"": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


def command(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES",
            show_default=False,
            help="Images, folders of images, patterns or shards. Use - to read paths from standard input, one per "
            "line.",
        ),
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact",
            metavar="NAME|PATH",
            help="The model: a run, an exported folder, or a name in your newest run, for example openvino/int8.  "
            "[default: the fastest verified model of your newest run]",
        ),
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch",
            metavar="DIR",
            help="Predict each new image in DIR once. Ctrl-C stops ftx. If you run the same command again, it skips "
            "images that already have predictions.",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", metavar="N", min=1, help="Show the N best labels of each image.  [default: the predicted ones]"
        ),
    ] = None,
    csv: Annotated[
        bool,
        typer.Option("--csv", help="Print CSV: a header, then one line for each image and label: path, label, score."),
    ] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="With --json or --out: the score of every label too.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            show_default=False,
            help="Write all predictions into FILE (.jsonl or .parquet). To resume after an interruption, run the same "
            "command again.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Format of the --out file: jsonl or parquet.  [default: from the extension of FILE]",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="ENGINE",
            help="What computes the predictions for the --out file: this process (local), or a Ray cluster (ray).",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="The address of the Ray cluster.  [default: the environment variable RAY_ADDRESS, otherwise "
            "a new cluster on this machine]",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, help="Workers on the Ray cluster.  [default: one for every four cores]"
        ),
    ] = None,
    coverage: Annotated[
        float,
        typer.Option(
            "--coverage",
            metavar="FRACTION",
            help="The fraction of images whose prediction set contains the label (of a tree: no wrong label).",
        ),
    ] = COVERAGE,
    device: DeviceOption = CPU,
    require_proof: RequireVerifiedFlag = False,
    allow_failed: AllowFailedFlag = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON line per image (with --out: one object) on stdout; everything else goes to stderr.",
        ),
    ] = False,
) -> int:
    """Predict the labels of images, with an exported model or a run.

    Images that cannot be read are reported and skipped; the exit status is then 4.
    """
    of_file = {"--format": form, "--engine": engine != "local", "--address": address, "--workers": workers}
    unused = next((flag for flag, value in of_file.items() if value), "")
    options = next((flag for flag, value in {"--csv": csv, "--top-k": top_k}.items() if value), "")
    paths = images or []
    if scores and not json and out is None:
        console.print_note("--scores has an effect only with --json or --out; --top-k shows more labels", "dim")
    check_usage(
        (
            watch is not None and paths,
            InputError(
                "--watch cannot be combined with IMAGES",
                found=str(paths[0]) if paths else None,
                fix="name images, or give --watch DIR",
            ),
        ),
        (
            watch is None and not paths,
            InputError("there are no images to predict", fix="name images or folders: ftx predict new-photos"),
        ),
        (
            Path("-") in paths and len(paths) > 1,
            InputError(
                "- (standard input) cannot be combined with other paths",
                found=" ".join(map(str, paths[:3])),
                fix="write all paths to standard input",
            ),
        ),
        (
            out is None and unused,
            InputError(f"{unused} is only for a file of predictions", fix="name the file: --out FILE"),
        ),
        (
            out is not None and watch is not None,
            InputError(
                "--out cannot be combined with --watch, which has no end",
                found=f"--watch {watch}",
                fix="write the lines into a file: ftx predict --watch DIR --json > FILE",
            ),
        ),
        (
            out is not None and options,
            InputError(f"{options} cannot be combined with --out", found=f"--out {out}", fix="add --scores instead"),
        ),
        (
            csv and any(path.suffix == ".csv" and not path.exists() for path in paths),
            InputError(
                "--csv must not have a file name", fix="write into a file: ftx predict IMAGES --csv > predictions.csv"
            ),
        ),
        (csv and json, InputError("--csv cannot be combined with --json", fix="give only one of them")),
        (
            engine == "local" and (address or workers),
            InputError("--address and --workers are only for --engine ray", fix="add --engine ray"),
        ),
        (
            engine == "ray" and device != CPU,
            InputError("--engine ray runs only on CPUs", found=f"--device {device}", fix=f"use --device {CPU}"),
        ),
    )
    how: LoadOptions = {
        "device": device,
        "require_proof": require_proof,
        "allow_failed": allow_failed,
        "coverage": coverage,
    }
    if out is not None:
        return _predict_to_file(paths, artifact, out, form, engine, address, workers, how, scores=scores, json=json)
    shown = PredictionLines(top_k, csv=csv, json=json, scores=scores)
    if watch is not None or paths == [Path("-")]:
        return _predict_arriving(watch, artifact, shown, how)
    return _predict_files(paths, artifact, shown, how)


def _predict_files(images: list[Path], artifact: Path | None, shown: PredictionLines, options: LoadOptions) -> int:
    """A table of all images, or lines for each as it is done."""
    from ftx.evaluating.predict import predict

    by_line = shown.json or shown.csv
    # Lines that appear one by one and a bar would write over each other on one terminal.
    progress = console.TerminalProgress(bars=not (by_line and console.results_on_terminal()))
    predictions: list[Prediction] = []
    found = predict(images, artifact, scores=shown.needs_scores, progress=progress, **options)
    shown.begin()
    for prediction in map(shown.of, found):
        shown.print(prediction)
        predictions.append(prediction)
    labelled = [prediction for prediction in predictions if prediction.error is None]
    if labelled and not by_line:
        columns: list[tuple[str, ...]] = [
            ("image", *(one.path for one in labelled)),
            ("label", *(", ".join(label.name for label in one.labels) or "no label" for one in labelled)),
            ("score", *(", ".join(f"{label.score:.4f}" for label in one.labels) for one in labelled)),
        ]
        if any(one.set is not None for one in labelled):
            columns.append(_column_of_sets(labelled))
        heads, *rows = zip(*columns, strict=True)
        console.print_table(heads, rows)
    if not by_line:
        _print_twice(sum(one.ran == "fp32" for one in labelled), len(labelled))
    return report_skipped(predictions)


def _column_of_sets(labelled: list[Prediction]) -> tuple[str, ...]:
    """Its head, and the labels of each set. In a tree a set has some of the predicted labels, else all and others."""
    predicted = [{label.name for label in one.labels} for one in labelled]
    sets = [one.set or [] for one in labelled]
    if any(names - {*some} for names, some, one in zip(predicted, sets, labelled, strict=True) if one.set is not None):
        return "certain", *(", ".join(some) or "-" for some in sets)
    others = [[name for name in some if name not in names] for names, some in zip(predicted, sets, strict=True)]
    return "may also be", *(", ".join(some) or "-" for some in others)


def _predict_to_file(
    images: list[Path],
    artifact: Path | None,
    out: Path,
    form: str | None,
    engine: str,
    address: str | None,
    workers: int | None,
    options: LoadOptions,
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
        raise InputError(
            "--out must end with .jsonl or .parquet, or --format must be given",
            where=out,
            found=out.suffix or "no extension",
            fix=f"add --format {known}",
        )
    check_known("--format", [form], get_args(OutFormat))
    check_known("--engine", [engine], get_args(Engine))
    if images == [Path("-")]:
        images = [Path(path) for some in named_on(sys.stdin) for path in some]
        if elsewhere := next(filter(None, map(if_address, images)), None):
            raise InputError(
                "standard input must not contain a URL",
                found=as_typed(elsewhere),
                fix="name the URL in the command line, if you trust it",
            )
    report = predict_to_file(
        images,
        out,
        artifact,
        scores=scores,
        form=cast("OutFormat", form),
        ray=RayCluster(address, workers) if engine == "ray" else None,
        progress=console.TerminalProgress(),
        **options,
    )
    console.show(report, _print_job, json=json)
    return SKIPPED if report.skipped else 0


def _predict_arriving(watch: Path | None, artifact: Path | None, shown: PredictionLines, options: LoadOptions) -> int:
    """A line for each image as it comes, whether for people or programs."""
    from ftx.evaluating.arrivals import WatchedFolder, named_on
    from ftx.evaluating.predict import predict_arriving

    progress = console.TerminalProgress(bars=False)
    watched = None if watch is None else WatchedFolder(watch, progress=progress)
    arrivals = named_on(sys.stdin) if watched is None else watched
    total = skipped = 0
    found = predict_arriving(arrivals, artifact, scores=shown.needs_scores, progress=progress, **options)
    shown.begin()
    try:
        for prediction in map(shown.of, found):
            total += 1
            shown.print(prediction)
            if prediction.error is None and not (shown.json or shown.csv):
                console.print_fields([prediction.path, *(f"{one.name} {one.score:.4f}" for one in prediction.labels)])
            if prediction.error is not None:
                skipped += 1
                console.print_note(f"skipped {prediction.path}: {prediction.error}", "bad")
            if watched is not None:
                watched.predicted(prediction.path)
    except KeyboardInterrupt:  # a signal is how watching ends
        if watched is None:
            raise
        console.print_note(f"stopped after {total} images; the same command continues after them", "dim")
        return SKIPPED if skipped else 0
    if not total:
        raise InputError("standard input contains no paths", fix="write the paths of images to it, one per line")
    return SKIPPED if skipped else 0


def _print_job(report: PredictReport) -> None:
    speed = f" ({report.images / report.seconds:,.0f} per second)" if report.seconds and not report.kept else ""
    by = "" if report.engine == "local" else f" by {report.workers} workers"
    done = f"{report.images:,} images in {report.seconds:,.1f} s{by}{speed}"
    console.print_facts([("predictions", f"{report.path}: {done}")])
    _print_twice(report.ran_twice or 0, report.images)
    if report.skipped:
        console.print_note(f"{report.skipped:,} images cannot be read; their lines contain the reason", "bad")


def _print_twice(twice: int, images: int) -> None:
    """How many images of int8-checked also ran in fp32, if any."""
    if twice:
        console.print_note(f"{twice:,} of {images:,} images also ran in fp32, as their labels were doubtful", "dim")
