"""``ftx quickstart``."""

from __future__ import annotations

from ftx.cli import console
from ftx.cli.run import print_pipeline
from ftx.cli.shared_options import JsonFlag, OutOption, SampleTaskOption, parse_task


def command(task: SampleTaskOption = "multiclass", out: OutOption = None, json: JsonFlag = False) -> int:
    """Train the bundled model on the bundled images, merge, export and verify it. This needs no network.

    The sample is 1,000 training and 500 test images of Fashion-MNIST, as ten classes or as a label tree. For
    multilabel, it is 750 training and 300 test collages with up to four garments each. ftx unpacks it next to the run.
    """
    from ftx.pipeline import quickstart

    progress = console.TerminalProgress()
    report = quickstart(out, task=parse_task(task), progress=progress, on_epoch=progress.note_epoch)
    return console.show(report, print_pipeline, json=json)
