"""The product by way of oneDNN is the same layer as nn.Linear."""

import runpy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from rmt_rl.policies import linear
from rmt_rl.policies.linear import ROWS, Linear


def both(shape, out, bias, loss):
    """Output and gradients of Linear and of F.linear on the same numbers."""
    torch.manual_seed(0)
    layer, x = Linear(shape[-1], out, bias=bias), torch.randn(shape, requires_grad=True)
    results = []
    for function in (layer, lambda x: F.linear(x, layer.weight, layer.bias)):
        y = function(x)
        results.append((y, *torch.autograd.grad(loss(y), (x, *layer.parameters()))))
    return results


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", [torch.sum, lambda y: y.sin().sum(), lambda y: y.transpose(0, 1).cos().mean()])
@pytest.mark.parametrize("shape", [(ROWS, 5), (32, 24, 33), (3, 7), (0, 7)])
def test_outputs_and_gradients_are_those_of_a_linear_layer(shape, bias, loss):
    for ours, theirs in zip(*both(shape, 17, bias, loss), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_only_a_multiple_of_256_rows_in_single_precision_takes_onednn(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    calls = []
    monkeypatch.setattr(linear, "_onednn", lambda x, w, b=None: calls.append(x.shape) or F.linear(x, w, b))
    layer = Linear(4, 3)
    layer(torch.zeros(ROWS, 4))
    layer(torch.zeros(ROWS + 1, 4))
    layer(torch.zeros(0, 4))
    layer.double()(torch.zeros(ROWS, 4, dtype=torch.float64))
    assert calls == [(ROWS, 4)]


def test_frozen_weights_get_no_gradient():
    layer = Linear(4, 3)
    layer.weight.requires_grad_(False)
    x = torch.randn(ROWS, 4, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None and x.grad is not None


@pytest.mark.parametrize(
    ("built", "product", "taken"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_onednn_is_taken_only_where_torch_was_built_with_it_and_has_its_product(built, product, taken, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**{"_linear_pointwise": None} if product else {}))
    assert runpy.run_path(linear.__file__)["AVAILABLE"] == taken
