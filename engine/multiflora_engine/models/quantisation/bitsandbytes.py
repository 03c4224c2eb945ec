"""bitsandbytes' four bits, nf4 and fp4: indices into a table of 16 values, with a scale for each block of the weight.

Source of the format: https://github.com/bitsandbytes-foundation/bitsandbytes. Its int8 is plainly scaled (scaled.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec
import torch

from multiflora_engine.models.quantisation.packing import NIBBLES, look_up_nibbles
from multiflora_engine.models.quantisation.quantised_tensor import FLOATS, IntegerRows, QuantisedTensor
from multiflora_engine.models.quantisation.settings import BitsAndBytesSettings
from multiflora_kernels.linear.quantised import IntegerForm

_STATES = (".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4")
_MAX_STATE_BYTES = 1 << 16


class _State(msgspec.Struct, frozen=True):
    quant_type: Literal["nf4", "fp4"]
    blocksize: int  # elements that share a scale
    shape: tuple[int, int]
    nested_blocksize: int | None = None  # scales that share one, where they are quantised themselves
    nested_offset: float | None = None

    @property
    def group_size(self) -> int:
        """Blocks of the flat weight may begin and end within its rows: a group is what always lies in one of them."""
        return math.gcd(self.shape[1], self.blocksize)


@dataclass(frozen=True)
class FourBitTensor(QuantisedTensor):
    """`.weight`: N * K / 2 bytes, the high half first. `.weight.quant_map`: the 16 values. `.weight.absmax`: a scale
    for each block of the flat weight; as bytes, they are indices into `.weight.nested_quant_map` [256], with scales of
    their own in `.weight.nested_absmax`, and an offset. `.weight.quant_state.…`: shape and sizes of blocks, as JSON.

    Semantics: W.flat[i] = quant_map[q[i]] * absmax[i // blocksize].
    """

    settings: BitsAndBytesSettings

    @property
    def shape(self) -> tuple[int, int]:
        return self._state().shape

    def check(self) -> None:
        state = self._state()
        count = state.shape[0] * state.shape[1]
        found = self.part(".weight").num_bytes
        if found != -(-count // 2):
            raise self.damaged(".weight", f"has {found} bytes; a weight of {list(state.shape)} needs {-(-count // 2)}")
        blocks = -(-count // state.blocksize)
        self.expect(".weight.quant_map", ("F32",), (16,))
        self.expect(".weight.absmax", ("U8", *FLOATS), (blocks,))
        if self.part(".weight.absmax").dtype == "U8":
            if state.nested_blocksize is None or state.nested_offset is None:
                raise self.damaged(self._state_name, "lacks what belongs to scales that are quantised themselves")
            self.expect(".weight.nested_quant_map", ("F32",), (256,))
            self.expect(".weight.nested_absmax", FLOATS, (-(-blocks // state.nested_blocksize),))

    @property
    def form(self) -> IntegerForm | None:
        return IntegerForm(4, self._state().group_size, table=tuple(self.read(".weight.quant_map").tolist()))

    def integers(self) -> Iterator[IntegerRows]:
        state = self._state()
        outputs, inputs = state.shape
        packed = self.read(".weight").flatten().view(torch.uint8).view(outputs, -1)
        groups = outputs * inputs // state.group_size
        scales = self._scales(state).repeat_interleave(state.blocksize // state.group_size)[:groups].view(outputs, -1)
        for first, end in self.row_ranges():
            codes = look_up_nibbles(packed[first:end], NIBBLES, low_first=False)
            yield IntegerRows(codes, scales[first:end], None)

    def pieces(self) -> Iterator[torch.Tensor]:
        state = self._state()
        packed = self.read(".weight").flatten().view(torch.uint8)
        table, scales = self.read(".weight.quant_map"), self._scales(state)
        columns = state.shape[1]
        # An even number of rows begins with a whole byte.
        for first, end in self.row_ranges(multiple=2):
            begin, stop = first * columns, end * columns
            found = look_up_nibbles(packed[begin // 2 : -(-stop // 2)], table, low_first=False)[: stop - begin]
            values = found * scales[torch.arange(begin, stop) // state.blocksize]
            yield values.view(-1, columns)

    def _scales(self, state: _State) -> torch.Tensor:
        scales = self.read(".weight.absmax")
        if scales.dtype != torch.uint8:
            return scales.float()
        assert state.nested_blocksize is not None, "check() has seen that it is there"
        nested = self.read(".weight.nested_absmax").float().repeat_interleave(state.nested_blocksize)[: len(scales)]
        return self.read(".weight.nested_quant_map")[scales.long()] * nested + (state.nested_offset or 0)

    @property
    def _state_name(self) -> str:
        return next((name for name in _STATES if name in self.parts), _STATES[0])

    def _state(self) -> _State:
        part = self.part(self._state_name)
        if part.dtype != "U8" or part.num_bytes > _MAX_STATE_BYTES:
            raise self.damaged(self._state_name, "is no JSON object in bytes")
        try:
            state = msgspec.json.decode(bytes(self.read(self._state_name).tolist()), type=_State)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self.damaged(self._state_name, f"is not valid ({error})") from None
        if min(*state.shape, state.blocksize, state.nested_blocksize or 1) < 1:
            raise self.damaged(self._state_name, "has a size below 1")
        return state
