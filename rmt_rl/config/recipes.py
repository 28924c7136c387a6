"""Recipes: training options that a task changes unless the user gives them.

A task has one where the defaults were measured to fail (docs/benchmarks.md). Options that the chosen policy or algorithm does
not have are left out, and those of the algorithm where it learns from recorded episodes.
"""

MINIGRID_MEMORY = {
    "algo.num_envs": 128,
    "algo.minibatches": 8,
    "algo.gamma": 0.997,
    "algo.entropy_coef": 0.1,
    "algo.kl_coef": 0.0,
    "policy.positions": "none",
    "policy.sharpness": 1.0,
    "steps": 1_250_000,
}
BANDIT = {
    "algo.num_envs": 128,
    "algo.rollout": 100,  # one trial, so that gradients reach from its end to its beginning
    "algo.entropy_coef": 0.01,
    "algo.kl_coef": 0.0,
    "algo.normalize_reward": True,
    "policy.segment": 20,
    "policy.positions": "none",
    "policy.sharpness": 1.0,
    "steps": 4_000_000,
}
DARK_ROOM = {
    "algo.num_envs": 128,
    "algo.rollout": 104,  # one trial of five inner episodes, so that gradients reach from its end to its beginning
    "algo.gamma": 0.98,
    "algo.entropy_coef": 0.01,
    "algo.kl_coef": 0.0,
    "algo.normalize_reward": True,
    "policy.segment": 21,  # one inner episode
    "policy.positions": "none",
    "policy.sharpness": 1.0,
    "steps": 4_000_000,
}
#: Recorded episodes alone.
NO_ENV = {"evaluate_episodes": 0}
#: Environments whose units are not known, which are slow, and of which a run is short: units are learned, and every step is used
#: in many more gradients than by default.
GYM = {
    "algo.num_envs": 16,
    "algo.rollout": 64,
    "algo.epochs": 10,
    "algo.learning_rate": 5e-4,
    "algo.normalize_reward": True,
    "policy.normalize_observation": True,
}
#: What single environments of gymnasium change besides, by their id without its version (docs/log.md has what was tried).
GYM_IDS: dict[str, dict[str, object]] = {
    # every step costs, and only the next second matters
    "Pendulum": {"algo.gamma": 0.9, "algo.learning_rate": 1e-3},
    # every action costs and the goal is far away, so independent noise teaches to stop pushing
    "MountainCarContinuous": {"algo.gamma": 0.999, "algo.entropy_coef": 0.0, "algo.noise_correlation": 0.9},
}
