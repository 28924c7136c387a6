"""rmt_rl: reinforcement learning for agents that must remember.

    result = rmt_rl.train(env="tmaze", policy="rmt", steps=100_000)
    score = rmt_rl.evaluate(result.policy, episodes=100)

    policy = rmt_rl.load_policy("runs/tmaze-rmt-ppo-s0")
    env = rmt_rl.make_env("tmaze", num_envs=4, length=100)
    env = gymnasium.make("rmt_rl/TMaze-v0", length=100)    # one row, numpy arrays

Letters in shapes: B rows (environments), T steps in a rollout, S steps in a segment, M memory tokens, C cached steps, L layers,
H heads, D width, A actions. Batch is axis 0 of every tensor, time axis 1.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rmt_rl.common.gymnasium_ids import register_with_gymnasium

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rmt_rl.algos.base import Learner as Learner
    from rmt_rl.algos.ppo import PPO as PPO
    from rmt_rl.common.errors import ConfigError as ConfigError
    from rmt_rl.common.errors import RunError as RunError
    from rmt_rl.compare import compare as compare
    from rmt_rl.config.algos import PPOConfig as PPOConfig
    from rmt_rl.config.bases import AlgoConfig as AlgoConfig
    from rmt_rl.config.bases import EnvConfig as EnvConfig
    from rmt_rl.config.bases import PolicyConfig as PolicyConfig
    from rmt_rl.config.fields import option as option
    from rmt_rl.config.registry import register_algo as register_algo
    from rmt_rl.config.registry import register_encoder as register_encoder
    from rmt_rl.config.registry import register_env as register_env
    from rmt_rl.config.registry import register_policy as register_policy
    from rmt_rl.config.resolve import make_config as make_config
    from rmt_rl.envs.base import TorchVectorEnv as TorchVectorEnv
    from rmt_rl.envs.registry import make_env as make_env
    from rmt_rl.evaluate import evaluate as evaluate
    from rmt_rl.play import play as play
    from rmt_rl.policies.actor_critic import ActorCritic as ActorCritic
    from rmt_rl.policies.base import Backbone as Backbone
    from rmt_rl.policies.saving import load_policy as load_policy
    from rmt_rl.policies.saving import make_policy as make_policy
    from rmt_rl.policies.saving import make_task as make_task
    from rmt_rl.policies.saving import save_policy as save_policy
    from rmt_rl.policies.sequence import SequenceModel as SequenceModel
    from rmt_rl.rollouts.collector import Collector as Collector
    from rmt_rl.runs.callbacks import Callback as Callback
    from rmt_rl.train import TrainResult as TrainResult
    from rmt_rl.train import train as train
    from rmt_rl.tune import tune as tune

# Looked up on first use, because importing torch takes seconds and --help must not wait for it. An empty module name stands for
# a module of this package that is called like a function.
_PUBLIC = {
    "ActorCritic": "rmt_rl.policies.actor_critic",
    "AlgoConfig": "rmt_rl.config.bases",
    "Backbone": "rmt_rl.policies.base",
    "Callback": "rmt_rl.runs.callbacks",
    "Collector": "rmt_rl.rollouts.collector",
    "ConfigError": "rmt_rl.common.errors",
    "EnvConfig": "rmt_rl.config.bases",
    "Learner": "rmt_rl.algos.base",
    "PPO": "rmt_rl.algos.ppo",
    "PPOConfig": "rmt_rl.config.algos",
    "PolicyConfig": "rmt_rl.config.bases",
    "RunError": "rmt_rl.common.errors",
    "SequenceModel": "rmt_rl.policies.sequence",
    "TorchVectorEnv": "rmt_rl.envs.base",
    "TrainResult": "rmt_rl.train",
    "compare": "",
    "evaluate": "",
    "load_policy": "rmt_rl.policies.saving",
    "make_config": "rmt_rl.config.resolve",
    "make_env": "rmt_rl.envs.registry",
    "make_policy": "rmt_rl.policies.saving",
    "make_task": "rmt_rl.policies.saving",
    "option": "rmt_rl.config.fields",
    "play": "",
    "register_algo": "rmt_rl.config.registry",
    "register_encoder": "rmt_rl.config.registry",
    "register_env": "rmt_rl.config.registry",
    "register_policy": "rmt_rl.config.registry",
    "save_policy": "rmt_rl.policies.saving",
    "train": "",
    "tune": "",
}
__all__ = sorted(_PUBLIC)

register_with_gymnasium()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rmt_rl' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = _PUBLIC[name]
    return getattr(importlib.import_module(module), name) if module else importlib.import_module(f"rmt_rl.{name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
