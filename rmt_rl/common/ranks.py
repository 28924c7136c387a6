"""The processes of a run that torchrun has started: each has a share of the rows, and all have the same weights.

    torchrun --nproc-per-node 2 -m rmt_rl.train env=tmaze

Every process draws the same random numbers for all rows and keeps those of its own ones, so that an episode does not depend on
the number of processes. What depends on all rows is gathered or summed here; alone, nothing is changed.

Not torch's DistributedDataParallel: it wraps `forward`, and learning calls `unroll`; and which parameters get a gradient depends
on the data.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import distributed

from rmt_rl.common.errors import ConfigError, RunError

#: A process that waits for the others for longer than this ends: one of them hangs.
PATIENCE = datetime.timedelta(minutes=30)


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process among those of its run.

    number: 0 is the first process, which evaluates, logs and saves. count: how many there are. shares: how many equal shares the
    rows of a minibatch are drawn from; as many as processes, unless a test wants the minibatches of more.
    """

    number: int = 0
    count: int = 1
    shares: int = 1

    @property
    def first(self) -> bool:
        return self.number == 0

    def share(self, rows: int) -> slice:
        """Which of all rows this process has."""
        own = rows // self.count
        return slice(self.number * own, (self.number + 1) * own)

    def gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """The shares of all processes, which have the same shape, one behind the other along `dim`."""
        if self.count == 1:
            return x
        own = x.to(torch.uint8) if x.dtype == torch.bool else x  # gloo knows no bool
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(self.count)]
        self._call(distributed.all_gather, parts, own.contiguous())
        return torch.cat(parts, dim).to(x.dtype)

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of all processes."""
        if self.count > 1:
            self._call(distributed.all_reduce, x)
            x = x / self.count
        return x

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        return flag if self.count == 1 else bool(self.gather(torch.tensor([flag])).any())

    def agree(self, flag: bool) -> bool:
        """The flag of the first process."""
        return flag if self.count == 1 else bool(self.gather(torch.tensor([flag]))[0])

    def told(self, value: Any) -> Any:
        """The value of the first process."""
        values = [value]
        if self.count > 1:
            self._call(distributed.broadcast_object_list, values)
        return values[0]

    def collect(self, value: Any) -> list[Any]:
        """What every process has, in the first one; nothing in the others."""
        if self.count == 1:
            return [value]
        values = [None] * self.count if self.first else None
        self._call(distributed.gather_object, value, values)
        return values or []

    def check_rows(self, rows: int, minibatches: int) -> None:
        """Raises ConfigError where a minibatch would not have the same number of rows in every process."""
        if self.count > 1 and rows % (self.count * minibatches):
            raise ConfigError(
                f"algo.num_envs={rows}: {self.count} processes and {minibatches} minibatches need a multiple of"
                f" {self.count * minibatches}"
            )

    def _call(self, what: Callable[..., Any], *arguments: Any) -> None:
        try:
            what(*arguments)
        except RuntimeError as error:  # torch.distributed.DistError is one
            raise RunError(
                f"process {self.number} of {self.count}: another process of the run has ended or does not answer, see above; the"
                f" run continues from its newest checkpoint with resume=<its folder> ({' '.join(str(error).split())[:120]})"
            ) from error


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that torchrun has started, or that share a process group already; alone otherwise."""
    if not distributed.is_available():
        yield ALONE
        return
    if not distributed.is_initialized():
        if not (distributed.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1):
            yield ALONE
            return
        # any optimizer imports it; after the group was made, it would hold the group's threads until the interpreter ends, which
        # aborts then (torch 2.13)
        importlib.import_module("torch._dynamo")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_leave)  # one group for all runs of these processes: torchrun's store has the addresses of one
    if _FAILED:
        raise RunError(
            "an earlier run of these processes ended with an error, so that they are no longer in step; start all of them again"
        )
    count = distributed.get_world_size()
    try:
        yield Ranks(distributed.get_rank(), count, count)
    except BaseException:
        _FAILED.append(True)
        raise


#: Not empty after a run that ended with an error in this process: the others may wait for it in the middle of something.
_FAILED: list[bool] = []


def _leave() -> None:
    if distributed.is_initialized() and not _FAILED:  # after an error it would wait for the others
        distributed.destroy_process_group()


def own_device(device: torch.device, ranks: Ranks) -> torch.device:
    """The GPU of this process, where several processes of a machine are to use `cuda`."""
    if ranks.count == 1 or device.type != "cuda" or device.index is not None:
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if own.index >= torch.cuda.device_count():
        raise ConfigError(
            f"device=cuda: {own.index + 1} processes or more on a machine with {torch.cuda.device_count()} GPUs; start one for"
            " each GPU, or use device=cpu"
        )
    torch.cuda.set_device(own)
    return own
