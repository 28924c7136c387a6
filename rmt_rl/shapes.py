"""The letters that name tensor axes, and one check for module borders. Nobody invents another letter.

    B rows (parallel environments)   T steps in a rollout     S steps in a segment
    M memory tokens                  L layers   H heads       D width   A actions
    P pieces (parts of segments that are processed side by side)

A suffix gives the axes in order: `x_BTD` is [rows, steps, width].
"""

from __future__ import annotations

import torch


def check(x: torch.Tensor, axes: str, **sizes: int) -> None:
    """Raise ValueError unless `x` has one axis for each letter, of the sizes that are named.

    check(x, "B T D", D=64) accepts [3, 5, 64] and refuses [3, 64].
    """
    letters = axes.split()
    expected = [sizes.get(letter) for letter in letters]
    fits = x.dim() == len(letters) and all(e in (None, n) for e, n in zip(expected, x.shape, strict=True))
    if not fits:
        wanted = ", ".join(
            letter if e is None else f"{letter}={e}" for letter, e in zip(letters, expected, strict=True)
        )
        raise ValueError(f"found a tensor of shape {tuple(x.shape)}; expected [{wanted}]")
