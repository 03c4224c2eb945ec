"""LangChain's classes on an engine of this program: `Multiflora` completes text, `ChatMultiflora` answers messages."""

from __future__ import annotations

try:
    import langchain_core  # noqa: F401  # looked for first, so that the next step can be told
except ImportError as missing:
    raise ImportError("LangChain is not installed. Install it with: pip install 'multiflora[langchain]'") from missing

from multiflora.langchain.chat_multiflora import ChatMultiflora
from multiflora.langchain.multiflora_llm import Multiflora

__all__ = ["ChatMultiflora", "Multiflora"]
