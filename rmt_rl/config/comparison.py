"""Options of `python -m rmt_rl.compare` beside those of its runs."""

from __future__ import annotations

from dataclasses import dataclass

from rmt_rl.config.fields import Config, option

#: About the parameters of every network of a comparison, unless the user says otherwise.
PARAMS = 110_000


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
        form=("a number of seeds, or seeds separated by commas", r"[0-9]+(,[0-9]+)*|\[[0-9]+(,[0-9]+)*\]"),
    )
    params: int | None = option(
        PARAMS,
        "about this number of parameters for every policy, unless policy.width or policy.params is given; none = the policies'"
        " own widths",
        low=1,
        high=10**10,
    )
    workers: int | None = option(
        None, "cells that run at the same time, each in a process; null = one per CPU core", low=1, high=1_024
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


CompareConfig.name, BudgetConfig.name = "", "budget"
