"""Runs checks with a deadline, and what the checks of an environment share: random actions, comparison, exceptions."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rmt_rl.envs.base import Obs, TorchVectorEnv

#: Makes a new environment with that many rows.
Make = Callable[[int], TorchVectorEnv]

#: Rows and steps of most checks.
ROWS, STEPS = 4, 60
#: Seconds after which a check fails.
DEADLINE = 60
#: Random steps after which a check stops waiting for the end of an episode.
PATIENCE = 2_000


class Broken(Exception):
    """A claim does not hold; the message is what was found."""


class Doubtful(Exception):
    """Something that works but that gymnasium advises against; the message is what was found."""


class NotChecked(Exception):
    """A claim could not be checked; the message is the reason."""


@dataclass(frozen=True)
class Check:
    """One claim, and the function that raises `Broken` where it does not hold."""

    claim: str
    run: Callable[[Make], None]


def actions(env: TorchVectorEnv, steps: int = STEPS) -> Iterator[torch.Tensor]:
    """[B, ...] random actions of every step. Those of a row do not depend on the number of rows; half of them repeat the
    previous one, so that random walks go further."""
    space = env.single_action_space
    draws = []
    for row in range(env.num_envs):
        space.seed(row)
        rng = np.random.default_rng(row)
        chosen: list[np.ndarray] = []
        for _ in range(steps):
            chosen.append(chosen[-1] if chosen and rng.random() < 0.5 else np.asarray(space.sample()))
        draws.append(np.stack(chosen))
    for at_once in np.stack(draws, axis=1):
        yield torch.from_numpy(at_once).to(env.device)


def parts(obs: Obs) -> dict[str, torch.Tensor]:
    return obs if isinstance(obs, dict) else {"observation": obs}


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in a fixed order."""
    if isinstance(value, torch.Tensor):
        return [value]
    inside = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    return [t for item in inside for t in tensors(item)] if isinstance(inside, tuple | list) else []


def same(a: Any, b: Any) -> bool:
    """Whether all tensors in `a` and `b` are equal; false where there are none, so that an empty comparison cannot pass."""
    left, right = tensors(a), tensors(b)
    return bool(left) and len(left) == len(right) and all(map(_equal, left, right))


def _equal(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return torch.equal(x, y) or (x.is_floating_point() and bool(torch.isclose(x, y, 0, 0, equal_nan=True).all()))


def playing(env: TorchVectorEnv, steps: int = STEPS, **reset: Any) -> Iterator[Any]:
    """The results of a reset and some steps, one after the other."""
    yield env.reset(**reset)
    for action in actions(env, steps):
        yield env.step(action)


def play(env: TorchVectorEnv, steps: int = STEPS, **reset: Any) -> list[Any]:
    """The results of a reset and some steps."""
    return list(playing(env, steps, **reset))


def same_episodes(one: Iterator[Any], other: Iterator[Any]) -> bool:
    """Whether two environments that are being played give the same results; plays up to the first difference only."""
    return all(same(a, b) for a, b in zip(one, other, strict=True))


def expect(holds: bool, found: str) -> None:
    if not holds:
        raise Broken(found)


def describe_type(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} values"
    return (
        f"an array {value.dtype} {value.shape}"
        if isinstance(value, np.ndarray)
        else f"{type(value).__name__} {brief(value)}"
    )


def brief(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:100]}…"


@dataclass(frozen=True)
class Result:
    """The result of one check.

    verdict: "ok", "wrong", "warning" or "not checked"; found: the finding or the reason, empty if "ok".
    """

    claim: str
    verdict: str
    found: str = ""


def run_check(claim: str, run: Callable[[], None]) -> Result:
    """Run one check. Any exception of the environment is a finding."""
    try:
        with _deadline():
            run()
    except Broken as error:
        return Result(claim, "wrong", str(error))
    except Doubtful as error:
        return Result(claim, "warning", str(error))
    except NotChecked as error:
        return Result(claim, "not checked", str(error))
    except (Exception, SystemExit) as error:
        return Result(claim, "wrong", f"{type(error).__name__}: {brief(error)} ({_where(error)})")
    return Result(claim, "ok")


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raise `Broken` after DEADLINE seconds; without effect outside the main thread and on platforms without timers."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(signum: int, frame: Any) -> None:
        raise Broken(f"no result within {DEADLINE} s; stopped at {frame.f_code.co_filename}:{frame.f_lineno}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _where(error: BaseException) -> str:
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else "nowhere"


def row_of(obs: Obs, row: int) -> list[torch.Tensor]:
    return [part[row] for part in tensors(obs)]


def short(value: Any) -> str:
    text = ", ".join(str(tensor.tolist()) for tensor in tensors(value))
    return text if len(text) <= 100 else f"{text[:100]}…"
