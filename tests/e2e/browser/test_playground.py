"""The playground: what is asked, of which models, what came back, and where it goes from there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from tests.e2e.browser.window import Window
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "It's what it says",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TURNS = [
    {"role": "system", "content": 'Be brief, it\'s "late".\n花'},
    {"role": "user", "content": "What is it like in $HOME `pwd`?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    {"role": "user", "content": "And now?"},
]
PARTS = [{"name": "sql", "weight": 0.5}, {"name": "pirate@1", "weight": -0.25}]
MIXED = {"model": "multiflora-demo", "adapters": PARTS, "tools": [WEATHER], "tool_choice": "auto", "messages": TURNS}
SCHEMA = {"name": "answer", "schema": {"type": "integer"}, "strict": True}
SHAPED = {"model": "sql", "response_format": {"type": "json_schema", "json_schema": SCHEMA}, "seed": 3, "stop": ["§"]}
USUAL = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_tokens": 4}
REQUESTS = {
    "mixed": ("/v1/chat/completions", {**MIXED, **USUAL, "user": "ann"}),
    "shaped": ("/v1/chat/completions", {**SHAPED, **USUAL, "messages": [{"role": "user", "content": "One?"}]}),
    "completion": ("/v1/completions", {**SHAPED, **USUAL, "prompt": 'It\'s "a"\n'}),
}
EXPORTED = """async ([path, body]) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { exported } = await import(base + "lib/snippets.js");
    return exported({ path, body });
}"""
PACKAGES = {"openai": "openai", "anthropic": "anthropic", "langchain": "langchain_openai"}


def test_each_exported_code_runs_and_sends_the_request(window: Window, shop: Server) -> None:
    page = window.open("/settings")
    missing = {name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is None}
    codes = {name: dict(page.evaluate(EXPORTED, [*request])) for name, request in REQUESTS.items()}
    assert [sorted(of) for of in codes.values()] == [[*sorted(["curl", *PACKAGES])]] * 2 + [
        ["curl", "langchain", "openai"]
    ]
    environment = {**os.environ, "MULTIFLORA_API_KEY": shop.key}
    for language in ("curl", *sorted({*PACKAGES} - missing)):
        # One process has them all: clients take long to be imported.
        of = {name: code[language] for name, code in codes.items() if language in code}
        text = "\n".join(of.values())
        program = (
            ["bash", "-euc", text.replace("curl ", "curl -sf ")] if language == "curl" else [sys.executable, "-c", text]
        )
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (language, done.stderr[-2000:])
        with shop.http() as http:
            made = http.get(f"/api/v1/requests?limit={len(of)}").json()["items"]
            sent = [http.get(f"/api/v1/requests/{one['id']}").json()["body"]["request"] for one in reversed(made)]
        for (name, (_, body)), request in zip([(name, REQUESTS[name]) for name in of], sent, strict=True):
            assert compared(request, language) == compared(body, language), (language, name)


def compared(body: dict[str, Any], language: str) -> dict[str, Any]:
    """What has to arrive of it, however the client writes it."""
    names = ["model", "adapters", "temperature", "top_p", "top_k"]
    if language != "anthropic":
        names += ["seed", "user"]
    shown = {name: body[name] for name in names if body.get(name) is not None}
    shown["max_tokens"] = body.get("max_tokens") or body.get("max_completion_tokens")
    shown["stop"] = [*(body.get("stop") or body.get("stop_sequences") or [])]
    shown["format"] = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    shown["tools"] = [(one.get("function") or one)["name"] for one in body.get("tools") or []]
    shown["prompt"] = "".join(body.get("prompt") or [])
    shown["texts"] = texts(body)
    return shown


def texts(body: dict[str, Any]) -> str:
    """Everything that is said, in order: parts, blocks and calls alike."""
    messages = [{"content": body.get("system")}, *(body.get("messages") or [])]
    said = json.dumps([[one.get("content"), one.get("tool_calls")] for one in messages], ensure_ascii=False)
    words = ("late", "花", "$HOME", "Oslo", "call_1", "rain", "And now?", "One?")
    return ", ".join(sorted((word for word in words if word in said), key=said.index))


def test_a_conversation_goes_on_and_is_kept_by_its_address(window: Window, shop: Server) -> None:
    page = window.open("/playground?model=sql&model=multiflora-demo")
    page.get_by_label("System prompt").fill("Answer in SQL.")
    page.get_by_label("Tools").fill(json.dumps([WEATHER]))
    page.get_by_label("JSON schema").fill("{")
    page.get_by_text("Not JSON").wait_for()
    assert page.get_by_role("button", name="Run").is_disabled(), "what cannot be sent is not left out in silence"
    page.get_by_label("JSON schema").fill("")
    page.get_by_label("New message").fill("List the products.")
    page.get_by_role("button", name="Run").click()
    first, second = (page.get_by_role("region", name=f"Answer of {name}") for name in ("sql", "multiflora-demo"))
    second.get_by_role("button", name="Go on from here").wait_for()
    page.get_by_label("Mark words that differ").check()
    second.locator("mark.right").first.wait_for()
    first.locator("mark.left").first.wait_for()
    said = first.locator(".answer").inner_text()
    first.get_by_role("button", name="Go on from here").click()
    page.get_by_label("New message").fill("Now the names alone.")
    page.wait_for_url("**#*Now*")
    for opened in (page.reload, lambda: page.goto(page.url)):
        opened()
        assert page.get_by_label("New message").input_value() == "Now the names alone."
        turns = page.get_by_role("group", name="Conversation so far")
        assert [one.input_value() for one in turns.get_by_role("textbox").all()] == ["List the products.", said]
        assert json.loads(page.get_by_label("Tools").input_value()) == [WEATHER]
    page.get_by_role("button", name="Run").click()
    first.get_by_role("button", name="Go on from here").wait_for()
    with shop.http() as http:
        (made, *_) = http.get("/api/v1/requests?limit=1&model=sql").json()["items"]
        sent = http.get(f"/api/v1/requests/{made['id']}").json()["body"]["request"]["messages"]
    spoken = [
        ("system", "Answer in SQL."),
        ("user", "List the products."),
        ("assistant", said),
        ("user", "Now the names alone."),
    ]
    assert [(one["role"], one["content"]) for one in sent] == spoken
    first.locator(".measured a").click()
    page.get_by_role("heading", name="Prefix cache").wait_for()


CALLED = """async (pieces) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { calledOn } = await import(base + "pages/playground/request.js");
    const { goneOn, messagesOf, EMPTY } = await import(base + "pages/playground/task.js");
    const calls = pieces.reduce(calledOn, []);
    return messagesOf(goneOn({ ...EMPTY, prompt: "How is it?" }, { text: "", calls }));
}"""


def test_calls_of_tools_come_in_pieces_and_wait_for_their_results(window: Window) -> None:
    pieces = [
        [{"index": 0, "id": "a", "function": {"name": "weather", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"city":'}}, {"index": 1, "id": "b", "function": {"name": "time"}}],
        [{"index": 0, "function": {"arguments": ' "Oslo"}'}}, {"index": 1, "function": {"arguments": "{}"}}],
    ]
    functions = [{"name": "weather", "arguments": '{"city": "Oslo"}'}, {"name": "time", "arguments": "{}"}]
    calls = [{"id": id, "type": "function", "function": one} for id, one in zip("ab", functions, strict=True)]
    assert window.open("/settings").evaluate(CALLED, pieces) == [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "content": "", "tool_call_id": id} for id in "ab"),
    ]


def test_a_model_is_chosen_and_mixed_and_answers_are_saved(window: Window, shop: Server) -> None:
    page = window.open("/playground?model=multiflora-demo")
    page.get_by_role("combobox", name="Model").click()
    options = page.get_by_role("listbox", name="Model").get_by_role("option")
    assert {"multiflora-demo base model", "pirate means v1", "pirate@1 version"} <= {
        " ".join(text.split()) for text in options.all_inner_texts()
    }
    page.keyboard.type("pir")
    page.keyboard.press("Enter")
    page.wait_for_url("**/playground?model=pirate*")
    page.get_by_label("New message").fill("Where is the treasure?")
    page.get_by_role("button", name="Run").click()
    answer = page.get_by_role("region", name="Answer of pirate")
    answer.get_by_role("button", name="Save as eval…").click()
    page.get_by_label("Name of the new eval").fill("treasures")
    page.get_by_label("The answer").select_option("contains")
    page.get_by_label("Text", exact=True).fill("Arr")
    page.get_by_role("button", name="Save", exact=True).click()
    window.toast("Added to treasures.")
    answer.get_by_role("button", name="Save as context…").click()
    dialog = page.get_by_role("dialog", name="New context")
    dialog.get_by_label("Name", exact=True).fill("treasure")
    assert dialog.get_by_label("Models").input_value() == "pirate"
    dialog.get_by_role("button", name="Create context").click()
    window.toast("treasure is being computed.")
    with shop.http() as http:
        (case,) = http.get("/api/v1/adapters/pirate/evals/treasures").json()["cases"]
        assert case["messages"] == [{"role": "user", "content": "Where is the treasure?"}]
        assert [(one["type"], one["text"]) for one in case["checks"]] == [("contains", "Arr")]
        made = window.open("/playground?model=pirate&context=treasure")
        made.get_by_role("combobox", name="Model").click()
        made.get_by_role("option", name="A mix of adapters…").click()
        made.get_by_label("Weight").first.fill("0.25")
        made.get_by_role("button", name="Ask this mix").click()
        made.get_by_label("New message").fill("And the map?")
        made.get_by_role("button", name="Run").click()
        made.get_by_role("button", name="Go on from here").wait_for()
        (asked, *_) = http.get("/api/v1/requests?limit=1").json()["items"]
        sent = http.get(f"/api/v1/requests/{asked['id']}").json()["body"]["request"]
        assert (sent["model"], sent["context"]) == ("multiflora-demo", "treasure")
        assert sent["adapters"][0] == {"name": "pirate", "weight": 0.25}
        made.goto(f"{window.url}/ui/requests/{asked['id']}")
        made.get_by_role("link", name="Replay in the playground").click()
        made.get_by_text("An earlier request again").wait_for()
        assert made.get_by_role("combobox", name="Model").input_value().startswith("pirate*0.25+")
        assert made.get_by_label("Context").input_value() == "treasure"
        assert http.delete("/api/v1/contexts/treasure").status_code == 204
