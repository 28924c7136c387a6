"""A saved policy acts as before. A damaged one is rejected with one line that names the file."""

import json
import os
import resource
import shutil
import struct

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file

from rmt_rl import config
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.cli import run
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import env_config, load_policy, make_task, policy_folder, save_policy
from rmt_rl.policies.spaces import from_json, to_json
from rmt_rl.policies.spec import PolicySpec, make_spec
from rmt_rl.policies.weights import BESIDE, BadWeights, Sized, numbers_in

POLICIES = {
    "rmt": config.RMTConfig(width=16, heads=2, segment=4, memory_tokens=2),
    "rmt-gate": config.RMTConfig(width=16, heads=1, segment=3, memory_tokens=1, memory_update="gate"),
    "lstm": config.LSTMConfig(width=16),
    "gru": config.GRUConfig(width=16, layers=2),
    "mlp": config.MLPConfig(width=16, previous_action=True),
}
OBSERVATIONS = {
    "Box": spaces.Box(np.array([-np.inf, -1, 0], np.float32), np.array([np.inf, 1, np.inf], np.float32)),
    "Dict": spaces.Dict({"direction": spaces.Discrete(4), "image": spaces.Box(0, 255, (3, 3, 3), np.uint8)}),
}
ACTIONS = {
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "Box": spaces.Box(-np.inf, np.inf, (2,), np.float32),
}
TASK = config.TMazeConfig(length=9, min_length=2)


def make_policy(policy_name="rmt", observation_name="Box", action_name="Discrete", seed=0):
    spec = PolicySpec(POLICIES[policy_name], OBSERVATIONS[observation_name], ACTIONS[action_name], TASK)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = ActorCritic(spec)
        for parameter in policy.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return policy


def play(policy, steps=9, rows=3):
    """Sampled and greedy actions and values along a few steps, with resets."""
    space, generator = policy.spec.observation_space, torch.Generator().manual_seed(0)
    space.seed(0)

    def observe():
        samples = [space.sample() for _ in range(rows)]
        if isinstance(space, spaces.Dict):
            return {key: torch.from_numpy(np.stack([s[key] for s in samples])) for key in space}
        return torch.from_numpy(np.stack(samples))

    state, found = policy.initial_state(rows), []
    for t in range(steps):
        obs, first = observe(), torch.tensor([t == 0, t in (0, 5), t == 0])
        found.append(policy.act(obs, state, first, deterministic=True)[0])
        action, log_prob, value, state = policy.explore(obs, state, first, generator)
        found += [action, log_prob, value]
    return found


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture
def folder(tmp_path):
    """A saved policy."""
    save_policy(make_policy(), tmp_path / "policy")
    return tmp_path / "policy"


def rejection(path):
    """The message of load_policy: one line."""
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message


@pytest.mark.slow
@pytest.mark.parametrize("policy_name", POLICIES)
@pytest.mark.parametrize("observation_name", OBSERVATIONS)
@pytest.mark.parametrize("action_name", ACTIONS)
def test_a_loaded_policy_acts_as_the_saved_one_bit_for_bit(policy_name, observation_name, action_name, tmp_path):
    policy = make_policy(policy_name, observation_name, action_name)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    assert same(play(loaded), play(policy))
    assert not same(play(make_policy(policy_name, observation_name, action_name, seed=1)), play(policy))
    assert loaded.spec.to_json() == json.loads(json.dumps(policy.spec.to_json()))
    assert not loaded.training


def test_weights_that_share_one_storage_are_saved(tmp_path):
    """As cuDNN arranges those of an LSTM on a GPU."""
    policy = make_policy("lstm", "Box", "Discrete")
    expected = play(policy)
    weights = list(policy.backbone.parameters())
    storage = torch.cat([weight.detach().flatten() for weight in weights])
    for weight, part in zip(weights, storage.split([w.numel() for w in weights]), strict=True):
        weight.data = part.view(weight.shape)
    save_policy(policy, tmp_path)
    assert same(play(load_policy(tmp_path)), expected)


