"""How far back in time the gradient of a policy's actions reaches through its memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from rmt_rl.common.state import leaves, map_obs, map_state, select_rows
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState
from rmt_rl.policies.network import memories_in
from rmt_rl.rollouts.collector import Rollout

#: Places of a rollout at which the gradient is measured, rows that are measured, and the share of the gradient that counts.
PLACES, ROWS, SHARE = 16, 8, 0.01


def gradient_reach(policy: ActorCritic, rollout: Rollout) -> int | None:
    """The number of steps back at which the gradient still has SHARE of its size at the end; None without memory.

        g(k) = | d log pi(a_T) / d m_{T-k} |,    reach = max { k : g(k) >= SHARE * g(k_1) }

    a_T: the action of step T of the rollout. m_t: what the actor remembers after t steps. k_1 < k_2 < ... < k_n = T: fewer than
    2 * PLACES distances. The norm is over all numbers of m in at most ROWS rows. T and the rows are those with the longest
    episodes up to T, because no gradient passes the begin of an episode. Gradients of parameters are left alone; dropout draws
    from torch's default generator.
    """
    # the steps of the present episode before each step, and where most of them are
    step_T = torch.arange(1, rollout.first.shape[1] + 1, device=rollout.first.device)
    age_BT = step_T - (rollout.first * step_T).cummax(1).values
    longest, indices = age_BT.topk(min(ROWS, len(age_BT)), dim=0)
    last = int(longest.sum(0).argmax())
    rows, steps = indices[:, last], last + 1
    obs, action, first = map_obs(lambda x: x[rows], rollout.obs), rollout.action[rows], rollout.first[rows]
    state = map_state(_with_gradient, select_rows(rollout.state, rows))
    # `unroll` part by part gives the state between the parts; its gradients are those of one call (the backbone contract)
    part = max(1, steps // PLACES)
    remembered: list[tuple[int, list[torch.Tensor]]] = []
    for end in range((steps - 1) % part + 1, steps + 1, part):
        begin = max(0, end - part)
        remembered.append((steps - begin, _memory(state)))
        parameters, _, state = policy.unroll(
            map_obs(lambda x, a=begin, b=end: x[:, a:b], obs), action[:, begin:end], state, first[:, begin:end]
        )
    if not remembered[0][1]:
        return None
    chosen = policy.head.log_prob(parameters[:, -1], action[:, -1]).sum()
    gradients = iter(torch.autograd.grad(chosen, [x for _, own in remembered for x in own], allow_unused=True))
    size = {k: _norm(itertools.islice(gradients, len(own))) for k, own in remembered}
    return max((k for k, g in size.items() if g > 0 and g >= SHARE * size[min(size)]), default=0)


def _norm(gradients: Iterable[torch.Tensor | None]) -> float:
    return sum(float(g.double().square().sum()) for g in gradients if g is not None) ** 0.5


def _with_gradient(x: torch.Tensor) -> torch.Tensor:
    return x.detach().requires_grad_() if x.is_floating_point() else x


def _memory(state: PolicyState) -> list[torch.Tensor]:
    """What the actor remembers and the gradient can reach."""
    return [x for x in leaves(memories_in(state.memory)[0]).values() if x.requires_grad and x.numel()]
