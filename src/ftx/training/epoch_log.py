"""The log of a training while it runs: a line per epoch, and curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ftx.core.errors import EnvironmentFault
from ftx.core.files import write_atomic
from ftx.core.packages import install_command
from ftx.runs.new_run import NewRun
from ftx.runs.train_jsonl import EPOCHS_FILE, Epoch, epoch_lines
from ftx.training.state import EpochEnd

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def require_tensorboard() -> None:
    """Raise EnvironmentFault if the package is not installed: before training, not after the first epoch."""
    if find_spec("tensorboard") is None:
        raise EnvironmentFault("train.tensorboard needs the tensorboard package", fix=install_command("tensorboard"))


@contextmanager
def epoch_log(
    run: NewRun | None, epochs: Sequence[Epoch], *, tensorboard: bool
) -> Iterator[Callable[[EpochEnd], None]]:
    """A function to call with each epoch after it was added to ``epochs``, which contains those before a stop as well.

    It writes ``reports/train.jsonl``, complete at any time, and ``reports/tensorboard/`` if ``tensorboard``. Epochs of
    an earlier process, which may have ended before it wrote them, are written at once. Without a run, which another
    process writes, it does nothing.
    """
    if run is None:
        yield lambda _end: None
        return
    with ExitStack() as opened:
        curves = _Curves(run, opened) if tensorboard else None

        def write(added: Sequence[Epoch]) -> None:
            write_atomic(run.folder / EPOCHS_FILE, epoch_lines(epochs))
            if curves is not None:
                curves.draw(added)

        if epochs:
            write(epochs)
        yield lambda end: write([end.epoch])


class _Curves:
    """TensorBoard's file, opened with the first epoch to draw: the run has its name by then."""

    def __init__(self, run: NewRun, opened: ExitStack) -> None:
        self._run, self._opened = run, opened

    @cached_property
    def _writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier process drew is drawn again.
        folder = self._run.folder / "reports" / "tensorboard"
        return self._opened.enter_context(SummaryWriter(str(folder), purge_step=1))

    def draw(self, epochs: Sequence[Epoch]) -> None:
        for epoch in epochs:
            scalars = {"loss/train": epoch.loss, "loss/val": epoch.val_loss, "lr": epoch.lr}
            scalars |= {f"val/{name}": value for name, value in epoch.metrics.items()}
            if epoch.smoothed is not None:
                scalars["val/smoothed"] = epoch.smoothed
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()
