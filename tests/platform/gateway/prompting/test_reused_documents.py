"""Documents with `"reuse": "approximate"`: what the engine is told of them, and what is refused by name."""

from __future__ import annotations

import copy
from dataclasses import replace as replaced
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.gateway.house import READY, House

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.messages import CacheReply
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.registry.snapshot.snapshot import AdapterShape
from multiflora_platform.text.chat_template import ChatTemplates

TEXTS = ("Snow falls on the hill.", "The sun shines.", "It rains.")


def chat(texts: tuple[str, ...] = TEXTS, beginning: str = "Read:", **fields: Any) -> dict[str, Any]:
    parts = [{"type": "document", "text": text, "reuse": "approximate"} for text in texts]
    content = [{"type": "text", "text": beginning}, *parts, {"type": "text", "text": "What falls?"}]
    return {"model": "sql", "messages": [{"role": "user", "content": content}], "max_tokens": 2, **fields}


@pytest.fixture
def roomy(house: House) -> House:
    house.engine.ready = replace(READY, max_model_len=4096, num_blocks=512)
    return house


async def asked(house: House, body: dict[str, Any]) -> list[GenerateRequest]:
    """What reached the engine: prefills of documents, then the request."""
    before = len(house.engine.requests)
    answer = await house.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    return house.engine.requests[before:]


def texts_of(house: House, request: GenerateRequest) -> list[str]:
    ids = request.prompt_token_ids
    return [house.services.model.tokenizer.decode(ids[span.start : span.stop]) for span in request.documents]


async def test_documents_are_spans_of_the_prompt_that_it_would_be_without(roomy: House) -> None:
    *_, request = await asked(roomy, chat())
    plain = chat()
    for part in plain["messages"][0]["content"]:
        part.pop("reuse", None)
    (exact,) = await asked(roomy, plain)
    assert texts_of(roomy, request) == [*TEXTS]
    assert request.prompt_token_ids == exact.prompt_token_ids
    assert exact.documents == []
    assert [span.num_recomputed for span in request.documents] == [3, 2, 1], "a tenth, rounded up"


