"""The processes that train one model together, and what they tell each other.

torchrun starts them and says who is who (RANK, WORLD_SIZE, LOCAL_RANK); gloo, or NCCL between GPUs, carries what they
tell, and torch's DistributedDataParallel the gradients. A process that was started alone is a world of one, in which
nothing is exchanged and ``torch.distributed`` is not touched.

Source: torch.distributed and torchrun, docs.pytorch.org; PyTorch Distributed, arXiv:2006.15704.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ftx.core import one_voice
from ftx.core.errors import TERMINATING, EnvironmentFault, InputError

Asked = Literal["interrupt", "terminate"] | None
_ASKED: tuple[Asked, ...] = (None, "interrupt", "terminate")
# What torch says where a process that it was connected to is no longer there.
_LOST = ("gloo", "Connection closed by peer", "Connection reset", "NCCL", "Broken pipe", "recvBytes", "sendBytes")
# While one process of a machine reads all images the others wait. A process that dies closes its connections, which all
# notice at once, and torchrun notices a machine that falls silent.
_LONGEST_WAIT = timedelta(days=7)
# Of the store, which is near or gone.
_ASKED_WITHIN = timedelta(seconds=5)
_Some = TypeVar("_Some")


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many; ``local`` counts those of this machine."""

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the run and says what happens."""
        return self.rank == 0

    def share(self, batch: Sequence[_Some]) -> Sequence[_Some]:
        """This process's part of a batch; none where there are fewer images than processes."""
        start, end = (len(batch) * one // self.world for one in (self.rank, self.rank + 1))
        return batch[start:end]

    def together(self, network: nn.Module) -> nn.Module:
        """The network with the first process's weights, whose gradients are from now on the mean over all."""
        if self.world == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        device = next(network.parameters()).device
        # Only where all of a network trains can a part of it stand beside the path to the logits.
        all_train = all(parameter.requires_grad for parameter in network.parameters())
        return DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=all_train
        )

    @contextmanager
    def exchanging_later(self, network: nn.Module) -> Iterator[None]:
        """Let gradients add up in each process until a backward outside of the block brings their sums together."""
        if self.world == 1:
            yield
            return
        from torch.nn.parallel import DistributedDataParallel

        assert isinstance(network, DistributedDataParallel)
        with network.no_sync():
            yield

    def agreed(self, asked: Asked, due: bool = False) -> tuple[Asked, bool]:
        """The strongest of what the processes were asked by signals, and whether anything is due in any of them."""
        if self.world == 1:
            return asked, due
        import torch.distributed as dist

        # On the CPU: a GPU goes on computing meanwhile.
        told = torch.tensor([_ASKED.index(asked), int(due)])
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return _ASKED[int(told[0])], bool(told[1])

    def sum_to_first(self, total: Tensor) -> None:
        """Give the first process the sum of a tensor over all, and the others zeros: the sum stays what it was."""
        if self.world > 1:
            import torch.distributed as dist

            dist.reduce(total, 0)
            if not self.leads:
                total.zero_()

    def lay_first(self, module: nn.Module) -> None:
        """Give all processes the first one's statistics of batches, which each takes of its own part."""
        if self.world > 1:
            import torch.distributed as dist

            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def of_first(self, value: _Some) -> _Some:
        """What the first process has."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        told: list[Any] = [value if self.leads else None]
        dist.broadcast_object_list(told)
        return told[0]

    def gathered(self, value: _Some) -> list[_Some]:
        """What each process has, in their order."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def agree_on(self, what: str, value: object, fix: str) -> None:
        """Raise InputError, in all processes, where one has something else than the first."""
        values = self.gathered(str(value))
        others = [rank for rank, one in enumerate(values) if one != values[0]]
        if others:
            raise InputError(
                f"the processes of this training have different {what}",
                found=f"rank 0: {values[0][:200]}; rank {others[0]}: {values[others[0]][:200]}",
                fix=fix,
            )

    @contextmanager
    def first_of_machine_first(self) -> Iterator[None]:
        """Let one process of each machine go ahead: what it keeps on disk the others find."""
        if self.local:
            self.wait()
        yield
        if not self.local:
            self.wait()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started, for as long as the block lasts; alone where it started none.

    Where the block fails in one process, that one says why, and the others, which then miss it, nothing.
    Raises: EnvironmentFault if another process is lost.
    """
    if not one_voice.started_together():
        yield ALONE
        return
    import torch.distributed as dist

    ranks = Ranks(*(int(os.environ[name]) for name in one_voice.NUMBERS))
    gpus = torch.cuda.device_count()
    if 0 < gpus < ranks.local_world:
        raise InputError(
            "there are more processes than GPUs",
            found=f"{ranks.local_world} and {gpus}",
            fix=f"--nproc-per-node {gpus}",
        )
    if gpus:
        torch.cuda.set_device(ranks.local)
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads(ranks))
    ours = not dist.is_initialized()  # a program that trains by the library may have met the others before
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_LONGEST_WAIT)
    try:
        yield ranks
    except BaseException as error:
        lost = _lost(error)
        if lost is not None:
            _be_deaf_to_signals()
        # What all were told by a signal is the first one's to say.
        told_to_all = lost is None and isinstance(error, KeyboardInterrupt)
        one_voice.let((ranks.leads or not told_to_all) and _is_first_to_say(ranks.rank))
        if lost is not None:
            raise lost from error
        raise
    finally:
        if ours:
            dist.destroy_process_group()
        torch.set_num_threads(threads)


def _be_deaf_to_signals() -> None:
    """Hear no signal any more.

    A process that has lost another ends in any case. torchrun asks it to at the same time, which must not come between
    the error and what is said of it.
    """
    if threading.current_thread() is threading.main_thread():
        for number in TERMINATING:
            signal.signal(number, signal.SIG_IGN)


def _threads(ranks: Ranks) -> int:
    """As many as its share of the cores, unless the user has said otherwise: torchrun says 1 where nobody has."""
    said = os.environ.get("OMP_NUM_THREADS", "1")
    return int(said) if said.isdecimal() and said != "1" else max(len(os.sched_getaffinity(0)) // ranks.local_world, 1)


def _lost(error: BaseException) -> EnvironmentFault | None:
    """What a broken connection means; None for any other error.

    torchrun then ends the others by a signal, which may come while the error of the connection is on its way.
    """
    if isinstance(error, KeyboardInterrupt) and error.__context__ is not None:
        return _lost(error.__context__)
    if not isinstance(error, RuntimeError) or not any(sign in str(error) for sign in _LOST):
        return None
    return EnvironmentFault(
        "another process of this training was lost",
        found=str(error).splitlines()[0].partition(". ")[0][:200],
        fix="look at what it said, and go on from the last checkpoint: torchrun … -m ftx train --resume RUN",
    )


def _is_first_to_say(rank: int) -> bool:
    """Whether no other process has said yet what went wrong: asked of the store by which they met."""
    from torch._C._distributed_c10d import TCPStore  # what torch.distributed.TCPStore is

    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False, timeout=_ASKED_WITHIN
        )
        return store.add(f"ftx said {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (RuntimeError, ValueError):  # the first process kept it, and is gone
        return rank == 1
