"""What an option of vLLM's does here: it acts as a setting, has no effect, or is refused, by its value.

Owns the rule's form and how it judges one value. Does not know which options there are, nor where values come from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from multiflora_platform.settings import ConfigurationError

Shape = Literal["switch", "optional", "value", "values"]
"""On the command line: alone or as --no-NAME, with a value or without, with one, with several."""

ON_WORDS = frozenset({"true", "1", "yes", "on"})
OFF_WORDS = frozenset({"false", "0", "no", "off"})
_ABSENT = frozenset({"", "none", "null", "{}", "[]", "()"})
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")
_SCALE = {"": 1, **{letter: 1000**power for power, letter in enumerate("kmgt", 1)}}
_SCALE |= {letter: 1024**power for power, letter in enumerate("KMGT", 1)}
_SHOWN = 60
_MOST_GIB = 1 << 20


class Verdict(NamedTuple):
    """The settings that an option becomes, and what its user is told; None: nothing."""

    settings: dict[str, object]
    notice: str | None


@dataclass(frozen=True)
class Option:
    """One option. Values in `same` ask for what happens anyway; any other becomes `setting`, or else is refused with
    `refused` unless it is among `noted`, or else is accepted and has no effect, because of `why`."""

    shape: Shape = "value"
    why: str = ""
    refused: str = ""
    """The cause, and the next step after a semicolon."""
    same: frozenset[str] = frozenset()
    noted: frozenset[str] = frozenset()
    setting: str | None = None
    convert: Callable[[object], object] = lambda value: value
    """From what was given to the setting's value. Raises ValueError."""
    unfolds: bool = False
    """Whether convert gives several settings by name, `setting` among them."""
    short: tuple[str, ...] = ()
    """Further flags, as -tp."""

    def judge(self, spelled: str, value: object) -> Verdict:
        """spelled: the option as its user wrote it. Raises ConfigurationError."""
        text = as_text(value)
        if text in self.same or text in _ABSENT or (self.shape == "switch" and self._is_merely_off(text)):
            return Verdict({}, None)
        if self.setting is not None:
            try:
                converted = self.convert(value)
                return Verdict(mapping(converted) if self.unfolds else {self.setting: converted}, None)
            except ValueError as error:
                raise ConfigurationError(f"{spelled}: {error} (got {str(value)[:_SHOWN]!r})") from None
        if self.refused and text not in self.noted:
            given = spelled if value is True else f"{spelled} {str(value)[:_SHOWN]}"
            raise ConfigurationError(f"{given}: {self.refused}")
        return Verdict({}, f"{spelled} has no effect: {self.why}")

    def _is_merely_off(self, text: str) -> bool:
        """A switch whose off is what happens anyway."""
        return text in OFF_WORDS and self.setting is None and not self.same


def as_text(value: object) -> str:
    """As the command line would write it, in lower case: True is `true`, 4.0 is `4`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def acts(
    setting: str,
    convert: Callable[[object], object] = lambda value: value,
    *same: str,
    shape: Shape = "value",
    short: tuple[str, ...] = (),
) -> Option:
    """Becomes a setting of ours, except for values in `same`."""
    return Option(shape, same=frozenset(same), setting=setting, convert=convert, short=short)


def switches(setting: str, convert: Callable[[object], object] | None = None) -> Option:
    """A switch that becomes one of ours."""
    return acts(setting, convert or truth, shape="switch")


def harmless(why: str, *same: str, shape: Shape = "value", short: tuple[str, ...] = ()) -> Option:
    """Every value is accepted; those in `same` without a word."""
    return Option(shape, why, same=frozenset(same), short=short)


def refused(why: str, *same: str, shape: Shape = "value", short: tuple[str, ...] = ()) -> Option:
    """Every value but those in `same` is refused."""
    return Option(shape, refused=why, same=frozenset(same), short=short)


def partly(noted: tuple[str, ...], why: str, refused: str, *same: str, shape: Shape = "value") -> Option:
    """Values in `noted` have no effect, those in `same` ask for what happens anyway, all others are refused."""
    return Option(shape, why, refused, frozenset(same), frozenset(noted))


def one_only(refused: str, *short: str) -> Option:
    """A size that can only be 1."""
    return Option(refused=refused, same=frozenset({"1"}), short=short)


# ---- values


def truth(value: object) -> bool:
    """A switch from the command line, the environment or Python."""
    if isinstance(value, bool):
        return value
    text = as_text(value)
    if text in ON_WORDS | OFF_WORDS:
        return text in ON_WORDS
    raise ValueError("give true or false")


def opposite(value: object) -> bool:
    """Of a switch whose name denies what the setting affirms."""
    return not truth(value)


def count(value: object) -> object:
    """`32k` is 32,000 and `32K` is 32,768, as vLLM reads them; what is no such text is left to the setting's checks."""
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(float(found[1]) * _SCALE[found[2]]) if found else value


def gibibytes(value: object) -> int:
    """Bytes: of a number, or the text of one, that counts GiB."""
    try:
        number = float(str(value)) if not isinstance(value, bool) else -1.0
    except ValueError:
        number = -1.0
    if not 0 <= number < _MOST_GIB:
        raise ValueError("give a number of GiB")
    return int(number * (1 << 30))


def number(value: object) -> float:
    """Of a finite number, or the text of one. Raises ValueError."""
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise ValueError("give a number")
    return found


def dtype_name(value: object) -> str:
    """vLLM's two short names, and torch's own dtypes."""
    name = str(value).removeprefix("torch.")
    return {"half": "float16", "float": "float32"}.get(name, name)


def words(value: object) -> object:
    """A JSON list, as vLLM takes it, becomes a list, also inside one; other text stays for the setting to split."""
    if isinstance(value, list | tuple):
        return [part for one in map(words, value) for part in (one if isinstance(one, list) else [one])]
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    return _parsed(value)


def adapters(value: object) -> object:
    """vLLM's JSON, {"name", "path", "base_model_name"}, becomes name=path. What the adapter's base was called says
    nothing: its tensors must fit the base that is served."""
    if isinstance(value, list | tuple):
        return [part for one in map(adapters, value) for part in (one if isinstance(one, list) else [one])]
    if isinstance(value, str):
        if not value.lstrip().startswith(("{", "[")):
            return value
        return adapters(_parsed(value))
    if not isinstance(value, dict) or not {"name", "path"} <= value.keys() <= {"name", "path", "base_model_name"}:
        raise ValueError('give name=path, or {"name": …, "path": …}')
    return f"{value['name']}={value['path']}"


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("it is not valid JSON") from None


def mapping(value: object) -> dict[str, object]:
    """A JSON object, or what is one already."""
    content = _parsed(value) if isinstance(value, str) else value
    if not isinstance(content, dict):
        raise ValueError("give a JSON object")
    return content


def json_object(value: object) -> dict[str, object]:
    """A mapping of what JSON has, and nothing else; Python may give objects of any kind."""
    content = mapping(value)
    try:
        return mapping(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise ValueError("give a JSON object of texts, numbers, lists and objects") from None
