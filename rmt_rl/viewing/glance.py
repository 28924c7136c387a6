"""What the page says first: when the hidden variable was shown, stored, read and lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rmt_rl.viewing.episode import TOKENS, Episode
from rmt_rl.viewing.probe import Probe, ReadOut


@dataclass(frozen=True)
class Glance:
    """What happened to one variable, as steps from 0; None = never, or not known.

    stored: the first step after which the read-out of `part` is right. read: the step with the most attention to the memory.
    used: the step at which the memory changes the action most. lost: the first step after `stored` after which it is wrong.
    right: [T] whether the read-out is right. attention: [T] what `read` is the peak of, or None.
    """

    part: str
    sentence: str
    changes: bool
    shown: int | None
    stored: int | None
    read: int | None
    used: int | None
    lost: int | None
    right: np.ndarray
    attention: np.ndarray | None


def right_steps(readout: ReadOut, truth: Sequence[int]) -> np.ndarray:
    """[T] the steps after which the most likely value is the true one, and not by luck.

    Not by luck: on other episodes the read-out is at least half way from chance to certainty.
    """
    known = ~np.isnan(readout.accuracy)
    best = np.where(known, np.nan_to_num(readout.probability).argmax(1), -1)
    return known & (best == np.asarray(truth)) & (readout.accuracy >= (1 + readout.chance) / 2)


def attention_to_memory(episode: Episode, shown: int | None, segment: int, cache: int) -> tuple[str, np.ndarray] | None:
    """What the attention is to, and its share [T], on average over layers and heads.

    Of an RMT: the memory tokens. Of a transformer without them: the step at which the variable was shown.
    """
    if not episode.attention:
        return None
    if TOKENS in episode.parts[0]:
        return "the memory tokens", np.array([step["read"].sum(-1).mean() for step in episode.attention])
    if shown is None:
        return None
    share = np.zeros(len(episode))
    for t in range(shown + 1, len(episode)):
        begin = t // segment * segment
        if shown >= begin:
            share[t] = episode.attention[t]["steps"][..., shown - begin].mean()
        elif shown >= begin - cache:
            share[t] = episode.attention[t]["cache"][..., shown - begin + cache].mean()
    return f"step {shown}", share


def look(episode: Episode, probe: Probe, name: str, values: Sequence[str], segment: int, cache: int) -> Glance:
    """The events of one variable, and one sentence about them. values: the names of its values."""
    truth = [step[name] for step in episode.hidden]
    readouts = probe.readouts[name]
    part = TOKENS if TOKENS in readouts else next(iter(readouts))
    right = right_steps(readouts[part], truth)
    shown = _first(step[name] for step in episode.shown)
    paid = attention_to_memory(episode, shown, segment, cache)
    share = None if paid is None else paid[1]
    if changes := len(set(truth)) > 1:
        sentence = f"The {name} changes within the episode; the read-out of the {part} is right after {right.sum()} of"
        sentence += f" {len(right)} steps."
        return Glance(part, sentence, changes, None, None, None, None, None, right, share)
    stored = _first(ok and t >= (shown or 0) for t, ok in enumerate(right))
    lost = None if stored is None else _first(not ok and t > stored for t, ok in enumerate(right))
    if lost is not None and np.isnan(readouts[part].accuracy[lost]):
        lost = None  # too few episodes get that far
    read = None if stored is None or share is None else _peak(share, stored)
    used = None if stored is None or not episode.influence else _peak(np.array(episode.influence), stored)
    sentence = _sentence(episode, name, values[truth[0]], part, (shown, stored, read, used, lost), paid)
    return Glance(part, sentence, changes, shown, stored, read, used, lost, right, share)


def _sentence(
    episode: Episode,
    name: str,
    value: str,
    part: str,
    events: tuple[int | None, int | None, int | None, int | None, int | None],
    paid: tuple[str, np.ndarray] | None,
) -> str:
    shown, stored, read, used, lost = events
    is_known = f"The {name} ({value}) was shown at step {shown}" if shown is not None else f"The {name} is {value}"
    if stored is None:
        return f"{is_known}, but no linear read-out of the {part} names it at any step."
    parts = [f"{is_known}{',' if shown is not None else ';'} stored {_after(episode, part, stored)}"]
    if read is not None and paid is not None:
        parts.append(f"read at step {read} ({paid[1][read]:.0%} of the attention on {paid[0]})")
    if used is not None:
        change = f"{episode.influence[used]:.0%}"
        parts.append(f"decisive at step {used} ({change} chance of another action without memory)")
    gone = "overwritten" if part == TOKENS else "lost"
    end = f"{gone} {_after(episode, part, lost)}" if lost is not None else "kept until the end"
    return f"{', '.join(parts)}, and {end}."


def _after(episode: Episode, part: str, step: int) -> str:
    """The event that changed `part` after a step."""
    if part == TOKENS:
        for number, write in enumerate(episode.writes):
            if write.step == step:
                return f"by write {number + 1} (after step {step})"
    return f"after step {step}"


def _first(found: Iterable[bool]) -> int | None:
    return next((t for t, ok in enumerate(found) if ok), None)


def _peak(share: np.ndarray, after: int) -> int | None:
    """The step behind `after` with the largest share; None where there is none, or nothing at all."""
    rest = share[after + 1 :]
    return after + 1 + int(rest.argmax()) if len(rest) and rest.max() > 0.01 else None
