"""Where a character of a prompt belongs to, asked of templates as models publish them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from multiflora_platform.gateway.explaining.conversation import Conversation
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.text.chat_template import ChatTemplates
from multiflora_platform.text.tokenizer import Tokenizer

# Tools stand in the system message, and earlier turns lose their reasoning.
CHATML = """{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for message in (messages[1:] if messages[0].role == 'system' else messages) -%}
<|im_start|>{{ message.role }}
{{ message.content.split('</think>')[-1] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# The system message is the beginning of the first turn, texts are trimmed, and turns have to alternate.
TURNS = """{% set first = messages[0].role == 'system' %}
{%- for message in (messages[1:] if first else messages) %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif -%}
<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}
{% if loop.first and first %}{{ messages[0].content }}

{% endif %}{{ message.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
MESSAGES = [
    {"role": "system", "content": "RULES  "},
    {"role": "user", "content": " Question "},
    {"role": "assistant", "content": "<think>Hm.</think>Answer"},
    {"role": "user", "content": [{"type": "text", "text": "Thanks"}, {"type": "text", "text": "again"}]},
]


@pytest.fixture(params=[CHATML, TURNS], ids=["chatml", "turns"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = RustTokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    return Tokenizer(rust, {}, {}, ChatTemplates({"default": request.param}))


@pytest.mark.parametrize("has_tools", [False, True])
def test_each_text_belongs_to_its_message(tokenizer: Tokenizer, has_tools: bool) -> None:
    request = ChatRequest(model="m", messages=MESSAGES, tools=[LOOK] if has_tools else None)
    conversation = Conversation(request, [], tokenizer, False)
    text = conversation.text
    for words, message in (("RULES", 0), ("Question", 1), ("Answer", 2), ("Thanks", 3), ("again", 3)):
        place = text.index(words)
        assert conversation.message_at(place) == conversation.message_at(place + len(words)) == message
        assert not conversation.is_in_tools(place, place + 1)
    assert conversation.message_at(len(text)) is None
    if "look" in text:
        assert conversation.is_in_tools(text.index("look"), text.index("look") + 1)


def test_a_token_goes_over_characters_of_the_whole_prompt_alone(tokenizer: Tokenizer) -> None:
    request = ChatRequest(model="m", messages=MESSAGES)
    text = Conversation(request, [], tokenizer, False).text
    ids = tokenizer.encode(text, False)
    assert Conversation(request, ids, tokenizer, False).span(5) == (5, 6)
    # Cut at its beginning (truncate_prompt_tokens), it is another text.
    assert Conversation(request, ids[1:], tokenizer, False).span(5) is None
