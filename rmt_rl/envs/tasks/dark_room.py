"""Dark Room: find a goal that cannot be seen, then go there in every further episode of the same trial.

What must be remembered: which cells were tried, and then where the goal is, across `episodes` inner episodes of 21
steps. The task of Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation" (arXiv
2210.14215), as one trial of several episodes. Not for its 17 x 17 "hard" variant.
"""

from __future__ import annotations

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State

SIZE = 9
MOVES = 20  # of an inner episode
LEFT, RIGHT, UP, DOWN, STAY = range(5)


class DarkRoom(EpisodicEnv):
    """A room of 9 x 9 cells with a goal that is drawn for each trial; a trial is one episode of this environment.

    An inner episode begins in the middle and has 20 moves. One more step, whose action does nothing, leads to the next
    inner episode, so that the reward of the last move is seen. The trial ends after the last move of the last one.

    observation, four whole numbers: (x, y, whether an inner episode begins here, the reward of the last move of this
        inner episode).
    actions: 0 left, 1 right, 2 up, 3 down, 4 stay; a move into a wall is a step on the spot.
    reward: 1 for every move that ends on the goal.
    success: in the last inner episode the agent stood on the goal at some time, its beginning included.
    info: "inner_start" [B] bool, this step led to the next inner episode of the same trial; "inner_success" [B] bool, it
        was the last move of an inner episode with success.
    How we differ: the paper's agents have no such extra step; it is AMAGO's (Grigsby et al. 2024, arXiv 2310.09971).
        Without it, either the last reward is not seen, or it tells an agent without memory at the next beginning that
        it did well.

    Floor 21/81 = 0.259: until the goal is found, an agent without memory observes nothing that depends on it, since an
    inner episode begins with the same observation every time. So in the last one it walks as if there were none, and sees
    at most 1 + 20 of the 81 equally likely cells. A walk that meets no cell twice attains it. Ceiling (1 + 20 * episodes)/81,
    or 1 from 4 on: every inner episode shows at most 20 new cells, and four spirals show them all.
    """

    floor = (1 + MOVES) / SIZE**2
    returns_tell = True  # whether the goal was found, and by how much earlier
    action_names = ("left", "right", "up", "down", "stay")

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, episodes: int = 5) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.MultiDiscrete([SIZE, SIZE, 2, 2]), 5)
        self.episodes = episodes
        self.ceiling = min(1.0, (1 + MOVES * episodes) / SIZE**2)
        self.task = f"dark room: find a hidden goal, and remember it over {episodes} inner episodes of {MOVES} moves"

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
        done = state["t"] % (MOVES + 1)  # moves of this inner episode
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

    def _in_words(self, state: State) -> str:
        inner, move = divmod(int(state["t"]), MOVES + 1)
        told = "found" if bool(state["found"]) else "not found yet"
        return f"inner episode {inner + 1} of {self.episodes}, {move} of {MOVES} moves made; {told}"

    def _observe(self, state: State) -> torch.Tensor:
        starts = state["t"] % (MOVES + 1) == 0
        return torch.stack([state["x"], state["y"], starts.long(), state["reward"]], dim=1)
