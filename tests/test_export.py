"""The exported program against the policy that it was exported from."""

import json
import re
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rmt_rl import config
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import sha256_file
from rmt_rl.common.state import leaves
from rmt_rl.envs.registry import make_from_config
from rmt_rl.export import export, main
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import save_policy
from rmt_rl.policies.spec import make_spec

TMAZE = config.TMazeConfig(length=6, min_length=2)
GRID = config.MiniGridMemoryConfig()  # a dictionary of observations
POLICIES = {name: entry.config() for name, entry in config.GROUPS["policy"].items()} | {
    "rmt with everything": config.RMTConfig(
        layers=1, cache=6, positions="rotary", memory_update="mrv", token_shift=True, null_key_value=True, gating="gru"
    )
}
#: Of these some operations had no ONNX equivalent, or need complex numbers, until acting went another way.
LATER = ("mingru", "deltanet", "mlstm", "rwkv4", "rwkv7", "ffm", "hierarchical", "reformer", "routing")


def make_policy(policy_config, task=TMAZE):
    torch.manual_seed(0)
    policy = ActorCritic(make_spec(make_from_config(task), task, policy_config)).eval()
    for parameter in policy.parameters():  # a new policy acts nearly the same for all observations
        parameter.data += 0.2 * torch.randn_like(parameter)
    return policy


def same_actions(policy, task, batch, call, steps):
    """Compare the policy with `call(obs, first, state)` -> (action, *state) on the same episodes, with resets where they end."""
    env = make_from_config(task, batch)
    obs, _ = env.reset(seed=0)
    first = torch.ones(batch, dtype=torch.bool)
    state = policy.initial_state(batch)
    theirs = [x.detach().contiguous() for x in leaves(state).values()]
    generator, resets, kinds = torch.Generator().manual_seed(0), 0, set()
    for _ in range(steps):
        action, state = policy.act(obs, state, first, deterministic=True)
        exported, *theirs = call(obs, first, theirs)
        assert torch.equal(action, exported)
        kinds |= set(action.tolist())
        # the state remembers the action that was taken, so a random one would not do
        obs, _, terminated, truncated, _ = env.step(action)
        first = terminated | truncated | (torch.rand(batch, generator=generator) < 0.05)
        resets += int(first.sum())
    assert resets > steps // 20 and len(kinds) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [(name, 200 if name == "rmt" else 60) for name in POLICIES])
def test_the_reloaded_program_acts_as_the_policy_for_many_steps_with_resets(name, steps, tmp_path):
    policy = make_policy(POLICIES[name])
    export(policy, tmp_path / "out", 2, onnx=False)
    program = torch.export.load(tmp_path / "out" / "step.pt2").module()
    same_actions(policy, TMAZE, 2, lambda obs, first, state: program(obs, first, *state), steps)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in ("rmt", "trxl", "lstm", *LATER)])
def test_onnx_acts_as_the_policy_for_a_thousand_steps_with_resets(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra rmt_rl[onnx] is not installed")
    policy = make_policy(POLICIES[name], GRID)
    export(policy, tmp_path / "out", 2, onnx=True)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "step.onnx", providers=["CPUExecutionProvider"])
    inputs = [entry.name for entry in session.get_inputs()]

    def call(obs, first, state):
        observations = {f"observation.{key}": value for key, value in obs.items()}
        given = {**observations, "first": first, **dict(zip(described[-len(state) :], state, strict=True))}
        return [torch.from_numpy(np.asarray(x)) for x in session.run(None, {n: given[n].numpy() for n in inputs})]

    described = [entry["name"] for entry in json.loads((tmp_path / "out" / "io.json").read_text())["inputs"]]
    same_actions(policy, GRID, 2, call, 1_000)


@pytest.mark.slow
def test_a_step_that_onnx_has_no_operation_for_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="the extra rmt_rl[onnx] is not installed")
    monkeypatch.setattr(
        "rmt_rl.policies.recurrent.Recurrent.step",
        lambda self, x, state, first: (x.cummax(1).values, state),
    )
    with pytest.raises(
        ConfigError, match=r"onnx=true: torch cannot translate aten\.cummax, which a step of policy=lstm"
    ):
        export(make_policy(POLICIES["lstm"]), tmp_path / "out", 2, onnx=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_io_json_describes_inputs_and_outputs_of_the_program(tmp_path):
    policy = make_policy(POLICIES["rmt"], GRID)
    export(policy, tmp_path / "out", 3, onnx=False)
    io = json.loads((tmp_path / "out" / "io.json").read_text())
    initial = load_file(tmp_path / "out" / "initial_state.safetensors")
    by_name = {entry["name"]: entry for entry in io["inputs"]}
    assert set(initial) <= set(by_name) and by_name["first"] == {"name": "first", "dtype": "bool", "shape": [3]}
    for name, value in initial.items():
        assert by_name[name]["shape"] == list(value.shape)
        assert {"name": f"next_{name}"} | {k: by_name[name][k] for k in ("dtype", "shape")} in io["outputs"]
    for name, value in leaves(policy.initial_state(3)).items():
        assert torch.equal(initial[name], value)


def test_the_command_writes_beside_the_policy_and_overwrites_nothing(tmp_path, capsys):
    save_policy(make_policy(POLICIES["lstm"]), tmp_path / "run" / "policy")
    assert main([f"policy={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "export" / "step.pt2").is_file()
    assert main([f"policy={tmp_path / 'run'}"]) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path, capsys):
    save_policy(make_policy(POLICIES["mlp"]), tmp_path / "run" / "policy")
    (tmp_path / "file").write_text("")
    assert main([f"policy={tmp_path / 'run'}", f"out={tmp_path / 'file' / 'out'}"]) == 2
    assert re.fullmatch(r"error: out=.*/file/out: Not a directory; choose another out=\n", capsys.readouterr().err)


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_folder(tmp_path, capsys):
    save_policy(make_policy(POLICIES["mlp"]), tmp_path / "run" / "policy")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, before[1]))  # torch ended the process
    try:
        status = main([f"policy={tmp_path / 'run'}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2 and not (tmp_path / "run" / "export").exists()
    assert capsys.readouterr().err.endswith("export: cannot be written: File too large\n")


@pytest.mark.parametrize(
    "argument, message",
    [
        ("polcy=x", "no such option"),
        ("num_envs=0", "expected a whole number, at least 1"),
        ("policy=nowhere", "no such folder"),
    ],
)
def test_mistakes_are_one_line(argument, message, capsys):
    arguments = [argument] if argument.startswith("policy") else ["policy=nowhere", argument]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_checksums_lie_beside_an_export(tmp_path):
    written = export(make_policy(config.MLPConfig(width=16)), tmp_path / "out", 1, onnx=False)
    sums = json.loads((tmp_path / "out/sha256.json").read_text())
    assert written[-1] == tmp_path / "out/sha256.json"
    assert sums == {path.name: sha256_file(path) for path in written[:-1]}
