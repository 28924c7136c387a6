"""Memories as sequence models over tokens."""

import pytest
import torch

import rmt_rl
from rmt_rl import SequenceModel, config
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import leaves

SMALL = {
    "rmt": config.RMTConfig(width=16, segment=4, memory_update="hard_gate", write_cost=0.5),
    "lstm": config.LSTMConfig(width=16),
    "deltanet": config.DeltaNetConfig(width=16),
    "hierarchical": config.HierarchicalConfig(width=16, window=3),
}
models = pytest.mark.parametrize("name", SMALL)


def model_of(name, **options):
    torch.manual_seed(0)
    return SequenceModel(num_tokens=7, policy=SMALL[name], **options).double()


def tokens(*shape, seed=0):
    return torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(seed))


def same_states(a, b):
    for x, y in zip(leaves(a).values(), leaves(b).values(), strict=True):
        torch.testing.assert_close(x, y)


@models
def test_chunks_calls_and_single_tokens_give_the_logits_of_one_call(name):
    ids, model = tokens(2, 23), model_of(name)
    expected, after = model(ids)
    model.chunk = 5
    found, state = model(ids)
    torch.testing.assert_close(found, expected)
    same_states(state, after)
    state, parts = None, []
    for begin, end in ((0, 9), (9, 10), (10, 23)):
        part, state = model(ids[:, begin:end], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)
    same_states(state, after)


@models
def test_a_list_of_uneven_lengths_gives_what_every_sequence_gives_alone(name):
    model, rows = model_of(name), [tokens(13), tokens(1, seed=1), tokens(6, seed=2)]
    logits, state = model(rows)
    loss, _ = model.loss(rows)
    losses = 0.0
    for number, row in enumerate(rows):
        alone, after = model(row[None])
        torch.testing.assert_close(logits[number], alone[0])
        for x, y in zip(leaves(state).values(), leaves(after).values(), strict=True):
            torch.testing.assert_close(x[number : number + 1], y)
        if len(row) > 1:
            losses += torch.nn.functional.cross_entropy(alone[0, :-1], row[1:], reduction="sum")
    if name in ("lstm", "deltanet"):  # the others have auxiliary losses
        torch.testing.assert_close(loss, losses / (12 + 0 + 5))


@models
def test_replay_gives_the_gradients_of_keeping_everything(name):
    ids, gradients = tokens(2, 20), []
    for replay in (False, True):
        model = model_of(name, chunk=6, replay=replay)
        loss, _ = model.loss(ids)
        gradients.append(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True, allow_unused=True))
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y)
    assert any(float(x.abs().max()) > 0 for x in gradients[0])


def test_with_replay_the_activations_do_not_grow_with_the_length():
    def kept(length):
        """Numbers that autograd keeps until the backward pass."""
        model, sizes = model_of("lstm", chunk=16, replay=True), {}

        def count(x):
            sizes[x.data_ptr()] = x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            model.loss(tokens(1, length))
        return sum(sizes.values())

    per_chunk = (kept(320) - kept(160)) / 10
    assert per_chunk < 20 * 16  # a state of 32 numbers, and the tokens; the activations of a chunk are thousands


@models
def test_the_loss_is_that_of_the_next_token_with_the_auxiliary_losses(name):
    model, ids = model_of(name), tokens(3, 9)
    logits, _ = model(ids)
    first = torch.zeros(3, 9, dtype=torch.bool)
    first[:, 0] = True
    _, _, auxiliary = model.backbone.unroll_with_losses(model.embedding(ids), model.initial_state(3), first)
    expected = -logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).mean() + sum(auxiliary.values())
    torch.testing.assert_close(model.loss(ids)[0], expected)
    assert bool(auxiliary) == (name in ("rmt", "hierarchical"))


def test_targets_that_are_ignored_do_not_count():
    model, ids = model_of("lstm"), tokens(2, 5)
    targets = torch.tensor([[-100, 3, -100, -100, 1], [-100] * 5])
    logits, _ = model(ids)
    expected = -(logits[0, 1].log_softmax(-1)[3] + logits[0, 4].log_softmax(-1)[1]) / 2
    torch.testing.assert_close(model.loss(ids, targets=targets)[0], expected)
    assert model.loss(ids, targets=torch.full_like(ids, -100))[0].item() == 0
    torch.testing.assert_close(
        model.loss(ids, targets=targets.clamp(min=0) - (targets < 0).int(), ignore_index=-1)[0], expected
    )
    with pytest.raises(ValueError, match=r"targets of lengths \[4, 4\]; expected those of ids, \[5, 5\]"):
        model.loss(ids, targets=targets[:, 1:])


