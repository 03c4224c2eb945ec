"""Offline inference: one engine in this process, prompts in, texts out, no server.

Owns what callers may ask and how they may write it, in vLLM's names and ours; the engine is offline/'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from multiflora.collector import Collector
from multiflora.lora_request import LoRARequest
from multiflora.missing import names_the_nearest
from multiflora.offline.arguments import as_list, either, for_each, require_params
from multiflora.offline.beam_search import BeamSearchOutput, BeamSearchParams, beam_search_output
from multiflora.offline.offline_engine import OfflineEngine
from multiflora.offline.pooling import (
    EmbeddingRequestOutput,
    Pooled,
    PoolingRequestOutput,
    ScoringRequestOutput,
    embedding_output,
    pooling_output,
    scoring_output,
)
from multiflora.offline.runs import EmbeddingRun
from multiflora.options import program_options
from multiflora.outputs import RequestOutput
from multiflora.pooling_params import PoolingParams
from multiflora.request_maker import Prompt, named
from multiflora_engine.protocol.sampling_params import SamplingParams

Message = Mapping[str, Any]
Prompts = Prompt | Sequence[Prompt]
Params = SamplingParams | Sequence[SamplingParams]
Adapter = str | LoRARequest
Adapters = Adapter | Sequence[Adapter | None]


class LLM(OfflineEngine):
    """A base model with its adapters, ready to generate. One thread at a time: while a call or a stream of one
    runs, those of another raise RuntimeError.

    Where two names of one argument are listed, the first is vLLM's; given both, differently, they are a TypeError.
    sampling_params, params: one for all prompts, or one for each; by default the model's own. lora_request, adapter: an
    added adapter's name or a LoRARequest, one for all or one for each; None is the base model. use_tqdm, progress: a
    bar on the terminal. priority: smaller runs first.
    """

    def __init__(self, model: str | Path, adapters: Mapping[str, str | Path] | None = None, **options: Any) -> None:
        """model: a folder, or a Hugging Face id. adapters: name -> PEFT folder; each is validated and copied, so that
        the folder is not needed afterwards. options: of the engine, under vLLM's names or ours
        (max_model_len, max_loras, seed, ...); what has no effect here is logged. Raises TypeError for an unknown
        option, ValueError for one that cannot be; ModelError, AdapterRejected, and TokenizerError."""
        chosen = program_options("LLM", model, options)
        if "engines_per_host" in chosen.engine:
            raise ValueError(
                "LLM computes in this process, with one engine; leave data_parallel_size out, or give it to "
                "AsyncEngineArgs or `multiflora serve`"
            )
        super().__init__(chosen.files, chosen.engine, adapters)

    @overload
    def generate(
        self,
        prompts: Prompts | None = None,
        sampling_params: Params | None = None,
        use_tqdm: bool | None = None,
        lora_request: Adapters | None = None,
        *,
        prompt_token_ids: Prompts | None = None,
        priority: int | Sequence[int] | None = None,
        params: Params | None = None,
        adapter: Adapters | None = None,
        progress: bool | None = None,
        stream: Literal[False] = False,
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Prompts | None = None,
        sampling_params: Params | None = None,
        use_tqdm: bool | None = None,
        lora_request: Adapters | None = None,
        *,
        prompt_token_ids: Prompts | None = None,
        priority: int | Sequence[int] | None = None,
        params: Params | None = None,
        adapter: Adapters | None = None,
        progress: bool | None = None,
        stream: Literal[True],
    ) -> Iterator[RequestOutput]: ...

    @names_the_nearest
    def generate(
        self,
        prompts: Prompts | None = None,
        sampling_params: Params | None = None,
        use_tqdm: bool | None = None,
        lora_request: Adapters | None = None,
        *,
        prompt_token_ids: Prompts | None = None,
        priority: int | Sequence[int] | None = None,
        params: Params | None = None,
        adapter: Adapters | None = None,
        progress: bool | None = None,
        stream: bool = False,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """All prompts in one batch, in their order; requests of different adapters run together.

        prompts: a text or its token ids, either perhaps under its key, or a list of these; vLLM's older name for ids
        is prompt_token_ids. stream: yields what is new, as it comes, instead; the requests begin when the first output
        is asked for, and leaving the iterator aborts them. Raises ValueError for prompts and parameters out of range,
        and for unknown adapters, before anything runs; TypeError for what is no prompt; RuntimeError after `close`,
        and while another thread uses this LLM.
        """
        with self._in_use():
            collectors = self._collect(
                either("prompts", prompts, "prompt_token_ids", prompt_token_ids),
                either("sampling_params", sampling_params, "params", params),
                either("lora_request", lora_request, "adapter", adapter),
                priority,
                stream,
            )
            if stream:
                return self._run_in_pieces(collectors)
            shown = either("use_tqdm", use_tqdm, "progress", progress)
            return self._run_whole(collectors, True if shown is None else bool(shown))

    def generate_stream(
        self,
        prompts: Prompts,
        sampling_params: Params | None = None,
        lora_request: Adapters | None = None,
        **others: Any,
    ) -> Iterator[RequestOutput]:
        """`generate(..., stream=True)`: each output's texts are the new pieces, to be printed one after another."""
        return self.generate(prompts, sampling_params, lora_request=lora_request, **others, stream=True)

    @names_the_nearest
    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params | None = None,
        use_tqdm: bool | None = None,
        lora_request: Adapters | None = None,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        params: Params | None = None,
        adapter: Adapters | None = None,
        progress: bool | None = None,
    ) -> list[RequestOutput]:
        """One conversation or several, through the model's chat template or the text of another one.

        continue_final_message: the last message goes on, which needs add_generation_prompt=False. Raises as `generate`,
        and ChatTemplateError.
        """
        if isinstance(messages, str | Mapping):
            raise TypeError(
                f"messages is a list of messages, {{'role': ..., 'content': ...}}, not {type(messages).__name__}"
            )
        one = bool(messages) and isinstance(messages[0], Mapping)
        conversations: Any = [messages] if one else messages
        texts = [
            self.tokenizer.apply_chat_template(
                each,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                chat_template_kwargs=chat_template_kwargs,
                chat_template=chat_template,
            )
            for each in conversations
        ]
        prompts: Any = []
        for text in texts:
            with named(f"conversation {len(prompts)}"):
                prompts.append({"prompt": text, "prompt_token_ids": self._maker.encode(text, False)})
        return self.generate(
            prompts,
            sampling_params,
            use_tqdm,
            lora_request,
            params=params,
            adapter=adapter,
            progress=progress,
        )

    @names_the_nearest
    def beam_search(
        self,
        prompts: Prompts,
        params: BeamSearchParams,
        lora_request: Adapters | None = None,
        use_tqdm: bool = False,
    ) -> list[BeamSearchOutput]:
        """The `beam_width` likeliest answers to each prompt, best first: those that the server finds with
        use_beam_search. Raises as `generate`, and RuntimeError for a search that fails."""
        outputs = self.generate(prompts, params.sampling_params(), use_tqdm, lora_request)
        decode = self.tokenizer.decode
        return [
            beam_search_output(output, decode(output.prompt_token_ids) if output.prompt is None else output.prompt)
            for output in outputs
        ]

    # ---- vectors

    @names_the_nearest
    def embed(
        self,
        prompts: Prompts,
        *,
        use_tqdm: bool | None = None,
        pooling_params: PoolingParams | None = None,
        lora_request: Adapters | None = None,
        adapter: Adapters | None = None,
        pooling: Literal["last", "mean"] = "last",
        normalize: bool = True,
    ) -> list[EmbeddingRequestOutput]:
        """Each prompt's hidden state after the final norm, of its last token or the mean of all, of length one unless
        `normalize` or pooling_params say otherwise. Raises as `generate`, and RuntimeError where the engine fails."""
        pooled = self._pool(prompts, either("lora_request", lora_request, "adapter", adapter), pooling, use_tqdm)
        is_unit = normalize and (pooling_params is None or pooling_params.is_unit)
        return [embedding_output(each, is_unit) for each in pooled]

    @names_the_nearest
    def encode(
        self,
        prompts: Prompts,
        pooling_params: PoolingParams | None = None,
        *,
        pooling_task: str = "embed",
        use_tqdm: bool | None = None,
        lora_request: Adapters | None = None,
    ) -> list[PoolingRequestOutput]:
        """`embed` with arrays as vectors. Raises ValueError for other tasks, for which a causal model has no head."""
        PoolingParams(task=pooling_task)
        is_unit = pooling_params is None or pooling_params.is_unit
        return [pooling_output(each, is_unit) for each in self._pool(prompts, lora_request, "last", use_tqdm)]

    @names_the_nearest
    def score(
        self,
        text_1: Prompts,
        text_2: Prompts,
        *,
        use_tqdm: bool | None = None,
        lora_request: Adapter | None = None,
    ) -> list[ScoringRequestOutput]:
        """How alike two texts are, by their embeddings: pair by pair, or one text_1 with each text_2. Raises as
        `embed`, and ValueError when the texts are no pairs."""
        first, second = as_list(text_1), as_list(text_2)
        if len(first) not in (1, len(second)):
            raise ValueError(f"text_1 has {len(first)} texts for {len(second)} of text_2; give one, or as many")
        names = [f"text_1[{place}]" for place in range(len(first))]
        names += [f"text_2[{place}]" for place in range(len(second))]
        pooled = self._pool([*first, *second], lora_request, "last", use_tqdm, names)
        left, right = pooled[: len(first)], pooled[len(first) :]
        pairs = zip(left * len(right) if len(left) == 1 else left, right, strict=True)
        return [scoring_output(*pair) for pair in pairs]

    # ---- requests

    def _collect(
        self,
        prompts: Prompts,
        params: Params | None,
        adapter: Adapters | None,
        priority: int | Sequence[int] | None,
        stream: bool,
    ) -> list[Collector]:
        texts = as_list(prompts)
        given = self._model.default_params() if params is None else params
        collectors: list[Collector] = []
        for prompt, text_params, name, rank in zip(
            texts,
            require_params(for_each(given, len(texts), "params")),
            for_each(adapter, len(texts), "adapter"),
            for_each(priority, len(texts), "priority"),
            strict=True,
        ):
            with named(f"prompt {len(collectors)}"):
                made = self._maker.make(str(next(self._ids)), prompt, text_params, name, priority=rank or 0)
            collectors.append(made)
        if stream and any(c.request.params.num_sequences > c.num_returned for c in collectors):
            raise ValueError("best_of cannot be streamed: which candidates are the best is known at the end.")
        return collectors

    def _pool(
        self,
        prompts: Prompts,
        adapter: Adapters | None,
        pooling: Literal["last", "mean"],
        use_tqdm: bool | None,
        names: Sequence[str] = (),
    ) -> list[Pooled]:
        """names: of the prompts, where they are not the caller's only list."""
        with self._in_use():
            texts = as_list(prompts)
            runs: list[EmbeddingRun] = []
            for prompt, adapter_name in zip(texts, for_each(adapter, len(texts), "lora_request"), strict=True):
                with named(names[len(runs)] if names else f"prompt {len(runs)}"):
                    request = self._maker.make_embedding(str(next(self._ids)), prompt, adapter_name, pooling)
                runs.append(EmbeddingRun(self._loop, request))
            self._run_silently(runs, True if use_tqdm is None else bool(use_tqdm))
            return [run.pooled for run in runs]
