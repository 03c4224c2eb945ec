"""One grammar compiler in a process of its own, which may be killed, and kills itself when something takes too long.

`python -m multiflora_platform.structured.worker`: reads a Setup and then one Structure after the other from its
standard input, and writes a Compiled for each to its standard output, each as JSON on a line of its own. Ends with its
input.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping

import msgspec

from multiflora_engine.core.grammar_source import GrammarError
from multiflora_engine.sampling.grammars import GrammarVocabulary, check
from multiflora_platform.confinement import limit_memory
from multiflora_platform.structured.formats import FormatError, Structure
from multiflora_platform.structured.lark import grammar_of
from multiflora_platform.workers.answering import answer_lines, leave_signals_to_the_server, write_line


class Setup(msgspec.Struct, frozen=True):
    """The first line; the compiler fills it from the model's tokenizer and its own bounds."""

    # The content of a tokenizer.json.
    definition: str
    vocab_size: int
    eos_token_ids: list[int]
    # Ids by text.
    special_tokens: dict[str, int]
    # What one compilation may take, the memory beyond what the ready worker has.
    seconds: float
    megabytes: int


class Compiled(msgspec.Struct, frozen=True, omit_defaults=True):
    """One outcome: either field is set, or neither in the line that says that the worker is ready."""

    # For the engine.
    grammar: str | None = None
    # Why there is none, in words for the client.
    error: str | None = None


def compile_structure(
    structure: Structure, vocabulary: GrammarVocabulary, special_tokens: Mapping[str, int]
) -> Compiled:
    """Everything that the engine will do before the first token, so that it cannot meet anything new."""
    try:
        grammar = grammar_of(structure, special_tokens)
        matcher = vocabulary.matcher(grammar)
        matcher.compute_bitmask()
        check(matcher)
    except (FormatError, GrammarError) as error:
        return Compiled(error=str(error))
    except RecursionError:
        return Compiled(error="it is nested too deeply")
    return Compiled(grammar)


def main() -> None:
    leave_signals_to_the_server()
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)
    try:
        vocabulary: GrammarVocabulary | str = GrammarVocabulary(setup.definition, setup.vocab_size, setup.eos_token_ids)
    except GrammarError as error:
        vocabulary = str(error)
    # Only now: the bound is on what a compilation adds, not on the vocabulary.
    limit_memory(setup.megabytes << 20)

    def answer(line: bytes) -> bytes:
        if isinstance(vocabulary, str):
            return msgspec.json.encode(Compiled(error=vocabulary))
        structure = msgspec.json.decode(line, type=Structure)
        return msgspec.json.encode(compile_structure(structure, vocabulary, setup.special_tokens))

    write_line(msgspec.json.encode(Compiled()))  # ready
    answer_lines(answer, signal.ITIMER_REAL, setup.seconds)


if __name__ == "__main__":
    main()
