"""Export one acting step of a trained policy as a program without rmt_rl: `python -m rmt_rl.export policy=<path>`.

The program takes and returns tensors only:

    inputs   observation (one tensor, or one for each key of a dictionary), first [B] bool, then the state, leaf by leaf
    outputs  the most likely action, then the state after the step, in the same order

B is fixed at export. The names and shapes of all inputs and outputs are in `io.json`, the initial state is in
`initial_state.safetensors`, the checksums of all files in `sha256.json`. `io.json` also says what an environment itself adds
to the actions ("start"), or their bounds. "own_space" is the environment's own action space where it is another one: whole
numbers in it count from its "start" or "low", and a Tuple or Dict lies side by side, choices first, in its order.

`torch.export.load` unpickles parts of a .pt2 file, so it can run code that somebody put there. An ONNX file cannot.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import reason, require_new, sha256_file
from rmt_rl.common.process import require_packages
from rmt_rl.config.commands import ExportConfig
from rmt_rl.config.fields import show
from rmt_rl.policies.zoo import in_zoo

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_rl.policies.actor_critic import ActorCritic


def step_module(policy: ActorCritic, batch: int) -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str], list[str]]:
    """The module to export, an example of its inputs, and the names of inputs and outputs."""
    import gymnasium
    import numpy as np
    import torch
    from torch import nn

    from rmt_rl.common.state import leaves, rebuild

    state = policy.initial_state(batch)
    names = list(leaves(state))
    space = policy.acting_space
    keys = list(space) if isinstance(space, gymnasium.spaces.Dict) else None

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            n = len(keys) if keys else 1
            obs = dict(zip(keys, inputs[:n], strict=True)) if keys else inputs[0]
            values = dict(zip(names, inputs[n + 1 :], strict=True))
            action, after = self.policy.act(obs, rebuild(state, values), inputs[n], deterministic=True)
            return (action, *leaves(after).values())

    def example(part: Any) -> torch.Tensor:
        return torch.as_tensor(np.stack([part.sample() for _ in range(batch)]))

    observations = [example(part) for part in (space.values() if isinstance(space, gymnasium.spaces.Dict) else [space])]
    first = torch.ones(batch, dtype=torch.bool)
    inputs = (*observations, first, *(x.detach().clone() for x in leaves(state).values()))
    input_names = [*([f"observation.{key}" for key in keys] if keys else ["observation"]), "first", *names]
    return Step().eval(), inputs, input_names, ["action", *(f"next_{name}" for name in names)]


def export(policy: ActorCritic, folder: Path, batch: int, onnx: bool) -> list[Path]:
    """Write step.pt2 (torch.export), step.onnx if wanted, io.json, initial_state.safetensors, sha256.json; the paths written."""
    folder.mkdir(parents=True)
    try:
        return _write(policy, folder, batch, onnx)
    except BaseException:
        shutil.rmtree(folder)  # an incomplete folder would block the next attempt
        raise


def _write(policy: ActorCritic, folder: Path, batch: int, onnx: bool) -> list[Path]:
    import torch
    from safetensors.torch import save

    from rmt_rl.common.state import leaves
    from rmt_rl.policies.spaces import to_json as space_to_json

    policy = policy.cpu().eval()
    if policy.critic is not None:  # a program that acts needs no values
        policy = copy.deepcopy(policy)
        policy.critic = None
    module, inputs, input_names, output_names = step_module(policy, batch)
    with torch.no_grad(), warnings.catch_warnings():
        # nn.LSTM and nn.GRU reassign a list of their weights on every call; it is not state
        warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights")
        program = torch.export.export(module, inputs, strict=False)
        outputs = program.module()(*inputs)
    written = [folder / "step.pt2"]
    example, program.example_inputs = program.example_inputs, None  # it would be pickled into the file
    # in memory first: torch ends the process where it cannot write a file
    archive = io.BytesIO()
    torch.export.save(program, archive)
    written[0].write_bytes(archive.getvalue())
    program.example_inputs = example
    if onnx:
        written.append(folder / "step.onnx")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports packages that are not needed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about internals of the exporter, on which users cannot act
            try:
                torch.onnx.export(
                    program,
                    (),
                    written[-1],
                    input_names=input_names,
                    output_names=output_names,
                    external_data=False,  # one file
                    verbose=False,
                )
            except torch.onnx.OnnxExporterError as error:
                found = re.search(r"aten\.\w+", str(error))
                raise ConfigError(
                    f"onnx=true: torch cannot translate {found.group() if found else 'an operation'}, which a step of"
                    f" policy={policy.spec.policy.name} needs; leave onnx=true out: step.pt2 does not need it"
                ) from error

    def described(names: list[str], tensors: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        kinds = (str(t.dtype).removeprefix("torch.") for t in tensors)
        return [{"name": n, "dtype": k, "shape": list(t.shape)} for n, k, t in zip(names, kinds, tensors, strict=True)]

    space: Any = policy.spec.action_space
    if hasattr(space, "low"):
        action: dict[str, Any] = {"low": space_to_json(space)["low"], "high": space_to_json(space)["high"]}
    else:
        action = {"start": policy.spec.action_start}
    if policy.spec.own_actions is not None:
        action["own_space"] = space_to_json(policy.spec.own_actions, own=True)
    described_io = {"inputs": described(input_names, inputs), "outputs": described(output_names, outputs)}
    described_io["outputs"][0] |= action
    written.append(folder / "io.json")
    written[-1].write_text(json.dumps(described_io, indent=2) + "\n", encoding="utf-8")
    written.append(folder / "initial_state.safetensors")
    written[-1].write_bytes(save({name: x.contiguous() for name, x in leaves(policy.initial_state(batch)).items()}))
    sums = {path.name: sha256_file(path) for path in written}
    written.append(folder / "sha256.json")
    written[-1].write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
    return written


def _usual_folder(policy: str, source: Path) -> Path:
    """Where a policy is exported unless `out` says it: beside its folder, for one of the zoo in the current folder."""
    return Path(f"export-{source.name}") if in_zoo(policy) else source.parent / "export"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.config.cli import parse_export
    from rmt_rl.config.help import help_text, wants_help

    if wants_help(argv):
        print(help_text(ExportConfig, argv))
        return 0
    options = parse_export(argv)
    if options.onnx:
        require_packages("onnx=true", "onnx", "onnx", "onnxscript")
    from rmt_rl.policies.saving import load_policy, policy_folder

    source = policy_folder(options.policy)
    folder = Path(options.out) if options.out else _usual_folder(options.policy, source)
    try:
        require_new(folder)
    except OSError as error:
        raise ConfigError(f"out={show(str(folder), 300)}: {reason(error)}; choose another out=") from error
    try:
        written = export(load_policy(source), folder, options.num_envs, options.onnx)
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot be written: {error.strerror}") from error
    print("\n".join(f"wrote {path}" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
