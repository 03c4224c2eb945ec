"""The block tables that decode graphs read: of each step only what differs from the step before is sent.

Knows neither sequences nor graphs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from multiflora_engine.core.transfers import Staging


class DeviceTables:
    """content: [max_num_seqs, max_blocks] int32 on the device, always at the same address."""

    def __init__(self, max_num_seqs: int, max_blocks: int, device: torch.device) -> None:
        self.content = torch.zeros((max_num_seqs, max_blocks), dtype=torch.int32, device=device)
        self._sent = np.zeros((max_num_seqs, max_blocks), dtype=np.int32)

    def fill(self, tables: npt.NDArray[np.int32], staging: Staging) -> None:
        """tables: [S, B] of a step. What lies beyond is stale, and past every context length.

        A decode changes one entry of a sequence each block_size steps, so that most steps send nothing. Where a
        sequence has ended, those behind it have moved up: their rows are sent anew.
        """
        sent = self._sent[: tables.shape[0], : tables.shape[1]]
        changed = np.flatnonzero(tables != sent)
        if not len(changed):
            return
        rows, columns = np.divmod(changed, tables.shape[1])
        blocks = tables[rows, columns]
        places, content = staging.upload([rows * self.content.shape[1] + columns, blocks])
        self.content.view(-1).scatter_(0, places, content)
        sent[rows, columns] = blocks
