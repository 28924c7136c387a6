"""The recurrences of `rmt_rl/policies/recurrences` against their equations, step by step in float64."""

import dataclasses

import pytest
import torch

from rmt_rl import config
from rmt_rl.common.state import map_state
from rmt_rl.policies.gates import hard_sigmoid
from rmt_rl.policies.recurrences.buckets import CENTROID_RATE
from rmt_rl.policies.recurrences.delta_rule import CHUNK, STRONGEST_DECAY, delta_rule
from rmt_rl.policies.recurrences.hierarchical import LEVELS
from rmt_rl.policies.recurrences.scan import linear_scan, scan_by_rounds
from rmt_rl.policies.registry import make_backbone

B, T, D = 3, 37, 4  # more than two chunks of the delta rule


def resets():
    """Row 0 has none, row 1 some inside of chunks and one at the border of two, row 2 begins with one and has two in a row."""
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, [5, CHUNK, 30]] = first[2, [0, 20, 21, T - 1]] = True
    return first


def random(*shape, generator=None):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def layer_of(options):
    """The layer of a backbone with one, with weights that are far from their initial values."""
    torch.manual_seed(0)
    backbone = make_backbone(options).double()
    for parameter in backbone.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return backbone.layers[0]


def state_of(layer, fill):
    """A state of random numbers from `fill`, zero where the first step begins an episode."""
    state = map_state(fill, layer.zero_state(B, dtype=torch.float64))
    return map_state(lambda x: torch.where(resets()[:, 0].view(-1, *[1] * (x.dim() - 1)), 0.0, x), state)


def rows_and_steps(first):
    return ((b, t, bool(first[b, t])) for b in range(B) for t in range(T))


# ------------------------------------------------------------------------------------------------------------- scans


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("scan", [linear_scan, scan_by_rounds])
def test_a_linear_scan_is_the_loop_with_its_gradients(scan, dtype):
    torch.manual_seed(0)
    keep, x, before = (torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((T, B, D), (T, B, D), (B, D)))
    h, expected = before, []
    for t in range(T):
        h = keep[t] * h + x[t]
        expected.append(h)
    expected, found = torch.stack(expected), scan(keep, x, before)
    weights = torch.randn(T, B, D, dtype=dtype)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for a, b in zip(
        *(torch.autograd.grad((y * weights).real.sum(), (keep, x, before)) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_linear_scan_by_hand():
    keep, x = torch.tensor([0.5, 2.0, 0.0]), torch.tensor([1.0, -1.0, 3.0])
    assert linear_scan(keep[:, None], x[:, None], torch.tensor([4.0])).flatten().tolist() == [3.0, 5.0, 3.0]


@pytest.mark.parametrize("decay", [0.0, 0.1, -STRONGEST_DECAY])
def test_the_delta_rule_in_chunks_is_its_definition_with_its_gradients(decay):
    torch.manual_seed(0)
    H, K, V, first = 2, 3, 5, resets()
    r, a, b, k = (random(B, T, H, K).requires_grad_() for _ in range(4))
    log_decay = (-decay * torch.rand(B, T, H, K, dtype=torch.float64)).requires_grad_()
    v, S0 = random(B, T, H, V).requires_grad_(), random(B, H, K, V)
    S0 = torch.where(first[:, 0].view(B, 1, 1, 1), 0.0, S0).requires_grad_()
    scale = 0.4  # otherwise the matrix grows beyond all bounds
    found = delta_rule(r, log_decay, scale * a, scale * b, k, v, S0, first)

    ys, after = [], []
    for row in range(B):
        S, y = S0[row], []
        for t in range(T):
            S = torch.zeros_like(S) if first[row, t] else S
            u = torch.einsum("hk,hkv->hv", scale * a[row, t], S)
            S = log_decay[row, t].exp()[..., None] * S
            S = S + torch.einsum("hk,hv->hkv", scale * b[row, t], u) + torch.einsum("hk,hv->hkv", k[row, t], v[row, t])
            y.append(torch.einsum("hk,hkv->hv", r[row, t], S))
        ys.append(torch.stack(y))
        after.append(S)
    expected = torch.stack(ys), torch.stack(after)
    inputs, losses = (r, log_decay, a, b, k, v, S0), []
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)
    for y, S in (found, expected):
        generator = torch.Generator().manual_seed(1)
        losses.append(
            (y * random(*y.shape, generator=generator)).sum() + (S * random(*S.shape, generator=generator)).sum()
        )
    for x, y in zip(*(torch.autograd.grad(loss, inputs) for loss in losses), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-7)


def test_the_strongest_decay_does_not_overflow_in_float32():
    ones = torch.ones(1, 3 * CHUNK, 1, 2)
    y, S = delta_rule(
        ones, STRONGEST_DECAY * ones, -ones, ones, ones, ones, torch.ones(1, 1, 2, 2), ones[..., 0, 0] < 0
    )
    assert bool(y.isfinite().all()) and bool(S.isfinite().all())


def test_writing_a_key_again_replaces_its_value():
    """DeltaNet with beta = 1: the second value of a key is read as it was written, without the first."""
    k = torch.eye(3)[[0, 1, 0]][None, :, None]
    v = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])[None, :, None]
    none, first = torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, dtype=torch.bool)
    _, S = delta_rule(k, none, -k, k, k, v, torch.zeros(1, 1, 3, 2), first)
    assert S[0, 0].tolist() == [[5.0, 6.0], [3.0, 4.0], [0.0, 0.0]]


