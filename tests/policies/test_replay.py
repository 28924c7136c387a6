"""Replay keeps arguments only, one node of autograd for a call, and computes the gradients of plain backpropagation."""

import dataclasses
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.policies.replay import replay


@dataclasses.dataclass(frozen=True)
class Carried:
    memory: torch.Tensor
    age: torch.Tensor
    name: str = "x"


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.unused = nn.Linear(3, 3, dtype=torch.float64), nn.Linear(3, 3, dtype=torch.float64)
        self.inner = []

    def forward(self, x, carried, parts):
        hidden = F.dropout(self.linear(x).tanh() * carried.memory, 0.5)
        self.inner.append(weakref.ref(hidden))
        return hidden.sin(), None, Carried(hidden.cumsum(0) + parts[0], carried.age + 1), [hidden.detach()]


def run(layer, how, **options):
    torch.manual_seed(0)
    x, memory = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    state = Carried(memory, torch.zeros(4, dtype=torch.int64))
    result = how(layer, x, state, (torch.ones(4, 3, dtype=torch.float64), 7), **options)
    return result, [x, memory, *layer.parameters()]


def plainly(layer, *arguments):
    return layer(*arguments)


def again(layer, *arguments, random=True):
    return replay(layer, layer.parameters(), *arguments, random=random)


def gradients(layer, how):
    (y, nothing, state, (detached,)), leaves = run(layer, how)
    torch.rand(5)  # the generator has moved on when the backward pass begins
    loss = (y @ y.T).sin().sum() + state.memory.square().mean() + (detached * y).sum()
    assert nothing is None and state.name == "x" and state.age.tolist() == [1] * 4
    return [y, state.memory, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def test_values_and_gradients_are_those_of_plain_backpropagation_with_random_numbers():
    layer = Layer()
    for a, b in zip(gradients(layer, plainly), gradients(layer, again), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_the_backward_pass_leaves_the_random_generator_as_it_was():
    (y, *_), leaves = run(Layer(), again)
    before = torch.get_rng_state()
    torch.autograd.grad(y.sum(), leaves, allow_unused=True)
    assert torch.equal(before, torch.get_rng_state())


def test_autograd_has_one_node_for_a_call():
    (y, *_), leaves = run(Layer(), again)
    following = [node for node, _ in y.grad_fn.next_functions if node is not None]
    assert len(following) == len(leaves) and {type(node).__name__ for node in following} == {"AccumulateGrad"}


def test_neither_activations_nor_results_that_are_dropped_are_kept():
    layer = Layer()
    gc.disable()  # nothing may wait for the garbage collector
    try:
        (y, _, state, _), leaves = run(layer, again)
        dropped = weakref.ref(state.memory)
        del state, _
        assert dropped() is None and layer.inner.pop()() is None
        torch.autograd.grad(y.sum(), leaves, allow_unused=True, retain_graph=True)
        assert layer.inner.pop()() is None
    finally:
        gc.enable()


def test_a_gradient_of_a_gradient_is_an_error():
    (y, *_), leaves = run(Layer(), again)
    (gradient,) = torch.autograd.grad(y.square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
