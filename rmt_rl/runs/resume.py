"""Where a run starts or continues: its newest checkpoint, or the beginning."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.files import fsync, sha256
from rmt_rl.common.state import check_count
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.config.files import load_yaml, part_from_dict, save_yaml
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.policies.moments import ActionScale
from rmt_rl.policies.spec import RULES, check_rules
from rmt_rl.runs.checkpoints import Checkpoints
from rmt_rl.runs.folder import check_run_folder, read_result
from rmt_rl.runs.metrics import read_rows, read_start


@dataclasses.dataclass(frozen=True)
class ResumePoint:
    """The newest complete checkpoint of a run, or its beginning.

    tree: the saved values; None at the beginning. metrics: bytes of metrics.jsonl at the checkpoint. damaged: one message per
    damaged later checkpoint. returns: the target return of the policy. best: step and score of the best evaluation.
    rules: those by which the policy was made (`PolicySpec`).
    """

    checkpoints: Checkpoints
    steps: int = 0
    tree: Any = None
    manifest: dict[str, Any] | None = None
    damaged: tuple[str, ...] = ()
    metrics: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    returns: ReturnConditioning | None = None
    best: dict[str, Any] | None = None
    rules: int = RULES

    @staticmethod
    def new(folder: Path) -> ResumePoint:
        """The beginning of a run."""
        return ResumePoint(Checkpoints(folder))

    @staticmethod
    def newest(folder: Path, end: int = 0, lock: bool = True) -> ResumePoint:
        """The newest complete checkpoint; raises ConfigError where there is none, or where the run is finished.

        end: the step at which the run shall end; after its own end to continue a finished run. lock: false in processes that
        only read.
        """
        check_run_folder(folder)
        checkpoints = Checkpoints(folder, lock)
        try:
            return ResumePoint._newest(checkpoints, end)
        except BaseException:
            checkpoints.close()
            raise

    @staticmethod
    def _newest(checkpoints: Checkpoints, end: int) -> ResumePoint:
        folder = checkpoints.run
        result = folder / "result.json"
        own = load_yaml(folder / "config.yaml", trust=True).steps  # nothing is imported for it
        if end <= own and result.is_file() and not read_result(result).get("interrupted"):
            raise ConfigError(
                f"resume={folder}: the run is finished; init={folder} starts a new run with its weights, and steps=<more than"
                f" {own}> beside resume continues it"
            )
        steps, tree, manifest, damaged = checkpoints.newest()
        if own < end <= steps:
            raise ConfigError(f"steps={end}: the run in {folder} has taken {steps} steps already; expected more")
        try:
            metrics, wall_s, cpu_s = (
                check_count("metrics", tree["metrics"]),
                _seconds(tree, "wall"),
                _seconds(tree, "cpu"),
            )
            returns = None if tree["returns"] is None else part_from_dict("returns", tree["returns"])
            best = _best(tree.get("best"))  # absent in checkpoints of format 1
            rules = check_rules(tree.get("rules", 1))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise _does_not_fit(checkpoints, steps, error) from error
        file = folder / "metrics.jsonl"
        found = file.stat().st_size if file.is_file() else -1
        if not 0 <= metrics <= found:
            found_text = "is missing" if found < 0 else f"has {found:,} bytes"
            raise ConfigError(f"{file}: {found_text}, and had {metrics:,} at checkpoints/step-{steps}; restore it")
        rows = read_start(file, metrics)
        if tree.get("metrics_sha256") not in (None, sha256(rows)):  # absent in checkpoints of format 1
            raise ConfigError(
                f"{file}: is not what was written until checkpoints/step-{steps} (sha256); restore the file"
            )
        read_rows(file, rows)
        return ResumePoint(
            checkpoints, steps, tree, manifest, tuple(damaged), metrics, wall_s, cpu_s, returns, best, rules
        )

    def action_scale(self, env: TorchVectorEnv) -> ActionScale | None:
        """The units of the policy's actions; raises ConfigError where they are not those of any action of `env`."""
        try:
            # absent in checkpoints of earlier versions, whose networks count from 0 in units of 1
            return ActionScale.from_json(self.tree.get("action_scale"), math.prod(env.single_action_space.shape or ()))
        except ConfigError as error:
            raise _does_not_fit(self.checkpoints, self.steps, error) from error

    def restore(self, learner: Any) -> None:
        """Load the saved state into `learner`; raises ConfigError where it does not fit."""
        try:
            learner.load_state_dict(self.tree["learner"])
        except (ConfigError, RunError):
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise _does_not_fit(self.checkpoints, self.steps, error) from error

    def move_end(self, end: int) -> None:
        """Write the step at which the run shall end to its config.yaml; the result until now becomes result-<steps>.json."""
        folder = self.checkpoints.run
        own = load_yaml(folder / "config.yaml", trust=True)  # its module is imported already
        if end <= own.steps:
            return
        # the result first: a process that dies in between leaves a run that can be resumed
        if (folder / "result.json").exists():
            (folder / "result.json").replace(folder / f"result-{self.steps}.json")
        save_yaml(dataclasses.replace(own, steps=end), folder / ".config.yaml")
        fsync(folder / ".config.yaml")
        (folder / ".config.yaml").replace(folder / "config.yaml")
        fsync(folder)

    def resume_messages(self, manifest: dict[str, Any]) -> list[str]:
        """What to print: where the run continues, which checkpoints are damaged, and whether the bits stay the same."""
        if self.manifest is None:
            return []
        lines = [f"not used: {damaged}" for damaged in self.damaged]
        lines.append(f"continuing from checkpoints/step-{self.steps}")
        manifest = dict(manifest)
        end, own_end = manifest.pop("end"), self.manifest.get("end")
        if self.manifest.get("config") != manifest.pop("config"):
            text = (self.checkpoints.run / "config.yaml").read_text(encoding="utf-8")
            as_before = re.sub(r"(?m)^steps: .*$", f"steps: {own_end}", text)
            if sha256(as_before.encode()) == self.manifest.get("config"):
                lines.append(
                    f"the run ended at step {own_end} and now ends at step {end}; schedules follow the new end, so the step size"
                    " rises where it was decayed"
                )
            else:
                lines.append("config.yaml was edited: the run continues, but not to the same bits")
        before = {"processes": 1} | self.manifest  # absent in checkpoints of earlier versions
        lines += [
            f"{key} was {before.get(key)} and is {now}: the run continues, but not to the same bits"
            for key, now in manifest.items()
            if before.get(key) != now
        ]
        if before["processes"] != manifest["processes"]:
            lines.append("with another number of processes all rows start new episodes")
        if manifest["resume"] == "from_reset":
            lines.append("the environment cannot save its state: all rows start new episodes (resume: from_reset)")
        return lines


def _seconds(tree: dict[str, Any], clock: str) -> float:
    value = float(tree[f"{clock}_s"])
    if not 0 <= value < math.inf:
        raise ValueError(f"{clock}_s is {value}; expected seconds")
    return value


def _best(best: Any) -> dict[str, Any] | None:
    """The best evaluation before the checkpoint; raises where it is none."""
    if best is None:
        return None
    check_count("best.steps", best["steps"])
    success, mean_return = best["success"], float(best["mean_return"])
    if not (success is None or 0 <= success <= 1) or not math.isfinite(mean_return):
        raise ValueError(f"best has success {success} and mean return {mean_return}")
    return dict(best)


def _does_not_fit(checkpoints: Checkpoints, steps: int, error: Exception) -> ConfigError:
    return ConfigError(
        f"resume={checkpoints.run}: checkpoints/step-{steps} does not fit this version of rmt_rl or the run's config.yaml"
        f" ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    )