# ------------------------------------------------------------------------------------------------------------ layers


def shifted(layer, h, last, first):
    """h mixed with the step before it."""
    out = torch.empty_like(h)
    for b, t, begins in rows_and_steps(first):
        before = torch.zeros(D, dtype=h.dtype) if begins else last[b] if t == 0 else h[b, t - 1]
        out[b, t] = h[b, t] + layer.shift.mix * (before - h[b, t])
    return out


@torch.no_grad()
def test_mingru_computes_its_equation():
    layer, first = layer_of(config.MinGRUConfig(width=D, layers=1)), resets()
    x, state = random(B, T, D), state_of(layer, torch.randn_like)
    y, after = layer(x, state, first)
    h = layer.norm(x)
    hidden = state.hidden.clone()
    for b, t, begins in rows_and_steps(first):
        z, c, side = (layer.project.weight @ shifted(layer, h, state.last, first)[b, t]).split(D)
        z = 1 / (1 + torch.exp(-z - layer.bias))
        hidden[b] = (0 if begins else (1 - z) * hidden[b]) + z * c
        residual = x[b, t] + layer.output.weight @ (hidden[b] * side / (1 + torch.exp(-side)))
        torch.testing.assert_close(y[b, t], layer.feed_forward(residual), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after.hidden, hidden)
    assert torch.equal(after.last, h[:, -1])


@torch.no_grad()
@pytest.mark.parametrize("decay", [True, False])
def test_deltanet_computes_its_equation(decay):
    options = config.DeltaNetConfig(width=D, layers=1, heads=1, decay=decay)
    layer, first = layer_of(options), resets()
    x, state = random(B, T, D), state_of(layer, torch.randn_like)
    y, after = layer(x, state, first)
    h, matrix = layer.norm(x), state.matrix[:, 0].clone()
    mixed, silu = shifted(layer, h, state.last, first), torch.nn.functional.silu
    for b, t, begins in rows_and_steps(first):
        q, k, v = silu(layer.project.weight @ mixed[b, t]).split(D)
        q, k = q / q.norm(), k / k.norm()
        beta = layer.write(mixed[b, t]).sigmoid()
        alpha = layer.forget(mixed[b, t]).sigmoid().clamp(min=2.718281828459045**-5) if decay else 1.0
        S = torch.zeros(D, D, dtype=x.dtype) if begins else matrix[b]
        S = alpha * (torch.eye(D, dtype=x.dtype) - beta * torch.outer(k, k)) @ S + beta * torch.outer(k, v)
        read = S.T @ q
        read = read / (read.square().mean() + 1e-5).sqrt() * layer.head_norm.weight
        residual = x[b, t] + layer.output.weight @ (read * silu(layer.side.weight @ h[b, t]))
        torch.testing.assert_close(y[b, t], layer.feed_forward(residual), rtol=1e-9, atol=1e-9)
        matrix[b] = S
    torch.testing.assert_close(after.matrix[:, 0], matrix)


