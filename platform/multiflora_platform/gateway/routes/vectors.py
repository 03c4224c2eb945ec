"""What every answer made of vectors has in common: prompts started for their embeddings, waited for, and written.

Knows no call's own request or answer.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
from fastapi import Request
from starlette.responses import Response

from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission, admit
from multiflora_platform.gateway.generation.collect import collect_all, until_disconnect
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.respond import version_headers
from multiflora_platform.gateway.generation.start import start
from multiflora_platform.gateway.prompting.sampling import output_length
from multiflora_platform.gateway.prompting.tokenize import (
    Prompt,
    PromptRoom,
    text_prompts,
    truncate,
)
from multiflora_platform.gateway.schemas.answers import encode
from multiflora_platform.gateway.schemas.requests import PoolingRequest
from multiflora_platform.services import Services
from multiflora_platform.text.off_loop import off_loop

_COMPARED = 128
"""What bringing a vector to length one and comparing it is like, in characters: some sixty microseconds."""

Inputs = tuple[tuple[str, Prompt], ...]
"""(the request's parameter, its texts or ids); their prompts follow each other."""
Write = Callable[[Admission, list[Generation]], msgspec.Struct]


def compared(generation: Generation) -> int:
    """The work on a vector of which only a number is told."""
    return _COMPARED


def written(generation: Generation) -> int:
    """The work on a vector that is told whole."""
    return len(raw_vector(generation))


async def answer_with_vectors(
    request: Request,
    principal: Principal,
    body: PoolingRequest,
    inputs: Inputs,
    write: Write,
    work: Callable[[Generation], int] = compared,
    echoed: int = 0,
) -> Response:
    """What `write` makes of the inputs' vectors. work: on one of them, in characters. echoed: characters of the request
    that the answer repeats. Raises ApiError."""
    services: Services = request.app.state.services
    admission = await admit(services, request, principal, body)
    try:
        generations = await _start(services, admission, body, inputs)
        await until_disconnect(request.receive, collect_all(generations))
        size = echoed + sum(map(work, generations))
        content = await off_loop(size, lambda: encode(write(admission, generations)))
        ids = [generation.request.id for generation in generations]
        headers = version_headers(admission) | services.answer_headers(admission.group, admission.principal, ids)
        return Response(content, media_type="application/json", headers=headers)
    finally:
        admission.close()


def unit_vector(generation: Generation) -> npt.NDArray[np.float32]:
    """The prompt's embedding, of length one."""
    vector = raw_vector(generation)
    unit: npt.NDArray[np.float32] = (vector / max(float(np.linalg.norm(vector.astype(np.float64))), 1e-12)).astype(
        "<f4"
    )
    return unit


def raw_vector(generation: Generation) -> npt.NDArray[np.float32]:
    """The same as the model gives it."""
    assert generation.embedding is not None, "a pooling request ends with its embedding"
    return np.frombuffer(generation.embedding, "<f4")


async def _start(services: Services, admission: Admission, body: PoolingRequest, inputs: Inputs) -> list[Generation]:
    model, limit = admission.group.model, admission.group.max_model_len
    prompts = []
    params = SamplingParams(max_tokens=0)
    special = body.add_special_tokens is not False
    room = PromptRoom(limit, 0, is_cut=bool(body.truncate_prompt_tokens))
    for param, texts in inputs:
        for ids in await text_prompts(param, texts, special, model.tokenizer, model.vocab_size, room):
            ids = truncate(ids, body.truncate_prompt_tokens, limit, 0)
            output_length(len(ids), 0, None, limit, (param, param))
            prompts.append((ids, params))
    return await start(services, admission, prompts, pooling=body.pooling or "last")
