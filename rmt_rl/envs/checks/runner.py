"""Runs the checks of an environment."""

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

Make = Callable[[int], TorchVectorEnv]


ROWS, STEPS = 4, 60


#: Seconds after which a check is given up.
DEADLINE = 60


#: Random steps of a row after which the search for the end of an episode is given up.
PATIENCE = 2_000


class Broken(Exception):
    """A claim does not hold; the message says what was found."""


class NotChecked(Exception):
    """A claim could not be looked at; the message says why."""


@dataclass(frozen=True)
class Check:
    """One claim, and the function that raises `Broken` where it does not hold."""

    claim: str
    run: Callable[[Make], None]


def actions(env: TorchVectorEnv, steps: int = STEPS) -> Iterator[torch.Tensor]:
    """Random actions; a row's do not depend on how many rows there are. Half of the time a row does what it did before."""
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
    """All tensors in nested tuples, lists and dictionaries, in one order."""
    if isinstance(value, torch.Tensor):
        return [value]
    inside = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    return [t for item in inside for t in tensors(item)] if isinstance(inside, tuple | list) else []


def same(a: Any, b: Any) -> bool:
    left, right = tensors(a), tensors(b)
    # nothing is not the same as nothing: a comparison that compares no tensor may not pass
    return bool(left) and len(left) == len(right) and all(map(_equal, left, right))


def _equal(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return torch.equal(x, y) or (x.is_floating_point() and bool(torch.isclose(x, y, 0, 0, equal_nan=True).all()))


def play(env: TorchVectorEnv, steps: int = STEPS, **reset: Any) -> list[Any]:
    """All that a reset and some steps hand out."""
    return [env.reset(**reset), *(env.step(action) for action in actions(env, steps))]


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
    """What one check found: verdict "ok", "wrong" or "not checked", and a sentence but for "ok"."""

    claim: str
    verdict: str
    found: str = ""


def run_check(claim: str, run: Callable[[], None]) -> Result:
    try:
        with _deadline():
            run()
    except Broken as error:
        return Result(claim, "wrong", str(error))
    except NotChecked as error:
        return Result(claim, "not checked", str(error))
    except (Exception, SystemExit) as error:  # whatever a stranger's environment raises is a finding
        return Result(claim, "wrong", f"{type(error).__name__}: {brief(error)} ({_where(error)})")
    return Result(claim, "ok")


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raise `Broken` in what takes too long; only the main thread of a Unix program can be interrupted."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(signum: int, frame: Any) -> None:
        raise Broken(f"nothing came back within {DEADLINE} s; it was at {frame.f_code.co_filename}:{frame.f_lineno}")

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
