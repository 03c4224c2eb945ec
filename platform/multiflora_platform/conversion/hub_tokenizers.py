"""Tokenizers whose code lies in their repositories on the hub, read without it: Qwen 1, ChatGLM2/3, GLM-4, Baichuan.

Sources: tokenization_qwen.py, tokenization_chatglm.py and tokenization_baichuan.py of their repositories. transformers
is imported where it is used: this module is read by a child that has it, and by nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multiflora_platform.conversion.child import ConversionError

# One digit at a time, unlike other vocabularies of tiktoken's form.
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
# As its `chat` writes a conversation, the system message of its own where there is none.
_QWEN_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Texts that settings of sentencepiece's bear upon: spaces and their runs, line ends, forms of characters, bytes.
_PROBES = ("", " ", "a", " a", "a  b ", "\n", "a\n\n b", "1 234", "ﬁ½", "日本 🌸", "\t\u00a0", "▁▁x")
_GLM_TOKENS = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
_GLM_ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]


def _qwen(folder: Path, config: Mapping[str, Any]) -> Any:
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    file = next(iter(sorted(folder.glob("*.tiktoken"))), None)
    if file is None:
        raise ConversionError("QWenTokenizer needs qwen.tiktoken beside it")
    rust = TikTokenConverter(str(file), pattern=_QWEN_PATTERN, extra_special_tokens=_QWEN_TOKENS).converted()
    rust.normalizer = normalizers.NFC()
    is_chat = _chat_format(folder) == "chatml"
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        eos_token="<|im_end|>" if is_chat else "<|endoftext|>",
        chat_template=config.get("chat_template") or (_QWEN_TEMPLATE if is_chat else None),
    )


def _chat_format(folder: Path) -> Any:
    file = folder / "generation_config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("chat_format") if file.is_file() else None


def _chatglm(folder: Path, config: Mapping[str, Any]) -> Any:
    """ChatGLM2's and 3's special tokens stand behind the pieces; ChatGLM2 has no roles, and no use for their ids."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken

    first = SentencePieceProcessor(model_file=str(_model_file(folder))).vocab_size()
    tokens = enumerate([*_GLM_TOKENS, *_GLM_ROLES], first)
    added = {token_id: AddedToken(token, normalized=False, special=True) for token_id, token in tokens}
    return _begun_by(["[gMASK]", "sop"], _backend(folder, added_tokens_decoder=added, extra_special_tokens=[]))


def _glm4(folder: Path, config: Mapping[str, Any]) -> Any:
    return _begun_by(["[gMASK]", "<sop>"], _backend(folder))


def _baichuan(folder: Path, config: Mapping[str, Any]) -> Any:
    return _backend(folder, add_bos_token=config.get("add_bos_token", True))


def _backend(folder: Path, **settings: Any) -> Any:
    """The vocabulary by its own settings, without a class of transformers' that would add others."""
    from transformers import PreTrainedTokenizerFast

    file = _model_file(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True, **settings)
    _check(tokenizer, file)
    return tokenizer


def _check(tokenizer: Any, file: Path) -> None:
    """Against sentencepiece itself, where the file is its: transformers before 5.24 passes over some of its settings,
    and other tokens than the model was trained with would go unnoticed."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.Load(str(file))
    except RuntimeError:
        return
    if any(tokenizer.encode(text, add_special_tokens=False) != processor.encode(text) for text in _PROBES):
        raise ConversionError("this transformers encodes otherwise than its sentencepiece; pip install -U transformers")


def _model_file(folder: Path) -> Path:
    file = folder / "tokenizer.model"
    if not file.is_file():
        raise ConversionError("its tokenizer_class needs tokenizer.model beside it")
    return file


def _begun_by(tokens: Sequence[str], tokenizer: Any) -> Any:
    """With these tokens before every text."""
    from tokenizers import processors

    rust = tokenizer.backend_tokenizer
    ids = [(token, rust.token_to_id(token)) for token in tokens]
    if lacking := [token for token, token_id in ids if token_id is None]:
        raise ConversionError(f"it has no token {lacking[0]}, which begins every text")
    start = " ".join(tokens)
    rust.post_processor = processors.TemplateProcessing(f"{start} $A", f"{start} $A $B:1", special_tokens=ids)
    return tokenizer


# By tokenizer_config.json's `tokenizer_class`; each takes the folder and that file's content.
HUB_TOKENIZERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "QWenTokenizer": _qwen,
    "ChatGLMTokenizer": _chatglm,
    "ChatGLM4Tokenizer": _glm4,
    "BaichuanTokenizer": _baichuan,
}
