"""What the page is made of: the recorded episode, the read-out of the hidden variable, and the sentence at the top."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl.rollouts.episodes import remember
from rmt_rl.viewing import probe as probing
from rmt_rl.viewing.episode import CACHE, HIDDEN, LAYERS, STEPS, TOKENS, Episode, Write, record_episode
from rmt_rl.viewing.glance import look
from rmt_rl.viewing.probe import ReadOut, probe


def recorded(policy: str, length: int = 9, steps: int = 50, **options: Any) -> tuple[Any, Episode]:
    env = rmt_rl.make_env("tmaze", 1, length=length)
    small = {"width": 8} if policy in ("lstm", "gru", "mlp") else {"width": 8, "segment": 4}
    made = rmt_rl.make_policy(env, policy, seed=0, **small, **options)
    return made, record_episode(made, env, 3, True, steps, lambda obs: None, (str, str))


def test_the_recorded_episode_is_the_one_that_the_policy_plays() -> None:
    policy, episode = recorded("rmt")
    env = rmt_rl.make_env("tmaze", 1, length=9)
    act = remember(policy, 1, True, torch.Generator())
    obs, first = env.reset(seed=3)[0], torch.ones(1, dtype=torch.bool)
    for t in range(len(episode)):
        action = act(obs, first)
        assert episode.action[t].tolist() == action.tolist()
        assert int(episode.probabilities[t].argmax()) == int(action)
        assert episode.observations[t] == str(obs)
        obs, reward, first, _, _ = env.step(action)
        assert episode.rewards[t] == float(reward)
    assert episode.ended and bool(first) and len(episode) == 10


@pytest.mark.parametrize(
    ("policy", "options", "parts"),
    [
        ("rmt", {}, {TOKENS: 4 * 8, STEPS: 2 * 4 * 16}),
        ("rmt", {"cache": 3, "positions": "rotary"}, {TOKENS: 4 * 8, CACHE: 2 * 7 * 16}),
        ("window", {}, {STEPS: 2 * 4 * 16}),
        ("lstm", {}, {HIDDEN: 2 * 8}),
        ("gru", {"critic": "separate"}, {HIDDEN: 8}),
        ("mlp", {}, {}),
    ],
)
def test_a_memory_is_what_the_policy_carries_from_step_to_step(
    policy: str, options: dict[str, Any], parts: dict[str, int]
) -> None:
    _, episode = recorded(policy, **options)
    assert {name: len(x) for name, x in episode.parts[-1].items()} == parts
    assert len(episode.values) == len(episode) and bool(episode.attention) == (policy in ("rmt", "window"))
    assert episode.influence[0] == 0.0 and (max(episode.influence) > 0) == (policy != "mlp")


@pytest.mark.parametrize("update, low, high", [("gate", 0.1, 0.5), ("hard_gate", 0.2, 0.8)])
def test_a_write_has_the_change_of_every_token_and_a_gate_where_the_update_has_one(update, low, high) -> None:
    _, episode = recorded("rmt", memory_update=update, memory_tokens=2)
    assert [write.step for write in episode.writes] == [3, 7]
    tokens = [episode.parts[t][TOKENS].view(2, 8) for t in (2, 3, 6, 7)]
    for write, before, after in zip(episode.writes, tokens[::2], tokens[1::2], strict=True):
        change = (after - before).norm(dim=1) / before.norm(dim=1)
        np.testing.assert_allclose(write.change, change, rtol=1e-6)
        assert write.gate is not None and write.gate.shape == (2,)
        assert low < write.gate.min() < write.gate.max() < high
    _, plain = recorded("rmt", memory_update="replace")
    assert plain.writes[0].gate is None


@pytest.mark.parametrize("kind, size", [("slots", 3 * 8), ("associative", 6 * 3 * 8)])
def test_a_write_of_a_memory_in_the_layers_has_the_change_of_every_layer(kind, size) -> None:
    """The numbers that only count are no part of the memory."""
    _, episode = recorded("rmt", memory_kind=kind, memory_size=3, layers=2)
    assert len(episode.parts[0][LAYERS]) == 2 * size and TOKENS not in episode.parts[0]
    assert episode.writes[0].change.tolist() == [1, 1]  # nothing was stored before
    assert all(write.change.shape == (2,) and write.gate is None for write in episode.writes)


def test_an_episode_that_is_longer_than_the_page_is_cut() -> None:
    _, episode = recorded("lstm", steps=4)
    assert len(episode) == 4 and not episode.ended and episode.success is None


def test_the_read_out_finds_a_value_that_a_direction_of_the_memory_holds_and_nothing_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (1, 96), generator=generator)
    noise = torch.randn(97, 20, generator=generator)
    held = noise.clone()
    held[:96, :3] += 6 * torch.nn.functional.one_hot(classes[0], 3)
    held[96, 1] += 6
    (found,) = probing.fit(held, classes, [3])
    assert found[:3].argmax() == 1 and found[1] > 0.7 and found[:3].sum() == pytest.approx(1) and found[3] > 0.95
    (nothing,) = probing.fit(noise, classes, [3])
    assert nothing[3] < 0.5
    (constant,) = probing.fit(torch.ones(97, 5), classes, [3])
    share = classes[0].bincount().double() / 96
    np.testing.assert_allclose(constant, [*share, share.max(), share.max()])


def test_the_read_out_of_an_untrained_lstm_knows_the_cue_from_the_step_that_shows_it() -> None:
    policy, episode = recorded("lstm", length=3)
    env = rmt_rl.make_env("tmaze", 32, length=3)
    found = probe(policy, env, episode, 0, True)
    assert found is not None and (found.episodes, found.distinct) == (32, 2)
    readout = found.readouts["cue"][HIDDEN]
    truth = episode.hidden[0]["cue"]
    assert readout.probability.shape == (4, 2) and (readout.probability[:, truth] > 0.9).all()
    assert (readout.accuracy == 1).all()


def test_the_read_out_of_memory_tokens_is_a_guess_before_the_first_write() -> None:
    policy, episode = recorded("rmt")
    found = probe(policy, rmt_rl.make_env("tmaze", 32, length=9), episode, 0, True)
    assert found is not None
    tokens, steps = (found.readouts["cue"][part] for part in (TOKENS, STEPS))
    assert (tokens.accuracy[:3] == tokens.chance[:3]).all() and tokens.accuracy[3] == 1
    assert (steps.accuracy[:3] == 1).all()


def test_a_page_without_a_hidden_variable_or_without_memory_has_no_read_out() -> None:
    policy, episode = recorded("mlp")
    env = rmt_rl.make_env("tmaze", 16, length=9)
    assert probe(policy, env, episode, 0, True) is None


def example(right: list[float], truth: int = 1, shown: int = 0) -> tuple[Episode, probing.Probe]:
    """An episode of an RMT with these probabilities of the true value, a write after every second step."""
    T = len(right)
    episode = Episode(rewards=[0.0] * T, influence=[0.0, 0.1, 0.2, 0.1, 0.7, 0.1][:T])
    episode.hidden, episode.shown = [{"cue": truth}] * T, [{"cue": t == shown} for t in range(T)]
    episode.parts = [{TOKENS: torch.zeros(1)}] * T
    episode.writes = [Write(t, np.ones(1), None) for t in range(1, T, 2)]
    share = [0.9, 0.2, 0.3, 0.8, 0.4, 0.1]
    episode.attention = [{"read": np.full((2, 2, 4), share[t] / 4)} for t in range(T)]
    p = np.array(right)
    readout = ReadOut(np.stack([1 - p, p], 1), np.where(p == 0.5, 0.5, 1.0), np.full(T, 0.5))
    return episode, probing.Probe({"cue": {TOKENS: readout}}, 32, 2)


@pytest.mark.parametrize(
    ("right", "events", "sentence"),
    [
        (
            [0.5, 1, 1, 1, 1, 1],
            (0, 1, 3, 4, None),
            "The cue (up) was shown at step 0, stored by write 1 (after step 1), read at step 3 (80% of the attention on the"
            " memory tokens), decisive at step 4 (70% chance of another action without memory), and kept until the end.",
        ),
        (
            [0.5, 1, 1, 0.2, 0.2, 0.2],
            (0, 1, 3, 4, 3),
            "The cue (up) was shown at step 0, stored by write 1 (after step 1), read at step 3 (80% of the attention on the"
            " memory tokens), decisive at step 4 (70% chance of another action without memory), and overwritten by write 2"
            " (after step 3).",
        ),
        (
            [0.5, 0.1, 0.1, 0.1, 0.1, 0.1],
            (0, None, None, None, None),
            "The cue (up) was shown at step 0, but no linear read-out of the memory tokens names it at any step.",
        ),
    ],
)
def test_one_sentence_says_when_the_cue_was_shown_stored_read_and_overwritten(
    right: list[float], events: tuple[int | None, ...], sentence: str
) -> None:
    glance = look(*example(right), "cue", ["down", "up"], 2, 0)
    assert (glance.shown, glance.stored, glance.read, glance.used, glance.lost) == events
    assert glance.sentence == sentence


def test_a_read_out_that_is_right_by_luck_does_not_count() -> None:
    episode, found = example([0.5, 1, 1, 1, 1, 1])
    found.readouts["cue"][TOKENS].accuracy[:] = 0.6
    assert look(episode, found, "cue", ["down", "up"], 2, 0).stored is None


def test_a_transformer_without_memory_tokens_reads_the_step_that_showed_the_cue() -> None:
    episode, found = example([0.9] * 5)
    episode.parts = [{CACHE: torch.zeros(1)}] * 5
    found.readouts["cue"][CACHE] = found.readouts["cue"].pop(TOKENS)
    episode.attention = [{"steps": np.zeros((1, 1, 2)), "cache": np.zeros((1, 1, 3))} for _ in range(5)]
    episode.attention[1]["steps"][0, 0, 0] = 0.3  # step 0 in its own segment
    episode.attention[3]["cache"][0, 0, 1] = 0.6  # the segment begins at 2, so the cache holds steps -1, 0, 1
    glance = look(episode, found, "cue", ["down", "up"], 2, 3)
    assert (glance.stored, glance.read) == (0, 3) and glance.attention is not None
    assert glance.attention.tolist() == [0.0, 0.3, 0.0, 0.6, 0.0]
    assert "read at step 3 (60% of the attention on step 0)" in glance.sentence


def test_a_variable_that_changes_at_every_step_has_no_events() -> None:
    episode, found = example([0.9] * 5)
    episode.hidden = [{"cue": t % 2} for t in range(5)]
    glance = look(episode, found, "cue", ["down", "up"], 2, 0)
    assert glance.changes and glance.stored is None
    assert glance.sentence.endswith("the read-out of the memory tokens is right after 2 of 5 steps.")
