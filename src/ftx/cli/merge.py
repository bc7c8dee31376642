"""``ftx merge``."""

from __future__ import annotations

from ftx.cli import console
from ftx.cli.options import JsonFlag, RunArgument


def command(run: RunArgument = None, json: JsonFlag = False) -> int:
    """Turn what was trained into one dense model, with proof.

    Writes dense/, which timm and transformers open, and reports/merge.json: how far each merged layer lies
    from its separate products in float64, and the logits of held-out images from the trained model's.
    """
    from ftx.merging import merge

    report = merge(run, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
    else:
        console.print_report(report)
        console.print_note("next: ftx export", "dim")
    return 0 if report.ok else 1
