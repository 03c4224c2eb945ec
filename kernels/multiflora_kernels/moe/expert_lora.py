"""LoRA on the experts of a mixture: of each adapter one call over rows sorted by expert, in which an expert is what a
slot is elsewhere.

Why so: rows lie expert by expert for the base's products, and within an expert adapter by adapter, because the tokens
of a batch do. So each adapter has one run of rows in each expert that it needs, and the kernels that know runs of rows
and tables of rank rows serve them as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from multiflora_kernels.lora.batched_lora import LoraSegments, lora_linear_
from multiflora_kernels.lora.site import LoraSite
from multiflora_kernels.lora.tiles import Table
from multiflora_kernels.moe.experts import ExpertRows

AdapterRuns = Sequence[tuple[int, LoraSegments]]
"""(slot, its rows expert by expert: the slots of these segments are experts, E for rows of others)."""


def lora_experts_reference_(
    y: torch.Tensor,
    x: torch.Tensor,
    sites: Sequence[Mapping[int, LoraSite]],
    columns: Sequence[tuple[int, int]],
    rows: ExpertRows,
    segments: LoraSegments,
) -> None:
    """y: [P, N], in place; x: [P, K], both sorted; segments: of the tokens; sites[i]: by slot, with experts in place of
    slots and one more of rank 0, acts on columns[i] = (c0, c1) of y.

    Semantics, for every row p of a token of slot s in sites[i], with e its expert and r = ranks[e] > 0, o = offsets[e]:
    y[p, c0:c1] += (x[p] @ A.T) @ B for rows o:o+r of A, B; with a magnitude m then y[p, c0:c1] *= m[e].
    """
    slot_of = {token: slot for begin, end, slot in segments.spans() for token in range(begin, end)}
    wide = torch.promote_types(y.dtype, torch.float32)
    for p, (token, expert) in enumerate(zip(rows.tokens.tolist(), rows.experts.tolist(), strict=True)):
        for by_slot, (c0, c1) in zip(sites, columns, strict=True):
            site = by_slot.get(slot_of.get(token, -1))
            if site is None or (rank := int(site.ranks[expert])) == 0:
                continue
            own = slice(int(site.offsets[expert]), int(site.offsets[expert]) + rank)
            total = y[p, c0:c1].to(wide) + (x[p].to(wide) @ site.a[own].to(wide).T) @ site.b[own].to(wide)
            if site.magnitude is not None:
                total = site.magnitude[expert].to(wide) * total
            y[p, c0:c1] = total.to(y.dtype)


def adapter_runs(rows: ExpertRows, segments: LoraSegments, slots: Collection[int]) -> AdapterRuns:
    """segments: of the tokens. Of each of their adapters that is among `slots`, where its rows are."""
    assert not segments.is_static, "a graph's adapters are found by kernels"
    # By what `bucketize` calls the tokens of a segment: 0 are the base's before the first.
    found: dict[int, tuple[int, list[int], list[int]]] = {
        place: (slot, [0], []) for place, slot in enumerate(segments.host_slots, 1) if slot in slots
    }
    if not found:
        return ()
    borders = torch.tensor(segments.host_starts, device=rows.tokens.device)
    owners, kinds = torch.bucketize(rows.tokens, borders, right=True), len(borders) + 1
    # Rows of one adapter and expert follow one another. Only those that are there are looked at: a decode step goes to
    # few of many experts.
    keys, counts = torch.unique_consecutive(rows.experts * kinds + owners, return_counts=True)
    end = 0
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        begin, end = end, end + count
        expert, place = divmod(key, kinds)
        if place not in found:
            continue
        _, starts, experts = found[place]
        if begin > starts[-1]:
            starts.append(begin)
            experts.append(len(rows.counts))
        starts.append(end)
        experts.append(expert)

    def upload(table: Table) -> torch.Tensor:
        return torch.from_numpy(table).to(rows.tokens.device)

    to_device = None if segments.tiles is None else upload
    return [(slot, LoraSegments.build(starts, owned, to_device)) for slot, starts, owned in found.values() if owned]


def lora_experts_(
    y: torch.Tensor,
    x: torch.Tensor,
    sites: Sequence[Mapping[int, LoraSite]],
    columns: Sequence[tuple[int, int]],
    runs: AdapterRuns,
) -> None:
    """y: [P, N] in place, x: [P, K], both sorted. See `lora_experts_reference_`; runs: `adapter_runs` of the rows."""
    for slot, segments in runs:
        lora_linear_(y, x, [by_slot.get(slot) for by_slot in sites], columns, segments)
