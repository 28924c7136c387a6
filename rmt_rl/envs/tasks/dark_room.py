"""Dark Room: find an invisible goal, then go there in each later inner episode of the same trial.

Memory: the cells already visited, and then the position of the goal, across `episodes` inner episodes of 21 steps.
Source: Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation" (arXiv 2210.14215), as one trial
of several inner episodes. Its 17 x 17 "hard" variant is not implemented.
"""

from __future__ import annotations

from types import MappingProxyType

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State

SIZE = 9
MOVES = 20  # per inner episode
LEFT, RIGHT, UP, DOWN, STAY = range(5)


class DarkRoom(EpisodicEnv):
    """A room of 9 x 9 cells with a goal that is drawn for each trial; a trial is one episode of this environment.

    An inner episode starts in the middle and has 20 moves. After them, one extra step whose action has no effect starts the
    next inner episode, so that the agent observes the reward of the last move. The trial terminates after the last move of
    the last inner episode.

    observation [4] int64: (x, y, 1 at the start of an inner episode, the reward of the previous move in this inner episode).
    actions: 0 left, 1 right, 2 up, 3 down, 4 stay; a move into a wall leaves the agent where it is.
    reward: 1 for every move that ends on the goal.
    success: the agent was on the goal at some time in the last inner episode, its start included.
    info["inner_start"]: [B] bool, this step started the next inner episode of the same trial. info["inner_success"]: [B]
        bool, this step was the last move of a successful inner episode.
    Differences from the source: the extra step is from AMAGO (Grigsby et al. 2024, arXiv 2310.09971). Without it, the agent
        either does not observe the last reward, or observes it in the next inner episode, where it reveals the outcome to an
        agent without memory.

    Floor 21/81 = 0.259: until the goal is found, no observation of an agent without memory depends on the goal, because every
    inner episode starts with the same observation. In the last inner episode it visits at most 1 + 20 of the 81 equally
    likely cells. A walk that visits no cell twice attains it. Ceiling (1 + 20 * episodes)/81, and 1 from 4 episodes on: an
    inner episode visits at most 20 new cells, and four spirals visit all.
    """

    episode_steps = None  # every episode ends by itself
    floor = (1 + MOVES) / SIZE**2
    return_reveals_cue = True  # whether the goal was found, and for how many moves
    hidden_values = MappingProxyType(dict.fromkeys(("goal x", "goal y"), tuple(map(str, range(SIZE)))))
    action_names = ("left", "right", "up", "down", "stay")
    distinct_episodes = SIZE**2

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, episodes: int = 5) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.MultiDiscrete([SIZE, SIZE, 2, 2]), 5)
        self.episodes = episodes
        self.ceiling = min(1.0, (1 + MOVES * episodes) / SIZE**2)
        inner = f"{episodes} inner episode{'s' if episodes > 1 else ''}"
        self.task = f"dark room: find a hidden goal, and remember it for {inner} of {MOVES} moves"

    def _begin(self, key_B: torch.Tensor) -> State:
        cell = counter_bits(key_B, torch.zeros_like(key_B)) % SIZE**2
        middle = torch.full_like(key_B, SIZE // 2)
        goal_x, goal_y = cell % SIZE, cell // SIZE
        found = (goal_x == middle) & (goal_y == middle)
        return {
            "goal_x": goal_x,
            "goal_y": goal_y,
            "x": middle,
            "y": middle,
            "found": found,
            "reward": torch.zeros_like(key_B),
        }

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        done = state["t"] % (MOVES + 1)  # moves in this inner episode before this step
        again = done == MOVES
        x = state["x"] + (action_B == RIGHT).long() - (action_B == LEFT).long()
        y = state["y"] + (action_B == UP).long() - (action_B == DOWN).long()
        x, y = (torch.where(again, SIZE // 2, place.clamp(0, SIZE - 1)) for place in (x, y))
        on_goal = (x == state["goal_x"]) & (y == state["goal_y"])
        found = on_goal | (state["found"] & ~again)
        reward = on_goal & ~again
        ended = state["t"] == self.episodes * (MOVES + 1) - 2
        changes = {"x": x, "y": y, "found": found, "reward": reward.long()}
        info = {"success": ended & found, "inner_start": again, "inner_success": (done == MOVES - 1) & found}
        return changes, reward.double(), ended, info

    def _hidden(self, state: State) -> State:
        return {"goal x": state["goal_x"], "goal y": state["goal_y"]}

    def _shown(self, state: State) -> State:
        return dict.fromkeys(("goal x", "goal y"), state["reward"] == 1)

    def _in_words(self, state: State) -> str:
        inner, move = divmod(int(state["t"]), MOVES + 1)
        found = "goal found" if bool(state["found"]) else "goal not found yet"
        return f"inner episode {inner + 1} of {self.episodes}, {move} of {MOVES} moves made; {found}"

    def _observe(self, state: State) -> torch.Tensor:
        starts = state["t"] % (MOVES + 1) == 0
        return torch.stack([state["x"], state["y"], starts.long(), state["reward"]], dim=1)
