# ruff: noqa: E501
"""Chat templates render as transformers renders them: templates in the manner of the supported families."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.platform.text.conftest import byte_level, save

from multiflora_platform.text.chat_template import ChatOptions
from multiflora_platform.text.errors import ChatTemplateError, TokenizerError
from multiflora_platform.text.tokenizer import Tokenizer

LLAMA3 = """{{- bos_token }}
{%- if tools_in_user_message is not defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("only single tool-calls at once!") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if reasoning and loop.index0 > ns.last_query_index %}{{- '<think>' + reasoning.strip('\\n') + '</think>' }}{%- endif %}
        {%- generation %}{{- (message.content or '').lstrip('\\n') }}{%- endgeneration %}
        {%- for tool_call in message.tool_calls or [] %}
            {{- '<tool_call>' + tool_call.function.name }}{{- tool_call.function.arguments | tojson }}{{- '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}{{- '<tool_response>' + message.content + '</tool_response>' }}
    {%- endif %}
    {%- if loop.index > 40 %}{%- break %}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}
"""
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
RAG = (
    "{% for d in documents or [] %}[{{ d.title }}] {{ d.text }}\n{% endfor %}"
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{{ part.text }}|{% endfor %}{% endif %}{% endfor %}{{ dict(a=1) | tojson }}"
)
TEMPLATES = {"llama3": LLAMA3, "qwen": QWEN, "mistral": MISTRAL, "phi3": PHI3, "rag": RAG}
SYSTEM = {"role": "system", "content": " You <b>are</b> kind. "}
USER, ASSISTANT = {"role": "user", "content": "Was heißt „naïve“? 🌸"}, {"role": "assistant", "content": "  Ja & nein "}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "text": "<ü>"}}}
LONG = 'é"\\\n\x07🌸' * 12_000
LONG_CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": [LONG, {"b": LONG[:-1]}], "c": 1.0}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "über <x>", "parameters": {}}}]
CHATS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "plain": ([USER], {}),
    "turns": ([USER, ASSISTANT, USER], {}),
    "system": ([SYSTEM, USER, ASSISTANT, USER], {}),
    "no generation prompt": ([USER, ASSISTANT], {"add_generation_prompt": False}),
    "continued": ([USER, ASSISTANT], {"add_generation_prompt": False, "continue_final_message": True}),
    "tools": ([SYSTEM, USER], {"tools": TOOLS}),
    "tool calls": (
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "3"}],
        {"tools": TOOLS},
    ),
    "long arguments": (
        [USER, {"role": "assistant", "content": None, "tool_calls": [LONG_CALL]}, {"role": "tool", "content": "3"}],
        {"tools": TOOLS},
    ),
    "reasoning": ([USER, {**ASSISTANT, "reasoning": "\nhm\n"}], {"add_generation_prompt": False}),
    "template variables": ([USER], {"chat_template_kwargs": {"enable_thinking": False, "date_string": "1 Jan 2025"}}),
    "documents": ([USER], {"documents": [{"title": "t", "text": "x"}]}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, rust = tmp_path_factory.mktemp("templates"), byte_level()
    return {name: save(root / name, rust, chat_template=source) for name, source in TEMPLATES.items()}


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_as_transformers(folders: dict[str, Path], theirs: dict[str, Any], name: str, chat: str) -> None:
    messages, options = CHATS[chat]
    options = {"add_generation_prompt": True, **options}
    variables = options.get("chat_template_kwargs", {})
    plain = {key: value for key, value in options.items() if key != "chat_template_kwargs"}
    try:
        expected = theirs[name].apply_chat_template(messages, tokenize=False, **plain, **variables)
    except Exception:
        with pytest.raises(ChatTemplateError):
            Tokenizer.load(folders[name]).apply_chat_template(messages, **options)
        return
    ours = Tokenizer.load(folders[name])
    text = ours.apply_chat_template(messages, **options)
    assert text == expected
    ids = theirs[name].apply_chat_template(messages, tokenize=True, return_dict=False, **plain, **variables)
    assert ours.encode(text, False) == list(ids)


def test_no_long_text_is_written_in_one_call(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    longest: list[int] = []

    def dumps(value: Any, **options: Any) -> str:
        text = json_dumps(value, **options)
        longest.append(len(text))
        return text

    json_dumps = json.dumps
    monkeypatch.setattr(json, "dumps", dumps)
    messages, options = CHATS["long arguments"]
    assert "\\u0007🌸" * 2 not in Tokenizer.load(folders["llama3"]).apply_chat_template(messages, **options)
    assert max(longest) < len(json_dumps(LONG, ensure_ascii=False))


def test_most_comparisons_render(theirs: dict[str, Any]) -> None:
    """The comparison above would pass if every template refused; here is how many do."""
    refused = 0
    for tokenizer in theirs.values():
        for messages, options in CHATS.values():
            plain = {key: value for key, value in options.items() if key != "chat_template_kwargs"}
            try:
                tokenizer.apply_chat_template(messages, tokenize=False, **plain)
            except Exception:
                refused += 1
    assert refused <= 12


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([SYSTEM, USER], {}, "Conversation roles must alternate"),
        ([USER], {"continue_final_message": True}, "add_generation_prompt"),
        ([{"role": "user"}], {}, "refuses this conversation"),
        ([USER], {"chat_template_kwargs": {"messages": []}}, "messages"),
        ([USER], {"chat_template_kwargs": {"chat_template": "x"}}, "chat_template"),
    ],
)
def test_refusals_say_why(folders: dict[str, Path], messages: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        Tokenizer.load(folders["mistral"]).apply_chat_template(messages, **options)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{% set ns = namespace(__init__=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ messages.append(1) }}",
        "{% for x in range(999999999) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(tmp_path: Path, source: str) -> None:
    tokenizer = Tokenizer.load(save(tmp_path, byte_level(), chat_template=source))
    with pytest.raises(ChatTemplateError):
        tokenizer.apply_chat_template([USER])


def test_named_templates_and_files(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    tokenizer = Tokenizer.load(save(tmp_path, byte_level(), chat_template=named))
    assert tokenizer.apply_chat_template([USER]) == "plain"
    assert tokenizer.apply_chat_template([USER], tools=TOOLS) == "with tools"
    (tmp_path / "chat_template.jinja").write_text("from the file", encoding="utf-8")
    assert Tokenizer.load(tmp_path).apply_chat_template([USER]) == "from the file"


def test_a_template_that_loops_over_content_takes_parts(folders: dict[str, Path]) -> None:
    takes = {name: Tokenizer.load(folder).templates.pick(None).takes_parts for name, folder in folders.items()}
    assert takes == {"llama3": False, "qwen": False, "mistral": False, "phi3": False, "rag": True}


def test_parts_are_lines_for_a_template_that_reads_a_text(byte_level_folder: Path) -> None:
    tokenizer = Tokenizer.load(byte_level_folder, ChatOptions("{% for m in messages %}<{{ m.content }}>{% endfor %}"))
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}, "three"]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]
    assert tokenizer.apply_chat_template(messages) == "<one\ntwo\nthree><x>"
    with pytest.raises(ChatTemplateError, match="'image_url' is not supported"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def test_without_a_template(byte_level_folder: Path) -> None:
    with pytest.raises(ChatTemplateError, match=r"no chat template; use /v1/completions"):
        Tokenizer.load(byte_level_folder).apply_chat_template([USER])


def test_broken_folders_are_named(tmp_path: Path, byte_level_folder: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer.json. Give a folder that has one"):
        Tokenizer.load(tmp_path)
    folder = shutil.copytree(byte_level_folder, tmp_path / "copy")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{% if %}"}), encoding="utf-8")
    with pytest.raises(TokenizerError, match="not valid Jinja"):
        Tokenizer.load(folder)
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(TokenizerError, match="not readable JSON"):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.load(folder)


def test_special_tokens_and_ids(byte_level_folder: Path) -> None:
    tokenizer = Tokenizer.load(byte_level_folder)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (tokenizer.token_id("<s>"), tokenizer.token_id("</s>"))
    assert tokenizer.encode("the")[0] == tokenizer.bos_token_id
    assert tokenizer.encode("the", add_special_tokens=False) == tokenizer.encode("the")[1:]
    assert {tokenizer.token(token_id) for token_id in tokenizer.special_ids} >= {"<s>", "</s>", "<|user|>"}
