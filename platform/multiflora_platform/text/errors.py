"""What can go wrong between text and token ids.

TokenizerError       the model folder's tokenizer cannot be used
TooManyTokens        a text has more tokens than were allowed
NotUnicode           a text holds what is no character
ChatTemplateError    a conversation cannot be rendered (also a ValueError: it is the caller's to mend)
"""

from __future__ import annotations


class TokenizerError(Exception):
    """The message names the file and the next step."""


class ChatTemplateError(ValueError):
    """The message says what the template, or the conversation, lacks."""


class NotUnicode(ValueError):
    """The message says which character is none."""

    @classmethod
    def of(cls, text: str) -> NotUnicode | None:
        """None for a text that has no lone surrogate, which UTF-8 cannot write and no tokenizer can read."""
        for place, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                return cls(
                    f"character {place} of the text is the lone surrogate U+{ord(character):04X}, which is no "
                    "character: leave it out, or decode the text anew with errors='replace'"
                )
        return None


class TooManyTokens(ValueError):
    """count: of the text's tokens; only a lower bound unless is_exact."""

    def __init__(self, count: int, *, is_exact: bool) -> None:
        super().__init__(f"the text has {'' if is_exact else 'at least '}{count} tokens")
        self.count = count
        self.is_exact = is_exact