@models
def test_generation_goes_on_as_the_model_says_and_from_its_state(name):
    model, prompt = model_of(name), tokens(2, 5)
    found, state = model.generate(prompt, 8, temperature=0)
    logits, after = model(torch.cat([prompt, found], dim=1))
    assert torch.equal(found, logits[:, 4:-1].argmax(-1))
    same_states(state, after)
    first, middle = model.generate(prompt, 3, temperature=0)
    assert torch.equal(first, found[:, :3])
    more, _ = model.generate(found[:, 3:4], 4, state=middle, temperature=0)
    assert torch.equal(more, found[:, 4:])


def test_drawn_tokens_come_from_the_most_likely_ones_and_repeat_with_the_generator():
    model, prompt = model_of("lstm"), tokens(4)
    with torch.no_grad():
        model.logits.weight.zero_()
        model.logits.bias.copy_(torch.tensor([0.0, 5, 4, 0, 0, 0, 0]))
    drawn = [model.generate(prompt, 200, top_k=2, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert set(drawn[0].flatten().tolist()) == {1, 2}
    share = float((drawn[0] == 1).double().mean())
    assert 0.6 < share < 0.86  # e^5 / (e^5 + e^4) = 0.73
    assert set(model.generate(prompt, 50, temperature=0)[0].flatten().tolist()) == {1}


def test_a_sequence_ends_with_its_end_token():
    model, prompt = model_of("lstm"), tokens(3, 2)
    with torch.no_grad():
        model.logits.weight.zero_()
        model.logits.bias.copy_(torch.tensor([0.0, 0, 0, 0, 1, 0, 0]))
    found, _ = model.generate(prompt, 60, eos=4, generator=torch.Generator().manual_seed(0))
    for row in found.tolist():
        end = row.index(4)
        assert row[end:] == [4] * (len(row) - end)
    assert found.shape[1] < 60


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[0, 7]]), "token 7: expected 0 to 6"),
        (torch.tensor([[-1, 2]]), "token -1: expected 0 to 6"),
        (torch.tensor([[0.5]]), "expected whole numbers"),
        ([torch.tensor([1]), torch.tensor([], dtype=torch.int64)], "none of them empty"),
        ([], "none of them empty"),
        (torch.tensor([1, 2]), "expected ids"),
    ],
)
def test_tokens_that_are_none_are_one_sentence(ids, message):
    with pytest.raises(ValueError, match=message):
        model_of("lstm")(ids)


def test_uneven_lengths_cannot_go_on_from_a_state():
    model = model_of("lstm")
    _, state = model(tokens(2, 3))
    with pytest.raises(ValueError, match="sequences of 1 to 2 tokens go on from a state; expected equal lengths"):
        model([tokens(1), tokens(2)], state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_tokens": 0}, "num_tokens=0: expected a whole number"),
        ({"num_tokens": 5, "chunk": 0}, "chunk=0: expected a whole number"),
        ({"num_tokens": 5, "policy": "nope"}, "policy=nope"),
        ({"num_tokens": 5, "policy.width": 0}, "policy.width=0"),
        ({"num_tokens": 5, "width": 8}, "width: no such option"),
        ({"num_tokens": 5, "policy.critic": "separate"}, "policy.critic: has no effect"),
        ({"num_tokens": 5, "policy.params": 10_000}, "policy.params: has no effect"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(given, message):
    with pytest.raises(ConfigError, match=message):
        SequenceModel(**given)


def test_one_step_of_the_optimizer_turns_small_embeddings_far():
    """By the angle between what the memory receives of a token before and after: behind the norm the start is forgotten."""
    turned = {}
    for small in (False, True):
        torch.manual_seed(0)
        model = SequenceModel(16, policy="rwkv4", small_embedding=small, **{"policy.width": 16})
        ids = torch.arange(16)[None]
        before = model.embedding(ids).detach()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        model.loss(ids)[0].backward()
        optimizer.step()
        turned[small] = float(torch.cosine_similarity(before, model.embedding(ids), dim=-1).mean().detach())
    assert turned[True] < 0.5 < 0.99 < turned[False]


@pytest.mark.slow
def test_a_memory_learns_to_copy_over_many_segments():
    """8 tokens of 4 kinds, 8 places later the same ones again; without memory of 8 steps the loss of the second half is log 4."""
    torch.manual_seed(0)
    model = rmt_rl.SequenceModel(num_tokens=4, policy="gru", **{"policy.width": 64})
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(250):
        half = torch.randint(0, 4, (64, 8))
        ids = torch.cat([half, half], dim=1)
        targets = torch.cat([torch.full_like(half, -100)[:, 1:], half, torch.full_like(half[:, :1], -100)], dim=1)
        loss, _ = model.loss(ids, targets=targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7  # half of log 4


def test_the_recipe_of_a_policy_is_not_for_sequences():
    """Its cost of writing rises with the success in training, which sequences do not have."""
    model = SequenceModel(num_tokens=5, policy="rmt", **{"policy.width": 8})
    assert model.backbone.write_cost == 0 and model.backbone.segment == config.RMTConfig.segment
