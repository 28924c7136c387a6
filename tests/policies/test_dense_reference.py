"""The RMT against its definition: a slow loop over rows, episodes, segments, layers and tokens, in float64.

The reference below uses the weights of the module and none of its code: no attention kernel, mask, rotation, norm or segment of
the package. Outputs, final state, attention weights and the gradients of all parameters have to agree to 1e-9.
"""

import dataclasses
import math
import random

import pytest
import torch

from rmt_rl import config
from rmt_rl.policies import transformer
from rmt_rl.policies.registry import make_backbone

pytestmark = pytest.mark.thorough

WIDTH, HEADS, S, M, STEPS = 8, 2, 3, 2, 11
EXACT = {"atol": 1e-9, "rtol": 1e-9}

# ------------------------------------------------------------------------------------------------------- the reference


@dataclasses.dataclass
class Token:
    """kind: cached, read, step or write. number: within its kind. place: where rotary positions count it, 0 = the segment's first
    step. x: its vector on the way through the layers. key_values: of every layer, [2 D], without rotation."""

    kind: str
    number: int
    place: int
    x: torch.Tensor
    key_values: list[torch.Tensor]
    halves: list[torch.Tensor] = dataclasses.field(default_factory=list)
    weights: list[dict] = dataclasses.field(default_factory=list)


