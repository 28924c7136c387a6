"""The RMT's options: each reduces to something known, or shows what it promises."""

import dataclasses
import itertools

import pytest
import torch

from rmt_rl import config
from rmt_rl.common.state import map_state
from rmt_rl.policies.registry import make_backbone
from rmt_rl.policies.transformer import rotary_table

WIDTH, LAYERS, HEADS, S = 16, 3, 2, 4
UPDATES = ["replace", "gate", "mrv"]


def make(seed=0, **options):
    torch.manual_seed(seed)
    common = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "segment": S}
    backbone = make_backbone(config.RMTConfig(**common | {"memory_tokens": 3} | options)).double()
    for parameter in backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return backbone


def episode(steps, rows=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, steps, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
    first = torch.zeros(rows, steps, dtype=torch.bool)
    first[:, 0] = True
    return x, first


# ---------------------------------------------------------------------------------------------------------- reductions


def dense_transformer(backbone, x_TD, ages, reach):
    """All steps of one row at once under one dense mask: step i sees the steps of its episode from the first of its segment
    less `reach` on. Positions are ages; a plain loop over layers with softmax written out. None of the backbone's own code
    is used but its weights.
    """
    T = len(x_TD)
    age = torch.tensor(ages)
    begin = torch.arange(T) - age  # when the episode began
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    seen = (j <= i) & (begin[:, None] == begin[None]) & (age[None] >= age[:, None] // S * S - reach)
    if backbone.positions == "learned":
        x_TD = x_TD + backbone.position[age % S]
    for block in backbone.blocks:
        h = torch.nn.functional.layer_norm(x_TD, (WIDTH,), block.attention_norm.weight)
        q, k, v = (h @ block.project.weight.T).view(T, 3, HEADS, -1).unbind(1)
        if backbone.positions == "rotary":
            d = q.shape[-1]
            angle = age[:, None, None] * 10_000.0 ** (-torch.arange(0, d, 2).double() / d)
            turn = torch.polar(torch.ones_like(angle), angle)
            q, k = (
                torch.view_as_real(torch.complex(*y.chunk(2, -1)) * turn).transpose(-1, -2).flatten(-2) for y in (q, k)
            )
        scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
        attended = torch.einsum("hij,jhd->ihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v).flatten(1)
        x_TD = x_TD + attended @ block.output.weight.T
        h = torch.nn.functional.layer_norm(x_TD, (WIDTH,), block.forward_norm.weight)
        x_TD = x_TD + torch.nn.functional.silu(h @ block.up.weight.T) @ block.down.weight.T
    return torch.nn.functional.rms_norm(x_TD, (WIDTH,), backbone.norm.weight, backbone.norm.eps)


@pytest.mark.parametrize("resets", [(0,), (0, 5), (0, 1, 2, 14)])
@pytest.mark.parametrize(
    "task, reach",
    [
        (config.WindowConfig(width=WIDTH, layers=LAYERS, heads=HEADS, segment=S), 0),
        (config.TrXLConfig(width=WIDTH, layers=LAYERS, heads=HEADS, segment=S, cache=6, cache_gradient=6), 6),
    ],
    ids=["window", "trxl"],
)
def test_window_and_trxl_are_one_dense_masked_transformer(task, reach, resets):
    torch.manual_seed(0)
    backbone = make_backbone(task).double()
    if task.name == "trxl":
        backbone.rotary = rotary_table(-6, S, WIDTH // HEADS)  # the module's own has been through float32
        backbone.rotary_of_columns = backbone.columns.positions(backbone.rotary)
    for parameter in backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, first = episode(19, rows=1)
    first[0, list(resets)] = True
    ages, age = [], 0
    for flag in first[0].tolist():
        age = 0 if flag else age
        ages.append(age)
        age += 1
    ours, _ = backbone.unroll(x, backbone.initial_state(1), first)
    theirs = dense_transformer(backbone, x[0], ages, reach)[None]
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    weights = [p for p in backbone.parameters() if p.numel()]
    ours, theirs = (
        torch.autograd.grad(y.sin().sum(), [x, *weights], allow_unused=True, materialize_grads=True)
        for y in (ours, theirs)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    "known, options",
    [
        (config.WindowConfig, {"memory_tokens": 0, "positions": "learned"}),
        (config.TrXLConfig, {"memory_tokens": 0, "cache": 32, "positions": "rotary"}),
        (config.GTrXLConfig, {"memory_tokens": 0, "cache": 32, "positions": "rotary", "gating": "gru"}),
    ],
)
def test_without_memory_tokens_an_rmt_is_the_baseline_of_equal_weights(known, options):
    ours = make(**options)
    theirs = make_backbone(known(width=WIDTH, layers=LAYERS, heads=HEADS, segment=S)).double()
    theirs.load_state_dict(ours.state_dict())
    x, first = episode(30)
    outputs = [b.unroll(x, b.initial_state(2), first)[0] for b in (ours, theirs)]
    assert torch.equal(*outputs)


def test_memory_tokens_start_apart_positions_small_and_blocks_near_the_identity():
    torch.manual_seed(0)
    backbone = make_backbone(config.RMTConfig(width=64, layers=4, segment=32, memory_tokens=32, positions="learned"))
    expected = {"initial_memory": 1.0, "read_position": 0.1, "write_position": 0.1, "position": 0.1}
    for layer in range(4):
        expected |= {f"blocks.{layer}.output.weight": 0.05, f"blocks.{layer}.down.weight": 0.05}
    found = {name: float(backbone.get_parameter(name).detach().std()) for name in expected}
    assert found == pytest.approx(expected, rel=0.1)


# ------------------------------------------------------------------------------------------------------------ gradients


def reach_of_gradient(backbone, steps):
    """For each step, whether the last output depends on its input."""
    x, first = episode(steps)
    y, _ = backbone.unroll(x, backbone.initial_state(2), first)
    (gradient,) = torch.autograd.grad(y[:, -1].sum(), x)
    return (gradient.abs().amax((0, 2)) > 0).tolist()


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("place", ["both", "front"])
@pytest.mark.parametrize("update", UPDATES)
def test_gradient_of_the_last_segment_reaches_the_first_through_every_memory_update(update, place, replay):
    backbone = make(memory_update=update, memory_place=place, replay=replay)
    assert all(reach_of_gradient(backbone, 5 * S))


@pytest.mark.parametrize("update", UPDATES)
def test_every_parameter_of_the_memory_gets_a_gradient(update):
    backbone = make(memory_update=update, blank_memory="seen")
    x, first = episode(3 * S)
    y, _ = backbone.unroll(x, backbone.initial_state(2), first)
    y[:, -S:].sin().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("n", [1, 2, 3])
def test_bptt_segments_cuts_the_gradient_at_every_nth_segment_of_the_episode(n):
    reached = reach_of_gradient(make(bptt_segments=n), 5 * S)
    last_cut = 4 // n * n * S
    assert reached == [t >= last_cut for t in range(5 * S)]


@pytest.mark.parametrize("gradient", [0, 2, 3, 8])
def test_gradients_reach_so_many_cached_steps(gradient):
    """One layer, so that a cached step depends on that step alone."""
    backbone = make(memory_tokens=0, layers=1, cache=8, cache_gradient=gradient, positions="rotary")
    reached = reach_of_gradient(backbone, 3 * S)
    assert reached == [t >= 2 * S - gradient for t in range(3 * S)]


@pytest.mark.parametrize("options", [{}, {"cache_gradient": 6}, {"positions": "none", "memory_tokens": 0}])
@pytest.mark.parametrize("steps", [1, 7])
def test_cached_columns_before_the_episode_have_no_influence_and_no_gradient(options, steps):
    """Not even where they hold NaN, in `step` and in `unroll`; and columns that exist have an influence."""
    backbone = make(**{"cache": 6, "positions": "rotary"} | options)
    x, first = episode(steps, rows=3)
    first[:, 0] = False
    state = backbone.initial_state(3)
    for age in range(2 * S):  # the rows are 2 S, S + 1 and 3 steps old, so 6, 4 and 0 columns exist
        begins = torch.tensor([age == 0, age == S - 1, age == 2 * S - 3])
        _, state = backbone.step(torch.randn(3, WIDTH, dtype=torch.float64), state, begins)
    before = [0, 6 - S, 6]

    def by_steps(state):
        outputs = []
        for t in range(steps):
            y, state = backbone.step(x[:, t], state, first[:, t])
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    for run in (by_steps, lambda s: backbone.unroll(x, s, first)):
        cache = state.cache.detach().clone()
        for row, columns in enumerate(before):
            assert not cache[row, :, :columns].any()
            cache[row, :, :columns] = torch.nan
        cache.requires_grad_()
        clean, poisoned = run(state), run(dataclasses.replace(state, cache=cache))
        assert torch.equal(clean[0], poisoned[0]) and torch.equal(clean[1].cache, poisoned[1].cache)
        (gradient,) = torch.autograd.grad(poisoned[0].sum() + poisoned[1].cache.sum(), cache)
        for row, columns in enumerate(before):
            assert bool((gradient[row, :, :columns] == 0).all())
            assert bool((gradient[row, :, columns:6] != 0).any(-1).all())


# --------------------------------------------------------------------------------------------------------------- replay


def gradients_of(backbone, seed):
    x, first = episode(6 * S, rows=3)
    first[0, 7] = first[2, 2 * S] = True
    torch.manual_seed(seed)
    y, state = backbone.unroll(x, backbone.initial_state(3), first)
    # a loss that is no sum over segments
    loss = (y.flatten(1) @ y.flatten(1).T).sin().sum() + y.std() + state.memory.sum()
    return torch.autograd.grad(loss, [x, *backbone.parameters()], allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_replay_gives_the_gradients_of_plain_backpropagation_with_cache_and_dropout(dropout):
    options = {"cache": 6, "cache_gradient": 6, "positions": "rotary", "dropout": dropout}
    plain, replayed = make(**options), make(replay=True, **options)
    for a, b in zip(gradients_of(plain, 3), gradients_of(replayed, 3), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def kept_bytes(backbone, segments):
    """Bytes that the graph of an unroll holds for the backward pass."""
    x, first = episode(segments * S, rows=8)
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        y, _ = backbone.unroll(x, backbone.initial_state(8), first)
    del y
    return sum(storages.values())


def test_replay_keeps_a_small_part_of_the_activations():
    plain, replayed = ((kept_bytes(b, 24) - kept_bytes(b, 8)) / 16 for b in (make(), make(replay=True)))
    assert replayed < 0.15 * plain


# -------------------------------------------------------------------------------------------------------------- dropout


def test_dropout_is_off_when_acting_and_in_evaluation_and_on_when_learning():
    backbone, plain = make(dropout=0.5), make()
    x, first = episode(2 * S)

    def by_steps(b):
        state, outputs = b.initial_state(2), []
        for t in range(2 * S):
            y, state = b.step(x[:, t], state, first[:, t])
            outputs.append(y)
        return torch.stack(outputs, dim=1)

    def at_once(b):
        return b.unroll(x, b.initial_state(2), first)[0]

    expected = by_steps(plain)
    assert torch.equal(by_steps(backbone), expected)
    assert not torch.allclose(at_once(backbone), expected)
    torch.testing.assert_close(at_once(backbone.eval()), expected, atol=1e-10, rtol=1e-10)


# ------------------------------------------------------------------------------------------------------------- explain


@pytest.mark.parametrize(
    "options", [{}, {"cache": 3, "positions": "rotary", "null_key_value": True}, {"memory_tokens": 0}]
)
def test_explained_weights_are_those_of_the_step(options):
    """They sum to 1, lie where something can be seen, and with the values they give what the step computed."""
    backbone = make(**options)
    x, first = episode(11)
    state = backbone.initial_state(2)
    for t in range(11):
        seen = backbone.explain(x[:, t], state, first[:, t])
        _, state = backbone.step(x[:, t], state, first[:, t])
        parts = torch.cat([seen.read, seen.cache, seen.steps, seen.null], dim=-1)
        torch.testing.assert_close(parts.sum(-1), torch.ones_like(parts[..., 0]))
        assert seen.steps.shape == (2, LAYERS, HEADS, S)
        assert bool((seen.steps[..., t % S + 1 :] == 0).all()) and bool((seen.steps[..., : t % S + 1] > 0).all())
        cached = min(backbone.cache_steps, t // S * S)
        assert bool((seen.cache[..., backbone.cache_steps - cached :] > 0).all())
        assert bool((seen.cache[..., : backbone.cache_steps - cached] == 0).all())


def test_explaining_changes_nothing():
    backbone = make()
    x, first = episode(2)
    state = backbone.initial_state(2)
    before = map_state(torch.clone, state)
    backbone.explain(x[:, 0], state, first[:, 0])
    same = []
    map_state(lambda a, b: same.append(torch.equal(a, b)) or a, state, before)
    assert all(same)


def test_memory_norm_keeps_every_memory_vector_at_unit_root_mean_square():
    backbone = make(memory_norm=True, memory_update="mrv")
    x, first = episode(3 * S)
    _, state = backbone.unroll(x, backbone.initial_state(2), first)
    torch.testing.assert_close(state.memory.pow(2).mean(-1), torch.ones(2, 3, dtype=torch.float64))


def test_an_untrained_rmt_distinguishes_two_cues_after_ten_segments():
    """Two cues with the same output give PPO no gradient. Evenly spread initial attention leaves a difference of 0.004."""
    differences = []
    for seed in range(8):
        torch.manual_seed(seed)
        rmt = make_backbone(config.RMTConfig())
        corridor, cues = torch.randn(rmt.width), torch.randn(2, rmt.width)
        x = corridor.repeat(2, 10 * rmt.segment, 1)
        x[:, 0] = cues
        first = torch.zeros(x.shape[:2], dtype=torch.bool)
        first[:, 0] = True
        with torch.no_grad():
            last = rmt.unroll(x, rmt.initial_state(2), first)[0][:, -1]
        differences.append(float((last[0] - last[1]).norm() / last.norm(dim=1).mean()))
    assert sum(differences) / len(differences) > 0.01


@pytest.mark.slow
def test_a_forward_pass_without_gradient_frees_what_nothing_needs():
    """Beside input, output and states, what is alive at once is that of one layer of one segment: 6 times the input, once 9."""
    rmt = make_backbone(config.RMTConfig(segment=64, memory_tokens=16, width=64, layers=4, heads=4))
    x, first = torch.randn(4, 512, 64), torch.zeros(4, 512, dtype=torch.bool)
    first[:, 0] = True
    state = rmt.initial_state(4)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as found:
        rmt.unroll(x, state, first)
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    assert max(alive) < 7 * x.nbytes
