"""The paged keys and values of all layers. Types only: execution/kv_memory.py allocates them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class KVCache:
    """keys[l], values[l]: [num_blocks, kv heads, block_size, head_dim] of layer l; position p of a sequence lies in
    block block_table[p // block_size] at p % block_size. Not cleared: host memory is taken as it is first written.

    In 8 bits they are [num_blocks, kv heads, block_size * (head_dim + 2)]: see attention/quantised_cache.py of the
    kernels. Either way a block is one piece of each tensor, with all that reading it takes.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    num_blocks: int
    block_size: int
    is_quantised: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))
