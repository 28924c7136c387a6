"""Recorded episodes are read as they were recorded, and invalid ones raise an error that names dataset, episode and field."""

import gc
import hashlib
import json
import os
import shutil
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from PIL import EpsImagePlugin

from rmt_rl import config
from rmt_rl.algos.rate import RATELearner
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.registry import make_env
from rmt_rl.rollouts.dataset import Dataset, Episode, spans
from rmt_rl.rollouts.episodes import oracle_actor, record
from rmt_rl.rollouts.minari_reader import read_minari
from rmt_rl.rollouts.minari_writer import _Statistics


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "datasets"
    root.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root


def load(env: str, **given) -> Dataset:
    """The data of a run with algo=rate."""
    return RATELearner.load_data(config.make_config(env=env, algo="rate", **given))


def episode(steps: int, start: float = 0.0) -> Episode:
    t = np.arange(steps)
    return Episode((start + t[:, None]).astype(np.float32), t % 3, 1.0 + t)


SPACES = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(3)


def test_a_batch_is_whole_episodes_end_to_end_with_the_return_to_go() -> None:
    data = Dataset([episode(3), episode(2, 100), episode(4, 200)], 9, *SPACES)
    batch = data.batch(torch.tensor([2, 0]), None, True, torch.device("cpu"))
    assert batch.obs["observation"][0, :, 0].tolist() == [200, 201, 202, 203, 0, 1, 2]
    assert batch.obs["return_to_go"][0, :, 0].tolist() == [10, 9, 7, 4, 6, 5, 3]
    assert batch.action[0].tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert batch.first[0].tolist() == [True, False, False, False, True, False, False]
    cut = data.batch(torch.tensor([2, 1]), 2, False, torch.device("cpu"))
    assert cut.obs[0, :, 0].tolist() == [200, 201, 100, 101]
    returns = data.returns(config.RATEConfig(), trained=False, saved=None)
    assert returns == config.ReturnConditioning(target=10.0, low=0.0, high=10.0)


def test_spans_of_many_episodes_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(1, 9, (40,), generator=generator)
    begin = length.cumsum(0) - length
    for limit in (None, 1, 3, 100):
        drawn = torch.randint(40, (25,), generator=generator)
        expected = [int(begin[e]) + t for e in drawn for t in range(min(int(length[e]), limit or 99))]
        index, first = spans(begin, length, drawn, limit)
        assert index.tolist() == expected
        assert int(first.sum()) == 25 and index[first].tolist() == begin[drawn].tolist()


def test_steps_are_kept_in_files_that_are_removed_with_the_dataset() -> None:
    data = Dataset((episode(100) for _ in range(400)), 40_000, *SPACES)
    folder = Path(data.folder)
    assert sum(file.stat().st_size for file in folder.rglob("*.memmap")) >= 40_000 * (4 + 8 + 4)
    assert len(data) == 400
    del data
    assert not folder.exists()


def write(
    id: str, episodes: list[dict], observation_space: spaces.Space, action_space: spaces.Space, **options
) -> None:
    buffers = [
        EpisodeBuffer(
            observations=e["observations"],
            actions=e["actions"],
            rewards=e["rewards"],
            terminations=[False] * (len(e["rewards"]) - 1) + [True],
            truncations=[False] * len(e["rewards"]),
            infos={},
        )
        for e in episodes
    ]
    metadata = {"author": "x", "author_email": "x", "code_permalink": "x", "algorithm_name": "x", "description": "x"}
    with warnings.catch_warnings():  # about optional metadata
        warnings.simplefilter("ignore", UserWarning)
        minari.create_dataset_from_buffers(
            id, buffers, observation_space=observation_space, action_space=action_space, **metadata, **options
        )


