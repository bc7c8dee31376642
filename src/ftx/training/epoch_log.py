"""What a training writes about itself while it runs: a line an epoch, and curves for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from ftx.core.errors import EnvironmentFault
from ftx.core.files import write_atomic
from ftx.training.loop import Epoch


def require_tensorboard() -> None:
    """Raise EnvironmentFault if the package is not installed: before training, not after the first epoch."""
    if find_spec("tensorboard") is None:
        raise EnvironmentFault(
            "train.tensorboard needs the tensorboard package", mend="pip install 'ftx-vit[tensorboard]'"
        )


@contextmanager
def logging(folder: Path, *, tensorboard: bool) -> Iterator[Callable[[Epoch], None]]:
    """Give what takes each epoch: ``train.jsonl``, whole at any time, and ``tensorboard/`` if wanted."""
    lines: list[str] = []

    def write_line(epoch: Epoch) -> None:
        lines.append(json.dumps(asdict(epoch)) + "\n")
        write_atomic(folder / "train.jsonl", "".join(lines).encode())

    if not tensorboard:
        yield write_line
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def write_both(epoch: Epoch) -> None:
            write_line(epoch)
            scalars = {"loss/train": epoch.loss, "loss/val": epoch.val_loss, "lr": epoch.lr}
            scalars |= {f"val/{name}": value for name, value in epoch.metrics.items()}
            for name, value in scalars.items():
                writer.add_scalar(name, value, epoch.epoch)
            writer.flush()

        yield write_both
