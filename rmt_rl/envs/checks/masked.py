"""Random actions for environments with an action mask: an action that it does not allow becomes the next one that it allows."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.envs.actions import ActionTranslation, MixedActions, choice_sizes
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.envs.checks.runner import Broken
from rmt_rl.envs.masks import KEY, has_mask, mask_of, no_action, sample_allowed


class _Saved(dict[str, Any]):
    """A state of the environment, and the mask that it showed last."""

    mask: torch.Tensor | None = None


def allowed_only(env: TorchVectorEnv) -> TorchVectorEnv:
    """`env` itself, whose `step` replaces actions that the mask shown last does not allow; others reach it unchanged."""
    if not has_mask(env.single_observation_space, env.single_action_space):
        return env
    sizes = choice_sizes(env.single_action_space)
    reals = len(env.single_action_space.low) - len(sizes) if isinstance(env.single_action_space, MixedActions) else 0
    reset, step, state_dict, load_state_dict = env.reset, env.step, env.state_dict, env.load_state_dict
    shown: torch.Tensor | None = None

    def keep(obs: Obs) -> None:
        nonlocal shown
        shown = mask_of(obs).clone()
        if (row := no_action(shown, sizes)) is not None:
            raise Broken(f"{KEY} of row {row} allows no action; expected at least one in every step")

    def new_reset(**given: Any) -> Any:
        back = reset(**given)
        keep(back[0])
        return back

    def new_step(action: Any) -> Any:
        back = step(action if shown is None else _next_allowed(action, shown, sizes, reals))
        keep(back[0])
        return back

    def new_state_dict() -> _Saved:
        saved = _Saved(state_dict())
        saved.mask = shown
        return saved

    def new_load_state_dict(state: _Saved) -> None:
        nonlocal shown
        load_state_dict(state)
        shown = state.mask

    env.reset, env.step = new_reset, new_step  # type: ignore[method-assign,assignment]
    env.state_dict, env.load_state_dict = new_state_dict, new_load_state_dict  # type: ignore[method-assign,assignment]
    return env


def _next_allowed(action: Any, mask: torch.Tensor, sizes: list[int], reals: int) -> Any:
    """The action itself where it is not one of the space: that environments refuse it is a check of its own.

    reals: numbers of an action that are no choices.
    """
    given = torch.as_tensor(action)
    flat = given.reshape(len(given), -1)
    if reals:  # environments round the choices of `MixedActions`
        flat = torch.cat([flat[:, :-reals].round(), flat[:, -reals:]], dim=1)
    choices, limit = flat[:, : len(sizes)], torch.tensor(sizes, device=flat.device)
    fits = flat.shape == (len(mask), len(sizes) + reals) and flat.is_floating_point() == (reals > 0)
    if not fits or not bool(((choices >= 0) & (choices < limit)).all()):
        return action
    columns = []
    for chosen, allowed in zip(choices.unbind(1), (mask.flatten(1) != 0).split(sizes, dim=1), strict=True):
        n = allowed.shape[1]
        later = (torch.arange(n, device=flat.device) - chosen[:, None]) % n  # how far each choice is ahead of this one
        columns.append(torch.where(allowed, later, n).argmin(1).to(flat.dtype))
    return torch.cat([torch.stack(columns, dim=1), flat[:, len(sizes) :]], dim=1).view(given.shape)


def sample_own(env: gymnasium.Env[Any, Any], obs: Any, info: dict[str, Any]) -> Any:
    """A random action of a gymnasium environment, as its own mask allows, wherever it reports one."""
    shown = obs[KEY] if isinstance(obs, dict) and KEY in obs else info.get(KEY)
    if shown is None and env.has_wrapper_attr("action_masks"):
        shown = env.get_wrapper_attr("action_masks")()
    space, flat = env.action_space, None if shown is None else np.asarray(shown)
    translation = ActionTranslation(space)
    sizes = choice_sizes(translation.space)
    if flat is None or not sizes or flat.size != sum(sizes) or flat.dtype.kind not in "biuf":
        return space.sample()
    if not all(part.any() for part in np.split(flat.ravel(), np.cumsum(sizes)[:-1])):
        raise Broken(f"{KEY} {shown} allows no action; expected at least one in every step")
    return translation.to_own(sample_allowed(flat.reshape(1, -1), translation.space, space.np_random)[0])