def cartpole(episodes: int = 3) -> list[dict]:
    """Recorded with gymnasium alone."""
    env, found = gymnasium.make("CartPole-v1"), []
    for k in range(episodes):
        obs, _ = env.reset(seed=k)
        recorded: dict = {"observations": [obs], "actions": [], "rewards": []}
        over, t = False, 0
        while not over:
            obs, reward, terminated, truncated, _ = env.step(t % 2)
            for key, value in (("observations", obs), ("actions", t % 2), ("rewards", reward)):
                recorded[key].append(value)
            over, t = terminated or truncated, t + 1
        found.append({key: np.array(value) for key, value in recorded.items()})
    return found


def test_a_dataset_of_minari_itself_is_read_as_it_was_recorded() -> None:
    recorded, env = cartpole(), gymnasium.make("CartPole-v1")
    write("cartpole/alternating-v0", recorded, env.observation_space, env.action_space)
    data = load("gym", data="cartpole/alternating-v0")
    assert data.length.tolist() == [len(e["rewards"]) for e in recorded]
    for k, e in enumerate(recorded):
        batch = data.batch(torch.tensor([k]), None, False, torch.device("cpu"))
        assert np.array_equal(batch.obs[0].numpy(), e["observations"][:-1])
        assert batch.action[0].tolist() == e["actions"].tolist()
    assert data.total.tolist() == [e["rewards"].sum() for e in recorded]


def test_dictionaries_tuples_starts_and_pictures_are_translated_as_the_environments_are(datasets: Path) -> None:
    space = spaces.Dict(
        a=spaces.Discrete(3, start=5),
        b=spaces.Tuple([spaces.Box(0, 255, (40, 40, 3), np.uint8), spaces.MultiBinary(2)]),
    )
    picture = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    obs = {"a": np.array([5, 6, 7]), "b": (picture, np.array([[0, 1], [1, 0], [1, 1]], np.int8))}
    one = {"observations": obs, "actions": np.array([2, 3]), "rewards": np.array([0.0, 1.0])}
    write("odd/one-v0", [one], space, spaces.Discrete(2, start=2), jpeg_encoding=False)
    data = read_minari(str(datasets / "odd" / "one-v0"))
    batch = data.batch(torch.tensor([0]), None, False, torch.device("cpu"))
    assert batch.obs["a"].tolist() == [[0, 1]]
    assert np.array_equal(batch.obs["b.0"][0].numpy(), picture[:2])
    assert batch.obs["b.1"].tolist() == [[[0, 1], [1, 0]]]
    assert batch.action.tolist() == [[0, 1]]


def test_an_oracle_is_recorded_from_its_first_step_to_its_last() -> None:
    env = make_env("tmaze", 4, length=5, min_length=2)
    (wave,) = record(env, oracle_actor(env), 4, seed=0)
    for e in wave:
        T = len(e.reward)
        assert e.obs.shape == (T + 1, 2) and e.obs[0, 1] in (-1, 1)
        assert e.action.tolist()[:-1] == [0] * (T - 1) and e.reward.tolist() == [0.0] * (T - 1) + [1.0]
        assert (e.terminated, e.truncated, e.success) == (True, False, True)
        assert e.obs[-1].tolist() == [1.0, e.obs[0, 1]]  # in the arm of the cue


def test_recorded_episodes_do_not_depend_on_the_number_of_rows() -> None:
    found = []
    for rows in (1, 3, 5):
        env = make_env("tmaze-rate", rows, length=6, min_length=1)
        found.append([e for wave in record(env, oracle_actor(env), 5, seed=3) for e in wave])
    for episodes in found[1:]:
        for ours, theirs in zip(episodes, found[0], strict=True):
            assert np.array_equal(ours.obs, theirs.obs) and np.array_equal(ours.action, theirs.action)


# ------------------------------------------------------------------------------------------------------ damaged files