@torch.no_grad()
def test_mlstm_computes_its_equation_without_the_division_that_prevents_overflow():
    layer, first = layer_of(config.MLSTMConfig(width=D, layers=1, heads=2)), resets()
    x, state = random(B, T, D), state_of(layer, torch.rand_like)
    y, after = layer(x, state, first)
    h, H, K = layer.norm(x), 2, D // 2
    mixed = shifted(layer, h, state.last, first)
    C = state.matrix * state.top.exp()[..., None, None]
    n = state.norm * state.top.exp()[..., None]
    for b, t, begins in rows_and_steps(first):
        q, k, v = (part.view(H, K) for part in (layer.project.weight @ mixed[b, t]).split(D))
        k = k / K**0.5
        i, f = layer.gates(mixed[b, t]).split(H)
        i, f = i.exp(), torch.zeros_like(f) if begins else f.sigmoid()
        C[b] = f[:, None, None] * C[b] + i[:, None, None] * k[:, :, None] * v[:, None]
        n[b] = f[:, None] * n[b] + i[:, None] * k
        read = torch.einsum("hkv,hk->hv", C[b], q) / (n[b] * q).sum(-1, keepdim=True).abs().clamp(min=1)
        centred = read - read.mean(-1, keepdim=True)
        read = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.head_norm.weight
        residual = x[b, t] + layer.output.weight @ (read.flatten() * (layer.side.weight @ h[b, t]).sigmoid())
        torch.testing.assert_close(y[b, t], layer.feed_forward(residual), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after.matrix * after.top.exp()[..., None, None], C)
    torch.testing.assert_close(after.norm * after.top.exp()[..., None], n)


@torch.no_grad()
def test_rwkv4_computes_its_sum():
    """From an empty state: the sum of the paper's equation 16 over all earlier steps of the episode."""
    layer, first = layer_of(config.RWKV4Config(width=D, layers=1)), resets()
    x, state = random(B, T, D), layer.zero_state(B, dtype=torch.float64)
    y, after = layer(x, state, first)
    h, w = layer.time_norm(x), layer.log_decay.exp()
    before = torch.cat([state.time[:, None], h[:, :-1]], dim=1).masked_fill(first[..., None], 0.0)
    k, v, r = (
        m(before + mix * (h - before))
        for m, mix in zip((layer.key, layer.value, layer.receptance), layer.time_mix, strict=True)
    )
    found = torch.empty_like(x)
    for b, t, _ in rows_and_steps(first):
        begin = max([s for s in range(t + 1) if first[b, s]], default=0)
        weights = [(k[b, s] - (t - 1 - s) * w).exp() for s in range(begin, t)] + [(layer.bonus + k[b, t]).exp()]
        average = sum(e * v[b, begin + s] for s, e in enumerate(weights)) / sum(weights)
        found[b, t] = x[b, t] + layer.output.weight @ (r[b, t].sigmoid() * average)
    c = layer.channel_norm(found)
    before = torch.cat([state.channel[:, None], c[:, :-1]], dim=1).masked_fill(first[..., None], 0.0)
    up, gate = (before + mix * (c - before) for mix in layer.channel_mix)
    expected = found + layer.gate(gate).sigmoid() * layer.down(layer.up(up).relu().square())
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after.channel, c[:, -1])


