"""Compiles every kernel for sm_80 and sm_90 on a machine without a GPU and tells what it takes of the processor.

Knows the ops by name; what a kernel's variants are, the op says in `kernel_variants`. Run as
`python -m multiflora_kernels.compile_check [--json] [--blackwell]`, in a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from multiflora_kernels import activation, rms_norm
from multiflora_kernels.attention import cascade as attention_cascade
from multiflora_kernels.attention import merge as attention_merge
from multiflora_kernels.attention import plan as attention_plan
from multiflora_kernels.attention import triton as attention_triton
from multiflora_kernels.linear import narrow_triton
from multiflora_kernels.lora import launch as lora_launch
from multiflora_kernels.moe import expert_lora_triton as moe_lora
from multiflora_kernels.moe import grouped_triton as moe_grouped
from multiflora_kernels.moe import tiles as moe_tiles
from multiflora_kernels.rope import lora_triton as rope_lora_triton
from multiflora_kernels.rope import triton as rope_triton
from multiflora_kernels.runtime.triton import INTERPRETED, KernelVariant, triton
from multiflora_kernels.sampling import draw_triton as sample_triton
from multiflora_kernels.sampling import logits_triton as sampling_triton

OPS = (
    activation,
    attention_cascade,
    attention_merge,
    attention_plan,
    attention_triton,
    lora_launch,
    moe_grouped,
    moe_lora,
    moe_tiles,
    narrow_triton,
    rms_norm,
    rope_lora_triton,
    rope_triton,
    sample_triton,
    sampling_triton,
)
"""Every module that has Triton kernels."""

_TARGETS = {80: "sm_80", 86: "sm_86", 90: "sm_90a", 100: "sm_100a"}
_BLACKWELL = 100
"""Its cards have the shared memory of sm_90's, and run the same forms."""


@dataclass(frozen=True)
class Resources:
    """What one variant takes: registers of a thread, bytes spilled to local memory, bytes of shared memory a block."""

    kernel: str
    target: str
    registers: int
    spills: int
    shared: int
    warps: int


def variants() -> Iterator[KernelVariant]:
    """All forms of all kernels."""
    for op in OPS:
        yield from op.kernel_variants()


def compile_variant(variant: KernelVariant, capability: int) -> Resources:
    """Triton to PTX, PTX to machine code by ptxas, whose report is read. Raises what the compilers raise."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    assert not INTERPRETED, "an interpreted kernel cannot be compiled"
    aligned = [
        index
        for index, (name, kind) in enumerate(variant.signature.items())
        if kind != "constexpr" and not kind.startswith("fp") and name not in variant.unaligned
    ]
    source = ASTSource(
        variant.kernel,
        dict(variant.signature),
        dict(variant.constants),
        {(index,): [["tt.divisibility", 16]] for index in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(variant.options))
    report = _assemble(compiled.asm["ptx"], capability)
    return Resources(
        variant.name,
        _TARGETS[capability],
        registers=int(_found(r"Used (\d+) registers", report)),
        spills=int(_found(r"(\d+) bytes spill stores", report)) + int(_found(r"(\d+) bytes spill loads", report)),
        shared=compiled.metadata.shared,
        warps=compiled.metadata.num_warps,
    )


def assembler(capability: int) -> Path:
    """The one that Triton brings along; it need not exist."""
    name = "ptxas" if capability < _BLACKWELL else "ptxas-blackwell"
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def _assemble(ptx: str, capability: int) -> str:
    options = ["-v", f"--gpu-name={_TARGETS[capability]}"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [str(assembler(capability)), *options, str(source), "-o", str(source.with_suffix(".cubin"))]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, f"ptxas reports {pattern!r}"
    return match.group(1)


def main() -> None:
    """Prints the table, or with --json one object per line."""
    parser = argparse.ArgumentParser(description="What every kernel takes of the processor.")
    parser.add_argument("--json", action="store_true", help="one object per line")
    parser.add_argument("--blackwell", action="store_true", help="sm_90's forms for sm_100a, nothing else")
    arguments = parser.parse_args()
    if arguments.blackwell:
        rows = [compile_variant(variant, _BLACKWELL) for variant in variants() if 90 in variant.capabilities]
    else:
        rows = [compile_variant(variant, capability) for variant in variants() for capability in variant.capabilities]
    if arguments.json:
        print("\n".join(json.dumps(asdict(row)) for row in rows))
        return
    print(f"{'kernel':56}{'target':8}{'registers':>10}{'spills':>8}{'shared':>9}{'warps':>7}")
    for row in rows:
        print(f"{row.kernel:56}{row.target:8}{row.registers:>10}{row.spills:>8}{row.shared:>9}{row.warps:>7}")


if __name__ == "__main__":
    main()