def broken(change) -> None:
    episodes = cartpole()
    change(episodes)
    env = gymnasium.make("CartPole-v1")
    write("cartpole/broken-v0", episodes, env.observation_space, env.action_space)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in which nothing is wrong."""
    root = tmp_path_factory.mktemp("intact")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        broken(lambda episodes: None)
    return root / "cartpole" / "broken-v0"


def change_of(key: str, value) -> object:
    def change(episodes: list[dict]) -> None:
        episodes[1][key] = value(episodes[1][key])

    return change


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float64)
    array[2] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_of("rewards", with_nan), "episode 1: rewards: step 2 is nan; expected finite numbers"),
        (change_of("rewards", lambda x: x + 1j), "episode 1: rewards are of type complex128; expected real numbers"),
        (change_of("rewards", lambda x: x[:, None]), "episode 1: rewards have shape"),
        (change_of("observations", with_nan), "episode 1: observations: step 2 is not finite"),
        (change_of("observations", lambda x: x[:-1]), "episode 1: observations have shape"),
        (change_of("actions", lambda x: x[:-1]), "episode 1: actions have shape"),
        (change_of("actions", lambda x: x + 0.5), "episode 1: actions are of type float"),
        (change_of("actions", lambda x: x + 1), "episode 1: actions: step 1 is 2, outside Discrete(2)"),
    ],
)
def test_a_broken_episode_is_named_with_its_field(change, message: str) -> None:
    broken(change)
    with pytest.raises(ConfigError) as caught:
        read_minari("cartpole/broken-v0")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def edit_metadata(path: Path, **changes) -> None:
    file = path / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (metadata | changes).items() if value is not None}))


def cut_file(path: Path) -> None:
    file = path / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pipe(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / "data" / name).unlink(missing_ok=True)
        os.mkfifo(path / "data" / name)

    return change


def without_rewards(path: Path) -> None:
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2"]["rewards"]


def replaced(make: Callable[[h5py.Group], None]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
            del file["episode_1"]["rewards"]
            make(file["episode_1"])

    return change


def episode_elsewhere(path: Path) -> None:
    shutil.copy(path / "data" / "main_data.hdf5", path / "other.hdf5")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
        file["episode_1"] = h5py.ExternalLink(str(path / "other.hdf5"), "/episode_1")


def test_an_episode_without_steps_is_named(datasets: Path) -> None:
    broken(lambda episodes: None)
    replaced(lambda group: group.create_dataset("rewards", data=np.zeros(0)))(datasets / "cartpole" / "broken-v0")
    with pytest.raises(ConfigError, match=r"episode 1: rewards have shape \(0,\); expected .*, and at least one step$"):
        read_minari("cartpole/broken-v0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            replaced(lambda group: group.create_dataset("rewards", (10**12,), "f8", chunks=(1024,))),
            "episode 1: has 8,000,000",
        ),
        (
            replaced(lambda group: group.__setitem__("rewards", h5py.ExternalLink("/etc/passwd", "rewards"))),
            "episode 1: cannot be read: ValueError: rewards is a link",
        ),
        (
            replaced(lambda group: group.create_dataset("rewards", (3,), "f8", external=[("/etc/passwd", 0, 24)])),
            "episode 1: cannot be read: ValueError: rewards is a link",
        ),
        (
            replaced(lambda group: group.__setitem__("rewards", group)),
            "episode 1: cannot be read: RecursionError",
        ),
        (
            replaced(lambda group: group.create_dataset("rewards", data=["nan", "1", "2"])),
            "episode 1: rewards are of type object; expected real numbers",
        ),
        (episode_elsewhere, "episode 1: cannot be read: ValueError: episode_1 is a link"),
        (cut_file, "episode 0: cannot be read: OSError"),
        (without_rewards, "episode 2: cannot be read: KeyError"),
        (lambda path: (path / "data" / "metadata.json").write_text("{"), "metadata.json cannot be read"),
        (lambda path: edit_metadata(path, total_episodes=0), "has 0 episodes"),
        (lambda path: edit_metadata(path, total_steps=7), "there are more steps than the 7 of metadata.json"),
        (lambda path: edit_metadata(path, total_steps=10_000), "but 10,000 according to metadata.json"),
        (
            lambda path: edit_metadata(path, action_space=None),
            "metadata.json lacks action_space",
        ),
        (lambda path: edit_metadata(path, observation_space="null"), "cannot be read as a Minari dataset: "),
        (lambda path: edit_metadata(path, total_episodes=10**12), "has 1000000000000 episodes of"),
        (lambda path: edit_metadata(path, total_episodes="3"), "cannot be read as a Minari dataset: TypeError"),
        (lambda path: edit_metadata(path, total_steps=10**15), "bytes free, 28,000,000,000,000,000 are needed"),
        (lambda path: (path / "data" / "metadata.json").write_text("[" * 100_000), "metadata.json cannot be read"),
        (pipe("metadata.json"), "metadata.json cannot be read: OSError: [Errno 22] is not a regular file"),
        (pipe("main_data.hdf5"), "main_data.hdf5: is not a regular file"),
        (pipe("other"), "other: is not a regular file"),
        (lambda path: os.truncate(path / "data" / "metadata.json", 2**33), "has 8,589,934,592 bytes; at most"),
        (lambda path: shutil.rmtree(path / "data"), "no Minari dataset is there"),
    ],
)
def test_a_damaged_dataset_is_one_line(datasets: Path, damage, message: str, intact: Path) -> None:
    shutil.copytree(intact, datasets / "cartpole" / "broken-v0")
    damage(datasets / "cartpole" / "broken-v0")
    gc.collect()  # otherwise a buffer of an earlier test may be freed at the recursion limit, which breaks multiprocessing's heap
    with pytest.raises(ConfigError) as caught:
        read_minari("cartpole/broken-v0")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_dataset_that_does_not_exist_is_one_line_that_names_those_that_do() -> None:
    broken(lambda episodes: None)
    with pytest.raises(ConfigError, match=r"no Minari dataset is there; local ones are cartpole/broken-v0"):
        read_minari("cartpole/expert-v0")


def test_a_dataset_of_another_task_is_rejected() -> None:
    broken(lambda episodes: None)
    with pytest.raises(ConfigError, match=r"its observation space is Box.* but that of env=tmaze is Box"):
        load("tmaze", data="cartpole/broken-v0")


def test_a_task_without_an_oracle_needs_data() -> None:
    with pytest.raises(ConfigError, match="has no oracle; learn from recorded episodes"):
        load("bandit")


def test_observations_outside_their_space_are_named() -> None:
    for space, values in ((spaces.Discrete(3), [0, 1, 3]), (spaces.Box(0, 10, (1,), np.uint8), [[0], [1], [200]])):
        one = {"observations": np.array(values), "actions": np.array([0, 1]), "rewards": np.zeros(2)}
        write(f"odd/{type(space).__name__}-v0", [one], space, spaces.Discrete(2))
        with pytest.raises(ConfigError, match=r"episode 0: observations: step 2 is outside"):
            read_minari(f"odd/{type(space).__name__}-v0")


def test_numbers_outside_their_bounds_are_clipped_as_the_environment_did() -> None:
    one = {"observations": np.zeros((3, 1), np.float32), "actions": np.array([[5.0], [-0.5]]), "rewards": np.zeros(2)}
    write("odd/far-v0", [one], SPACES[0], spaces.Box(-2, 2, (1,), np.float32))
    assert read_minari("odd/far-v0").batch(torch.tensor([0]), None, False, torch.device("cpu")).action.tolist() == [
        [[2.0], [-0.5]]
    ]


def test_a_picture_that_is_a_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow runs Ghostscript on PostScript, and minari decodes pictures with Pillow."""
    picture = np.zeros((2, 48, 48, 3), np.uint8)
    write(
        "odd/eps-v0",
        [{"observations": picture, "actions": np.array([0]), "rewards": np.zeros(1)}],
        spaces.Box(0, 255, (48, 48, 3), np.uint8),
        spaces.Discrete(2),
    )
    place = Path(minari.storage.get_dataset_path("odd/eps-v0")) / "data" / "main_data.hdf5"
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n%%EndComments\nshowpage\n%%EOF\n"
    with h5py.File(place, "a") as file:
        group = file["episode_0"]
        del group["observations"]
        kind = h5py.vlen_dtype(np.uint8)
        cells = group.create_dataset("observations", (2,), kind)
        for i in range(2):
            cells[i] = np.frombuffer(program, np.uint8)
    ran = tmp_path / "ran"
    fake = tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {ran}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="episode 0"):
        read_minari("odd/eps-v0")
    assert not ran.exists() and not EpsImagePlugin.has_ghostscript()


