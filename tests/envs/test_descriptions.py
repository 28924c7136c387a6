"""What tasks say of themselves by hand: captions of pictures, the line that describes them, and the defaults of their classes."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch

from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.registry import BUILTIN, make_env


def captions(name: str, states: list[dict[str, Any]], **options: Any) -> list[str]:
    """The captions of row 1 of a task in these states."""
    env = make_env(name, 2, **options)
    env.reset(seed=0)
    found, usual = [], env.state_dict()
    for state in states:
        # row 0 stays as it is
        entries = {key: torch.stack([usual[key][0], torch.as_tensor(value)]) for key, value in state.items()}
        env.load_state_dict(usual | entries)
        found.append(env.in_words(1))
    return found


def test_captions_of_associative_retrieval_show_the_pairs_and_the_answers() -> None:
    pairs = {"keys": [2, 0], "values": [1, 3], "asked": [0]}
    options = {"keys": 3, "values": 4, "pairs": 2, "queries": 1, "delay": 1}
    assert captions("associative-retrieval", [pairs | {"t": t} for t in range(4)], **options) == [
        "key 3 has value 2",
        "key 1 has value 4",
        "wait",
        "query: key 1; answer: value 4",
    ]


def test_captions_of_detect_and_reasoning_show_what_is_seen_and_the_answer() -> None:
    cue = {"time": [1], "fact": [2]}
    distractor, shown, question = captions("detect", [cue | {"t": t} for t in range(3)], length=2, distractors=1)
    assert (distractor, shown, question) == ("distractor 1", "cue 3", "the question; the answer is cue 3")
    facts = {"time": [1, 0], "fact": [2, 4]}
    assert captions("reasoning", [facts | {"t": t} for t in range(3)], length=2, values=5) == [
        "fact 2 is 4",
        "fact 1 is 2",
        "the question; the answer is 1",
    ]


def test_captions_of_memory_len_show_the_bits_and_the_query() -> None:
    bits = {"context": [1, 0, 1], "query": 1}
    assert captions("memory-len", [bits | {"t": t} for t in range(5)], length=4, bits=3) == [
        "the bits are [1, 0, 1]",
        "the bits are [1, 0, 1]",
        "wait",
        "wait",
        "query: bit 1; answer: 0",
    ]


@pytest.mark.parametrize("reverse", [False, True])
def test_captions_of_copy_show_the_symbols_and_the_answers(reverse: bool) -> None:
    options = {"symbols": 9, "length": 2, "delay": 1, "reverse": reverse}
    first, second, wait, *answers = captions("copy", [{"t": t} for t in range(5)], **options)
    symbols = [said.removeprefix("symbol ").removesuffix(" is shown") for said in (first, second)]
    # the first two observations of the episode
    env = make_env("copy", 2, **options)
    seen = [env.reset(seed=0)[0], env.step(torch.zeros(2, dtype=torch.int64))[0]]
    assert symbols == [str(int(obs[1])) for obs in seen] and symbols[0] != symbols[1]  # type: ignore[index]
    assert wait == "wait"
    asked = symbols[::-1] if reverse else symbols
    assert answers == [f"answer {i + 1} of 2: symbol {symbol}" for i, symbol in enumerate(asked)]


def test_captions_of_repeat_show_the_card_and_the_one_that_is_asked_for() -> None:
    env = make_env("repeat-previous", 1, k=3)
    env.reset(seed=0)
    dealt = []
    for t in range(6):
        said = env.in_words(0)
        suit, _, answer = said.removeprefix("dealt: ").partition("; ")
        dealt.append(suit)
        assert answer == ("any answer" if t < 2 else f"answer: {dealt[-3]}")
        obs, *_ = env.step(torch.tensor([0]))
    assert len(set(dealt)) > 1 and env.in_words(0).startswith(f"dealt: {env.action_names[int(obs)]};")
    first = make_env("repeat-first", 1)
    first.reset(seed=0)
    opening = first.in_words(0).split()[1].rstrip(";")
    first.step(torch.tensor([0]))
    assert first.in_words(0).endswith(f"; answer: {opening}")


def test_captions_of_trials_count_from_one() -> None:
    assert captions("bandit", [{"t": 0}, {"t": 8}], length=9) == ["pull 1 of 9", "pull 9 of 9"]
    walks = captions("tmaze-trial", [{"t": t, "length": 2} for t in (0, 2, 3, 5)], length=2, episodes=2)
    assert walks == ["walk 1 of 2", "walk 1 of 2", "walk 2 of 2", "walk 2 of 2"]
    rooms = [{"t": t, "found": t == 21} for t in (0, 20, 21)]
    assert captions("dark-room", rooms, episodes=2) == [
        "inner episode 1 of 2, 0 of 20 moves made; goal not found yet",
        "inner episode 1 of 2, 20 of 20 moves made; goal not found yet",
        "inner episode 2 of 2, 0 of 20 moves made; goal found",
    ]


BETWEEN = {"length": 5, "min_length": 2}
RETRIEVE = "associative retrieval: remember"


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("tmaze", {"length": 1}, "T-maze: remember one bit for 1 step"),
        ("tmaze", BETWEEN, "T-maze: remember one bit for 2 to 5 steps"),
        ("tmaze-active", {"length": 1}, "active T-maze: fetch one bit and remember it along a corridor of 1 cell"),
        ("tmaze-active", BETWEEN, "active T-maze: fetch one bit and remember it along a corridor of 2 to 5 cells"),
        ("tmaze-rate", {"length": 1}, "T-maze of RATE: remember one bit for 1 step with noise"),
        ("tmaze-rate", BETWEEN, "T-maze of RATE: remember one bit for 2 to 5 steps with noise"),
        ("tmaze-trial", {"length": 1, "episodes": 2}, "remember one bit through 2 walks along a corridor of 1 cell"),
        ("tmaze-trial", BETWEEN, "remember one bit through 4 walks along a corridor of 2 to 5 cells"),
        ("memory-len", {"length": 2}, "memory_len: remember 1 bit for 1 step"),
        ("memory-len", {"length": 4, "bits": 3}, "memory_len: remember 3 bits for 3 steps"),
        (
            "copy",
            {"length": 1, "symbols": 2, "delay": 1},
            "remember one of 2 symbols, and repeat it in order after 1 step",
        ),
        (
            "copy",
            {"length": 3, "delay": 4, "reverse": True},
            "of 3 of 8 symbols, and repeat it in reverse order after 4 steps",
        ),
        ("associative-retrieval", {"pairs": 1, "keys": 2}, f"{RETRIEVE} 1 of 8 values by their keys for 1 step"),
        ("associative-retrieval", {"pairs": 1, "delay": 4}, f"{RETRIEVE} 1 of 8 values by their keys for 5 steps"),
        (
            "associative-retrieval",
            {"pairs": 3, "queries": 2, "delay": 4, "rewrite": True},
            f"{RETRIEVE} 3 of 8 values by their keys, which are rewritten, for 5 to 8 steps",
        ),
        ("detect", {"length": 1}, "detect: find one of 4 cues among distractors, and remember it for 1 step"),
        ("reasoning", {"length": 2}, "remember them, or their sum, for 1 to 2 steps"),
        ("repeat-first", {}, "repeat-first: remember one of 4 suits for 50 steps"),
        ("repeat-previous", {"k": 3}, "repeat-previous: remember the last 3 suits at every step"),
        ("bandit", {"length": 1}, "bandit: remember the payouts of 5 arms for 1 pull"),
        ("bandit", {"length": 2}, "bandit: remember the payouts of 5 arms for 2 pulls"),
        ("dark-room", {"episodes": 1}, "remember it for 1 inner episode of 20 moves"),
        ("dark-room", {"episodes": 2}, "remember it for 2 inner episodes of 20 moves"),
        ("minigrid-memory", {}, "MiniGrid-Memory S7, view 3: remember a key or a ball along a corridor of 1 cell"),
        ("minigrid-doorkey", {"size": 5}, "DoorKey 5x5, view 7: fetch a key, open a door, reach the goal"),
        (
            "minigrid-redbluedoors",
            {"size": 6, "view": 3},
            "RedBlueDoors 6x6, view 3: open the red door, then the blue one",
        ),
        ("minigrid-memory", {"size": 9, "view": 5}, "S9, view 5: remember a key or a ball along a corridor of 3 cells"),
    ],
)
def test_a_task_says_what_to_remember_and_for_how_long(name: str, options: dict[str, Any], line: str) -> None:
    assert make_env(name, 1, **options).task.endswith(line)


@pytest.mark.parametrize("name", sorted(set(BUILTIN) - {"gym"}))
def test_the_defaults_of_a_class_are_those_of_its_options(name: str) -> None:
    parameters = inspect.signature(type(make_env(name, 1)).__init__).parameters
    fields = {field.name: field.default for field in dataclasses.fields(GROUPS["env"][name].config)}
    given = {key: p.default for key, p in parameters.items() if key in fields}
    assert given == {key: fields[key] for key in given} and (given or name == "none")