@torch.no_grad()
def test_rwkv7_computes_its_equation():
    layer, first = layer_of(config.RWKV7Config(width=D, layers=1, heads=1, low_rank=3)), resets()
    x, state = random(B, T, D), state_of(layer, torch.randn_like)
    y, after = layer(x, state, first)
    h, matrix, expected = layer.time_norm(x), state.matrix[:, 0].clone(), torch.empty_like(x)
    for b, t, begins in rows_and_steps(first):
        before = torch.zeros(D, dtype=x.dtype) if begins else state.time[b] if t == 0 else h[b, t - 1]
        for_r, for_w, for_k, for_v, for_a, for_g = (h[b, t] + mix * (before - h[b, t]) for mix in layer.time_mix)
        r, k, v = layer.receptance(for_r), layer.key(for_k), layer.value(for_v)
        hidden = (layer.decay.inner.weight @ for_w).tanh()
        w = torch.exp(
            -torch.exp(torch.tensor(-0.5)).double() * (layer.decay.bias + layer.decay.outer.weight @ hidden).sigmoid()
        )
        a = layer.rate(for_a).sigmoid()
        g = 1 + layer.gate_out.weight @ ((layer.gate_in.weight @ for_g).sigmoid() - 0.5)
        kappa = k * layer.removed
        kappa = kappa / kappa.norm()
        k = k * (1 + (a - 1) * layer.written)
        S = torch.zeros(D, D, dtype=x.dtype) if begins else matrix[b]
        S = (torch.diag(w) - torch.outer(kappa * a, kappa)) @ S + torch.outer(k, v)
        read = layer.head_norm((S.T @ r)[None])[0] + (r * layer.bonus * k).sum() * v
        matrix[b], expected[b, t] = S, x[b, t] + layer.output.weight @ (read * g)
    c = layer.channel_norm(expected)
    before = torch.cat([state.channel[:, None], c[:, :-1]], dim=1).masked_fill(first[..., None], 0.0)
    mixed = c + layer.channel_mix * (before - c)
    torch.testing.assert_close(y, expected + layer.down(layer.up(mixed).relu().square()), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after.matrix[:, 0], matrix, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_ffm_computes_its_sum():
    layer, first = layer_of(config.FFMConfig(width=D, layers=1, traces=3, contexts=2)), resets()
    x, state = random(B, T, D), layer.zero_state(B, dtype=torch.float64)
    y, after = layer(x, state, first)
    h = layer.norm(x)
    inputs = layer.input(h) * layer.input_gate(h).sigmoid()
    for b, t, _ in rows_and_steps(first):
        begin = max([s for s in range(t + 1) if first[b, s]], default=0)
        S = torch.zeros(3, 2, dtype=torch.complex128)
        for s in range(begin, t + 1):
            fade = torch.exp(-(t - s) * layer.fading.abs())[:, None]
            S += fade * torch.exp(1j * (t - s) * layer.frequency) * inputs[b, s][:, None]
        z = layer.read(torch.stack([S.real, S.imag], dim=-1).flatten())
        gate = layer.output_gate(h[b, t]).sigmoid()
        out = (z - z.mean()) / (z.var(unbiased=False) + 1e-5).sqrt() * gate + layer.skip(h[b, t]) * (1 - gate)
        torch.testing.assert_close(y[b, t], x[b, t] + out, rtol=1e-9, atol=1e-9)
    assert after.traces.shape == (B, 3, 2, 2)


@torch.no_grad()
def test_hierarchical_computes_its_windows():
    options = config.HierarchicalConfig(width=D, layers=1, heads=1, window=3)
    layer, first = layer_of(options), resets()
    x, state = random(B, T, D), layer.zero_state(B, dtype=torch.float64, device="cpu")
    y, after, losses = layer.forward_with_losses(x, state, first)
    h, E, loss, tokens = layer.norm(x), D // 2, 0.0, []
    for row in range(B):
        tokens.append([[] for _ in LEVELS])
        for t in range(T):
            begin = max([s for s in range(t + 1) if first[row, s]], default=0)
            found = []
            for level, c in enumerate(LEVELS):
                parts = [h[row, t - back] @ layer.compress[level][back] for back in range(c) if t - back >= begin]
                tokens[row][level].append(sum(parts))
                ends = [t - c * slot for slot in range(3) if t - c * slot >= begin]
                q = layer.project[level](tokens[row][level][t])[:E]
                k, v = zip(*(layer.project[level](tokens[row][level][s])[E:].split(E) for s in ends), strict=True)
                scores = torch.stack([q @ key / E**0.5 for key in k]) + layer.distance[level][: len(ends), 0]
                found.append(scores.softmax(0) @ torch.stack(v))
            residual = x[row, t] + layer.merge.weight @ torch.cat(found)
            torch.testing.assert_close(y[row, t], layer.feed_forward(residual), rtol=1e-9, atol=1e-9)
    for level, c in enumerate(LEVELS):
        off = [
            1 - torch.cosine_similarity(layer.predict[level](y[row, t]), tokens[row][level][t + c], dim=0)
            for row in range(B)
            for t in range(T - c)
            if not first[row, t + 1 : t + c + 1].any()
        ]
        loss += sum(off) / len(off)
    assert float(losses["prediction"]) == pytest.approx(0.1 * float(loss), rel=1e-9)
    assert after.age.tolist() == [T, T - 30, 1]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["reformer", "routing"])
