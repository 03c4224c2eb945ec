"""What a ready engine says about a new adapter: do its logits differ from the base model's?"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from multiflora_adapters.validation import ValidationRow
from multiflora_platform.registry.errors import CommandFailed, NoRoom

_log = logging.getLogger(__name__)
# An engine with every slot taken by long requests must not hold an upload up for ever.
PROBE_SECONDS = 30.0

Prober = Callable[[str], Awaitable[float | None]]


async def probe(prober: Prober | None, digest: str) -> ValidationRow:
    """One row for the report: an error when the engine refuses the adapter or its logits are not finite.

    prober(digest): largest |logit difference| to the base, None when no engine is ready; raises as EngineLink.command.
    """
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            distance = await prober(digest) if prober else None
    except Exception as error:
        _log.warning("probe of %s failed: %s", digest, error)
        if isinstance(error, CommandFailed) and not isinstance(error, NoRoom):
            # The engine tried and refuses the files: every request would be refused, too. It names the next step.
            return ValidationRow(check="probe", severity="error", message=error.detail)
        return ValidationRow(
            check="probe",
            severity="warning",
            message=f"The engine could not try the adapter: {str(error) or 'it was too busy'}.",
            hint="Try a request against it before it is promoted.",
        )
    if distance is None:
        return ValidationRow(check="probe", severity="info", message="Skipped: the engine is not ready yet.")
    if not math.isfinite(distance):
        return ValidationRow(
            check="probe",
            severity="error",
            message="The adapter makes the model's logits infinite or not a number.",
            observed=str(distance),
            expected="finite",
            hint="Look at its scaling (lora_alpha / r) and its training.",
        )
    if distance == 0:
        return ValidationRow(
            check="probe",
            severity="warning",
            message="The adapter's logits equal the base model's on the probe prompt: it changes nothing.",
            observed="0",
            expected="> 0",
            hint="Were the trained weights saved? A fresh LoRA has B = 0.",
        )
    return ValidationRow(
        check="probe",
        severity="info",
        message=f"The adapter's logits differ from the base model's by up to {distance:.4g}.",
        observed=f"{distance:.6g}",
    )
