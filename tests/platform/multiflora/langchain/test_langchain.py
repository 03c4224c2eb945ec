"""LangChain's classes on the demo's model, against LLM's answers; with the real langchain-core where it is there."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest

from multiflora import LLM, EngineDeadError, SamplingParams

DEMO = Path(__file__).parents[4] / "examples" / "demo"
ADAPTERS = {name: str(DEMO / "adapters" / name) for name in ("sql", "tools")}
SIZES: dict[str, Any] = {"kv_cache_memory": 32 << 20, "max_model_len": 512, "num_threads": 1}
QUESTION = "Show the name and price of all products with a price above 40."
SQL = "SELECT name, price FROM products WHERE price > 40;"
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


def test_without_langchain_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['langchain_core'] = None; import multiflora.langchain"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "ImportError: LangChain is not installed. Install it with: pip install 'multiflora[langchain]'"
    )


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    """Made with the fields that langchain_community's VLLM has."""
    pytest.importorskip("langchain_core")
    from multiflora.langchain import Multiflora

    made = Multiflora(
        model=str(DEMO / "base"),
        trust_remote_code=True,
        max_new_tokens=24,
        top_k=10,
        top_p=0.95,
        temperature=0.0,
        dtype="auto",
        vllm_kwargs=SIZES,
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """The base's texts, by prompt."""
    prompts = ["What is the capital of France?", "Hello", "Good morning", "Question: Why?\n\nAnswer: Because"]
    with LLM(DEMO / "base", **SIZES) as llm:
        outputs = llm.generate(prompts, GREEDY, progress=False)
        return {prompt: output.outputs[0].text for prompt, output in zip(prompts, outputs, strict=True)}


@pytest.fixture
def chat(llm: Any) -> Any:
    from multiflora.langchain import ChatMultiflora

    return ChatMultiflora(model=llm.model, temperature=0.0, max_new_tokens=160, client=llm.client)


def test_a_prompt_a_batch_and_a_stream_give_the_texts_of_llm(llm: Any, expected: dict[str, str]) -> None:
    prompts = list(expected)
    assert llm.invoke(prompts[0]) == expected[prompts[0]]
    assert llm.batch(prompts) == list(expected.values())
    pieces = list(llm.stream("Hello"))
    assert "".join(pieces) == expected["Hello"]
    assert len(pieces) > 1


async def test_so_do_asynchronous_calls_and_a_blocking_one_inside_a_loop(llm: Any, expected: dict[str, str]) -> None:
    prompts = list(expected)
    assert await llm.ainvoke(prompts[0]) == expected[prompts[0]]
    assert await llm.abatch(prompts) == list(expected.values())
    assert "".join([piece async for piece in llm.astream("Hello")]) == expected["Hello"]
    assert llm.invoke("Hello") == expected["Hello"]


def test_a_batch_runs_together(llm: Any) -> None:
    """Its prompts need about as many steps as one of them."""

    def steps(call: Any) -> int:
        def count() -> int:
            return llm.client.run(llm.client._engine.ask(lambda engine: engine.status())).stats.steps

        before = count()
        call()
        return count() - before

    bound = llm.bind(ignore_eos=True)
    one = steps(lambda: bound.invoke("0"))
    assert steps(lambda: bound.batch([str(i) for i in range(16)])) < 4 * one


def test_prompt_templates_and_chains(llm: Any, expected: dict[str, str]) -> None:
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import PromptTemplate

    template = PromptTemplate.from_template("Question: {question}\n\nAnswer: Because")
    chain = template | llm | StrOutputParser()
    assert chain.invoke({"question": "Why?"}) == expected["Question: Why?\n\nAnswer: Because"]


def test_the_class_of_chains_before_lcel(llm: Any, expected: dict[str, str]) -> None:
    chains = pytest.importorskip("langchain_classic.chains")
    from langchain_core.prompts import PromptTemplate

    prompt = PromptTemplate(template="Question: {question}\n\nAnswer: Because", input_variables=["question"])
    # They are deprecated, which is what pytest is told to pass over.
    assert chains.LLMChain(prompt=prompt, llm=llm).run("Why?") == expected["Question: Why?\n\nAnswer: Because"]


def test_each_call_may_have_its_own_parameters(llm: Any, expected: dict[str, str]) -> None:
    text = expected["Hello"]
    assert llm.invoke("Hello", stop=[text[4:7]]) == text[: text.index(text[4:7])]
    assert llm.bind(max_new_tokens=3).invoke("Hello") == text[: len(llm.bind(max_tokens=3).invoke("Hello"))]
    result = llm.generate(["Hello"], n=2, temperature=1.0, seed=1, logprobs=1, max_tokens=5)
    assert len(result.generations[0]) == 2
    assert len(result.generations[0][0].generation_info["logprobs"]) == 5
    assert result.llm_output["token_usage"]["completion_tokens"] == 10
    with pytest.raises(TypeError, match="did you mean temperature"):
        llm.invoke("Hello", temprature=1)
    with pytest.raises(ValueError, match="top_p must be"):
        llm.invoke("Hello", top_p=2)


def test_an_adapter_answers_for_one_call_or_for_an_object(llm: Any, chat: Any, expected: dict[str, str]) -> None:
    from multiflora.langchain import ChatMultiflora

    assert llm.bind(adapter=ADAPTERS["sql"]).invoke("Hello") != expected["Hello"]
    assert chat.bind(adapter=ADAPTERS["sql"]).invoke(QUESTION).content == SQL
    own = ChatMultiflora(model=llm.model, temperature=0.0, client=llm.client, adapter=ADAPTERS["sql"])
    assert own.batch([QUESTION, [("human", QUESTION)]])[1].content == SQL
    assert chat.invoke(QUESTION).content != SQL


async def test_messages_stream_with_their_usage(chat: Any) -> None:
    bound = chat.bind(adapter=ADAPTERS["sql"])
    chunks = list(bound.stream(QUESTION))
    asynchronous = [chunk async for chunk in bound.astream(QUESTION)]
    for whole in (reduce(add, chunks), reduce(add, asynchronous), await bound.ainvoke(QUESTION)):
        assert whole.content == SQL
        assert whole.usage_metadata["output_tokens"] == 13
        assert whole.response_metadata["finish_reason"] == "stop"


def test_tools_are_offered_called_and_answered(chat: Any) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    rows = map(json.loads, (DEMO / "eval" / "tools.jsonl").read_text(encoding="utf-8").splitlines())
    row = next(row for row in rows if "<tool_call>" in row["expected"])
    calling = chat.bind_tools(row["tools"], adapter=ADAPTERS["tools"])
    question = row["messages"][0]["content"]
    answer = calling.invoke(question)
    expected = [json.loads(each) for each in re.findall(r"<tool_call>\n(.*?)\n</tool_call>", row["expected"])]
    found = [{"name": call["name"], "arguments": call["args"]} for call in answer.tool_calls]
    assert found == expected
    streamed = reduce(add, calling.stream(question))
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [
        (call["name"], call["args"]) for call in answer.tool_calls
    ]
    results = [ToolMessage("Main Street", tool_call_id=call["id"]) for call in answer.tool_calls]
    followed = calling.invoke([HumanMessage(question), answer, *results])
    assert followed.usage_metadata["input_tokens"] > answer.usage_metadata["input_tokens"] + 20


def test_a_call_may_be_demanded(chat: Any) -> None:
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    def stars(sign: str) -> str:
        """The stars of a sign."""
        return sign

    for choice, names in (("stars", {"stars"}), ("any", {"weather", "stars"})):
        bound = chat.bind_tools([weather, stars], tool_choice=choice, adapter=ADAPTERS["tools"])
        assert {call["name"] for call in bound.invoke("Hello").tool_calls} <= names
        assert bound.invoke("Hello").tool_calls
    assert chat.bind_tools([weather], tool_choice="none").invoke("Hello").tool_calls == []
    with pytest.raises(ValueError, match="not among tools"):
        chat.bind_tools([weather], tool_choice="moon").invoke("Hello")


def test_special_tokens_that_mark_no_call_stay_out_of_the_content(chat: Any) -> None:
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    role = chat.client.tokenizer.token_id("<|assistant|>")
    calling = chat.bind_tools([weather], logit_bias={role: 100.0}, max_tokens=4)
    assert calling.invoke("Hello").content == ""
    assert "".join(chunk.content for chunk in calling.stream("Hello")) == ""


def test_what_cannot_be_is_refused(llm: Any, chat: Any) -> None:
    from multiflora.langchain import Multiflora

    with pytest.raises(ValueError, match="Extra inputs"):
        Multiflora(model=llm.model, client=llm.client, temprature=0)
    with pytest.raises(ValueError, match=r"multiflora\.AsyncLLMEngine"):
        Multiflora(model=llm.model, client=object())
    with pytest.raises(ValueError, match="only text is"):
        chat.invoke([("human", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])])


def test_a_stream_that_is_left_ends_its_request(llm: Any) -> None:
    stream = llm.bind(max_tokens=400, ignore_eos=True).stream("Hello")
    next(stream)
    stream.close()
    assert not llm.client._running


def test_an_engine_that_was_closed_says_so() -> None:
    pytest.importorskip("langchain_core")
    from multiflora.langchain import Multiflora

    made = Multiflora(model=str(DEMO / "base"), vllm_kwargs=SIZES)
    made.close()
    with pytest.raises(EngineDeadError, match="shut down"):
        made.invoke("Hello")
    with pytest.raises(EngineDeadError, match="shut down"):
        asyncio.run(made.ainvoke("Hello"))
