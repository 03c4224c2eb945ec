"""vLLM's own way to ask for a beam search, and how its answers are shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from multiflora.lora_request import LoRARequest
from multiflora.missing import NamesTheNearest
from multiflora.outputs import Logprob, RequestOutput
from multiflora_engine.protocol.requests import FinishReason
from multiflora_engine.protocol.sampling_params import SamplingParams


@dataclass(frozen=True)
class BeamSearchParams(metaclass=NamesTheNearest):
    """beam_width: answers, and beams. length_penalty: above 0 favours long answers. temperature: 0 or 1, which find the
    same. Raises ValueError for values out of range."""

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        self.sampling_params()

    def sampling_params(self) -> SamplingParams:
        """The same wish as `generate` takes it."""
        if self.max_tokens is None:
            raise ValueError("max_tokens must be given")
        return SamplingParams(
            n=self.beam_width,
            use_beam_search=True,
            max_tokens=self.max_tokens,
            ignore_eos=self.ignore_eos,
            temperature=self.temperature,
            length_penalty=self.length_penalty,
            include_stop_str_in_output=self.include_stop_str_in_output,
            logprobs=0,
        )


@dataclass(frozen=True)
class BeamSearchSequence:
    """One answer with its prompt before it."""

    tokens: list[int]
    """The prompt's, then the answer's."""
    logprobs: list[dict[int, Logprob]]
    """Of the answer's tokens."""
    cum_logprob: float
    """The sum over the answer's tokens."""
    text: str
    """Of all tokens."""
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    lora_request: LoRARequest | None = None


@dataclass(frozen=True)
class BeamSearchOutput:
    """Of one prompt; best first."""

    sequences: list[BeamSearchSequence] = field(default_factory=list)


def beam_search_output(output: RequestOutput, prompt: str) -> BeamSearchOutput:
    """prompt: its text, also where ids were given. Raises RuntimeError when the search failed."""
    sequences = []
    for answer in output.outputs:
        if answer.error is not None:
            raise RuntimeError(f"The beam search failed: {answer.error}")
        sequences.append(
            BeamSearchSequence(
                tokens=[*output.prompt_token_ids, *answer.token_ids],
                logprobs=answer.logprobs or [],
                cum_logprob=answer.cumulative_logprob or 0.0,
                text=prompt + answer.text,
                finish_reason=answer.finish_reason,
                stop_reason=answer.stop_reason,
                lora_request=output.lora_request,
            )
        )
    return BeamSearchOutput(sequences)
