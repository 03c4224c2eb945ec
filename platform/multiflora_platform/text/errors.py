"""What can go wrong between text and token ids.

TokenizerError       the model folder's tokenizer cannot be used
ChatTemplateError    a conversation cannot be rendered (also a ValueError: it is the caller's to mend)
"""

from __future__ import annotations


class TokenizerError(Exception):
    """The message names the file and the next step."""


class ChatTemplateError(ValueError):
    """The message says what the template, or the conversation, lacks."""
