"""LSTM, GRU and MLP against their equations: a slow loop over rows, steps and layers in float64, from their weights alone."""

import dataclasses

import pytest
import torch

from rmt_rl import config
from rmt_rl.policies.registry import make_backbone

WIDTH, ROWS, STEPS = 5, 3, 9


def build(options):
    torch.manual_seed(0)
    backbone = make_backbone(options).double()
    for parameter in backbone.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return backbone


def inputs():
    generator = torch.Generator().manual_seed(1)
    first = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    first[0, 0] = first[1, 3] = first[1, 4] = first[2, 0] = first[2, 8] = True
    return torch.randn(ROWS, STEPS, WIDTH, dtype=torch.float64, generator=generator).requires_grad_(), first


def layer_norm(x, weight):
    centred = x - x.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-5) * weight


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def lstm_cell(w, layer, x, hidden, cell):
    """Hochreiter & Schmidhuber 1997 with a forget gate."""
    both = w[f"rnn.weight_ih_l{layer}"] @ x + w[f"rnn.bias_ih_l{layer}"]
    i, f, g, o = (both + w[f"rnn.weight_hh_l{layer}"] @ hidden + w[f"rnn.bias_hh_l{layer}"]).split(WIDTH)
    cell = sigmoid(f) * cell + sigmoid(i) * torch.tanh(g)
    return sigmoid(o) * torch.tanh(cell), cell


def gru_cell(w, layer, x, hidden, cell):
    """Cho et al. 2014, with the reset gate behind the product, as in cuDNN."""
    x_r, x_z, x_n = (w[f"rnn.weight_ih_l{layer}"] @ x + w[f"rnn.bias_ih_l{layer}"]).split(WIDTH)
    h_r, h_z, h_n = (w[f"rnn.weight_hh_l{layer}"] @ hidden + w[f"rnn.bias_hh_l{layer}"]).split(WIDTH)
    z, candidate = sigmoid(x_z + h_z), torch.tanh(x_n + sigmoid(x_r + h_r) * h_n)
    return (1 - z) * candidate + z * hidden, cell


def recurrent(w, layers, cell_of, x_BTD, first_BT):
    """Outputs, and hidden and cell of every layer after the last step."""
    zeros, outputs, hiddens, cells = torch.zeros(WIDTH, dtype=torch.float64), [], [], []
    for x_TD, first_T in zip(x_BTD, first_BT.tolist(), strict=True):
        hidden, cell, row = [zeros] * layers, [zeros] * layers, []
        for x, first in zip(x_TD, first_T, strict=True):
            if first:
                hidden, cell = [zeros] * layers, [zeros] * layers
            for layer in range(layers):
                x, cell[layer] = cell_of(w, layer, x, hidden[layer], cell[layer])
                hidden[layer] = x
            row.append(layer_norm(x, w["norm.weight"]))
        outputs.append(torch.stack(row))
        hiddens.append(torch.stack(hidden))
        cells.append(torch.stack(cell))
    return torch.stack(outputs), torch.stack(hiddens), torch.stack(cells)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "kind, cell_of", [(config.LSTMConfig, lstm_cell), (config.GRUConfig, gru_cell)], ids=["lstm", "gru"]
)
def test_recurrent_networks_compute_their_equations(kind, cell_of, layers):
    backbone, (x, first) = build(kind(width=WIDTH, layers=layers)), inputs()
    weights = {name: p.detach().clone().requires_grad_() for name, p in backbone.named_parameters()}
    theirs_x = x.detach().clone().requires_grad_()
    y, state = backbone.unroll(x, backbone.initial_state(ROWS), first)
    expected, hidden, cell = recurrent(weights, layers, cell_of, theirs_x, first)
    torch.testing.assert_close(y, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(state.hidden, hidden, atol=1e-9, rtol=1e-9)
    if cell_of is lstm_cell:
        torch.testing.assert_close(state.cell, cell, atol=1e-9, rtol=1e-9)
    ours = torch.autograd.grad(y.sin().sum() + state.hidden.sum() + state.cell.sum(), [x, *backbone.parameters()])
    carried = cell.sum() if cell_of is lstm_cell else 0
    theirs = torch.autograd.grad(expected.sin().sum() + hidden.sum() + carried, [theirs_x, *weights.values()])
    for name, a, b in zip(["inputs", *weights], ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind, columns", [(config.LSTMConfig, WIDTH), (config.GRUConfig, 0)], ids=["lstm", "gru"])
def test_a_gru_has_no_cell_and_every_state_begins_at_zero(kind, columns):
    backbone = build(kind(width=WIDTH, layers=2))
    states = [backbone.initial_state(ROWS)]
    states.append(backbone.step(inputs()[0][:, 0], states[0], torch.ones(ROWS, dtype=torch.bool))[1])
    for state in states:
        assert state.hidden.shape == (ROWS, 2, WIDTH)
        assert state.cell.shape == (ROWS, 2, columns)
    assert not any(getattr(states[0], field.name).any() for field in dataclasses.fields(states[0]))


@pytest.mark.parametrize("layers", [1, 3])
def test_the_mlp_adds_its_hidden_layers_to_its_input(layers):
    backbone, (x, first) = build(config.MLPConfig(width=WIDTH, layers=layers)), inputs()
    w = dict(backbone.named_parameters())
    expected = []
    for vector in x.flatten(0, 1):
        for layer in range(layers):
            h = w[f"layers.{layer}.1.weight"] @ layer_norm(vector, w[f"layers.{layer}.0.weight"])
            h = h + w[f"layers.{layer}.1.bias"]
            vector = vector + h * sigmoid(h)
        expected.append(layer_norm(vector, w["norm.weight"]))
    y, _ = backbone.unroll(x, backbone.initial_state(ROWS), first)
    torch.testing.assert_close(y, torch.stack(expected).view_as(y), atol=1e-9, rtol=1e-9)