def test_infinite_bounds_are_kept(folder):
    space = load_policy(folder).spec.observation_space
    assert space == OBSERVATIONS["Box"]
    assert "Infinity" not in (folder / "config.json").read_text(), "JSON has no infinity"


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(7),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiBinary((2, 3)),
        spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
        spaces.Box(np.array([-np.inf, 0.1], np.float32), np.array([0.3, np.inf], np.float32)),
        spaces.Box(-1.0, 1.0, (), np.float32),
        spaces.Box(0, 255, (84, 84, 3), np.uint8),
        spaces.Box(np.array([0, -2]), np.array([3, 2**60 + 1]), dtype=np.int64),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"x.y": spaces.MultiBinary((3,))})}),
    ],
)
def test_every_space_is_restored_from_json(space):
    again = from_json(json.loads(json.dumps(to_json(space), allow_nan=False)))
    assert again == space
    if isinstance(space, spaces.Box):  # its == ignores small differences of the bounds
        assert np.array_equal(again.low, space.low)
        assert np.array_equal(again.high, space.high)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3], start=[1, 5]),
        spaces.Tuple([spaces.Discrete(2), spaces.Dict({"a": spaces.Discrete(4, start=2)})]),
    ],
)
def test_a_space_of_the_environment_keeps_its_tuples_and_where_its_whole_numbers_start(space):
    assert from_json(json.loads(json.dumps(to_json(space, own=True)))) == space


def test_the_folder_of_a_run_works_like_its_policy_folder(folder):
    assert policy_folder(folder.parent) == policy_folder(folder) == folder
    assert same(play(load_policy(folder.parent)), play(load_policy(str(folder))))


def test_the_task_is_saved_with_the_policy(folder):
    assert env_config(load_policy(folder)) == TASK


def test_huggingface_hub_can_read_the_folder(folder):
    assert same(play(ActorCritic.from_pretrained(folder)), play(load_policy(folder)))


def test_the_code_on_the_model_card_runs(tmp_path):
    env = make_from_config(TASK, 1)
    save_policy(ActorCritic(make_spec(env, TASK, POLICIES["rmt"])), tmp_path)
    card = (tmp_path / "README.md").read_text()
    played: dict = {}
    exec(card.partition("```python\n")[2].partition("```")[0].replace("<this folder>", str(tmp_path)), played)
    assert played["first"].shape == (16,) and "[More Information Needed]" not in card


def test_saving_again_replaces_the_policy(folder):
    other = make_policy(seed=1)
    save_policy(other, folder)
    assert same(play(load_policy(folder)), play(other))


def test_every_weight_comes_from_the_file(folder):
    expected = make_policy().state_dict()
    loaded = load_policy(folder).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_loading_does_not_use_the_global_generator(folder):
    before = torch.get_rng_state()
    load_policy(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_file_in_the_folder_can_run_code(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"config.json", "model.safetensors"} <= {path.name for path in files}
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    for path in files:
        content = path.read_bytes()
        assert not content.startswith((b"\x80", b"PK")), f"{path.name} is a pickle, or a zip that holds one"
        assert b"torch._utils" not in content
    # safetensors: eight bytes of length, a JSON header, and then numbers
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert "action_embedding.weight" in json.loads(content[8 : 8 + length])


def test_a_pickle_in_place_of_the_weights_is_not_opened(folder):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    torch.save(Bomb(), folder / "bomb.pt")
    with pytest.raises(pytest.fail.Exception):  # the pickle does run code
        torch.load(folder / "bomb.pt", weights_only=False)
    shutil.move(folder / "bomb.pt", folder / "model.safetensors")
    assert str(folder / "model.safetensors") in rejection(folder)


def test_a_missing_folder_is_named(tmp_path):
    assert str(tmp_path / "nowhere") in rejection(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    message = rejection(folder)
    assert str(folder) in message
    assert name in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_weights_are_rejected(share, folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert str(path) in rejection(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 500, b"{}", b"\x00" * 500])
def test_an_invalid_weight_file_is_rejected(content, folder):
    path = folder / "model.safetensors"
    path.write_bytes(content)
    assert str(path) in rejection(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "3", '"spec"', "{}", '{"spec": null}', '{"spec": []}', "[" * 100_000, "\x00", "\udcff"],
)
def test_an_invalid_description_is_rejected(content, folder):
    path = folder / "config.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert str(path) in rejection(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_one_flipped_bit_is_detected(name, folder):
    path = folder / name
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content), len(content) // 20):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        assert str(path) in rejection(folder) or str(folder / "model.safetensors") in rejection(folder)
    path.write_bytes(content)
    load_policy(folder)
    (folder / "sha256.json").unlink()  # as from push_to_hub
    load_policy(folder)


