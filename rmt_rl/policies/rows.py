"""Work on some rows of a batch, without making the host wait for a GPU."""

from __future__ import annotations

import torch

from rmt_rl.common.state import where_rows


class Rows:
    """The rows of a batch where a mask is true.

    On a CPU they are selected by index, so that only they are computed. On a GPU all rows are computed and a mask selects the
    result, because the host would have to wait for the device to learn the indices, at every step. A compiled or exported
    program also takes the mask: it must have one path for all values.
    """

    def __init__(self, mask_B: torch.Tensor) -> None:
        self.mask = mask_B
        by_index = mask_B.device.type == "cpu" and not torch.compiler.is_compiling()
        self.index = mask_B.nonzero().squeeze(1) if by_index else None

    def __bool__(self) -> bool:
        """False only if it is known that there are no rows."""
        return self.index is None or len(self.index) > 0

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """The rows of x; on a GPU all of them."""
        return x if self.index is None else x[self.index]

    def put(self, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """x with the rows replaced by `value`, which has the rows that `take` gives, or broadcasts."""
        if self.index is None:
            return where_rows(self.mask, value, x)
        return x.index_copy(0, self.index, value.expand(len(self.index), *x.shape[1:]))