def test_bucketed_attention_is_that_over_lists_that_drop_their_oldest(kind):
    """Rings as Python lists: the last 3 steps of every bucket and the last 2 steps, each counted as often as it is found."""
    own = {"buckets": 4, "slots": 3, "window": 2, "heads": 2, "local_heads": 1}
    options = config.ReformerConfig(**own, rounds=2, width=8, layers=1) if kind == "reformer" else None
    layer, first = layer_of(options or config.RoutingConfig(**own, width=8, layers=1)), resets()
    x, size = random(B, T, 8), 4
    y, _ = layer(x, layer.zero_state(B, dtype=torch.float64, device="cpu"), first)
    reads = {}
    for row in range(B):
        for head in range(2):
            layer_rows = slice(head * size, (head + 1) * size)
            rings, past = {}, []
            for t in range(T):
                if first[row, t]:
                    rings, past = {}, []
                q, k, v = (part[layer_rows] for part in layer.project(layer.norm(x[row, t])).split(8))
                q, k = q / q.norm(), k / k.norm()
                if kind == "routing":
                    names = [(0, int((layer.centroids[head] @ k).argmax()))]
                else:
                    turned = [k @ layer.rotations[head, r] for r in range(2)]
                    names = [(r, int(torch.cat([p, -p]).argmax())) for r, p in enumerate(turned)]
                for name in names:
                    rings[name] = [*rings.get(name, []), (k, v)][-3:]
                past = [*past, (k, v)][-3:]
                near = layer.nearness[head, 0, 0].exp()
                seen = [(k, v, near) for k, v in past]
                if head:  # the first head sees the window only
                    seen += [(k, v, 1.0) for name in names for k, v in rings[name]]
                weights = torch.stack([(layer.scale[head, 0, 0] * (q @ k)).exp() * times for k, _, times in seen])
                read = sum(w * v for w, (_, v, _) in zip(weights / weights.sum(), seen, strict=True))
                reads.setdefault((row, t), []).append(read)
    for row, t in reads:
        residual = x[row, t] + layer.output.weight @ torch.cat(reads[row, t])
        torch.testing.assert_close(y[row, t], layer.feed_forward(residual), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_centroid_moves_towards_its_keys_and_a_dead_one_starts_again():
    layer = layer_of(config.RoutingConfig(width=4, layers=1, heads=1, buckets=2))
    layer.centroids.copy_(torch.tensor([[[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]]))
    layer.norm.weight.fill_(1.0)
    x = torch.tensor([[[4.0, 0, 0, 0], [4.0, 0, 0, 0]]], dtype=torch.float64)
    key = layer._project(x)[1][0, 0, 0]
    layer.project.weight[4:8] *= torch.sign(key[0])  # the key lies on the side of the first centroid
    key = layer._project(x)[1][0, 0, 0]
    layer.move_centroids(x, torch.Generator().manual_seed(0))
    start = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    expected = torch.nn.functional.normalize(start + CENTROID_RATE * (key - start), dim=0)
    torch.testing.assert_close(layer.centroids[0, 0], expected)
    assert float(layer.centroids[0, 1] @ expected) > 0.9  # it was at -1


# ------------------------------------------------------------------------------------------------------ what is promised


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlstm", "rwkv4"])
def test_large_weights_overflow_nothing_in_float32(name):
    """e^200 is no number of float32."""
    torch.manual_seed(0)
    backbone = make_backbone({"mlstm": config.MLSTMConfig, "rwkv4": config.RWKV4Config}[name](width=8))
    for layer in backbone.layers:
        for linear in (layer.project, layer.gates) if name == "mlstm" else (layer.key,):
            linear.weight *= 400
    y, state = backbone.unroll(torch.randn(2, 30, 8), backbone.initial_state(2), torch.zeros(2, 30, dtype=torch.bool))
    assert all(bool(x.isfinite().all()) for x in (y, *vars(state).values()))


def test_a_hard_gate_reaches_both_ends_and_has_the_gradient_of_a_sigmoid():
    logits = torch.tensor([-10.0, -1.0, 0.0, 3.0, 10.0], requires_grad=True)
    gate = hard_sigmoid(logits)
    assert gate[0] == 0 and gate[-1] == 1 and gate[2].item() == pytest.approx(0.5)
    assert gate[1].item() == pytest.approx(1.2 * 0.26894143 - 0.1)
    soft = logits.detach().clone().requires_grad_()
    assert torch.equal(*(torch.autograd.grad(x.sum(), y)[0] for x, y in ((gate, logits), (soft.sigmoid(), soft))))


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [config.MinGRUConfig(width=8, hard_gates=True), config.DeltaNetConfig(width=8, decay=False, hard_gates=True)],
    ids=["mingru", "deltanet"],
)
def test_what_hard_gates_do_not_write_is_kept_to_the_bit(options):
    torch.manual_seed(0)
    backbone, first = make_backbone(options), torch.zeros(2, 50, dtype=torch.bool)
    _, stored = backbone.unroll(torch.randn(2, 50, 8), backbone.initial_state(2), first)
    for layer in backbone.layers:
        (layer.bias if hasattr(layer, "bias") else layer.write.bias).fill_(-50.0)
    _, after = backbone.unroll(torch.randn(2, 50, 8), stored, first)
    name = dataclasses.fields(stored)[0].name
    assert float(getattr(stored, name).abs().max()) > 0 and torch.equal(getattr(stored, name), getattr(after, name))


@pytest.mark.parametrize(
    "options",
    [
        config.MinGRUConfig(width=4, layers=1),
        config.DeltaNetConfig(width=4, layers=1),
        config.DeltaNetConfig(width=4, layers=1, decay=False),
        config.MLSTMConfig(width=4, layers=1),
        config.RWKV4Config(width=4, layers=1),
        config.RWKV7Config(width=4, layers=1, low_rank=2),
        config.FFMConfig(width=4, layers=1, traces=3, contexts=2),
        config.HierarchicalConfig(width=4, layers=1, window=3),
    ],
    ids=lambda options: options.name + ("" if getattr(options, "decay", True) else " without decay"),
)
def test_the_gradient_is_that_of_the_outputs(options):
    """By differences, of inputs and of all parameters: a stabiliser that is detached in one place only would be seen."""
    layer, first = layer_of(options), torch.zeros(2, 5, dtype=torch.bool)
    first[1, 2] = True
    names, values = zip(*((name, p.detach().clone()) for name, p in layer.named_parameters()), strict=True)

    def outputs(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        state = layer.zero_state(2, dtype=torch.float64, device="cpu")
        return torch.func.functional_call(layer, given, (x, state, first))[0]

    given = [torch.randn(2, 5, 4, dtype=torch.float64), *values]
    assert torch.autograd.gradcheck(outputs, [v.requires_grad_() for v in given], fast_mode=True, atol=1e-5, rtol=1e-4)
