"""The model card of a trained policy: README.md with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from rmt_rl.common.files import write_file
from rmt_rl.config.commands import TrainConfig
from rmt_rl.policies.actor_critic import CARD, ActorCritic
from rmt_rl.rollouts.statistics import Score


def write_card(folder: Path, policy: ActorCritic, config: TrainConfig, score: Score) -> None:
    """Replace README.md beside a saved policy by one with its task, its algorithm and its score on new episodes."""
    task = getattr(config.env, "id", None) or config.env.name
    common: dict[str, Any] = {"task_type": "reinforcement-learning", "task_name": "reinforcement-learning"}
    common |= {"dataset_type": task, "dataset_name": task}
    # the mean and the standard deviation of the returns, as the Hub's other reinforcement learning models report them
    returns = f"{score.mean_return:.2f} +/- {float(score.each.returns.std(correction=0)):.2f}"
    results = [EvalResult(metric_type="mean_reward", metric_name="mean_reward", metric_value=returns, **common)]
    if score.success is not None:
        success = round(score.success, 4)
        results.append(
            EvalResult(metric_type="success_rate", metric_name="success_rate", metric_value=success, **common)
        )
    own = type(policy)._hub_mixin_info.model_card_data
    data = ModelCardData(
        **own.to_dict()
        | {
            "tags": sorted({*(own.tags or []), task, config.algo.name, config.policy.name}),
            "model_name": f"{task}-{config.policy.name}-{config.algo.name}",
            "eval_results": results,
        }
    )
    card = ModelCard.from_template(data, template_str=CARD)
    write_file(folder / "README.md", str(card).encode())