def test_the_error_for_an_edited_file_names_the_remedy(folder):
    file = folder / "config.json"
    file.write_text(file.read_text() + " ")
    assert (
        f"{file}: was changed after it was saved (sha256); if you changed it yourself, remove sha256.json"
        in rejection(folder)
    )
    (folder / "sha256.json").write_text("[]")
    assert "sha256.json: is damaged" in rejection(folder)


def test_saving_keeps_other_files_of_the_folder(folder):
    (folder / "notes.txt").write_text("mine")
    save_policy(make_policy("lstm"), folder)
    load_policy(folder)
    assert {path.name for path in folder.iterdir()} >= {"notes.txt", "config.json", "model.safetensors", "sha256.json"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_saving_removes_what_a_killed_process_left_unfinished(folder):
    (folder / ".new-killed").mkdir()
    (folder / ".new-killed" / "model.safetensors").write_text("half")
    save_policy(make_policy("mlp"), folder)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("other", ["rmt-gate", "lstm", "gru", "mlp"])
def test_the_description_of_another_architecture_is_rejected(other, folder, tmp_path):
    save_policy(make_policy(other), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "config.json", folder / "config.json")
    assert str(folder / "model.safetensors") in rejection(folder)


def change(folder, path, value):
    """Set spec[path...] in config.json; the value "missing" removes it."""
    file = folder / "config.json"
    content = json.loads(file.read_text())
    part = content["spec"]
    *parents, last = path
    for key in parents:
        part = part[key]
    if value == "missing":
        del part[last]
    else:
        part[last] = value
    file.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, value",
    [
        (["policy"], "missing"),
        (["policy"], None),
        (["policy"], "rmt"),
        (["policy"], [1, 2]),
        (["policy", "name"], "transformer"),
        (["policy", "name"], ["rmt"]),
        (["policy", "name"], "missing"),
        (["policy", "width"], "missing"),
        (["policy", "width"], -16),
        (["policy", "width"], 0),
        (["policy", "width"], 16.5),
        (["policy", "width"], "wide"),
        (["policy", "width"], 10**30),
        (["policy", "width"], None),
        (["policy", "width"], 32),
        (["policy", "heads"], 3),
        (["policy", "heads"], 0),
        (["policy", "segment"], 5),
        (["policy", "memory_tokens"], 3),
        (["policy", "memory_update"], "forget"),
        (["policy", "surprise"], 1),
        (["env"], "missing"),
        (["env"], {}),
        (["env", "name"], "chess"),
        (["env", "length"], 0),
        (["env", "length"], float("nan")),
        (["observation_space"], "missing"),
        (["observation_space"], None),
        (["observation_space"], "box"),
        (["observation_space"], {"type": "ball"}),
        (["observation_space"], {"type": "discrete", "n": -1}),
        (["observation_space"], {"type": "dict", "entries": {"a": None}}),
        (["observation_space", "shape"], [4]),
        (["observation_space", "shape"], [-3]),
        (["observation_space", "shape"], "three"),
        (["observation_space", "dtype"], "object"),
        (["observation_space", "dtype"], "float33"),
        (["observation_space", "low"], "missing"),
        (["observation_space", "low"], "low"),
        (["observation_space", "low"], [9, 9, 9]),
        (["action_space"], "missing"),
        (["action_space", "n"], 5),
        (["action_space", "n"], 2.5),
        (["action_space", "n"], 10**15),
        (["action_space"], {"type": "multi_binary", "shape": [4]}),
    ],
)
def test_an_invalid_value_in_the_description_is_rejected(path, value, folder):
    change(folder, path, value)
    assert str(folder) in rejection(folder)


