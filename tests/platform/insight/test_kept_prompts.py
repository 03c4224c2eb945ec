"""Prompts are kept up to what a tenant may have, and all together; a tenant pushes out its own."""

from __future__ import annotations

from array import array

from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.insight.kept_prompts import OVERHEAD, KeptPrompt, KeptPrompts, Outline, outline_of
from multiflora_platform.insight.logged_request import PromptFacts


def prompt(id: str, tenant: str | None = "a", size: int = 1) -> KeptPrompt:
    facts = PromptFacts(id, 1.0, tenant, "m", None, 0, None, "/v1", False, size, f"{id}answer")
    return KeptPrompt(facts, array("I", range(size)), "", Outline())


def ids(kept: KeptPrompts, tenant: str | None) -> list[str]:
    return [one.facts.id for one in kept.of(tenant)]


def test_a_tenant_pushes_out_its_own_oldest() -> None:
    kept = KeptPrompts(most_prompts=2, most_tokens=10)
    kept.add(prompt("other", "b"))
    for id in ("1", "2", "3"):
        kept.add(prompt(id))
    assert (ids(kept, "a"), ids(kept, "b"), ids(kept, None)) == (["2", "3"], ["other"], [])
    kept.add(prompt("long", size=9))
    assert ids(kept, "a") == ["3", "long"]
    kept.add(prompt("longer", size=10))
    kept.add(prompt("too long", size=11))
    assert (ids(kept, "a"), ids(kept, "b")) == (["longer"], ["other"])


def test_all_together_the_oldest_go_first() -> None:
    kept = KeptPrompts(most_in_all=10 + 2 * OVERHEAD)
    for id, tenant in (("1", "a"), ("2", "b"), ("3", None)):
        kept.add(prompt(id, tenant, size=4))
    assert (ids(kept, "a"), ids(kept, "b"), ids(kept, None)) == ([], ["2"], ["3"])


def test_one_is_found_by_its_own_id_and_by_its_answers() -> None:
    kept = KeptPrompts()
    kept.add(prompt("1"))
    for id in ("1", "1answer", "chatcmpl-1answer", "msg_1answer", "resp_1answer"):
        found = kept.find(id, "a")
        assert found is not None
        assert found.facts.id == "1"
        assert kept.find(id, "b") is None
        assert kept.find(id, None, of_all=True) is found


def test_an_outline_tells_what_is_equal_and_holds_no_text() -> None:
    tools = [{"type": "function", "function": {"name": "look", "description": "d"}}]
    turned = [{"function": {"description": "d", "name": "look"}, "type": "function"}]
    messages = [{"role": "user", "content": "secret"}]
    one = outline_of(ChatRequest(model="m", messages=messages, tools=tools))
    assert one == outline_of(ChatRequest(model="m", messages=messages, tools=turned, temperature=0.5))
    assert one != outline_of(ChatRequest(model="m", messages=messages, tools=tools, chat_template_kwargs={"x": 1}))
    assert outline_of(ChatRequest(model="m", messages=messages, tools=tools, tool_choice="none")).tools == array("I")
    assert "secret" not in repr(one)
