"""What a run gives to Weights & Biases, TensorBoard and the Hugging Face Hub."""

import pytest
from huggingface_hub import ModelCard

import rmt_rl
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.runs.metrics import WANDB_ID

pytestmark = pytest.mark.slow

TINY = {"env": "tmaze", "policy": "mlp", "policy.width": 8, "env.length": 3, "steps": 96, "evaluate_episodes": 8}
TINY |= {"algo.num_envs": 4, "algo.rollout": 8, "algo.minibatches": 1}


class Fail:
    """A callback that ends the run after its second update."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_update(self, run):
        if run.steps == 64:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_run_that_fails_is_failed_there_and_resumes_as_the_same_run(error, wandb, tmp_path):
    with pytest.raises(type(error)):
        rmt_rl.train(root=tmp_path, wandb=True, run="x", callbacks=[Fail(error)], **TINY)
    rmt_rl.train(resume=tmp_path / "x")
    assert wandb.exit_codes == [1, 0]
    first, second = wandb.inits
    assert first["id"] == second["id"] == (tmp_path / "x" / WANDB_ID).read_text().strip()
    assert first["resume"] == second["resume"] == "allow"
    assert first["project"] == "rmt_rl" and first["name"] == "x"


def test_two_runs_are_two_runs_there(wandb, tmp_path):
    for _ in range(2):
        rmt_rl.train(root=tmp_path, wandb=True, **TINY)
    assert wandb.inits[0]["id"] != wandb.inits[1]["id"]


def test_the_variables_of_wandb_win_over_our_names(wandb, tmp_path, monkeypatch):
    for name, value in {"PROJECT": "mine", "NAME": "own", "RUN_ID": "abc", "ENTITY": "team"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    rmt_rl.train(root=tmp_path, wandb=True, **TINY)
    (given,) = wandb.inits
    assert not {"project", "name", "entity"} & given.keys() and given["id"] == "abc"


def test_the_final_scores_are_logged_there(wandb, tmp_path):
    result = rmt_rl.train(root=tmp_path, wandb=True, **TINY)
    assert wandb.logged[-1] == (
        96,
        {"final/success": result.score.success, "final/return": result.score.mean_return},
    )


def test_a_refused_run_is_one_sentence(wandb, tmp_path):
    wandb.refuses = True
    with pytest.raises(RunError, match=r"wandb=true: .* permission denied: no such entity; correct it") as caught:
        rmt_rl.train(root=tmp_path, wandb=True, **TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a/b"])
def test_a_damaged_id_is_refused(text, wandb, tmp_path):
    with pytest.raises(RuntimeError):
        rmt_rl.train(root=tmp_path, wandb=True, run="x", callbacks=[Fail(RuntimeError())], **TINY)
    (tmp_path / "x" / WANDB_ID).write_text(text)
    with pytest.raises(ConfigError, match="no id of Weights & Biases; restore or remove it"):
        rmt_rl.train(resume=tmp_path / "x")


def test_wandb_itself_takes_what_it_is_given(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(RuntimeError):
        rmt_rl.train(root=tmp_path, wandb=True, run="x", callbacks=[Fail(RuntimeError())], **TINY)
    rmt_rl.train(resume=tmp_path / "x")
    name = (tmp_path / "x" / WANDB_ID).read_text().strip()
    assert len(list((tmp_path / "x" / "wandb").glob(f"offline-run-*-{name}"))) >= 1


def test_tensorboard_holds_the_options_and_the_final_scores(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    result = rmt_rl.train(root=tmp_path, tensorboard=True, **TINY)
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    assert events.Scalars("final/return")[-1].value == pytest.approx(result.score.mean_return)
    content = events.summary_metadata[SESSION_START_INFO_TAG].plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["policy.width"].number_value == 8 and options["env.name"].string_value == "tmaze"


def test_the_model_card_holds_tags_and_the_final_score(tmp_path):
    result = rmt_rl.train(root=tmp_path, evaluate_every=32, validation_episodes=4, **TINY)
    for folder, score in (("policy", result.score), ("best", result.best)):
        card = ModelCard.load(result.folder / folder / "README.md")
        assert {"reinforcement-learning", "tmaze", "ppo", "mlp"} <= set(card.data.tags)
        assert card.data.library_name == "rmt_rl" and card.data.pipeline_tag == "reinforcement-learning"
        found = {entry.metric_type: entry.metric_value for entry in card.data.eval_results}
        deviation = float(score.each.returns.std(correction=0))
        assert found == {
            "mean_reward": f"{score.mean_return:.2f} +/- {deviation:.2f}",
            "success_rate": pytest.approx(score.success),
        }
        rmt_rl.load_policy(result.folder / folder)
