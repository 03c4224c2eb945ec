"""Codes of 8 bits as numbers, in kernels: of quantised caches and weights.

Codes are bytes here, converted by their bits: cards before sm_89 have no instructions for float8.
"""

from __future__ import annotations

from multiflora_kernels.runtime.triton import jit, tl


@jit
def decoded(codes: tl.tensor, CODEC: tl.constexpr) -> tl.tensor:
    """Bytes as float32; CODEC: 1 of int8, 2 of E4M3, 3 of E5M2. A float8 has the bits of a float16 with as large an
    exponent, or one of fewer bits."""
    if CODEC == 1:
        return codes.to(tl.int8, bitcast=True).to(tl.float32)
    wide = codes.to(tl.int16)
    if CODEC == 2:
        wide = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
        return wide.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return (wide << 8).to(tl.float16, bitcast=True).to(tl.float32)