class Reference:
    """options: an RMTConfig. weights: by the names of the module. keep: a factor of every block's outputs in place of dropout."""

    def __init__(self, options, weights, keep=1.0):
        self.o, self.w, self.keep = options, weights, keep

    def run(self, x_BTD, first_BT):
        """Outputs, the four parts of the final state, and the tokens of all steps by row."""
        rows = [self.row(x, first) for x, first in zip(x_BTD, first_BT.tolist(), strict=True)]
        state = {name: torch.stack([row[1][name] for row in rows]) for name in ("memory", "age", "cache", "shifted")}
        return torch.stack([row[0] for row in rows]), state, [row[2] for row in rows]

    def row(self, x_TD, first):
        begins = [0, *(t for t in range(1, len(first)) if first[t])]
        outputs, tokens = [], []
        for begin, end in zip(begins, [*begins[1:], len(first)], strict=True):
            y, state, steps = self.episode(x_TD[begin:end])
            outputs, tokens = outputs + y, tokens + steps
        return torch.stack(outputs), state, tokens

    def episode(self, xs):
        """A list of outputs, the state after the last step, and the tokens of all steps."""
        o, past, outputs = self.o, [], []
        by_layer = o.memory_kind != "tokens"
        shape = (6 * o.memory_size if o.memory_kind == "associative" else o.memory_size, o.width + 1)
        self.tables = [torch.zeros(shape, dtype=torch.float64)] * o.layers if by_layer else []
        memory = [None if by_layer else self.w["initial_memory"][m] for m in range(o.memory_tokens)]
        for number in range(math.ceil(len(xs) / o.segment)):
            here = xs[number * o.segment : (number + 1) * o.segment]
            reads = [] if by_layer else [self.read_token(m, vector) for m, vector in enumerate(memory)]
            steps = [Token("step", i, i, self.positioned(x, i), []) for i, x in enumerate(here)]
            full = len(steps) == o.segment
            writes = [self.write_token(m, v) for m, v in enumerate(memory)] if full else []
            self.layers(self.cached(past, number), reads, steps, writes, first_segment=number == 0)
            outputs += [self.rms_norm(token.x, self.w["norm.weight"]) for token in steps]
            past += steps
            if full and by_layer:
                cut = o.bptt_segments is not None and (number + 1) % o.bptt_segments == 0
                self.tables = [table.detach() if cut else table for table in self.written]
            elif full:
                memory = self.next_memory(memory, [self.rms_norm(t.x, self.w["norm.weight"]) for t in writes])
                if o.bptt_segments is not None and (number + 1) % o.bptt_segments == 0:
                    memory = [vector.detach() for vector in memory]
        return outputs, self.state(self.tables if by_layer else memory, reads, past), past

    def read_token(self, m, vector):
        return Token("read", m, 0, vector + self.w["read_position"][m], [])

    def state(self, memory, reads, past):
        """As `RMTState` describes it."""
        o, age = self.o, len(past)
        nothing = torch.zeros(o.layers, 2 * o.width, dtype=torch.float64)
        cached = [torch.stack(token.key_values) for token in self.cached(past, age // o.segment)]
        running = [torch.stack(token.key_values) for token in past[age // o.segment * o.segment :]]
        hidden = o.blank_memory == "hidden" and age <= o.segment
        read = [nothing if hidden else torch.stack(token.key_values) for token in reads]
        columns = [nothing] * (o.cache - len(cached)) + cached + read + running + [nothing] * (o.segment - len(running))
        half = o.width // 2 if o.token_shift else 0
        shifted = torch.stack(past[-1].halves) if half and running else torch.zeros(o.layers, half, dtype=torch.float64)
        kept = torch.stack(memory) if memory else torch.zeros(0, o.width, dtype=torch.float64)
        return {"memory": kept, "age": torch.tensor(age), "cache": torch.stack(columns, dim=1), "shifted": shifted}

    def positioned(self, x, slot):
        return x + self.w["position"][slot] if self.o.positions == "learned" else x

    def write_token(self, m, vector):
        if vector is None:  # nothing is read
            return Token("write", m, self.o.segment, self.w["write_position"][m], [])
        position = self.w["read_position" if self.o.memory_place == "front" else "write_position"][m]
        start = position if self.o.write_from == "learned" else vector + position
        return Token("write", m, self.o.segment, start, [])

    def cached(self, past, number):
        """The steps before segment `number`, with the gradient that the options leave them."""
        o, begin, tokens = self.o, number * self.o.segment, []
        for t in range(max(0, begin - o.cache), begin):
            cut = o.bptt_segments is not None and any(
                boundary % o.bptt_segments == 0 for boundary in range(t // o.segment + 1, number + 1)
            )
            learns = begin - t <= o.cache_gradient and not cut
            key_values = past[t].key_values if learns else [kv.detach() for kv in past[t].key_values]
            tokens.append(Token("cached", t, t - begin, past[t].x, key_values))
        return tokens

    def sees(self, query, key):
        if query.kind == "read":
            return key.kind == "read"
        if key.kind == "read" and self.blank:
            return False
        if query.kind == "step":
            return key.kind in ("cached", "read") or (key.kind == "step" and key.number <= query.number)
        return not (key.kind == "read" and self.o.memory_place == "front")

    def layers(self, cached, reads, steps, writes, first_segment):
        new, first_values = reads + steps + writes, []
        self.blank = first_segment and self.o.blank_memory == "hidden"
        self.written = []
        for layer in range(self.o.layers):
            w = {name: self.w[f"blocks.{layer}.{name}"] for name in self.names_of(layer)}
            prefix = f"tables.{layer}."
            own = {name.removeprefix(prefix): x for name, x in self.w.items() if name.startswith(prefix)}
            kind = self.o.memory_kind
            for token in new if kind != "tokens" else []:
                read = (
                    self.associated(own["query.weight"], token.x, self.tables[layer]) if kind == "associative" else None
                )
                token.x = token.x + (self.read_slots(own, token.x, self.tables[layer]) if read is None else read)
            normed = [self.norm(token.x, w, "attention_norm") for token in new]
            inputs = self.shift(normed, new) if self.o.token_shift else normed
            queries = []
            for i, (token, h) in enumerate(zip(new, inputs, strict=True)):
                query, key, value = (part @ h for part in w["project.weight"].split(self.o.width))
                if self.o.value_residual and layer > 0:
                    value = self.mix(value, first_values[i], w, h)
                elif self.o.value_residual:
                    first_values.append(value)
                queries.append(query)
                token.weights.append({})
                token.key_values.append(torch.cat([key, value]))
            keys_values = [(t, *map(self.heads, t.key_values[layer].split(self.o.width))) for t in cached + new]
            keys_values = [(t, self.turn(key, t.place), value) for t, key, value in keys_values]
            attended = [self.attend(q, t, keys_values, w) for q, t in zip(queries, new, strict=True)]
            for token, found in zip(new, attended, strict=True):
                # the read tokens of an episode's first segment are the same for all episodes, and dropout spares them
                keep = 1.0 if first_segment and token.kind == "read" else self.keep
                token.x = self.join(token.x, keep * (w["output.weight"] @ found), w, "attention_gate")
                h = w["up.weight"] @ self.norm(token.x, w, "forward_norm")
                h, factor = h.split(len(h) // 2) if self.o.glu else (h, 1.0)
                down = w["down.weight"] @ (h / (1 + torch.exp(-h)) * factor)
                token.x = self.join(token.x, keep * down, w, "forward_gate")
            if kind != "tokens" and writes:
                write = self.associate if kind == "associative" else self.write_slots
                self.written.append(write(own, self.tables[layer], [token.x for token in writes]))

    def phi(self, x):
        """DPFP-3: number n of part s is r_n r_(n-s), with r = [max(x, 0), max(-x, 0)]."""
        r = [max(a, a * 0) for a in [*x, *(-x)]]
        return torch.stack([r[n] * r[(n - s) % len(r)] for s in (1, 2, 3) for n in range(len(r))])

    def associated(self, to_key, x, table):
        """phi(q) A / (phi(q) z + 1e-5)."""
        key = self.phi(to_key @ self.layer_norm(x, 1.0))
        return sum(key[k] * table[k, :-1] for k in range(len(key))) / (sum(key * table[:, -1]) + 1e-5)

    def associate(self, w, table, written):
        rows = list(table)
        for x in written:
            m = self.layer_norm(x, 1.0)
            key, strength = self.phi(w["key.weight"] @ m), self.sigmoid(w["strength.weight"] @ m + w["strength.bias"])
            change = strength * (w["value.weight"] @ m - self.associated(w["key.weight"], x, table))
            known = sum(key * table[:, -1]) / (sum(key * key) + 1e-5)
            count = torch.clamp(1 - known, 0, 1).detach()
            rows = [row + key[k] * torch.cat([change, count[None]]) for k, row in enumerate(rows)]
        return torch.stack(rows)

    def read_slots(self, w, x, table):
        to_key, to_value = w["key_value.weight"].split(self.o.width)
        q = self.heads(w["query.weight"] @ self.layer_norm(x, 1.0))
        used = [row[:-1] for row in table if row[-1] > 0]
        found = []
        for head in range(self.o.heads):
            e = [torch.exp(q[head] @ self.heads(to_key @ slot)[head] / math.sqrt(q.shape[1])) for slot in used]
            values = [self.heads(to_value @ slot)[head] for slot in used]
            total = 1 + sum(e)  # a key of zeros without a value
            found.append(sum((a / total * v for a, v in zip(e, values, strict=True)), torch.zeros_like(q[head])))
        return w["output.weight"] @ torch.cat(found)

    def write_slots(self, w, table, written):
        slots, ages = [row[:-1] for row in table], [int(row[-1]) for row in table]
        for x in written:
            here = ages.index(0) if 0 in ages else ages.index(max(ages))
            h = w["up.weight"] @ torch.cat([slots[here], self.layer_norm(x, 1.0)])
            update = slots[here] + w["down.weight"] @ (h / (1 + torch.exp(-h)))
            blend = 1.0 if ages[here] == 0 else 0.999
            slots[here] = self.rms_norm((1 - blend) * slots[here] + blend * update, 1.0)
            ages = [1 if n == here else age + (age > 0) for n, age in enumerate(ages)]
        return torch.stack(
            [torch.cat([slot, torch.tensor([float(age)])]) for slot, age in zip(slots, ages, strict=True)]
        )

    def names_of(self, layer):
        prefix = f"blocks.{layer}."
        return [name.removeprefix(prefix) for name in self.w if name.startswith(prefix)]

    def shift(self, normed, new):
        """Inputs in which the second half of a step's is that of the step before it in the segment."""
        half, inputs = self.o.width // 2, []
        before = torch.zeros(half, dtype=torch.float64)
        for token, h in zip(new, normed, strict=True):
            if token.kind == "step":
                own = h[len(h) - half :]
                token.halves.append(own)
                h, before = torch.cat([h[: len(h) - half], before]), own
            inputs.append(h)
        return inputs

    def mix(self, value, first_value, w, h):
        share = self.sigmoid(w["mix_values.weight"] @ h + w["mix_values.bias"])[:, None]
        return ((1 - share) * self.heads(value) + share * self.heads(first_value)).flatten()

    def attend(self, query, token, keys_values, w):
        """Softmax attention of one token, head by head; its weights are kept by the kind and number of the key.

        keys_values: (token, key, value) of all that could be seen, [heads, d] each.
        """
        seen = [entry for entry in keys_values if self.sees(token, entry[0])]
        names = [(key_token.kind, key_token.number) for key_token, _, _ in seen]
        keys, values = [key for _, key, _ in seen], [value for _, _, value in seen]
        if self.o.null_key_value:
            null_key, null_value = w["null"].split(self.o.width)
            names, keys, values = (
                [("null", 0), *names],
                [self.heads(null_key), *keys],
                [self.heads(null_value), *values],
            )
        q, keys, values = self.turn(self.heads(query), token.place), torch.stack(keys), torch.stack(values)
        found = []
        for head in range(self.o.heads):
            scores = keys[:, head] @ q[head] / math.sqrt(q.shape[1])
            e = torch.exp(scores - scores.max().detach())
            weight = e / e.sum()
            found.append(weight @ values[:, head])
            token.weights[-1] |= {(head, *name): a for name, a in zip(names, weight.tolist(), strict=True)}
        return torch.cat(found)

    def heads(self, x):
        return x.view(self.o.heads, self.o.width // self.o.heads)

    def turn(self, x, place):
        """Pairs (i, i + d / 2) of features, as complex numbers times exp(i place 10000^(-2 i / d))."""
        if self.o.positions != "rotary":
            return x
        d = x.shape[1]
        angle = torch.tensor([place * 10_000.0 ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64)
        a, b = x[:, : d // 2], x[:, d // 2 :]
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=1)

    def join(self, x, y, w, gate):
        if self.o.gating == "none":
            return x + y
        if self.o.gating == "rezero":
            return x + w[f"{gate}.scale"] * y
        y = torch.where(y > 0, y, 0.0)
        w_r, w_z, w_h = w[f"{gate}.from_y.weight"].split(self.o.width)
        u_r, u_z = w[f"{gate}.from_x.weight"].split(self.o.width)
        reset = self.sigmoid(w_r @ y + u_r @ x)
        update = self.sigmoid(w_z @ y + u_z @ x - w[f"{gate}.bias"])
        candidate = torch.tanh(w_h @ y + w[f"{gate}.from_rx.weight"] @ (reset * x))
        return (1 - update) * x + update * candidate

    def next_memory(self, old, new):
        if self.o.memory_update in ("gate", "hard_gate"):
            new = [self.gated(a, b) for a, b in zip(old, new, strict=True)]
        elif self.o.memory_update == "mrv":
            new = [self.retained(vector, new) for vector in old]
        if self.o.memory_norm:
            new = [self.rms_norm(vector, 1.0) for vector in new]
        return new

    def gated(self, old, new):
        share = self.sigmoid(self.w["update.gate.weight"] @ torch.cat([old, new]) + self.w["update.gate.bias"])
        if self.o.memory_update == "hard_gate":
            reached = torch.clamp(1.2 * share - 0.1, 0, 1).detach()
            share = reached + share - share.detach()
        candidate = torch.tanh(self.w["update.candidate.weight"] @ new + self.w["update.candidate.bias"])
        return (1 - share) * old + share * candidate

    def retained(self, old, new):
        to_key, to_value = self.w["update.key_value.weight"].split(self.o.width)
        q = self.heads(self.w["update.query.weight"] @ old)
        keys, values = (torch.stack([self.heads(to @ vector) for vector in new]) for to in (to_key, to_value))
        found = []
        for head in range(self.o.heads):
            e = torch.exp(keys[:, head] @ q[head] / math.sqrt(q.shape[1]))
            found.append(e / e.sum() @ values[:, head])
        return self.rms_norm(old + self.w["update.output.weight"] @ torch.cat(found), self.w["update.norm.weight"])

    def sigmoid(self, x):
        return 1 / (1 + torch.exp(-x))

    def rms_norm(self, x, weight):
        return x / torch.sqrt((x * x).mean() + 2.0**-52) * weight

    def norm(self, x, w, name):
        if self.o.norm == "scale":
            return w[f"{name}.scale"] * x / torch.sqrt((x * x).sum())
        return self.layer_norm(x, w[f"{name}.weight"])

    def layer_norm(self, x, weight):
        centred = x - x.mean()
        return centred / torch.sqrt((centred * centred).mean() + 1e-5) * weight


# ----------------------------------------------------------------------------------------------------------- the cases

ROTARY = {"positions": "rotary"}
CACHED = {**ROTARY, "cache": 4}
CASES = {
    "rmt": {},
    "one token, one layer": {"memory_tokens": 1, "layers": 1},
    "three layers": {"layers": 3},
    "four heads": {"heads": 4},
    "gate": {"memory_update": "gate"},
    "hard gate": {"memory_update": "hard_gate"},
    "mrv": {"memory_update": "mrv"},
    "blank memory hidden": {"blank_memory": "hidden"},
    "blank memory hidden, cache, front": {
        **CACHED,
        "blank_memory": "hidden",
        "memory_place": "front",
        "cache_gradient": 2,
    },
    "blank memory hidden, null, token shift": {"blank_memory": "hidden", "null_key_value": True, "token_shift": True},
    "associative": {"memory_kind": "associative", "memory_size": 2},
    "associative, cache, one token": {**CACHED, "memory_kind": "associative", "memory_size": 3, "memory_tokens": 1},
    "associative, bptt 1, replay": {"memory_kind": "associative", "bptt_segments": 1, "replay": True, "memory_size": 1},
    "slots": {"memory_kind": "slots", "memory_size": 4},
    "fewer slots than write tokens": {"memory_kind": "slots", "memory_size": 1, "segment": 2},
    "slots, cache, token shift, bptt 2": {
        **CACHED,
        "memory_kind": "slots",
        "memory_size": 4,
        "token_shift": True,
        "bptt_segments": 2,
        "segment": 2,
    },
    "front": {"memory_place": "front"},
    "front, learned": {"memory_place": "front", "write_from": "learned"},
    "learned write tokens": {"write_from": "learned"},
    "memory norm": {"memory_norm": True},
    "mrv, memory norm": {"memory_update": "mrv", "memory_norm": True},
    "bptt 1": {"bptt_segments": 1},
    "bptt 2, gate": {"bptt_segments": 2, "memory_update": "gate"},
    "rotary": ROTARY,
    "no positions": {"positions": "none"},
    "cache": CACHED,
    "cache of one step": {**ROTARY, "cache": 1},
    "cache shorter than the segment": {**ROTARY, "cache": 2, "cache_gradient": 1},
    "cache as long as the segment": {**ROTARY, "cache": S, "cache_gradient": S},
    "cache without positions": {"positions": "none", "cache": 7, "cache_gradient": 7},
    "cache with a part of its gradient": {**CACHED, "cache_gradient": 2},
    "cache, all its gradient": {**CACHED, "cache_gradient": 4},
    "cache, gradient, bptt 2": {**CACHED, "cache_gradient": 4, "bptt_segments": 2},
    "cache, front": {**CACHED, "memory_place": "front"},
    "glu": {"glu": True},
    "scale norm": {"norm": "scale"},
    "glu, scale norm, odd width": {
        "width": 9,
        "heads": 3,
        "positions": "none",
        "glu": True,
        "norm": "scale",
        "cache": 4,
    },
    "gru": {"gating": "gru"},
    "rezero": {"gating": "rezero"},
    "null": {"null_key_value": True},
    "null, cache, front": {**CACHED, "null_key_value": True, "memory_place": "front"},
    "value residual": {"value_residual": True, "layers": 3},
    "value residual, cache": {**CACHED, "value_residual": True, "cache_gradient": 3},
    "token shift": {"token_shift": True},
    "token shift, cache, odd width": {"width": 9, "heads": 3, "positions": "none", "cache": 4, "token_shift": True},
    "token shift, value residual": {"token_shift": True, "value_residual": True},
    "sharpness": {"sharpness": 1.0},
    "replay": {"replay": True, **CACHED, "cache_gradient": 2},
    "segment of one step": {"segment": 1},
    "longer than the rollout": {"segment": 20},
    "no memory": {"memory_tokens": 0},
    "everything": {
        "memory_update": "mrv",
        "memory_norm": True,
        "write_from": "learned",
        "gating": "gru",
        "null_key_value": True,
        "value_residual": True,
        "token_shift": True,
        "bptt_segments": 3,
        "cache_gradient": 3,
        **CACHED,
    },
}
BASELINES = {
    "window": config.WindowConfig(width=WIDTH, heads=HEADS, segment=S),
    "trxl": config.TrXLConfig(width=WIDTH, heads=HEADS, segment=S, cache=5, cache_gradient=2),
    "trxl, the paper's": config.TrXLConfig(width=WIDTH, heads=HEADS, segment=S, cache=5),
    "gtrxl": config.GTrXLConfig(width=WIDTH, heads=HEADS, segment=S, cache=5, cache_gradient=5),
}
#: What a baseline is by its paper, in the words of the RMT's options.
MEANINGS = {
    "window": {"cache": 0, "positions": "learned", "gating": "none"},
    "trxl": {"positions": "rotary", "gating": "none"},
    "gtrxl": {"positions": "rotary", "gating": "gru"},
}


def meaning(known):
    """The RMTConfig that the reference computes."""
    shared = {name: value for name, value in dataclasses.asdict(known).items() if name != "params"}
    return config.RMTConfig(memory_tokens=0, **{**shared, **MEANINGS[known.name]})


def options_of(case):
    return config.RMTConfig(**{"width": WIDTH, "heads": HEADS, "segment": S, "memory_tokens": M} | CASES[case])


def drawn(number):
    """Options drawn at random, among those that fit each other."""
    draw = random.Random(number)
    while True:
        found = config.RMTConfig(
            width=WIDTH,
            heads=draw.choice([1, 2, 4]),
            layers=draw.choice([1, 2, 3]),
            segment=draw.choice([2, 3, 5]),
            memory_tokens=draw.choice([1, 3]),
            memory_update=draw.choice(["replace", "gate", "hard_gate", "mrv"]),
            memory_place=draw.choice(["both", "front"]),
            memory_norm=draw.random() < 0.3,
            write_from=draw.choice(["memory", "learned"]),
            cache=draw.choice([0, 2, 6]),
            cache_gradient=draw.choice([0, 1, 6]),
            positions=draw.choice(["learned", "rotary", "none"]),
            bptt_segments=draw.choice([None, 2]),
            gating=draw.choice(["none", "gru", "rezero"]),
            null_key_value=draw.random() < 0.3,
            value_residual=draw.random() < 0.3,
            token_shift=draw.random() < 0.3,
            glu=draw.random() < 0.3,
            norm=draw.choice(["layer", "scale"]),
            blank_memory=draw.choice(["seen", "hidden"]),
            replay=draw.random() < 0.2,
        )
        if not list(found.problems()):
            return found


def build(options, seed=0):
    """The module in float64, its weights away from zeros and ones."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    try:
        backbone = make_backbone(options)
    finally:
        torch.set_default_dtype(before)
    for parameter in backbone.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return backbone


def inputs(width, rows=2):
    """An episode that begins before the rollout, with short ones behind it; one that lasts; one with ends at segment ends."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, STEPS, width, dtype=torch.float64, generator=generator)
    first = torch.zeros(rows, STEPS, dtype=torch.bool)
    for row, begins in enumerate([(2, 3), (0,), (0, S, S + 1, 2 * S + 1)][:rows]):
        first[row, list(begins)] = True
    return x, first


def run_module(backbone, x, first, chunks):
    """The rollout in chunks, as a learner would unroll them without detaching the state in between."""
    state, outputs, t = backbone.initial_state(len(x)), [], 0
    for steps in chunks:
        y, state = backbone.unroll(x[:, t : t + steps], state, first[:, t : t + steps])
        outputs.append(y)
        t += steps
    return torch.cat(outputs, dim=1), {name: getattr(state, name) for name in ("memory", "age", "cache", "shifted")}


def loss_of(outputs, state):
    """A number that depends on every output and every part of the state, each element with another weight."""
    generator = torch.Generator().manual_seed(2)
    parts = [outputs.sin(), state["memory"], state["cache"], state["shifted"]]
    return sum((x * torch.randn(x.shape, dtype=x.dtype, generator=generator)).sum() for x in parts)


def compare(built, meant, chunks=(STEPS,), keep=1.0, rows=2):
    """Raises where the module built from `built` differs from the reference with the options `meant`."""
    backbone = build(built)
    x, first = inputs(meant.width, rows)
    if keep < 1:  # an episode that begins inside a rollout has undropped read tokens, one that goes on has dropped ones
        first[:, 0] = True
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = {name: p.detach().clone().requires_grad_() for name, p in backbone.named_parameters()}
    outputs, state = run_module(backbone, ours_x, first, chunks)
    expected, expected_state, _ = Reference(meant, weights, keep).run(theirs_x, first)
    torch.testing.assert_close(outputs, expected, **EXACT)
    for name, value in expected_state.items():
        torch.testing.assert_close(state[name], value, **EXACT, msg=lambda text, name=name: f"{name}: {text}")
    ours = torch.autograd.grad(
        loss_of(outputs, state), [ours_x, *backbone.parameters()], allow_unused=True, materialize_grads=True
    )
    theirs = torch.autograd.grad(
        loss_of(expected, expected_state), [theirs_x, *weights.values()], allow_unused=True, materialize_grads=True
    )
    for name, a, b in zip(["inputs", *weights], ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **EXACT, msg=lambda text, name=name: f"gradient of {name}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_the_rmt_computes_its_definition(case):
    compare(options_of(case), options_of(case))


@pytest.mark.parametrize("case", ["cache, gradient, bptt 2", "everything", "token shift", "front"])
@pytest.mark.parametrize("chunks", [(1, 3, 5, 2), (3, 3, 5)])
def test_an_rmt_that_goes_on_from_its_state_computes_its_definition(case, chunks):
    compare(options_of(case), options_of(case), chunks)


@pytest.mark.parametrize("known", BASELINES)
def test_the_baselines_compute_their_definitions(known):
    compare(BASELINES[known], meaning(BASELINES[known]))


@pytest.mark.parametrize("number", range(20))
def test_an_rmt_with_drawn_options_computes_its_definition(number):
    compare(drawn(number), drawn(number), [(STEPS,), (4, 7), (2, 2, 7)][number % 3], rows=3)


@pytest.mark.parametrize("case", ["rmt", "gru", "cache with a part of its gradient"])
def test_dropout_acts_on_both_outputs_of_every_block_and_on_nothing_else(case, monkeypatch):
    """With a factor in place of random zeros."""
    monkeypatch.setattr(transformer.F, "dropout", lambda x, rate: x * (1 - rate))
    options = options_of(case)
    compare(dataclasses.replace(options, dropout=0.25), options, (4, 7), keep=0.75)


@torch.no_grad()
@pytest.mark.parametrize("case", ["rmt", "cache", "null, cache, front", "everything"])
def test_explained_weights_are_those_of_the_definition(case):
    options = options_of(case)
    backbone = build(options)
    x, first = inputs(WIDTH)
    _, _, tokens = Reference(options, dict(backbone.named_parameters())).run(x, first)
    state, age = backbone.initial_state(len(x)), torch.zeros(len(x), dtype=torch.int64)
    for t in range(STEPS):
        found = backbone.explain(x[:, t], state, first[:, t])
        _, state = backbone.step(x[:, t], state, first[:, t])
        age = torch.where(first[:, t], 0, age)
        for row in range(len(x)):
            begin = int(age[row]) // S * S
            assert weights_by_name(found, row, begin, options) == pytest.approx(
                {(layer, *name): a for layer, kept in enumerate(tokens[row][t].weights) for name, a in kept.items()},
                abs=1e-9,
            )
        age += 1


def weights_by_name(found, row, begin, options):
    """The weights of one row by layer, head, kind and number of the key, without the columns that do not exist."""
    named = {}
    for layer in range(options.layers):
        for head in range(options.heads):
            for kind, part in {"null": found.null, "read": found.read, "step": found.steps}.items():
                named |= {(layer, head, kind, i): float(a) for i, a in enumerate(part[row, layer, head])}
            for column, a in enumerate(found.cache[row, layer, head]):
                named[layer, head, "cached", begin - options.cache + column] = float(a)
    return {name: a for name, a in named.items() if a}