@pytest.mark.parametrize(
    "path, value",
    [
        (["action_space", "n"], 10**30),
        (["observation_space"], {"type": "dict", "entries": [1]}),
        (["observation_space"], {"type": "dict", "entries": {}}),
        (["observation_space"], {"type": "box", "shape": [3], "dtype": "uint8", "low": -1, "high": 300}),
    ],
)
def test_an_invalid_space_in_the_description_is_rejected(path, value, folder):
    change(folder, path, value)
    assert str(folder) in rejection(folder)


def test_a_folder_in_place_of_a_file_is_rejected(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert str(folder) in rejection(folder)


@pytest.mark.parametrize(
    ("device", "message"),
    [("cud", "device=cud: expected cpu, cuda, cuda:N or auto"), ("cuda:99", "device=cuda:99: this machine has")],
)
def test_a_missing_device_is_named(tmp_path, device, message):
    with pytest.raises(ConfigError, match=message):
        load_policy(tmp_path, device)


# ----------------------------------------------------------------------------------------------- untrusted contents


def rewrite(folder, change):
    """Replace every weight of the file by change(weight), without checksums, as another program may."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: change(x).contiguous() for name, x in tensors.items()}, folder / "model.safetensors")
    (folder / "sha256.json").unlink()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda x: torch.full_like(x, torch.nan), "not finite (NaN or infinity); every weight must be a number"),
        (lambda x: torch.full_like(x, -torch.inf), "not finite (NaN or infinity)"),
        (lambda x: x.double() * 1e200, "has values that torch.float32 cannot hold; the largest is"),
        (lambda x: x.to(torch.int8), "is of type torch.int8; expected torch.float32"),
        (lambda x: x.bool(), "is of type torch.bool; expected torch.float32"),
    ],
)
def test_weights_that_are_no_usable_numbers_are_one_sentence(weights, message, folder):
    rewrite(folder, weights)
    assert message in rejection(folder)


def test_from_pretrained_checks_the_weights_too_and_reads_no_pickle(folder):
    rewrite(folder, lambda x: torch.full_like(x, torch.nan))
    with pytest.raises(ValueError, match="not finite"):
        ActorCritic.from_pretrained(folder)
    with pytest.raises(ConfigError, match=r"is a pickle, which is not read; expected model.safetensors"):
        ActorCritic._load_as_pickle(None, "pytorch_model.bin", "cpu", True)  # of a repository without safetensors


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_floating_point_type_are_converted(dtype, folder):
    expected = {name: x.to(dtype).float() for name, x in load_policy(folder).state_dict().items()}
    rewrite(folder, lambda x: x.to(dtype))
    loaded = load_policy(folder).state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in expected.items())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["policy", "width"], 65_536),
        (["policy", "layers"], 1_000),
        (["policy", "memory_tokens"], 65_536),
        (["observation_space"], {"type": "discrete", "n": 10**9}),
        (["observation_space"], {"type": "box", "shape": [2 * 10**9], "dtype": "float32", "low": 0, "high": 1}),
        (["observation_space"], {"type": "box", "shape": [2**60, 2**60], "dtype": "float32", "low": 0, "high": 1}),
        (["observation_space"], {"type": "multi_binary", "shape": [2**40]}),
        (["action_space"], {"type": "multi_discrete", "nvec": [[10**5] * 100] * 100}),
    ],
)
def test_a_description_of_a_huge_network_takes_no_memory(path, value, folder):
    change(folder, path, value)
    (folder / "sha256.json").unlink()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert str(folder) in rejection(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_deep_dictionaries_are_one_sentence(folder):
    space = {"type": "discrete", "n": 2}
    for _ in range(100):
        space = {"type": "dict", "entries": {"a": space}}
    change(folder, ["observation_space"], space)
    assert "more than 16 dictionaries inside each other" in rejection(folder)


@pytest.mark.parametrize("name", ["config.json", "sha256.json"])
def test_a_sparse_file_is_not_read(name, folder):
    os.truncate(folder / name, 2**33)
    assert "has 8,589,934,592 bytes; at most" in rejection(folder)


def test_every_file_is_flushed_before_it_replaces_the_old_one_and_the_folder_at_the_end(folder, tmp_path, monkeypatch):
    policy, calls, replace = load_policy(folder), [], os.replace

    def replaced(source, target):
        calls.append(("replace", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr("rmt_rl.policies.saving.os.replace", replaced)
    monkeypatch.setattr("rmt_rl.policies.saving.fsync", lambda path: calls.append(("flush", path.name)))
    save_policy(policy, tmp_path / "new")
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    expected = [(what, name) for name in files for what in ("flush", "replace")] + [("flush", "new")]
    assert sorted(calls[:-1], key=lambda call: call[1]) == expected[:-1] and calls[-1] == expected[-1]
    assert {"config.json", "model.safetensors", "sha256.json"} <= set(files)


def test_the_numbers_of_a_new_network_are_counted_however_their_size_is_given():
    with Sized(0) as sized:
        sized.made = -100
        for made, make in enumerate(
            [lambda: torch.empty(2, 5), lambda: torch.zeros((2, 5)), lambda: torch.ones(size=(2, 5))]
            + [lambda: torch.full((2, 5), 1.0), lambda: torch.randn(torch.Size([10]), dtype=torch.float64)]
            + [lambda: torch.rand(10), lambda: torch.zeros(2, 5, device="cpu")]
        ):
            assert make().numel() == 10
            assert sized.made == -100 + 10 * (made + 1)
        torch.zeros(())
        assert sized.made == -29
        sized.made = BESIDE - 10
        torch.zeros(10)
        with pytest.raises(BadWeights, match=r"^the network needs more than the 0 numbers of the file$"):
            torch.zeros(1)


def test_a_file_larger_than_the_memory_is_one_sentence(folder, monkeypatch):
    monkeypatch.setattr("rmt_rl.policies.weights.machine_memory", lambda: 1_000)
    assert "this machine has 1,000 bytes of memory" in rejection(folder)


def test_a_file_as_large_as_the_memory_is_read(folder, monkeypatch):
    size = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr("rmt_rl.policies.weights.machine_memory", lambda: size)
    load_policy(folder)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_full_memory_is_one_line_of_a_command(error, capsys):
    def command(argv):
        raise error

    assert run(command, []) == 1
    assert capsys.readouterr().err.startswith("error: the memory is full; ")


def test_other_errors_keep_their_traceback():
    def command(argv):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(command, [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_in_place_of_the_weights_is_refused_without_waiting_for_it(tmp_path):
    pipe = tmp_path / "model.safetensors"
    os.mkfifo(pipe)
    both_ends = os.open(pipe, os.O_RDWR)  # so that nothing that opens it waits
    try:
        with pytest.raises(OSError, match="is not a regular file"):
            numbers_in(pipe, config.MLPConfig())
    finally:
        os.close(both_ends)


def test_a_task_is_made_for_a_loaded_policy_only():
    with pytest.raises(ConfigError, match=r"policy=runs/a: expected a policy, as rmt_rl\.load_policy"):
        make_task("runs/a")
