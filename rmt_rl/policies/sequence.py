"""Any memory as a plain sequence model over tokens: embedding, backbone, logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.registry import choose
from rmt_rl.config.resolve import change
from rmt_rl.policies.registry import make_backbone
from rmt_rl.policies.replay import replay

#: The options of a policy that concern observations, actions and critics, of which there are none here.
WITHOUT_EFFECT = ("params", "normalize_observation", "critic", "critic_only", "encoder", "encoder_options")


class SequenceModel(nn.Module):
    """An autoregressive model of tokens with the memory of a policy.

        model = rmt_rl.SequenceModel(num_tokens=256, policy="rmt", **{"policy.width": 128, "policy.segment": 64})
        logits, state = model(ids)              # ids [B, T] -> logits [B, T, num_tokens]
        logits, state = model(more, state)      # goes on, however long the sequence was before
        loss, state = model.loss(ids)           # of predicting every token from those before it
        tokens, state = model.generate(prompt, 100, top_k=20)

    policy: the name of a registered policy with options as for `rmt_rl.train`, or a dataclass of rmt_rl.config.
    chunk: tokens that are computed at once. The result does not depend on it.
    replay: keep no activations of chunks, and compute them again in the backward pass: the same gradients, for activation memory
        that does not grow with the length of a sequence, apart from one state for each chunk.
    small_embedding: embeddings start between -1e-4 and 1e-4, with a LayerNorm behind, so that one step of the optimizer moves
        them far (RWKV's SmallInitEmb).
    Raises ConfigError for options that do not exist, are out of range, or have no effect here.
    """

    def __init__(
        self,
        num_tokens: int,
        policy: str | PolicyConfig = "rmt",
        chunk: int = 1024,
        replay: bool = False,
        small_embedding: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value in (("num_tokens", num_tokens), ("chunk", chunk)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r}: expected a whole number of at least 1")
        if foreign := [name for name in options if not name.startswith("policy.")]:
            raise ConfigError(
                f"{foreign[0]}: no such option; expected num_tokens, policy, chunk, replay, small_embedding or policy.<option>"
            )
        usual: Any = policy if isinstance(policy, PolicyConfig) else choose("policy", policy).config()
        config = change(usual, "policy", options)
        for name in WITHOUT_EFFECT:
            if getattr(config, name) != getattr(type(config), name, getattr(PolicyConfig(), name)):
                raise ConfigError(f"policy.{name}: has no effect on a sequence model; leave it out")
        width: int = config.width
        self.num_tokens, self.chunk, self.replay = num_tokens, chunk, replay
        self.embedding: nn.Module = nn.Embedding(num_tokens, width)
        if small_embedding:
            nn.init.uniform_(self.embedding.weight, -1e-4, 1e-4)
            self.embedding = nn.Sequential(self.embedding, nn.LayerNorm(width))
        self.backbone = make_backbone(config)
        self.logits = nn.Linear(width, num_tokens)

    def initial_state(self, batch: int) -> Any:
        """The state of `batch` sequences before their first token."""
        return self.backbone.initial_state(batch)

    def forward(
        self, ids: torch.Tensor | Sequence[torch.Tensor], state: Any = None
    ) -> tuple[torch.Tensor | list[torch.Tensor], Any]:
        """Logits of the next token after each token, and the state after the last.

        ids: [B, T] whole numbers; or a list of B sequences of any lengths, which gives a list of logits [length, num_tokens].
        state: what an earlier call returned; None = the sequences begin.
        Raises ValueError for tokens outside the vocabulary, empty sequences, and lists of uneven lengths with a state.
        """
        ids_BT, first_BT, lengths = self._padded(ids, state)
        state = self.initial_state(len(ids_BT)) if state is None else state
        found = []
        for begin in range(0, ids_BT.shape[1], self.chunk):
            here = slice(begin, begin + self.chunk)
            y, state, _ = self._run(ids_BT[:, here], state, first_BT[:, here])
            found.append(self.logits(y))
        logits = torch.cat(found, dim=1)
        if isinstance(ids, torch.Tensor):
            return logits, state
        return [row[len(row) - length :] for row, length in zip(logits, lengths, strict=True)], state

    def loss(
        self,
        ids: torch.Tensor | Sequence[torch.Tensor],
        state: Any = None,
        targets: torch.Tensor | Sequence[torch.Tensor] | None = None,
        ignore_index: int = -100,
    ) -> tuple[torch.Tensor, Any]:
        """The mean cross-entropy of the targets with the memory's auxiliary losses, a scalar; and the state after the last token.

        ids, state: as for `forward`. targets: the token to predict at each place, in the shape of ids; None = the next token, and
        nothing at the last place. ignore_index: targets of this value do not count. Where none counts the loss is 0.
        """
        ids_BT, first_BT, lengths = self._padded(ids, state)
        state = self.initial_state(len(ids_BT)) if state is None else state
        wanted_BT = torch.full_like(ids_BT, ignore_index)
        if targets is None:
            for row, length in enumerate(lengths):  # the last place has no next token, nor has padding
                wanted_BT[row, len(wanted_BT[row]) - length : -1] = ids_BT[row, ids_BT.shape[1] - length + 1 :]
        else:
            rows = list(targets)
            if [len(row) for row in rows] != lengths:
                raise ValueError(f"targets of lengths {[len(row) for row in rows]}; expected those of ids, {lengths}")
            for row, target in enumerate(rows):
                wanted_BT[row, ids_BT.shape[1] - len(target) :] = target.to(ids_BT)

        total, auxiliary, chunks = self.logits.weight.new_zeros(()), self.logits.weight.new_zeros(()), 0
        for begin in range(0, ids_BT.shape[1], self.chunk):
            here = slice(begin, begin + self.chunk)
            arguments = (ids_BT[:, here], state, first_BT[:, here], wanted_BT[:, here], ignore_index)
            if self.replay and torch.is_grad_enabled():
                part, more, state = replay(self._chunk_loss, self.parameters(), *arguments, random=self.training)
            else:
                part, more, state = self._chunk_loss(*arguments)
            total, auxiliary, chunks = total + part, auxiliary + more, chunks + 1
        count = (wanted_BT != ignore_index).sum().clamp(min=1)
        return total / count + auxiliary / chunks, state

    @torch.no_grad()
    def generate(
        self,
        prompt: torch.Tensor,
        n: int,
        state: Any = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        eos: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, Any]:
        """n more tokens [B, n] after a prompt [B, T] or [T], one step each; and the state after the last of them.

        temperature: 0 = the most likely token. top_k: draw from the k most likely ones. eos: after this token a sequence repeats
        it; generation stops early once all sequences have ended. state: what an earlier call returned, to go on from it.
        """
        if not temperature >= 0 or (top_k is not None and top_k < 1):
            raise ValueError(f"temperature={temperature}, top_k={top_k}: expected at least 0, and at least 1 or None")
        learning = self.training
        self.eval()
        try:
            logits, state = self(prompt[None] if prompt.dim() == 1 else prompt, state)
            logits_BV, tokens = logits[:, -1], list[torch.Tensor]()
            ended_B = torch.zeros(len(logits_BV), dtype=torch.bool, device=logits_BV.device)
            for _ in range(n):
                token_B = self._draw(logits_BV, temperature, top_k, generator)
                if eos is not None:
                    token_B = torch.where(ended_B, eos, token_B)
                    ended_B = ended_B | (token_B == eos)
                tokens.append(token_B)
                y_BD, state = self.backbone.step(self.embedding(token_B), state, torch.zeros_like(ended_B))
                logits_BV = self.logits(y_BD)
                if eos is not None and bool(ended_B.all()):
                    break
        finally:
            self.train(learning)
        empty = torch.zeros(len(logits_BV), 0, dtype=torch.int64, device=logits_BV.device)
        return torch.stack(tokens, dim=1) if tokens else empty, state

    def _run(self, ids_BT: torch.Tensor, state: Any, first_BT: torch.Tensor) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Outputs of the backbone, the state after them, and the sum of its auxiliary losses."""
        y_BTD, state, losses = self.backbone.unroll_with_losses(self.embedding(ids_BT), state, first_BT)
        return y_BTD, state, sum(losses.values(), y_BTD.new_zeros(()))

    def _chunk_loss(
        self, ids_BT: torch.Tensor, state: Any, first_BT: torch.Tensor, wanted_BT: torch.Tensor, ignore_index: int
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """The sum of the cross-entropies of a chunk, its auxiliary losses, and the state after it."""
        y_BTD, state, auxiliary = self._run(ids_BT, state, first_BT)
        logits = self.logits(y_BTD).flatten(0, 1)
        total = F.cross_entropy(logits, wanted_BT.flatten(), ignore_index=ignore_index, reduction="sum")
        return total, auxiliary, state

    def _padded(
        self, ids: torch.Tensor | Sequence[torch.Tensor], state: Any
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Tokens [B, T], padded in front where sequences are shorter; where a sequence begins [B, T]; and all lengths.

        Padding stands in front, where `first` discards what it left in the memory: so the state after the last token of every
        sequence is exact, and no padding is seen.
        """
        device = self.logits.weight.device
        rows = [torch.as_tensor(row, device=device) for row in ids]
        lengths = [len(row) if row.dim() == 1 else 0 for row in rows]
        if not rows or not min(lengths):
            raise ValueError("expected ids [B, T], or a list of sequences, none of them empty")
        if any(row.is_floating_point() or row.is_complex() or row.dtype == torch.bool for row in rows):
            raise ValueError("expected whole numbers as tokens")
        most = max(lengths)
        if state is not None and min(lengths) < most:
            raise ValueError(f"sequences of {min(lengths)} to {most} tokens go on from a state; expected equal lengths")
        ids_BT = torch.zeros(len(rows), most, dtype=torch.int64, device=device)
        first_BT = torch.zeros(len(rows), most, dtype=torch.bool, device=device)
        for number, row in enumerate(rows):
            if int(row.min()) < 0 or int(row.max()) >= self.num_tokens:
                found = int(row.min()) if int(row.min()) < 0 else int(row.max())
                raise ValueError(f"token {found}: expected 0 to {self.num_tokens - 1}")
            ids_BT[number, most - len(row) :] = row
            first_BT[number, most - len(row)] = state is None
        return ids_BT, first_BT, lengths

    @staticmethod
    def _draw(
        logits_BV: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
    ) -> torch.Tensor:
        if temperature == 0:
            return logits_BV.argmax(-1)
        if top_k is not None and top_k < logits_BV.shape[1]:
            least = logits_BV.topk(top_k, dim=-1).values[:, -1:]
            logits_BV = logits_BV.masked_fill(logits_BV < least, -torch.inf)
        return torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=generator)[:, 0]
