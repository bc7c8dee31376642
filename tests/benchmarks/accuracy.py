"""Compare the four methods on one data set, each at the learning rate that validation images choose.

    python models/make_sample.py --train 3000 --test 5000 --out build/fashion-mnist
    python tests/benchmarks/accuracy.py --data build/fashion-mnist --out build/accuracy

Every run stays in its folder below ``--out``, and a second start goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

import ftx
from ftx.core.errors import ImageError
from ftx.core.statistics import wilson_interval
from ftx.data.image_store import ImageStore
from ftx.runs.run import Run

RATES = {
    "linear": (1e-3, 5e-3, 2e-2, 5e-2),
    "lora": (2e-4, 5e-4, 1e-3, 2e-3),
    "dora": (2e-4, 5e-4, 1e-3, 2e-3),
    "full": (2e-5, 5e-5, 1e-4, 2e-4),
}
MODEL: dict[str, list[str]] = {
    "linear": ["model.peft=none", "model.freeze_backbone=true", "train.head_init=random"],
    "lora": ["model.peft=lora", "adapter.blocks=all"],
    "dora": ["model.peft=dora", "adapter.blocks=all"],
    "full": ["model.peft=none"],
}


@dataclass(frozen=True)
class Trial:
    """One trained run and what its best epoch reached on validation images."""

    lr: float
    run: Run
    accuracy: float
    loss: float


def trial(method: str, lr: float, given: argparse.Namespace) -> Trial:
    """Train, or take what an earlier start trained."""
    out = given.out / f"{method}-{lr:g}"
    if not out.exists():
        overrides = [
            f"data.path={given.data}",
            f"data.image_size={given.size}",
            f"train.epochs={given.linear_epochs if method == 'linear' else given.epochs}",
            f"train.batch_size={given.batch}",
            f"train.lr={lr}",
            "train.augment=light",
            "train.patch_dropout=0",
            *MODEL[method],
        ]
        ftx.train(ftx.Recipe().with_overrides(overrides), out=out)
    epochs: list[dict[str, Any]] = [
        json.loads(line) for line in (out / "reports" / "train.jsonl").read_text().splitlines()
    ]
    best = max(epochs, key=lambda epoch: (epoch["accuracy"], -epoch["val_loss"]))
    return Trial(lr, Run.open(out), best["accuracy"], best["val_loss"])


def right(run: Run) -> NDArray[np.bool_]:
    """Which test images the trained model calls by their names. Shape: [N]."""
    entries = run.report_entries()
    store = ImageStore(run.data_root(None))
    rows: list[NDArray[np.float32]] = []
    for answer in ftx.load(run.path / "trained").logits_from_files([store[entry] for entry in entries]):
        if isinstance(answer, ImageError):
            raise answer
        rows.append(answer)
    return run.task.correct(np.stack(rows), run.task.targets([entry.labels for entry in entries]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=56)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--linear-epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    console = Console(width=120)
    chosen: dict[str, Trial] = {}
    for method, rates in RATES.items():
        trials: list[Trial] = []
        for lr in rates:
            trials.append(trial(method, lr, given))
            console.print(f"{method} at {lr:g}: validation accuracy {trials[-1].accuracy:.4f}")
        chosen[method] = max(trials, key=lambda made: (made.accuracy, -made.loss))
    table = Table("method", "lr", "validation", "test", "95 % interval", "only it right", "only linear right", "p")
    linear = right(chosen["linear"].run)
    for method, made in chosen.items():
        hits = right(made.run)
        low, high = wilson_interval(int(hits.sum()), len(hits))
        ahead, behind = int((hits & ~linear).sum()), int((linear & ~hits).sum())
        p = "" if method == "linear" else f"{binomtest(ahead, ahead + behind).pvalue:.1e}"
        interval = f"{100 * low:.2f} to {100 * high:.2f} %"
        table.add_row(
            method, f"{made.lr:g}", f"{100 * made.accuracy:.2f} %", f"{100 * hits.mean():.2f} %", interval,
            str(ahead), str(behind), p,
        )  # fmt: skip
    console.print(table)
    console.print("p: McNemar's exact test against linear, two-sided.")


if __name__ == "__main__":
    main()