def test_returns_that_are_too_far_apart_for_the_encoder_are_rejected() -> None:
    data = Dataset([Episode(np.zeros((1, 1), np.float32), np.zeros(1, np.int64), np.array([2e6]))], 1, *SPACES)
    with pytest.raises(ConfigError, match="differ by more than 1e\\+06, the most that can be encoded"):
        data.returns(config.RATEConfig(), trained=False, saved=None)
    assert data.returns(config.RATEConfig(returns=False), trained=False, saved=None) is None


def one_step(reward: float) -> Episode:
    return Episode(np.zeros((1, 1), np.float32), np.zeros(1, np.int64), np.array([reward]))


@pytest.mark.parametrize(("rewards", "fit"), [((-7e5, 7e5), False), ((-4e5, 5e5), True), ((8e5, 1e6), True)])
def test_the_range_of_returns_is_limited_and_not_their_size(rewards, fit) -> None:
    data = Dataset([one_step(reward) for reward in rewards], 2, *SPACES)
    if fit:
        returns = data.returns(config.RATEConfig(), trained=False, saved=None)
        assert (returns.low, returns.high) == (min(0.0, *rewards), max(rewards))
    else:
        with pytest.raises(ConfigError, match=r"returns of -7e\+05 to 7e\+05 differ by more than 1e\+06"):
            data.returns(config.RATEConfig(), trained=False, saved=None)


