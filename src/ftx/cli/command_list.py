"""All commands, by what they are for: a line of help and an example for each.

``ftx --help`` prints this list without importing a command.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ListedCommand:
    """The line of ``ftx --help``, and the examples of ``ftx COMMAND --help``."""

    summary: str
    examples: tuple[str, ...]


_BUILD = {
    "data": ListedCommand("Check a data set, find wrong labels, unpack sample images", ("ftx data check photos",)),
    "train": ListedCommand(
        "Train a model on a folder of images",
        ("ftx train --data photos", "ftx train --data photos --preset fast", "ftx train --resume runs/photos-dora"),
    ),
    "merge": ListedCommand(
        "Merge the trained adapter into one dense model",
        (
            "ftx merge",
            "ftx merge --adapter lora/ --base vit_base_patch16_224 --out merged",
            "ftx merge --adapter runs/a --adapter runs/b --shares 0.7,0.3 --out merged",
        ),
    ),
    "export": ListedCommand("Export to OpenVINO (also in int8) or ONNX", ("ftx export --precision fp32,int8",)),
    "run": ListedCommand(
        "Train, merge, export and verify with one command", ("ftx run multiclass-dora --data photos",)
    ),
    "tune": ListedCommand(
        "Search for the best recipe for your data", ("ftx tune multiclass-dora --data photos --trials 20",)
    ),
    "quickstart": ListedCommand("Try everything on the bundled model and images", ("ftx quickstart",)),
}
_JUDGE = {
    "validate": ListedCommand(
        "Verify that exported models are as accurate as the trained one",
        ("ftx validate", "ftx validate runs/photos-dora/openvino/int8"),
    ),
    "eval": ListedCommand(
        "Measure accuracy, in total and for each class", ("ftx eval", "ftx eval --artifact openvino/int8")
    ),
    "report": ListedCommand(
        "Show a run, or compare runs, on one HTML page", ("ftx report", "ftx report runs/a runs/b")
    ),
    "explain": ListedCommand("Show which areas of an image a prediction is based on", ("ftx explain new-photos",)),
    "bench": ListedCommand(
        "Measure speed and memory on this machine", ("ftx bench", "ftx bench runs/photos-dora/openvino/int8 --save")
    ),
}
_USE = {
    "predict": ListedCommand(
        "Predict the labels of images",
        ("ftx predict new-photos", "ftx predict new-photos --artifact openvino/int8 --out labels.jsonl"),
    ),
    "serve": ListedCommand(
        "Predict over HTTP, with a page to try it", ("ftx serve", "ftx serve runs/photos-dora/openvino/int8")
    ),
    "apply": ListedCommand(
        "Update a model on a device, without PyTorch", ("ftx apply flowers-1.zip base openvino/flowers",)
    ),
}
_LOOK_UP = {
    "runs": ListedCommand("List, compare and delete runs", ("ftx runs", "ftx runs runs/a runs/b")),
    "models": ListedCommand("List the models that you can train", ("ftx models dinov2",)),
    "recipes": ListedCommand("List the bundled recipes", ("ftx recipes",)),
    "adapters": ListedCommand("Compare how adapters change the base model", ("ftx adapters runs/a runs/b",)),
    "schema": ListedCommand("Print the JSON schema of a command's output", ("ftx schema predict",)),
}
# The headings of `ftx --help`, in the order of the work.
GROUPS = {"Build a model": _BUILD, "Judge a model": _JUDGE, "Use a model": _USE, "Look up": _LOOK_UP}
COMMANDS = {name: listed for group in GROUPS.values() for name, listed in group.items()}

_DATA = {
    "check": ListedCommand(
        "Report what ftx finds in a data set, and what is wrong with it",
        ("ftx data check photos", "ftx data check labels.csv --task multilabel"),
    ),
    "look": ListedCommand("Find wrong labels, and decide about each on a page", ("ftx data look photos --open",)),
    "sample": ListedCommand("Unpack the bundled sample images", ("ftx data sample",)),
    "shard": ListedCommand("Pack images and labels into tar archives", ("ftx data shard photos shards",)),
}
# Commands that have commands of their own; the field `verb` of a report has both words.
SUBCOMMANDS = {"data": _DATA}
