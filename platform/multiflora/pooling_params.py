"""How a prompt becomes a vector, as vLLM's programs ask for it."""

from __future__ import annotations

from dataclasses import dataclass

_TASKS = (None, "embed")


@dataclass(frozen=True, kw_only=True)
class PoolingParams:
    """use_activation, of which normalize is the older name: whether the vector gets length one; None means True.

    Raises ValueError for another task than "embed", for which a causal model has no head, and for dimensions: the
    vectors of a model that was not trained for it have one size.
    """

    task: str | None = None
    dimensions: int | None = None
    use_activation: bool | None = None
    normalize: bool | None = None

    def __post_init__(self) -> None:
        if self.task not in _TASKS:
            raise ValueError(f"task {self.task!r} needs a model with a head for it; there is 'embed'")
        if self.dimensions is not None:
            raise ValueError("dimensions is not supported: this model's embeddings have one size")

    @property
    def is_unit(self) -> bool:
        """Whether the vector has length one."""
        return self.use_activation is not False and self.normalize is not False
