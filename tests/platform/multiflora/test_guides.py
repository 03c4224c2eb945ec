"""Programs of guides to vLLM: every parameter of LLM at the value shown, and a hundred prompts."""

from __future__ import annotations

from pathlib import Path

from multiflora import LLM, SamplingParams

MODEL = str(Path(__file__).parents[3] / "examples" / "demo" / "base")


def test_all_thirteen_parameters_of_the_engine_and_a_hundred_prompts() -> None:
    llm = LLM(
        model=MODEL,
        tokenizer=MODEL,
        tokenizer_mode="auto",
        trust_remote_code=False,
        tensor_parallel_size=1,
        dtype="auto",
        quantization=None,
        gpu_memory_utilization=0.9,
        max_model_len=None,
        seed=0,
        download_dir=None,
        load_format="auto",
        revision=None,
        kv_cache_memory=64 << 20,
        num_threads=1,
    )
    prompts = [f"Write a story about {topic}" for topic in ["space", "sea", "woods", "towns", "hills"] * 20]
    with llm:
        outputs = llm.generate(prompts, SamplingParams(temperature=0.8, top_p=0.95, max_tokens=5))
        assert [output.prompt for output in outputs] == prompts
        assert all(0 < len(output.outputs[0].token_ids) <= 5 for output in outputs)
        # One seed for the engine, yet equal prompts get answers of their own.
        assert len({tuple(output.outputs[0].token_ids) for output in outputs[::5]}) > 1
        ends = SamplingParams(stop=["<|endoftext|>", "\n\n", "###"], max_tokens=5)
        assert llm.generate(["你好"], ends)[0].finished
        pieces = [output.outputs[0].text for output in llm.generate_stream(["你好"], ends)]
        assert len(pieces) > 1
