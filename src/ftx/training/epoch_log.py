"""The log of a training while it runs: a line per epoch, and curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
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

        @cache
        def curves() -> SummaryWriter:
            """Opened with the first epoch: the run has its name by then. An earlier process' curves are drawn again."""
            from torch.utils.tensorboard import SummaryWriter

            folder = run.folder / "reports" / "tensorboard"
            return opened.enter_context(SummaryWriter(str(folder), purge_step=1))

        def write(added: Sequence[Epoch]) -> None:
            write_atomic(run.folder / EPOCHS_FILE, epoch_lines(epochs))
            for epoch in added if tensorboard else ():
                scalars = {"loss/train": epoch.loss, "loss/val": epoch.val_loss, "lr": epoch.lr}
                scalars |= {f"val/{name}": value for name, value in epoch.metrics.items()}
                if epoch.smoothed is not None:
                    scalars["val/smoothed"] = epoch.smoothed
                for name, value in scalars.items():
                    curves().add_scalar(name, value, epoch.epoch)
                curves().flush()

        if epochs:
            write(epochs)
        yield lambda end: write([end.epoch])
