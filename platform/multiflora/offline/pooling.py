"""Embeddings and what is made of them, named as in vLLM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta

_LEAST = 1e-12


@dataclass(frozen=True)
class EmbeddingOutput:
    """Of length one, unless it was asked for as it is."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        return len(self.embedding)


@dataclass(frozen=True)
class PoolingOutput:
    """data: [H] float32, the hidden state after the final norm, of length one unless it was asked for as it is."""

    data: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScoringOutput:
    """score: the cosine of two embeddings, from -1 to 1."""

    score: float


@dataclass(frozen=True)
class PooledRequest:
    """What all three outputs tell of their prompt; of a score, of its second text."""

    request_id: str
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool


@dataclass(frozen=True)
class EmbeddingRequestOutput(PooledRequest):
    """Of `LLM.embed`."""

    outputs: EmbeddingOutput


@dataclass(frozen=True)
class PoolingRequestOutput(PooledRequest):
    """Of `LLM.encode`."""

    outputs: PoolingOutput


@dataclass(frozen=True)
class ScoringRequestOutput(PooledRequest):
    """Of `LLM.score`."""

    outputs: ScoringOutput


Pooled = tuple[GenerateRequest, TokenDelta]


def embedding_output(pooled: Pooled, normalize: bool) -> EmbeddingRequestOutput:
    vector = _unit(pooled) if normalize else _vector(pooled)
    return EmbeddingRequestOutput(*_about(pooled), EmbeddingOutput(vector.tolist()))


def pooling_output(pooled: Pooled, normalize: bool) -> PoolingRequestOutput:
    vector = _unit(pooled) if normalize else _vector(pooled)
    return PoolingRequestOutput(*_about(pooled), PoolingOutput(vector))


def scoring_output(first: Pooled, second: Pooled) -> ScoringRequestOutput:
    cosine = float(np.clip(_unit(first) @ _unit(second), -1.0, 1.0))
    return ScoringRequestOutput(*_about(second), ScoringOutput(cosine))


def _about(pooled: Pooled) -> tuple[str, list[int], int, bool]:
    request, delta = pooled
    return request.id, request.prompt_token_ids, delta.cached_tokens, True


def _unit(pooled: Pooled) -> npt.NDArray[np.float32]:
    vector = _vector(pooled)
    unit: npt.NDArray[np.float32] = vector / np.float32(max(float(np.linalg.norm(vector.astype(np.float64))), _LEAST))
    return unit


def _vector(pooled: Pooled) -> npt.NDArray[np.float32]:
    """Raises RuntimeError where the engine gave none."""
    delta = pooled[1]
    if delta.embedding is None:
        raise RuntimeError(f"The embedding failed: {delta.failure.message if delta.failure else 'it was cut off'}")
    return np.frombuffer(delta.embedding, "<f4").copy()