async def test_each_document_but_the_first_is_computed_behind_the_beginning(roomy: House) -> None:
    first, second, request = await asked(roomy, chat(cache_salt="mine", priority=3))
    ids, spans = request.prompt_token_ids, request.documents
    alone = [ids[: spans[0].start] + ids[span.start : span.stop] for span in spans[1:]]
    alone = [one[: len(one) // READY.block_size * READY.block_size] for one in alone]
    assert [first.prompt_token_ids, second.prompt_token_ids] == alone
    for prefill in (first, second):
        assert (prefill.params.max_tokens, prefill.documents, prefill.is_prefix) == (0, [], True)
        for name in ("cache_salt", "cache_owner", "adapter_digest", "priority", "background", "deadline"):
            assert getattr(prefill, name) == getattr(request, name), name


async def test_what_is_cached_is_not_computed_again(roomy: House) -> None:
    roomy.engine.cache_reply = CacheReply(0, reached=0)
    assert len(await asked(roomy, chat())) == 3
    ids = (await asked(roomy, chat()))[0].prompt_token_ids
    roomy.engine.cache_reply = CacheReply(0, reached=len(ids) // READY.block_size)
    assert len(await asked(roomy, chat((TEXTS[0], TEXTS[1])))) == 1


SHORT = {"texts": ("The first one is long.", "No.", "Yes."), "beginning": "Read what they said:"}


@pytest.mark.parametrize(
    "fields", [{"recompute_share": 1}, {"prompt_logprobs": 1}, SHORT], ids=["share", "all", "short"]
)
async def test_what_the_engine_will_not_move_is_not_computed_before(roomy: House, fields: dict[str, Any]) -> None:
    """All is computed where it stands; something is wanted of every token; documents end in the beginning's block."""
    (request,) = await asked(roomy, chat(**fields))
    assert len(request.documents) == 3


async def test_what_an_activated_lora_computes_is_not_computed_before(roomy: House) -> None:
    """Its invocation is in the second document: the third is the adapter's."""
    invocation = tuple(roomy.services.model.tokenizer.encode("sun", False))
    roomy.registry.shapes["sql"] = AdapterShape(kv_reach=KvReach("k" * 64, invocation))
    (request,) = await asked(roomy, chat())
    assert len(request.documents) == 3
    later = ("The sun shines.", "Snow falls on the hill.", "It rains all day.")
    assert len(await asked(roomy, chat(later))) == 1
    assert len(await asked(roomy, chat(later[::-1]))) == 2, "a document before the invocation is the base's"


@pytest.mark.parametrize(("share", "recomputed"), [(0, [0, 0, 0]), (0.5, [12, 8, 5]), (1, [23, 15, 9])])
async def test_the_share_is_the_requests(roomy: House, share: float, recomputed: list[int]) -> None:
    *_, request = await asked(roomy, chat(recompute_share=share))
    assert [span.num_recomputed for span in request.documents] == recomputed


async def test_documents_beside_the_messages_and_in_any_order(roomy: House) -> None:
    tokenizer = copy.copy(roomy.services.model.tokenizer)
    template = "{% for d in documents %}[{{ d.title }}] {{ d.text }};{% endfor %}{{ messages[0].content }}"
    tokenizer.templates = ChatTemplates({"default": template})
    roomy.services.groups.default.model = replaced(roomy.services.model, tokenizer=tokenizer)
    documents = [{"title": "t", "text": text, "reuse": "approximate"} for text in TEXTS]
    body = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "documents": documents}
    *_, request = await asked(roomy, body)
    assert texts_of(roomy, request) == [*TEXTS]
    *_, one = await asked(roomy, body | {"order": "any"})
    *_, other = await asked(roomy, body | {"order": "any", "documents": documents[::-1]})
    assert (one.prompt_token_ids, one.documents) == (other.prompt_token_ids, other.documents)


async def test_a_prefill_that_fails_is_nothing_to_the_request(roomy: House, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = roomy.engine.generate

    def lost(request: GenerateRequest) -> TokenStream:
        if not request.documents:
            raise EngineUnavailable("engine_unavailable", "gone")
        return generate(request)

    monkeypatch.setattr(roomy.engine, "generate", lost)
    (request,) = await asked(roomy, chat())
    assert texts_of(roomy, request) == [*TEXTS]


async def test_usage_tells_what_the_prefills_computed_as_computed(roomy: House) -> None:
    """The scripted engine has half of each prompt cached; two prefills computed the rest of theirs."""
    answer = (await roomy.post("/v1/chat/completions", chat())).json()
    *prefills, request = roomy.engine.requests
    cached = len(request.prompt_token_ids) // 2
    computed = sum(len(one.prompt_token_ids) - len(one.prompt_token_ids) // 2 for one in prefills)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == max(0, cached - computed)


BAD: list[tuple[dict[str, Any], str]] = [
    (chat(recompute_share=1.5), "recompute_share"),
    (chat(recompute_share=-0.1), "recompute_share"),
    (chat(recompute_share="all"), "recompute_share"),
    (chat(truncate_prompt_tokens=10), "truncate_prompt_tokens"),
    (chat(("",)), "messages[0].content[1].text"),
    (chat((3,)), "messages[0].content[1].text"),  # type: ignore[arg-type]
    (chat(("x",) * 65), "messages[0].content[65]"),
    (chat(documents=[{"text": "beside", "reuse": "approximate"}]), "messages"),
    (chat(documents=[{"text": "beside", "reuse": True}]), "documents[0].reuse"),
    (chat() | {"messages": [{**chat()["messages"][0], "role": "king"}]}, "messages[0].role"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=lambda value: str(value)[-40:])
async def test_what_cannot_be_is_refused_by_name(roomy: House, body: dict[str, Any], param: str) -> None:
    answer = await roomy.post("/v1/chat/completions", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert not roomy.engine.requests


async def test_a_template_that_changes_documents_is_refused(roomy: House) -> None:
    tokenizer = copy.copy(roomy.services.model.tokenizer)
    for template in (
        "{{ messages[0].content | upper }}",
        "{{ messages[0].content }}" * 2,
        "{{ messages[0].content[:9] }}",
    ):
        tokenizer.templates = ChatTemplates({"default": template})
        roomy.services.groups.default.model = replaced(roomy.services.model, tokenizer=tokenizer)
        answer = await roomy.post("/v1/chat/completions", chat())
        assert answer.status_code == 400, answer.text
        assert "template does not write documents as they are" in answer.json()["error"]["message"]


async def test_models_whose_keys_stay_say_why(roomy: House) -> None:
    roomy.engine.ready = replace(READY, why_keys_stay="its attention has slopes over distances (ALiBi)")
    answer = await roomy.post("/v1/chat/completions", chat())
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("reuse_unsupported", "reuse")
    assert "ALiBi" in error["message"]


@pytest.mark.parametrize("reuse", ["exact", None])
async def test_exact_reuse_changes_nothing(roomy: House, reuse: str | None) -> None:
    """Neither what the model can do nor what goes with reuse is asked; the template and the order see no such key."""
    roomy.engine.ready = replace(roomy.engine.ready, why_keys_stay="its attention has slopes over distances (ALiBi)")
    tokenizer = copy.copy(roomy.services.model.tokenizer)
    tokenizer.templates = ChatTemplates({"default": "{{ documents | tojson }}{{ messages[0].content }}"})
    roomy.services.groups.default.model = replaced(roomy.services.model, tokenizer=tokenizer)
    documents = [{"text": text} for text in TEXTS]
    fields = {"truncate_prompt_tokens": 200, "recompute_share": 2, "order": "any"}
    plain, exact = (chat(documents=copy.deepcopy(documents), **fields) for _ in range(2))
    for part in plain["messages"][0]["content"]:
        part.pop("reuse", None)
    for part in [*exact["messages"][0]["content"], *exact["documents"]]:
        part["reuse"] = reuse
    for path in ("/v1/chat/completions", "/tokenize"):
        answers = [await roomy.post(path, body) for body in (plain, exact)]
        assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    one, other = roomy.engine.requests
    assert one.prompt_token_ids == other.prompt_token_ids
    assert one.documents == other.documents == []
    assert answers[0].json()["tokens"] == answers[1].json()["tokens"]
