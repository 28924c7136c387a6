"""The generalised delta rule: a matrix that is decayed, corrected and written to at every step."""

from __future__ import annotations

import torch
from torch.nn import functional as F

#: Steps that are computed at once; with a decay of at least exp(-5) a step, exp(5 * CHUNK) does not overflow in float32.
CHUNK = 16
#: The strongest decay of one step, as a logarithm.
STRONGEST_DECAY = -5.0


def delta_rule(
    r: torch.Tensor,
    log_decay: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    S: torch.Tensor,
    first_BT: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """S_t = diag(w_t) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T and y_t = r_t^T S_t; S is zero before a step with `first`.

    r, log_decay (log w, between STRONGEST_DECAY and 0; also [B, T, H, 1]), a, b, k: [B, T, H, K]; v: [B, T, H, V];
    S: [B, H, K, V] before the first step, discarded already where first[:, 0]. Returns y [B, T, H, V] and the last S.

    In chunks of C steps (Yang et al. 2024, arXiv 2406.06484): all u_t = a_t^T S_{t-1} of a chunk solve one unit lower triangular
    system, and they are linear in the S before it.
    """
    B, T, H, K = k.shape
    if T == 1:
        new = S * log_decay[:, 0].exp()[..., None] + k[:, 0, :, :, None] * v[:, 0, :, None]
        S = new + b[:, 0, :, :, None] * torch.matmul(a[:, 0, :, None], S)
        return torch.matmul(r[:, 0, :, None], S).transpose(1, 2), S

    # [B, T, H, n] to [chunks, B, H, C, n], with steps of no effect behind the last
    C = min(CHUNK, T)
    chunks = -(-T // C)
    padding = chunks * C - T

    def cut(x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, padding)).view(B, chunks, C, H, -1).permute(1, 0, 3, 2, 4)

    r, log_decay, a, b, k, v = (cut(x) for x in (r, log_decay, a, b, k, v))
    # which step sees which: only earlier ones of its own episode, and the S before the chunk only until the first reset
    episode = F.pad(first_BT, (0, padding)).view(B, chunks, C).cumsum(2).transpose(0, 1)[:, :, None]
    same = episode[..., :, None] == episode[..., None, :]
    at_or_before, before = same.tril().to(k.dtype), same.tril(-1).to(k.dtype)
    carried = (episode == 0)[..., None].to(k.dtype)
    lasting = (episode == episode[..., -1:])[..., None].to(k.dtype)

    # decay since the start of the chunk; keys are divided by it, so that a product of both is the decay between two steps
    total = log_decay.cumsum(3)
    decayed, undecayed = total.exp(), (-total).exp()
    rest = (total[..., -1:, :] - total).exp() * lasting
    r, a = r * decayed, a * (total - log_decay).exp()
    k_in, b_in = k * undecayed, b * undecayed

    # u of every step as W S + U
    system = torch.eye(C, dtype=k.dtype, device=k.device) - (a @ b_in.mT) * before
    right = torch.cat([a * carried, ((a @ k_in.mT) * before) @ v], dim=-1)
    W, U = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True).split([K, v.shape[-1]], dim=-1)

    # outputs as R S + Y, and the S after a chunk as (E + G) S + N
    by_b, by_k = (r @ b_in.mT) * at_or_before, (r @ k_in.mT) * at_or_before
    R, Y = r * carried + by_b @ W, by_k @ v + by_b @ U
    E = decayed[..., -1, :, None] * carried[..., -1:, :]
    G, N = (b * rest).mT @ W, (k * rest).mT @ v + (b * rest).mT @ U
    before_chunks = []
    for chunk in range(chunks):
        before_chunks.append(S)
        S = E[chunk] * S + G[chunk] @ S + N[chunk]
    y = Y + R @ torch.stack(before_chunks)
    return y.permute(1, 0, 3, 2, 4).reshape(B, chunks * C, H, -1)[:, :T], S
