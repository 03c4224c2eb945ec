"""A request's use_beam_search, best_of or n, length_penalty and early_stopping to the parameters of a beam search."""

from __future__ import annotations

from multiflora_engine.protocol.sampling_params import NEUTRAL_TO_BEAMS, SamplingParams
from multiflora_engine.protocol.sampling_ranges import InvalidParameter
from multiflora_platform.gateway.beams.search import BeamParams, search_params
from multiflora_platform.gateway.schemas.requests import GenerationRequest, ResponseFormat
from multiflora_platform.web.openai_errors import invalid, unsupported

_NEUTRAL: dict[str, tuple[object, ...]] = {
    **NEUTRAL_TO_BEAMS,
    "response_format": (ResponseFormat("text"),),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}


def beam_params(request: GenerationRequest, params: SamplingParams, eos_token_ids: frozenset[int]) -> BeamParams | None:
    """None when sampling is asked for. params: the request's, checked. Raises ApiError naming the parameter."""
    if not request.use_beam_search:
        return None
    # What the request says itself: the model's own defaults, which params hold, are left out of a search.
    for name, allowed in _NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and value not in allowed:
            raise unsupported(name, f"{name} cannot be combined with use_beam_search; leave it out.")
    try:
        return search_params(params, eos_token_ids)
    except InvalidParameter as error:
        raise invalid(error.parameter, f"{error}.") from None
