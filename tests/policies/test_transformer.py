"""Masks, kernels and rotation against plain float64 arithmetic."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from rmt_rl.policies import transformer as kernels
from rmt_rl.policies.transformer import Layout, attention, rotary_table, rotate

LAYOUTS = [
    Layout(left, read, steps, write, read_queries, write_sees_read)
    for left in (0, 3)
    for read in (0, 2)
    for steps in (1, 4)
    for write in (0, 2)
    for read_queries in (True, False)
    for write_sees_read in (True, False)
]


def sizes(layout):
    keys = layout.left + layout.read + layout.steps + layout.write
    return keys - layout.left - (0 if layout.read_queries else layout.read), keys


def inputs(layout, dtype=torch.float64, device="cpu", heads=2, size=8):
    generator = torch.Generator().manual_seed(0)
    Q, K = sizes(layout)
    return [
        torch.randn(3, n, heads, size, dtype=torch.float64, generator=generator).to(device, dtype).requires_grad_()
        for n in (Q, K, K)
    ]


def plain(q, k, v, seen):
    """Softmax attention written out."""
    scores = torch.einsum("pqhd,pkhd->phqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("phqk,pkhd->pqhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def by_the_rules(layout):
    """The table of `Layout`, token by token."""
    names = ["left"] * layout.left + ["read"] * layout.read + ["step"] * layout.steps + ["write"] * layout.write
    numbers = [i for n in (layout.left, layout.read, layout.steps, layout.write) for i in range(n)]
    tokens = list(zip(names, numbers, strict=True))
    allowed = {
        "read": lambda i, name, j: name == "read",
        "step": lambda i, name, j: name in ("left", "read") or (name == "step" and j <= i),
        "write": lambda i, name, j: name != "read" or layout.write_sees_read,
    }
    queries = [t for t in tokens if t[0] != "left" and (t[0] != "read" or layout.read_queries)]
    return torch.tensor([[allowed[name](i, *key) for key in tokens] for name, i in queries]).view(sizes(layout))


def causal_at_the_bottom_right(q, k, v, causal):
    """What flash_attn_func computes (flash-attn >= 2.1)."""
    Q, K = q.shape[1], k.shape[1]
    seen = torch.ones(Q, K, dtype=torch.bool).tril(K - Q) if causal else torch.ones(Q, K, dtype=torch.bool)
    return plain(q, k, v, seen)


@pytest.mark.thorough
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_layout_is_the_table_of_its_docstring(layout):
    assert torch.equal(layout.dense(torch.device("cpu")), by_the_rules(layout))


@pytest.mark.thorough
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_sdpa_is_plain_attention(layout, dtype, tolerance):
    q, k, v = inputs(layout)
    ours = attention(*(x.to(dtype) for x in (q, k, v)), layout)
    torch.testing.assert_close(ours.double(), plain(q, k, v, by_the_rules(layout)), atol=tolerance, rtol=tolerance)


@pytest.mark.thorough
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_three_calls_that_know_no_mask_make_up_the_layout(layout):
    q, k, v = inputs(layout)
    ours = kernels._by_three_calls(q, k, v, layout, causal_at_the_bottom_right)
    theirs = plain(q, k, v, by_the_rules(layout))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours.sin().sum(), (q, k, v)),
        torch.autograd.grad(theirs.sin().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.thorough
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex_attention is for CUDA and this machine has none")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # both of torch 2.11 itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_flex_is_plain_attention(layout):
    q, k, v = inputs(layout, size=16)
    on_gpu = [x.detach().float().cuda().requires_grad_() for x in (q, k, v)]
    ours, theirs = attention(*on_gpu, layout, "flex"), plain(q, k, v, by_the_rules(layout))
    torch.testing.assert_close(ours.double().cpu(), theirs, atol=2e-3, rtol=2e-3)
    for a, b in zip(
        torch.autograd.grad(ours.sin().sum(), on_gpu), torch.autograd.grad(theirs.sin().sum(), (q, k, v)), strict=True
    ):
        torch.testing.assert_close(a.double().cpu(), b, atol=1e-2, rtol=1e-2)


def test_flash_gets_half_precision_and_gives_back_the_precision_of_the_policy(monkeypatch):
    """flash-attn itself raises for float32 (`FlashAttention only support fp16 and bf16 data type`)."""

    def flash_attn_func(q, k, v, causal):
        assert {x.dtype for x in (q, k, v)} == {torch.bfloat16}
        return causal_at_the_bottom_right(*(x.double() for x in (q, k, v)), causal).to(q.dtype)

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=flash_attn_func))
    for layout in LAYOUTS:
        q, k, v = (x.detach().float() for x in inputs(layout))
        ours = attention(q, k, v, layout, "flash")
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, attention(q, k, v, layout), atol=5e-2, rtol=5e-2)


@pytest.mark.thorough
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash-attn is for CUDA and this machine has none")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_flash_is_plain_attention(layout):
    pytest.importorskip("flash_attn", reason="the extra rmt_rl[flash] is not installed")
    q, k, v = inputs(layout, size=16)
    on_gpu = [x.detach().half().cuda() for x in (q, k, v)]
    theirs = plain(*(x.double().cpu() for x in on_gpu), by_the_rules(layout))
    torch.testing.assert_close(attention(*on_gpu, layout, "flash").double().cpu(), theirs, atol=5e-3, rtol=5e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_flex_on_a_cpu_raises_and_names_what_it_needs():
    with pytest.raises(RuntimeError, match=r"policy\.attention=flex needs a CUDA device"):
        attention(*inputs(LAYOUTS[0]), LAYOUTS[0], "flex")


def test_rotation_makes_products_depend_on_distance_alone():
    table = rotary_table(-5, 20, 8)
    x, y = torch.randn(2, 1, 1, 8, dtype=torch.float64)
    products = {
        (i, j): float((rotate(x[None], table[i : i + 1]) * rotate(y[None], table[j : j + 1])).sum())
        for i in range(26)
        for j in range(26)
    }
    for (i, j), product in products.items():
        assert product == pytest.approx(products[(i - min(i, j), j - min(i, j))], abs=1e-12)
    assert abs(products[(0, 3)] - products[(3, 0)]) > 1e-3


def test_position_zero_is_not_rotated():
    x = torch.randn(2, 3, 2, 8, dtype=torch.float64)
    assert torch.equal(rotate(x, rotary_table(0, 0, 8)), x)