def test_the_range_of_returns_is_that_of_all_steps() -> None:
    """The returns to go of the first episode are -2 and -5, those of the second one 2 and 5."""
    pay = [
        Episode(np.zeros((2, 1), np.float32), np.zeros(2, np.int64), np.array(pay)) for pay in ([3.0, -5], [-3.0, 5])
    ]
    returns = Dataset(pay, 4, *SPACES).returns(config.RATEConfig(), trained=False, saved=None)
    assert (returns.low, returns.high, returns.target) == (-5.0, 5.0, 2.0)


def test_the_checksum_of_a_dataset_is_blake2b_of_its_columns_which_earlier_runs_stored_too() -> None:
    expected = hashlib.blake2b(digest_size=32)
    for column in (np.zeros((1, 1), np.float32), np.zeros(1, np.int64), np.array([2.5], np.float32)):
        expected.update(str((column.shape, column.dtype)).encode() + column.tobytes())
    assert Dataset([one_step(2.5)], 1, *SPACES).fingerprint() == expected.hexdigest()


def test_a_dataset_is_described_by_its_size_and_the_range_of_its_returns() -> None:
    assert str(Dataset([episode(3), episode(2)], 5, *SPACES)) == "2 episodes, 5 steps, returns 3 to 6"


@pytest.mark.parametrize(
    ("successes", "share"), [((True, False, True), 2 / 3), ((None, True, None), 1 / 3), ((None, None, None), None)]
)
def test_the_statistics_of_recorded_episodes_by_hand(successes, share) -> None:
    rewards = [np.array([1.0, 2.0]), np.array([-4.0]), np.array([0.5, 0.5, 0.5])]
    waves = [types.SimpleNamespace(reward=r, success=s) for r, s in zip(rewards, successes, strict=True)]
    stats = _Statistics()
    stats.add(waves[:2])
    stats.add(waves[2:])
    expected = {"return_mean": 0.5 / 3, "return_min": -4.0, "return_max": 3.0, "length_mean": 2.0}
    assert stats.summary() == pytest.approx(expected if share is None else expected | {"success": share})
