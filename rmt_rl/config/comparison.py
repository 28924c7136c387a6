"""Options of `python -m rmt_rl.compare` beside those of its runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from rmt_rl.config.fields import Config, option

#: About the parameters of every network of a comparison, unless the user says otherwise.
PARAMS = 110_000
SEEDS = ("a number of seeds, or seeds separated by commas", r"[0-9]+(,[0-9]+)*|\[[0-9]+(,[0-9]+)*\]")


def _params_option() -> Any:
    return option(
        PARAMS,
        "about this number of parameters for every policy, unless policy.width or policy.params is given; none = the policies'"
        " own widths",
        low=1,
        high=10**10,
    )


@dataclass(frozen=True)
class CompareConfig(Config):
    """One comparison of policies."""

    out: str = option(
        "comparison",
        "folder of the comparison; an existing one is continued: finished cells are not repeated",
        form=("the path of a folder", r".+"),
    )
    seeds: str = option(
        "5",
        "number of seeds, 5 = 0,1,2,3,4; or the seeds themselves, as 3,7 or [3]",
        form=SEEDS,
    )
    params: int | None = _params_option()
    workers: int | None = option(
        None,
        "cells that run at the same time; null = one per CPU core, with executor=slurm or ray all",
        low=1,
        high=1_024,
    )
    executor: str = option(
        "local",
        "where cells run: local = in processes on this machine, slurm = each as a job of a cluster, with the options slurm.*,"
        " ray = on a Ray cluster, with the options ray.*",
        choices=("local", "slurm", "ray"),
    )
    retry: bool = option(False, "run failed cells again")
    report: str | None = option(
        None,
        "folders of comparisons, separated by commas, whose results go into one report in out=; nothing is trained",
        form=("folders separated by commas", r"[^,]+(,[^,]+)*"),
    )
    trust: bool = option(False, "the comparison's folder may name modules to import, which can run any code")


@dataclass(frozen=True)
class BudgetConfig(Config):
    """What every cell of a comparison may use."""

    steps: int | None = option(
        None, "environment steps of every cell; null = steps=, or the task's own", low=1, high=10**12
    )
    cpu_s: float | None = option(
        None, "CPU-seconds after which the training of a cell stops, also before its last step", above=0, high=1e9
    )


@dataclass(frozen=True)
class SlurmConfig(Config):
    """The jobs of executor=slurm."""

    partition: str | None = option(
        None, "partition of the jobs; null = the cluster's own choice", form=("a name without spaces", r"\S+")
    )
    minutes: int = option(
        240, "minutes of a job; one that needs more saves, is queued again and continues", low=1, high=1_000_000
    )
    cpus: int = option(1, "CPU cores of a job", low=1, high=1_024)
    options: dict[str, Any] = option(
        {}, "more options of sbatch, by their names in submitit, such as {account: mine, gres: 'gpu:1', mem: 4GB}"
    )
    cluster: str = option(
        "slurm", "local = processes on this machine instead of a cluster, to try it", choices=("slurm", "local")
    )


@dataclass(frozen=True)
class RayConfig(Config):
    """What every cell of executor=ray reserves on the cluster of RAY_ADDRESS, or on one that is started on this machine."""

    cpus: float = option(
        1.0, "CPU cores of a cell, for Ray's scheduler; also give threads= to use more", low=0, high=1_024
    )
    gpus: float = option(0.0, "GPUs of a cell; without them it sees none", low=0, high=1_024)


@dataclass(frozen=True)
class TuneConfig(Config):
    """One search for settings."""

    out: str = option(
        "tune",
        "folder of the search; an existing one is continued: finished trials are not repeated",
        form=("the path of a folder", r".+"),
    )
    trials: int = option(20, "trials for each task and policy; more than before continue a search", low=1, high=100_000)
    seeds: str = option(
        "1",
        "seeds of each trial, one after the other; a trial is scored by their mean",
        form=SEEDS,
    )
    params: int | None = _params_option()
    workers: int | None = option(
        None,
        "trials that run at the same time; null = one per CPU core; executor=slurm or ray needs a number",
        low=1,
        high=1_024,
    )
    executor: str = option(
        "local",
        "where trials run: local = in processes on this machine, slurm = as jobs of a cluster, with the options slurm.*, ray ="
        " on a Ray cluster, with the options ray.*",
        choices=("local", "slurm", "ray"),
    )
    pruning: bool = option(True, "stop a trial whose evaluations are below the median of the trials before")

    def problems(self) -> Iterator[str]:
        """What does not fit together."""
        if self.executor != "local" and self.workers is None:
            yield (
                f"executor={self.executor}: workers= is missing; expected the number of trials at a time: each is chosen by the"
                " results of those that have ended"
            )


CompareConfig.name, BudgetConfig.name, SlurmConfig.name, RayConfig.name, TuneConfig.name = (
    "",
    "budget",
    "slurm",
    "ray",
    "",
)
#: The jobs of a comparison or a search; None = processes on this machine.
Cluster: TypeAlias = SlurmConfig | RayConfig | None
