"""POST /api/v1/cache:explain: each kind of edit is named, with its token, its message and the text around it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.platform.gateway.explaining.conftest import Blocks
from tests.platform.gateway.house import ADMIN, OTHER, TENANT, House

from multiflora_adapters.kv_reach import KvReach
from multiflora_platform.auth.limits.memory import MemoryLimits
from multiflora_platform.engine import Life
from multiflora_platform.registry.snapshot.snapshot import AdapterShape
from multiflora_platform.text.tokenizer import Tokenizer

PATH = "/api/v1/cache:explain"
RULES = "Answer in one short sentence."
SYSTEM = {"role": "system", "content": RULES}
HELLO = {"role": "user", "content": "Say hello to everybody."}
HI = {"role": "assistant", "content": "Hello, everybody."}
BYE = {"role": "user", "content": "And now say goodbye."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"place": "Bonn"}'}}],
}
FOUND = {"role": "tool", "content": "Rain.", "tool_call_id": "c"}


def tool(name: str, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def changed(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**message, **fields}


LOOK, SEND = tool("look", place="string", day="string"), tool("send", text="string")
CALLED_ELSEWHERE = changed(
    CALL, tool_calls=[{**CALL["tool_calls"][0], "function": {"name": "look", "arguments": '{"place": "Ulm"}'}}]
)
THOUGHT = changed(HI, reasoning_content="They want a greeting.")
CHAT = [SYSTEM, HELLO, HI, BYE]

# The earlier request, the later one, the cause, the message, its role, how the earlier and the later text go on.
Case = tuple[dict[str, Any], dict[str, Any], str, int | None, str | None, str, str]
CASES: dict[str, Case] = {
    "a date": (
        {"messages": [system("Today is 2026-11-29. " + RULES), HELLO]},
        {"messages": [system("Today is 2026-11-30. " + RULES), HELLO]},
        "timestamp", 0, "system", "29. Answer", "30. Answer",
    ),
    "a time of day": (
        {"messages": [SYSTEM, system("It is 09:15:59 now."), HELLO]},
        {"messages": [SYSTEM, system("It is 10:15:59 now."), HELLO]},
        "timestamp", 1, "system", "09:15", "10:15",
    ),
    "a nonce": (
        {"messages": [SYSTEM, changed(HELLO, content="[2f1c9b1e-66a1-4c11-8a44-0c5d2a7be001] Say hello.")]},
        {"messages": [SYSTEM, changed(HELLO, content="[9d0a77f0-1b2c-4e5f-9a3b-7c6d5e4f3a21] Say hello.")]},
        "nonce", 1, "user", "2f1c9b1e-", "9d0a77f0-",
    ),
    "a counter": (
        {"messages": [system("Request 17. " + RULES), HELLO]},
        {"messages": [system("Request 18. " + RULES), HELLO]},
        "counter", 0, "system", "7. Answer", "8. Answer",
    ),
    "another tool": (
        {"messages": [SYSTEM, HELLO], "tools": [LOOK, SEND]},
        {"messages": [SYSTEM, HELLO], "tools": [LOOK, tool("sell", text="string")]},
        "tools_changed", None, None, "nd", "ll",
    ),
    "tools that were not there": (
        {"messages": [SYSTEM, HELLO]},
        {"messages": [SYSTEM, HELLO], "tools": [LOOK]},
        "tools_changed", None, None, RULES, "Tools:",
    ),
    "tools that are there no more": (
        {"messages": [SYSTEM, HELLO], "tools": [LOOK]},
        {"messages": [SYSTEM, HELLO]},
        "tools_changed", None, None, "Tools:", RULES,
    ),
    "tools in another order": (
        {"messages": [SYSTEM, HELLO], "tools": [LOOK, SEND]},
        {"messages": [SYSTEM, HELLO], "tools": [SEND, LOOK]},
        "tools_reordered", None, None, "look", "send",
    ),
    "a tool's keys in another order": (
        {"messages": [SYSTEM, HELLO], "tools": [LOOK]},
        {"messages": [SYSTEM, HELLO], "tools": [tool("look", day="string", place="string")]},
        "tools_reordered", None, None, "place", "day",
    ),
    "another option of the template": (
        {"messages": CHAT, "chat_template_kwargs": {"style": "plain, and without any ornament"}},
        {"messages": CHAT, "chat_template_kwargs": {"style": "grand, and with every ornament"}},
        "format_changed", None, None, "plain", "grand",
    ),
    "an earlier message edited": (
        {"messages": CHAT},
        {"messages": [SYSTEM, changed(HELLO, content="Say hello to nobody."), HI, BYE]},
        "history_edited", 1, "user", "everybody", "nobody",
    ),
    "an earlier message left out": (
        {"messages": CHAT},
        {"messages": [SYSTEM, HELLO, BYE]},
        "history_edited", 2, "user", "<|assistant|>", "<|user|>",
    ),
    "an earlier call edited": (
        {"messages": [SYSTEM, HELLO, CALL, FOUND]},
        {"messages": [SYSTEM, HELLO, CALLED_ELSEWHERE, FOUND]},
        "history_edited", 2, "assistant", "Bonn", "Ulm",
    ),
    "reasoning that the template leaves out": (
        {"messages": [SYSTEM, HELLO, THOUGHT]},
        {"messages": [SYSTEM, HELLO, THOUGHT, BYE]},
        "reasoning_dropped", 2, "assistant", "<think>They", "Hello,",
    ),
    "another question": (
        {"messages": [SYSTEM, HELLO]},
        {"messages": [SYSTEM, BYE]},
        "diverged", 1, "user", "Say hello", "And now",
    ),
    "numbers that are the question": (
        {"messages": [SYSTEM, changed(HELLO, content="What is 17 + 4?")]},
        {"messages": [SYSTEM, changed(HELLO, content="What is 18 * 2?")]},
        "diverged", 1, "user", "7 + 4", "8 * 2",
    ),
}  # fmt: skip


async def ask(house: House, body: dict[str, Any], key: str = ADMIN) -> str:
    """The answer's id."""
    asked = {"model": "sql", "max_tokens": 1, **body}
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    response = await house.post(path, asked, Authorization=f"Bearer {key}")
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def explain(house: House, body: dict[str, Any], key: str = ADMIN, status: int = 200) -> Any:
    num_asked = len(house.engine.requests)
    response = await house.post(PATH, {"model": "sql", **body}, Authorization=f"Bearer {key}")
    assert response.status_code == status, response.text
    assert len(house.engine.requests) == num_asked  # nothing is generated
    return response.json()


