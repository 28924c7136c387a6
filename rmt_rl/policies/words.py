"""Text to vector: a learned vector for every word and for every pair of neighbouring words, added up.

Words are looked up by a hash, so there is no vocabulary, and words that first occur late are learned like the others. Two words
share a vector with probability 1 / BUCKETS. What stands further apart than neighbours is seen without its order.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.envs.text import SEPARATORS, TextBytes
from rmt_rl.policies.linear import Linear

#: Vectors for words, and as many for pairs of words; and how long each is.
BUCKETS, SIZE = 4096, 32
#: A text of single characters up to this long has a vector for every character at every place instead.
SHORT = 64
#: An odd number, by whose powers the bytes of a word are weighted.
FACTOR = 0x9E3779B97F4A7C15
#: The same 64 bits as a signed number, for products that wrap around.
FACTOR_SIGNED = FACTOR - 2**64


class Words(nn.Module):
    """[..., length] bytes -> [..., width]: sums over the words and the pairs of words, divided by the root of their number.

    Texts without blanks consist of characters instead of words.
    """

    separates: torch.Tensor
    power: torch.Tensor

    def __init__(self, space: TextBytes, width: int) -> None:
        super().__init__()
        self.length, self.characters = space.shape[0], space.characters
        self.table, self.pairs = nn.Embedding(BUCKETS, SIZE), nn.Embedding(BUCKETS, SIZE)
        self.linear = Linear(SIZE, width)
        separates = torch.tensor([byte in SEPARATORS for byte in range(256)])
        self.register_buffer("separates", separates, persistent=False)
        powers = [pow(FACTOR, i, 2**64) for i in range(self.length)]
        power = torch.tensor([p - 2**64 if p >= 2**63 else p for p in powers])
        self.register_buffer("power", power, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ids, present = self.tokens(x.reshape(-1, self.length).long())
        both = present[:, 1:]
        pair = (ids[:, :-1] * 31 + ids[:, 1:]) % BUCKETS
        total = (self.table(ids) * present[..., None]).sum(1) + (self.pairs(pair) * both[..., None]).sum(1)
        count = (present.sum(1) + both.sum(1)).clamp(min=1).to(total.dtype)
        return self.linear(total / count.sqrt()[:, None])

    def tokens(self, bytes_NL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers [N, W] below BUCKETS of the words, or of the characters, and [N, W] which of them there are."""
        if self.characters:
            return bytes_NL, bytes_NL != 0
        blank = self.separates[bytes_NL]
        start = ~blank & F.pad(blank[:, :-1], (1, 0), value=True)
        word = (start.cumsum(1) - 1).clamp(min=0)
        place = torch.arange(self.length, device=bytes_NL.device)
        # where the word of every byte begins
        empty = bytes_NL.new_zeros(len(bytes_NL), self.length // 2 + 1)
        begin = empty.scatter_add(1, word, place * start).gather(1, word)
        weighted = (bytes_NL + 1) * self.power[(place - begin).clamp(min=0)] * ~blank
        hashed = empty.scatter_add(1, word, weighted)
        hashed = (hashed ^ (hashed >> 29)) * FACTOR_SIGNED
        number = start.sum(1, keepdim=True)
        return (hashed ^ (hashed >> 32)) % BUCKETS, place[: empty.shape[1]] < number
