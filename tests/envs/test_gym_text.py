"""Text in observations, such as BabyAI's missions, is read by the policy."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl.collect import main as collect
from rmt_rl.common.errors import ConfigError
from rmt_rl.config import GymConfig
from rmt_rl.config.files import part_from_dict
from rmt_rl.envs.registry import make_env
from rmt_rl.envs.text import TextBytes, from_bytes, text_bytes, texts_of, to_bytes, with_texts
from rmt_rl.evaluate import main as evaluate
from rmt_rl.export import step_module
from rmt_rl.policies.encoders import make_encoder
from rmt_rl.policies.saving import load_policy, make_policy, save_policy
from rmt_rl.policies.words import SIZE, Words
from rmt_rl.train import main as train

SMALL = ["policy.width=8", "algo.num_envs=2", "algo.rollout=8", "algo.minibatches=2", "steps=32", "evaluate_episodes=2"]
MISSIONS = ["go to the red ball", "go to the blue ball", "pick up the ball", ""]


class Mission(spaces.Space[str]):
    """Text as minigrid declares it: without a length or an alphabet."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mission)


class Env(gymnasium.Env[Any, Any]):
    observation_space: Any = spaces.Dict(number=spaces.Box(-1, 1, (1,), np.float32), mission=Mission())
    action_space: Any = spaces.Discrete(2)

    def __init__(self, only: bool = False, render_mode: str | None = None) -> None:
        self.only = only
        if only:
            self.observation_space = spaces.Text(6)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.mission = 0, MISSIONS[self.np_random.integers(len(MISSIONS))]
        return self.show(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.show(), 1.0, self.t >= 4, False, {}

    def show(self) -> Any:
        return "abc123"[: self.t] if self.only else {"number": np.zeros(1, np.float32), "mission": self.mission}


gymnasium.register("Text-v0", entry_point=Env)


def vectors(encoder: torch.nn.Module, space: TextBytes, texts: list[str]) -> torch.Tensor:
    shown = to_bytes(texts, space)
    assert shown is not None
    return encoder(torch.from_numpy(shown)).detach()


def test_words_are_seen_whatever_stands_between_them_and_their_order_counts() -> None:
    space = text_bytes(Mission())
    encoder = make_encoder(space, 16)
    assert isinstance(encoder, Words)
    same = vectors(encoder, space, ["go to the  ball", " go to, the ball.", "go to the ball"])
    torch.testing.assert_close(same[0].expand(3, 16), same)
    texts = [
        "go to the ball",
        "go the to ball",
        "ball to the go",
        "go to the balls",
        "go to the",
        "",
        "göto",
        "a" * 256,
    ]
    found = vectors(encoder, space, texts)
    assert len(found.unique(dim=0)) == len(texts) and bool(found.isfinite().all())


def test_words_are_cut_as_python_cuts_them() -> None:
    space = TextBytes(20, characters=False)
    encoder = Words(space, 4)
    shown = to_bytes([" ab cd ab", "x", "  ", "abcdefghij klmnopqrs"], space)
    ids, present = encoder.tokens(torch.from_numpy(np.asarray(shown)).long())
    assert present.sum(1).tolist() == [3, 1, 0, 2]
    assert ids[0, 0] == ids[0, 2] != ids[0, 1] and int(ids.max()) < 4096 and int(ids.min()) >= 0


@pytest.mark.parametrize("length", [6, 100])
def test_a_text_without_blanks_is_seen_character_by_character(length: int) -> None:
    space = text_bytes(spaces.Text(length, charset="01"))
    assert space.shape == (length,) and space.characters
    texts = [f"{i:06b}" for i in range(64 if length == 6 else 4)]
    assert len(vectors(make_encoder(space, 16), space, texts).unique(dim=0)) == len(texts)


def test_words_and_pairs_of_neighbours_are_added_and_divided_by_the_root_of_their_number() -> None:
    space = TextBytes(20, characters=False)
    encoder = Words(space, 1)
    with torch.no_grad():
        for parameter, value in zip(encoder.parameters(), (1.0, 1.0, 1 / SIZE, 0.0), strict=True):
            parameter.fill_(value)
    # of n words, n and n - 1 vectors of ones
    found = vectors(encoder, space, ["", "a", "a b", "a b c d e"])
    assert found.flatten().tolist() == pytest.approx([0.0, 1.0, 3**0.5, 3.0])


@pytest.mark.parametrize("space", [TextBytes(30, False), TextBytes(6, True), TextBytes(100, True)])
def test_gradient_reaches_every_weight_matrix_of_a_text_encoder(space: TextBytes) -> None:
    encoder = make_encoder(space, 8)
    encoder(torch.from_numpy(np.asarray(to_bytes(["ab cd", "ef gh"], space)))).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in encoder.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("only", [False, True])
def test_training_loading_and_evaluating_read_the_text(
    only: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["env=gym", "env.id=Text-v0", f"env.options={{only: {str(only).lower()}}}"]
    assert train([*given, "policy=lstm", *SMALL, "run=run"]) == 0
    assert evaluate(["policy=runs/run", "episodes=2"]) == 0
    policy, env = load_policy("runs/run"), Env(only)
    (obs, _), state, first = env.reset(seed=0), policy.initial_state(1), True
    for _ in range(3):
        action, state = policy.act(obs, state, first)
        obs, _, first, _, _ = env.step(action)


def test_a_batch_of_texts_acts_like_each_of_them_and_like_the_exported_step(tmp_path: Any) -> None:
    save_policy(make_policy(make_env("gym", 2, id="Text-v0"), "mlp", width=16), tmp_path)
    policy = load_policy(tmp_path)
    policy.head.linear.weight.data *= 100
    obs = {"number": np.zeros((3, 1), np.float32), "mission": MISSIONS[:3]}
    action, _ = policy.act(obs, policy.initial_state(3), np.ones(3, bool), deterministic=True)
    for row in range(3):
        one = {"number": obs["number"][row], "mission": MISSIONS[row]}
        assert policy.act(one, policy.initial_state(1), True, deterministic=True)[0] == action[row]
    module, inputs, names, _ = step_module(policy, 3)
    inputs = (
        torch.from_numpy(np.asarray(to_bytes(MISSIONS[:3], policy.spec.observation_space["mission"]))),
        *inputs[1:],
    )  # type: ignore[index]
    inputs = (inputs[0], torch.zeros(3, 1), *inputs[2:])
    assert names[0] == "observation.mission"
    assert torch.export.export(module, inputs, strict=False).module()(*inputs)[0].tolist() == action.tolist()


def test_text_that_is_too_long_or_no_text_is_one_sentence() -> None:
    env = make_env("gym", 1, id="Text-v0")
    for mission in ("word " * 60, 7):
        MISSIONS[:] = [mission] * 4
        try:
            with pytest.raises(ConfigError, match=r"'mission' that is .*; expected text of at most 256 bytes"):
                env.reset(seed=0)
        finally:
            MISSIONS[:] = ["go to the red ball", "go to the blue ball", "pick up the ball", ""]
    policy = make_policy(env, "mlp", width=8)
    with pytest.raises(ValueError, match="obs 'mission' is longer than 256 bytes"):
        policy.act({"number": np.zeros(1, np.float32), "mission": "a" * 257}, policy.initial_state(1), True)


def test_text_is_left_out_where_the_option_or_an_old_file_says_so() -> None:
    assert part_from_dict("env", {"name": "gym", "id": "Text-v0"}).text is False and GymConfig().text
    with pytest.warns(UserWarning, match=r"text is left out of the observation: \['mission'\]"):
        assert list(make_env("gym", 1, id="Text-v0", text=False).single_observation_space) == ["number"]


@pytest.mark.filterwarnings("ignore:.*text is left out")
@pytest.mark.parametrize("text", ["true", "false"])
def test_recorded_episodes_keep_the_text_and_are_learned_from(
    text: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    task = ["env=gym", "env.id=Text-v0", f"env.text={text}"]
    assert collect([*task, "policy=random", "episodes=4", "out=own/text-v0"]) == 0
    offline = ["algo=rate", "policy=rmt", "policy.width=8", "policy.layers=1", "data=own/text-v0", "steps=30"]
    assert train([*task, *offline, "evaluate_episodes=2", "run=run"]) == 0


def test_recorded_text_is_read_as_text_without_an_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert collect(["env=gym", "env.id=Text-v0", "policy=random", "episodes=4", "out=own/text-v0"]) == 0
    offline = ["algo=rate", "policy=lstm", "policy.width=8", "data=own/text-v0", "steps=20"]
    assert train([*offline, "env=none", "run=run"]) == 0
    assert evaluate(["policy=runs/run", "env=gym", "env.id=Text-v0", "episodes=2"]) == 0


@pytest.mark.parametrize("saved", [None, 3, {"mission": "yes"}, {"number": True, "else": False}, {"picture": False}])
def test_a_dataset_whose_texts_are_none_keeps_its_numbers(saved: Any) -> None:
    picture = spaces.Box(0, 255, (2, 2), np.uint8)
    space = spaces.Dict(number=spaces.Discrete(3), mission=spaces.Box(0, 255, (8,), np.uint8), picture=picture)
    assert with_texts(space, saved) == space
    assert with_texts(space, {"mission": False})["mission"] == TextBytes(8, False)  # type: ignore[index]
    assert texts_of(with_texts(space, {"mission": True})) == {"mission": True}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    "charset, lost", [("a\0b", r"'\\x00'"), ("a\ud800", r"'\\ud800'"), ("\ud800\0ab", r"'\\x00', '\\ud800'")]
)
def test_an_alphabet_that_no_policy_can_read_is_an_error_when_the_environment_is_made(
    charset: str, lost: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = spaces.Text(6, charset=charset)
    space = text if alone else spaces.Dict(number=spaces.Box(-1, 1, (1,), np.float32), mission=text)
    monkeypatch.setattr(Env, "observation_space", space)
    where = "" if alone else " 'mission'"
    with pytest.raises(
        ConfigError, match=rf"observation{where}: its alphabet has {lost}, which .*; leave .* env\.text=false$"
    ):
        make_env("gym", 2, id="Text-v0")
    if not alone:
        with pytest.warns(UserWarning, match="text is left out"):
            assert make_env("gym", 2, id="Text-v0", text=False).single_observation_space["number"].shape == (1,)  # type: ignore[index]


@pytest.mark.parametrize("text", ["a\0", "\0", "a\ud800"])
def test_text_that_cannot_be_kept_is_an_error_and_no_other_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("gym", 1, id="Text-v0")
    monkeypatch.setitem(globals(), "MISSIONS", [text])
    with pytest.raises(
        ConfigError,
        match=r"^Env: reset returned an observation 'mission' that is .*; expected text of at most 256 bytes",
    ):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("text", "length", "characters"),
    [
        (spaces.Text(6, charset="ab"), 6, True),
        (spaces.Text(6, charset="aé"), 12, True),  # as many bytes as its longest character has
        (spaces.Text(6, charset="a€b"), 18, True),
        (spaces.Text(2000, charset="aé"), 4000, True),
        (spaces.Text(4000, charset="aé"), 4096, True),  # no more than can be read
        (spaces.Text(256, charset="ab "), 256, False),
        (spaces.Text(3, charset="ab "), 256, False),
        (spaces.Text(257, charset="ab "), 257, False),
        (spaces.Text(6, charset=" ."), 6, True),
        (Mission(), 256, False),
    ],
)
def test_the_longest_text_of_a_space_has_room(text: Any, length: int, characters: bool) -> None:
    space = text_bytes(text)
    assert (space.shape, space.characters) == ((length,), characters)
    if isinstance(text, spaces.Text):
        longest = max(text.character_set, key=lambda c: len(c.encode())) * min(text.max_length, length // 3)
        assert from_bytes(to_bytes(longest, space)) == longest  # type: ignore[arg-type]


def test_bytes_end_with_the_text_and_nothing_else_is_text() -> None:
    space = TextBytes(4, True)
    for text, found in (("abcd", b"abcd"), ("ab", b"ab\0\0"), ("", b"\0\0\0\0"), ("é", b"\xc3\xa9\0\0")):
        array = to_bytes(text, space)
        assert array is not None and array.tobytes() == found and array.flags.writeable
        assert from_bytes(array) == text
    rows = to_bytes([["a", "b"], ["c", ""]], space)
    assert rows is not None and rows.shape == (2, 2, 4)
    for none in ("abcde", "éé1", ["a", "abcde"], ["a", 1], [], 3, np.array("a")):
        assert to_bytes(none, space) is None
    assert space == TextBytes(4, True) != TextBytes(4, False) and space != TextBytes(5, True)
    assert space != spaces.Box(0, 255, (4,), np.uint8)


def test_an_alphabet_without_letters_is_seen_character_by_character() -> None:
    space = text_bytes(spaces.Text(4, charset=" .,"))
    assert space.characters and space.shape == (4,)
    texts = [". ", " .", "..", ",.", ""]
    assert len(vectors(make_encoder(space, 16), space, texts).unique(dim=0)) == len(texts)