async def token_ids(house: House, body: dict[str, Any]) -> list[int]:
    fields = {"add_special_tokens": False, **body}
    return list((await house.post("/tokenize", {"model": "sql", **fields})).json()["tokens"])


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("name", CASES)
async def test_each_edit_is_named(house: House, blocks: Blocks, name: str, is_named: bool) -> None:
    earlier, later, cause, message, role, theirs, ours = CASES[name]
    id = await ask(house, earlier, TENANT)
    answer = await explain(house, {**later, **({"compare": id} if is_named else {})}, TENANT)
    ids = await token_ids(house, later)
    both = zip(house.engine.requests[-1].prompt_token_ids, ids, strict=False)
    token = next(at for at, (one, other) in enumerate(both) if one != other)
    assert answer["prompt_tokens"] == len(ids)
    found = answer["first_difference"]
    assert (answer["cause"], found["token"], found["message"], found["role"]) == (cause, token, message, role)
    assert found["theirs"].startswith(theirs)
    assert found["ours"].startswith(ours)
    assert answer["cached_tokens"] == token // 16 * 16
    assert (
        answer["lost_tokens"]
        == (min(len(ids) - 1, len(house.engine.requests[-1].prompt_token_ids)) // 16 - token // 16) * 16
    )
    assert answer["advice"]


LONG = {"messages": CHAT}


async def test_what_is_cached_has_lost_nothing_and_what_goes_on_neither(house: House, blocks: Blocks) -> None:
    await ask(house, LONG)
    same, longer = await explain(house, LONG), await explain(house, {"messages": [*CHAT, HI, BYE]})
    assert (same["cause"], same["first_difference"], same["lost_tokens"]) == ("none", None, 0)
    assert same["cached_tokens"] == (same["prompt_tokens"] - 1) // 16 * 16
    # Its generation prompt is followed by the answer now.
    assert (longer["cause"], longer["first_difference"], longer["lost_tokens"]) == ("none", None, 0)


async def test_a_prompt_of_less_than_a_block_and_one_that_is_new(house: House, blocks: Blocks) -> None:
    assert (await explain(house, {"prompt": "x" * 16}))["cause"] == "too_short"
    await ask(house, {"prompt": "Something else, and long enough for a block."})
    new = await explain(house, {"prompt": [104, 101, 108, 108, 111] * 9})
    assert (new["cause"], new["first_difference"], new["prompt_tokens"]) == ("first_seen", None, 45)


@pytest.mark.parametrize(("says_evicted", "cause"), [(True, "evicted"), (False, "engine_restarted")])
async def test_what_was_lost_since(house: House, blocks: Blocks, says_evicted: bool, cause: str) -> None:
    await ask(house, LONG)
    # The scripted engine says that prompts took nothing of the device.
    log = house.services.insight.requests
    (entry,) = (log.find(one.id) for one in log.newest())
    assert entry is not None
    facts = entry.facts
    savings = house.services.insight.savings[facts.base_digest]
    savings.prefilled(facts, 0, 2.0)
    blocks.lose(says_evicted=says_evicted)
    house.supervisor.restarts += not says_evicted
    answer = await explain(house, LONG)
    assert (answer["cause"], answer["cached_tokens"], answer["first_difference"]) == (cause, 0, None)
    assert answer["lost_tokens"] == (answer["prompt_tokens"] - 1) // 16 * 16
    assert answer["lost_seconds"] == answer["lost_tokens"] * savings.seconds_per_token() > 0


async def test_a_prompt_that_was_not_computed_is_no_reason(house: House, blocks: Blocks) -> None:
    house.engine.hangs = True
    asking = asyncio.create_task(ask(house, LONG))
    await house.until(lambda: house.engine.requests)
    blocks.lose(says_evicted=False)
    assert (await explain(house, LONG))["cause"] == "first_seen"
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_other_keys_of_the_same_tokens(house: House, blocks: Blocks) -> None:
    house.registry.digests["triage"] = "e" * 64
    await ask(house, {**LONG, "cache_salt": "a"}, TENANT)
    assert (await explain(house, {**LONG, "cache_salt": "a"}, TENANT))["cause"] == "none"
    assert (await explain(house, {**LONG, "cache_salt": "b"}, TENANT))["cause"] == "other_salt"
    salted = {**LONG, "cache_salt": "a"}
    assert (await explain(house, {**salted, "model": "triage"}, TENANT))["cause"] == "other_adapter"
    assert (await explain(house, {**salted, "model": "base"}, TENANT))["cause"] == "other_adapter"
    house.registry.digests["sql"] = "f" * 64
    assert (await explain(house, salted, TENANT))["cause"] == "adapter_version"


async def test_adapters_of_equal_kv_share_what_they_cached(house: House, blocks: Blocks) -> None:
    """One that reaches no key or value shares with the base; two versions that differ elsewhere with one another."""
    chat = {"messages": CHAT}
    house.registry.digests |= {"triage": "e" * 64}
    part = KvReach("k" * 64)
    blocks.reaches |= {"e" * 64: KvReach(None), "d" * 64: part, "f" * 64: part}
    house.registry.shapes |= {"triage": AdapterShape(kv_reach=KvReach(None)), "sql": AdapterShape(kv_reach=part)}
    await ask(house, {**chat, "model": "triage"}, TENANT)
    assert (await explain(house, {**chat, "model": "base"}, TENANT))["cause"] == "none"
    assert (await explain(house, {**chat, "model": "sql"}, TENANT))["cause"] == "other_adapter"
    await ask(house, {**chat, "model": "sql"}, TENANT)
    house.registry.digests["sql"] = "f" * 64
    found = await explain(house, {**chat, "model": "sql"}, TENANT)
    assert (found["cause"], found["lost_tokens"]) == ("none", 0)
    # Lost by an engine's death, it is not the other version's fault, nor the other adapter's.
    blocks.lose(says_evicted=False)
    for name in ("sql", "base"):
        assert (await explain(house, {**chat, "model": name}, TENANT))["cause"] == "evicted"


async def test_before_its_invocation_an_adapter_shares_with_the_base(
    house: House, blocks: Blocks, tokenizer: Tokenizer
) -> None:
    reach = KvReach("k" * 64, tuple(tokenizer.encode("goodbye", False)))
    blocks.reaches |= {"d" * 64: reach}
    house.registry.shapes["sql"] = AdapterShape(kv_reach=reach)
    await ask(house, {"messages": CHAT, "model": "base"}, TENANT)
    found = await explain(house, {"messages": CHAT, "model": "sql"}, TENANT)
    assert found["cause"] == "other_adapter"
    whole = await explain(house, {"messages": CHAT, "model": "base"}, TENANT)
    assert 0 < found["cached_tokens"] < whole["cached_tokens"]
    # Without the word that invokes it, all of the prompt's KV is the base's.
    await ask(house, {"messages": CHAT[:3], "model": "base"}, TENANT)
    assert (await explain(house, {"messages": CHAT[:3], "model": "sql"}, TENANT))["cause"] == "none"


async def test_a_tenant_hears_of_its_own_prompts_alone(house: House, blocks: Blocks) -> None:
    secret = {"messages": [system("The code word is 4711, and it is not for others."), HELLO]}
    id = await ask(house, secret, TENANT)
    request_id = house.engine.requests[-1].id
    guess = {"messages": [system("The code word is 4712, and it is not for others."), HELLO]}
    for body in (secret, guess):
        answer = await explain(house, body, OTHER)
        assert (answer["cause"], answer["cached_tokens"], answer["first_difference"]) == ("first_seen", 0, None)
    for known in (id, request_id):
        assert "4711" not in str(await explain(house, {**guess, "compare": known}, OTHER, status=404))
        assert (await explain(house, {**guess, "compare": known}, TENANT))["first_difference"]["message"] == 0
    admins = await explain(house, {**secret, "compare": id})
    assert admins["cause"] == "other_tenant"


async def test_the_closest_earlier_prompt_is_taken(house: House, blocks: Blocks) -> None:
    for ending in ("", " and a bit longer", " and a bit longer, too"):
        await ask(house, {"prompt": f"The same beginning of all of them{ending}. {ending or 'This'} ends."})
    answer = await explain(house, {"prompt": "The same beginning of all of them and a bit longer, but not that."})
    assert answer["first_difference"]["before"].endswith(" and a bit longer, ")
    assert (answer["first_difference"]["theirs"][:3], answer["first_difference"]["ours"][:3]) == ("too", "but")


BAD: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "neither": ({}, 400, "/prompt"),
    "both": ({"prompt": "x", "messages": [HELLO]}, 400, "/prompt"),
    "tools of a text": ({"prompt": "x", "tools": [LOOK]}, 400, "/tools"),
    "an id beyond the vocabulary": ({"prompt": [99_999]}, 400, "/prompt"),
    "a list of texts": ({"prompt": ["x", "y"]}, 400, None),
    "too long": ({"prompt": "x" * 5000}, 400, "/prompt"),
    "a role": ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "/messages/0/role"),
    "an unknown model": ({"model": "nobody", "prompt": "x"}, 404, "/model"),
    "an unknown request": ({"prompt": "x" * 40, "compare": "chatcmpl-0"}, 404, "/compare"),
    "a field that is not known": ({"prompt": "x", "temperature": 0}, 400, None),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_cannot_be_explained_is_refused_by_name(house: House, blocks: Blocks, name: str) -> None:
    body, status, pointer = BAD[name]
    problem = await explain(house, body, status=status)
    assert pointer is None or problem["errors"][0]["pointer"] == pointer, problem


