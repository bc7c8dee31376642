"""The processes that train one model together, and what they exchange.

torchrun starts them and gives each its numbers (RANK, WORLD_SIZE, LOCAL_RANK). They exchange messages by gloo, or NCCL
between GPUs, and gradients by torch's DistributedDataParallel. One process is a world of one, which exchanges nothing
and initialises no process group.

Source: torch.distributed and torchrun, docs.pytorch.org; PyTorch Distributed, arXiv:2006.15704.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ftx.core import rank_zero_output
from ftx.core.errors import EnvironmentFault, InputError, listed
from ftx.core.processors import cores
from ftx.training.signals import StopRequest

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_REQUESTS: tuple[StopRequest, ...] = (None, "interrupt", "terminate")
# In torch's errors if a process that it was connected to no longer exists.
_LOST = ("gloo", "Connection closed by peer", "Connection reset", "NCCL", "Broken pipe", "recvBytes", "sendBytes")
# A process that dies closes its connections, which all notice at once; an unreachable machine does not. Before they
# have met, and in a step, the others wait this long: they do the same work, except for writing a checkpoint.
_LONGEST_STEP = timedelta(minutes=10)
# Outside of steps one process of a machine may read all images while the others wait.
_LONGEST_WAIT = timedelta(days=7)
_Some = TypeVar("_Some")


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many; ``local`` counts those of this machine.

    ``patient`` is the process group for messages outside of steps, with a long timeout.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    patient: ProcessGroup | None = field(default=None, compare=False, repr=False)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the run and prints progress."""
        return self.rank == 0

    def part(self, batch: Sequence[_Some]) -> Sequence[_Some]:
        """This process's part of a batch; none where there are fewer images than processes."""
        start, end = (len(batch) * one // self.world for one in (self.rank, self.rank + 1))
        return batch[start:end]

    def largest_part(self, batch_size: int) -> int:
        """How many images of a batch one process has at most."""
        return -(-batch_size // self.world)

    def together(self, network: nn.Module) -> nn.Module:
        """The network with the first process's weights, whose gradients are from now on the mean over all."""
        if self.world == 1:
            return network
        self.wait()
        device = next(network.parameters()).device
        # Only if all of a network trains can it have parameters that the logits do not depend on.
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
        assert isinstance(network, DistributedDataParallel)
        with network.no_sync():
            yield

    def agreed(self, requested: StopRequest, due: bool = False) -> tuple[StopRequest, bool]:
        """The strongest stop request of all processes, and whether a checkpoint is due in any of them."""
        if self.world == 1:
            return requested, due
        # On the CPU: a GPU keeps computing meanwhile.
        message = torch.tensor([_REQUESTS.index(requested), int(due)])
        dist.all_reduce(message, dist.ReduceOp.MAX)
        return _REQUESTS[int(message[0])], bool(message[1])

    def sum_to_first(self, total: Tensor) -> None:
        """Give the first process the sum of a tensor over all, and the others zeros: the sum stays what it was."""
        if self.world > 1:
            dist.reduce(total, 0)
            if not self.leads:
                total.zero_()

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's batch statistics, which each computes of its own part."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def of_first(self, value: _Some) -> _Some:
        """What the first process has."""
        if self.world == 1:
            return value
        message: list[Any] = [value if self.leads else None]
        dist.broadcast_object_list(message, group=self.patient)
        return message[0]

    def tensors_of_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the CPU by name, as the first process has them, without a copy of all on the way."""
        if self.world == 1:
            return tensors
        kinds = self.of_first([(name, one.shape, one.dtype) for name, one in tensors.items()])
        found = tensors if self.leads else {name: torch.empty(shape, dtype=dtype) for name, shape, dtype in kinds}
        for name, _, _ in kinds:
            if found[name].numel():
                dist.broadcast(found[name].view(-1).view(torch.uint8), 0, group=self.patient)
        return found

    def gathered(self, value: _Some) -> list[_Some]:
        """What each process has, in their order."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.patient)
        return found

    def agree_on(self, setting: str, value: Mapping[str, object], fix: str) -> None:
        """Raise InputError, in all processes, if one has another value than the first."""
        first, *others = self.gathered({key: str(one) for key, one in value.items()})
        for rank, theirs in enumerate(others, start=1):
            differ = [key for key in {**first, **theirs} if first.get(key) != theirs.get(key)]
            if differ:
                found = [f"{key}: {first.get(key)} in rank 0, {theirs.get(key)} in rank {rank}" for key in differ]
                raise InputError(
                    f"the processes of this training run have different {setting}", found=listed(found), fix=fix
                )

    @contextmanager
    def first_of_machine_first(self) -> Iterator[None]:
        """Let one process of each machine run before the others, which find what it keeps on disk."""
        if self.local:
            self.wait()
        yield
        if not self.local:
            self.wait()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier(group=self.patient)


ONE_PROCESS = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started, for as long as the block lasts; one process if it started none.

    If the block fails in one process, that one prints why, and the others, which then lose it, nothing.
    Raises: EnvironmentFault if another process is lost.
    """
    if not rank_zero_output.is_distributed():
        yield ONE_PROCESS
        return
    rank, world, local, local_world = (int(os.environ[name]) for name in rank_zero_output.NUMBERS)
    ranks = Ranks(rank, world, local, local_world)
    threads = torch.get_num_threads()
    ours = not dist.is_initialized()  # a program that trains by the library may have met the others before
    try:
        torch.set_num_threads(_threads(ranks))
        yield replace(ranks, patient=_met(ranks, ours))
    except BaseException as error:
        lost = _lost(error)
        # A signal reaches all of them: only the first prints it.
        by_signal = lost is None and isinstance(error, KeyboardInterrupt)
        rank_zero_output.allow_error_output((ranks.leads or not by_signal) and rank_zero_output.claim_error_output())
        if lost is not None:
            raise lost from error
        raise
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)


def _met(ranks: Ranks, ours: bool) -> ProcessGroup:
    """Meet the other processes, and return the process group for messages outside of steps.

    Raises: InputError if there are more processes than GPUs; EnvironmentFault if the others do not come.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < ranks.local_world:
        raise InputError(
            f"--nproc-per-node must be at most {gpus}, the number of GPUs",
            found=str(ranks.local_world),
            fix=f"run the same command with --nproc-per-node {gpus}",
        )
    if gpus:
        torch.cuda.set_device(ranks.local)
    try:
        if ours:
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_LONGEST_STEP)
        return cast("ProcessGroup", dist.new_group(timeout=_LONGEST_WAIT, backend="gloo"))
    except (RuntimeError, ValueError) as error:
        raise EnvironmentFault(
            "the processes of this training run cannot reach each other",
            found=_first_sentence(error),
            fix="read the errors of the other processes, and check that each machine reaches the address and port of "
            "the first one",
        ) from error


def _threads(ranks: Ranks) -> int:
    """A process's part of the cores, unless the user has set a number: torchrun sets 1 if nobody has."""
    given = os.environ.get("OMP_NUM_THREADS", "1")
    return int(given) if given.isdecimal() and given != "1" else max(cores() // ranks.local_world, 1)


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
        found=_first_sentence(error),
        fix="read its error, then resume from the last checkpoint: torchrun … -m ftx train --resume RUN",
    )


def _first_sentence(error: BaseException) -> str:
    """Of what torch says at length."""
    return str(error).splitlines()[0].partition(". ")[0][:200]
