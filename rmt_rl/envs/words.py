"""Whole numbers that numpy's generators would give one call at a time, for many generators at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Words:
    """The next 32-bit words of some generators, from which `below` makes numbers as Generator.integers, shuffle and choice do.

    ahead: how many words are drawn at a time. `close` gives back those that were not used.
    """

    def __init__(self, generators: Sequence[np.random.Generator], ahead: int) -> None:
        self._generators, self._ahead = generators, ahead
        self._before = [generator.bit_generator.state for generator in generators]
        self._used = np.zeros(len(generators), dtype=np.int64)
        self._words = np.empty((len(generators), 0), dtype=np.uint64)

    def below(self, n: int, rows: np.ndarray) -> np.ndarray:
        """[rows] the next number 0..n - 1 of these generators."""
        chosen, again = lemire(self._next(rows), n)
        while again.any():
            chosen[again], more = lemire(self._next(rows[again]), n)
            again[again] = more
        return chosen

    def close(self) -> None:
        """Leave every generator where it would be after its used words alone."""
        for generator, state, used in zip(self._generators, self._before, self._used.tolist(), strict=True):
            if used < self._words.shape[1]:
                generator.bit_generator.state = state
                draw_words(generator, used)

    def _next(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and int(self._used[rows].max()) >= self._words.shape[1]:
            more = np.stack([draw_words(generator, self._ahead) for generator in self._generators])
            self._words = np.concatenate([self._words, more], axis=1)
        words = self._words[rows, self._used[rows]]
        self._used[rows] += 1
        return words


def draw_words(generator: np.random.Generator, count: int) -> np.ndarray:
    """[count] uint64: the next words of a generator, each of 32 bits."""
    return generator.integers(2**32, size=count, dtype=np.uint32).astype(np.uint64)


def lemire(words: np.ndarray, n: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers 0..n - 1 of random words, and which of them need another word, about n in 2^32.

    The high half of word x n, unless the low half is below 2^32 mod n (Lemire, arXiv 1805.10941).
    """
    product = words * np.uint64(n)
    return (product >> np.uint64(32)).astype(np.int64), (product & np.uint64(0xFFFFFFFF)) < 2**32 % n
