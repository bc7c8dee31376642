"""What a training writes about itself while it runs: a line an epoch, and curves for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from ftx.core.errors import EnvironmentFault
from ftx.core.files import write_atomic
from ftx.runs.new_run import NewRun
from ftx.training.state import Epoch, EpochEnd


def require_tensorboard() -> None:
    """Raise EnvironmentFault if the package is not installed: before training, not after the first epoch."""
    if find_spec("tensorboard") is None:
        raise EnvironmentFault(
            "train.tensorboard needs the tensorboard package", fix="pip install 'ftx-vit[tensorboard]'"
        )


@contextmanager
def epoch_log(run: NewRun, epochs: Sequence[Epoch], *, tensorboard: bool) -> Iterator[Callable[[EpochEnd], None]]:
    """Give what takes each epoch after it was added to ``epochs``, which holds those before a stop as well.

    It writes ``reports/train.jsonl``, whole at any time, and ``reports/tensorboard/`` if wanted.
    """

    def write_lines(_end: EpochEnd) -> None:
        lines = [json.dumps(asdict(epoch)) + "\n" for epoch in epochs]
        write_atomic(run.folder / "reports" / "train.jsonl", "".join(lines).encode())

    if not tensorboard:
        yield write_lines
        return
    with ExitStack() as opened:
        curves = _Curves(run, opened)

        def write_both(end: EpochEnd) -> None:
            write_lines(end)
            curves.add(end.epoch)

        yield write_both


class _Curves:
    """TensorBoard's file, opened anew where the run has got its name meanwhile."""

    def __init__(self, run: NewRun, opened: ExitStack) -> None:
        self._run, self._opened, self._folder = run, opened, Path()

    def add(self, epoch: Epoch) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if (folder := self._run.folder / "reports" / "tensorboard") != self._folder:
            self._opened.close()
            self._folder = folder
            # What an earlier process drew of this epoch, and of later ones, does not count.
            self._writer = self._opened.enter_context(SummaryWriter(str(folder), purge_step=epoch.epoch))
        scalars = {"loss/train": epoch.loss, "loss/val": epoch.val_loss, "lr": epoch.lr}
        scalars |= {f"val/{name}": value for name, value in epoch.metrics.items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()
