"""``ftx quickstart``."""

from __future__ import annotations

from ftx.cli import console
from ftx.cli.run import print_pipeline
from ftx.cli.shared_options import JsonFlag, OutOption, SampleTaskOption, parse_task


def command(task: SampleTaskOption = "multiclass", out: OutOption = None, json: JsonFlag = False) -> int:
    """Train, merge, export and validate on the bundled model and sample, without a network.

    1,000 images of Fashion-MNIST to train on and 500 held out, as ten classes or as a tree with an independent label;
    for multilabel 750 collages of up to four garments and 300 held out. The sample is unpacked next to the run.
    """
    from ftx.pipeline import quickstart

    progress = console.TerminalProgress()
    report = quickstart(out, task=parse_task(task), progress=progress, on_epoch=progress.note_epoch)
    return console.show(report, print_pipeline, json=json)