async def test_a_tenants_limits_hold_for_questions(house: House, blocks: Blocks) -> None:
    house.services.limits = MemoryLimits(lambda: 0.0)
    house.services.keys.set_policy(TENANT, requests_per_minute=4, tokens_per_minute=100)
    short, long = {"prompt": "x" * 90}, {"prompt": "x" * 101}
    await explain(house, short, TENANT)
    for body in (short, long):
        assert "tokens per minute" in (await explain(house, body, TENANT, status=429))["detail"]
    await explain(house, {"prompt": "x" * 10}, TENANT)
    refused = await explain(house, {"prompt": "x"}, TENANT, status=429)
    assert (refused["type"], "requests per minute" in refused["detail"]) == (
        "urn:multiflora:problem:rate-limit-exceeded",
        True,
    )
    await explain(house, long)


async def test_without_an_engine_it_is_a_503(house: House) -> None:
    house.engine.ready = None
    await explain(house, LONG, status=503)


async def test_what_another_engine_computed_is_not_put_down_to_a_restart(house: House, blocks: Blocks) -> None:
    await ask(house, LONG)
    blocks.lose(says_evicted=False)
    (theirs,) = house.services.insight.prompts.of(None)
    assert theirs.life == ("0", 2)
    theirs.life = Life("1", 0)
    assert (await explain(house, LONG))["cause"] == "other_replica"


async def test_text_that_is_cached_behind_another_beginning_is_told(house: House, blocks: Blocks) -> None:
    handbook = "Returns are taken for thirty days, with the bill and in their box. Refunds take a week. "
    await ask(house, {"prompt": f"Rules for the shop in Bonn. {handbook}"})
    found = await explain(house, {"prompt": f"How long may I keep it? {handbook}"})
    assert (found["cause"], found["lost_tokens"]) == ("first_seen", 0)
    # A token is a byte: the pieces of 32 from the beginning of this prompt that lie in the handbook.
    assert found["elsewhere_tokens"] == 64
    assert (await explain(house, {"prompt": "Something else that nobody has asked before, and long."}))[
        "elsewhere_tokens"
    ] == 0
