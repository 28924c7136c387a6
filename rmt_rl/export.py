"""Write one acting step of a trained policy as a program that needs no rmt_rl: `python -m rmt_rl.export policy=<path>`.

The program takes and returns tensors only:

    inputs   observation (one tensor, or one for each key of a dictionary), first [B] bool, then the state, leaf by leaf
    outputs  the action that the policy finds most likely, then the state after the step, in the same order

B is fixed when it is exported. The initial state, and the names and shapes of all inputs and outputs, stand in `io.json` and
`initial_state.safetensors` beside it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.config import ConfigError, Export

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_rl.policies.actor_critic import ActorCritic


def leaves(state: Any, prefix: str = "state") -> dict[str, torch.Tensor]:
    """The tensors of a state by dotted name, in the order of its fields."""
    import torch

    if isinstance(state, torch.Tensor):
        return {prefix: state}
    found: dict[str, torch.Tensor] = {}
    for field in dataclasses.fields(state):
        found |= leaves(getattr(state, field.name), f"{prefix}.{field.name}")
    return found


def rebuilt(state: Any, values: dict[str, torch.Tensor], prefix: str = "state") -> Any:
    """A state like `state` with the tensors of `values`, the reverse of `leaves`."""
    import torch

    if isinstance(state, torch.Tensor):
        return values[prefix]
    parts = {f.name: rebuilt(getattr(state, f.name), values, f"{prefix}.{f.name}") for f in dataclasses.fields(state)}
    return type(state)(**parts)


def step_module(policy: ActorCritic, batch: int) -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str], list[str]]:
    """The module to export, an example of its inputs, and the names of inputs and outputs."""
    import gymnasium
    import numpy as np
    import torch
    from torch import nn

    from rmt_rl.policies import spaces

    state = policy.initial_state(batch)
    names = list(leaves(state))
    space = spaces.from_json(policy.spec["observation_space"])
    keys = list(space) if isinstance(space, gymnasium.spaces.Dict) else None

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            n = len(keys) if keys else 1
            obs = dict(zip(keys, inputs[:n], strict=True)) if keys else inputs[0]
            values = dict(zip(names, inputs[n + 1 :], strict=True))
            action, after = self.policy.act(obs, rebuilt(state, values), inputs[n], deterministic=True)
            return (action, *leaves(after).values())

    def example(part: Any) -> torch.Tensor:
        return torch.as_tensor(np.stack([part.sample() for _ in range(batch)]))

    observations = [example(part) for part in (space.values() if isinstance(space, gymnasium.spaces.Dict) else [space])]
    first = torch.ones(batch, dtype=torch.bool)
    inputs = (*observations, first, *(x.detach().clone() for x in leaves(state).values()))
    input_names = [*([f"observation.{key}" for key in keys] if keys else ["observation"]), "first", *names]
    return Step().eval(), inputs, input_names, ["action", *(f"next_{name}" for name in names)]


def export(policy: ActorCritic, folder: Path, batch: int, onnx: bool) -> list[Path]:
    """Write step.pt2 (torch.export), step.onnx if wanted, io.json and initial_state.safetensors; the paths written."""
    folder.mkdir(parents=True)
    try:
        return _write(policy, folder, batch, onnx)
    except BaseException:
        shutil.rmtree(folder)  # nothing half-done that would be in the way of the next try
        raise


def _write(policy: ActorCritic, folder: Path, batch: int, onnx: bool) -> list[Path]:
    import torch
    from safetensors.torch import save_file

    module, inputs, input_names, output_names = step_module(policy.cpu().eval(), batch)
    with torch.no_grad(), warnings.catch_warnings():
        # nn.LSTM and nn.GRU sort their weights anew on every call, which is no state of theirs
        warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights")
        program = torch.export.export(module, inputs, strict=False)
        outputs = program.module()(*inputs)
    written = [folder / "step.pt2"]
    torch.export.save(program, written[0])
    if onnx:
        written.append(folder / "step.onnx")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that are not needed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts, none of which a user can act on
            torch.onnx.export(
                program,
                (),
                written[-1],
                input_names=input_names,
                output_names=output_names,
                external_data=False,  # one file
                verbose=False,
            )

    def described(names: list[str], tensors: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        kinds = (str(t.dtype).removeprefix("torch.") for t in tensors)
        return [{"name": n, "dtype": k, "shape": list(t.shape)} for n, k, t in zip(names, kinds, tensors, strict=True)]

    io = {"inputs": described(input_names, inputs), "outputs": described(output_names, outputs)}
    written.append(folder / "io.json")
    written[-1].write_text(json.dumps(io, indent=2) + "\n", encoding="utf-8")
    written.append(folder / "initial_state.safetensors")
    save_file({name: x.contiguous() for name, x in leaves(policy.initial_state(batch)).items()}, written[-1])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    from rmt_rl.cli import EXPORT, help_text, parse_export

    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(help_text(EXPORT, Export))
        return 0
    try:
        options = parse_export(argv)
        from rmt_rl.checkpoint import load_policy, policy_folder

        if options.onnx:
            _check_onnx()
        source = policy_folder(options.policy)
        folder = Path(options.out) if options.out else source.parent / "export"
        if folder.exists():
            raise ConfigError(f"out={folder}: exists already and is not written over; take another out=")
        try:
            written = export(load_policy(source), folder, options.num_envs, options.onnx)
        except OSError as error:
            raise ConfigError(f"out={folder}: cannot be written: {error.strerror}") from error
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"wrote {path}" for path in written))
    return 0


def _check_onnx() -> None:
    import importlib.util

    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"onnx=true: needs the package {name}; pip install 'rmt_rl[onnx]'")


if __name__ == "__main__":
    from rmt_rl.cli import run

    sys.exit(run(main))
