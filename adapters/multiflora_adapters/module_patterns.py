"""PEFT's rules for which modules a configuration means: targets, exclusions, layers, rank and alpha patterns.

Source: peft.tuners.tuners_utils.check_target_module_exists and peft.utils.other.get_pattern_key. The patterns are
regular expressions from untrusted files, so all matching of one adapter together has a time limit.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

import regex

from multiflora_adapters.base_model import Site
from multiflora_adapters.lora_config import AdapterConfig
from multiflora_adapters.report import AdapterError, error, shown

_Number = TypeVar("_Number", int, float)

_MAX_PATTERN_LENGTH = 4096
_MATCHING_SECONDS = 3.0
_FIRST_LAYER_INDEX = r".*?\.[^.]*\.(?P<idx>\d+)\."
_PLAIN_PATH = re.compile(r"[\w.]*\w")
# Of these, `regex` would make approximate matching: q_proj{e} also finds k_proj.
_LITERAL_BRACE = re.compile(r"(?<!\\)(?<!\\N)\{(?!\d*,?\d*\})")


class LoraRule(NamedTuple):
    """What the configuration says of one module's LoRA; `ModuleMatcher.rule` makes it."""

    rank: int
    scaling: float


class ModuleMatcher:
    """Answers for one configuration: is this site targeted, with which rank and alpha.

    Its methods raise AdapterError when an expression is invalid or takes too long.
    """

    def __init__(self, config: AdapterConfig) -> None:
        self._config = config
        # Experts are thousands of modules: what does not depend on the module is made once.
        self._targets = _Suffixes(config.target_modules)
        self._excluded = _Suffixes(config.exclude_modules)
        self._parameters = _Suffixes(config.target_parameters)
        self._ranks = _Patterns(config.rank_pattern)
        self._alphas = _Patterns(config.alpha_pattern)
        self._expressions: dict[str, regex.Pattern[str]] = {}
        self._seconds_left = _MATCHING_SECONDS

    def is_target(self, site: Site) -> bool:
        """True when PEFT would put LoRA on the site."""
        targets = self._config.target_modules
        if targets is None or self._is_excluded(site.name):
            return False
        if isinstance(targets, str):
            return self._is_target_by_expression(targets, site)
        if site.name in self._targets.names:
            return True
        return self._targets.end(site.name) and self._is_chosen_layer(site.name)

    def is_target_parameter(self, name: str) -> bool:
        """True when PEFT would put LoRA on the parameter, whatever layers_to_transform and exclude_modules say."""
        return self._parameters.end(name)

    def rule(self, module: str, weight: str) -> LoraRule:
        """weight: the parameter's name, which patterns are matched with where PEFT took it for a parameter."""
        name = weight if self.is_target_parameter(weight) else module
        rank = self.rank(name)
        return LoraRule(rank, self._scaling(name, rank))

    def rank(self, module: str) -> int:
        """The rank the configuration gives to a module, or to a parameter."""
        return self._value_of(self._ranks, module, self._config.r)

    def scaling(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) with rsLoRA (https://arxiv.org/abs/2312.03732)."""
        return self._scaling(module, self.rank(module))

    def _scaling(self, module: str, rank: int) -> float:
        alpha = self._value_of(self._alphas, module, self._config.lora_alpha)
        return alpha / rank**0.5 if self._config.use_rslora else alpha / rank

    def _is_target_by_expression(self, expression: str, site: Site) -> bool:
        if expression.lower() == "all-linear":
            return site.kind == "linear" and site.layer is not None
        return self._fullmatch(expression, site.name) is not None

    def _is_excluded(self, module: str) -> bool:
        excluded = self._config.exclude_modules
        if not excluded:
            return False
        if isinstance(excluded, str):
            return self._fullmatch(excluded, module) is not None
        return self._excluded.end(module)

    def _is_chosen_layer(self, module: str) -> bool:
        layers = self._config.layers_to_transform
        if not layers:
            return True
        patterns = self._config.layers_pattern
        expressions = [rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\." for p in patterns] or [_FIRST_LAYER_INDEX]
        for expression in expressions:
            match = self._match(expression, module)
            if match is not None:
                return int(match["idx"]) in layers
        return False

    def _value_of(self, patterns: _Patterns[_Number], module: str, default: _Number) -> _Number:
        for expression, value, is_path in patterns.candidates(module):
            if is_path or self._match(rf"(.*\.)?({expression})$", module) is not None:
                return value
        return default

    def _match(self, expression: str, text: str) -> regex.Match[str] | None:
        return self._timed(expression, text, whole=False)

    def _fullmatch(self, expression: str, text: str) -> regex.Match[str] | None:
        return self._timed(expression, text, whole=True)

    def _timed(self, expression: str, text: str, whole: bool) -> regex.Match[str] | None:
        started = time.thread_time()
        try:
            if self._seconds_left <= 0:
                raise TimeoutError
            compiled = self._expressions.get(expression) or self._compile(expression)
            find = compiled.fullmatch if whole else compiled.match
            return find(text, timeout=self._seconds_left)
        except (re.error, regex.error, TimeoutError, RecursionError, OverflowError, MemoryError) as problem:
            reason = "takes too long to match" if isinstance(problem, TimeoutError) else f"is invalid ({problem})"
            raise AdapterError(
                error(
                    "config",
                    f"The expression {shown(expression)} {shown(reason)}.",
                    hint="Name the modules by plain suffixes, for example q_proj.",
                )
            ) from None
        finally:
            self._seconds_left -= time.thread_time() - started

    def _compile(self, expression: str) -> regex.Pattern[str]:
        if len(expression) > _MAX_PATTERN_LENGTH:
            raise regex.error(f"longer than {_MAX_PATTERN_LENGTH} characters")
        re.compile(expression)  # PEFT's dialect decides what is an expression; `regex` knows more than `re`
        if "[:" in expression:
            raise regex.error("it holds [:, which may begin a POSIX class, and re has none")
        compiled = regex.compile(_LITERAL_BRACE.sub(r"\{", expression))
        self._expressions[expression] = compiled
        return compiled


class _Suffixes:
    """Names of which a module may be one, or end with one after a dot. names: not those of one expression."""

    def __init__(self, names: Iterable[str] | None) -> None:
        self.names = frozenset() if names is None or isinstance(names, str) else frozenset(names)
        self._endings = tuple(f".{name}" for name in self.names)

    def end(self, module: str) -> bool:
        return f".{module}".endswith(self._endings)


class _Patterns(Generic[_Number]):
    """Expressions for the end of a module's name and what they give it. Most name one module by its path."""

    def __init__(self, values: Mapping[str, _Number]) -> None:
        self._entries: list[tuple[str, _Number]] = list(values.items())
        self._paths: dict[str, int] = {}
        shapes: dict[tuple[int, int], list[int]] = {}
        self._others: list[int] = []
        for place, (text, _) in enumerate(self._entries):
            if _PLAIN_PATH.fullmatch(text) is None:
                self._others.append(place)
            else:
                self._paths[text] = place
                shapes.setdefault((len(text), text.count(".")), []).append(place)
        self._shapes = sorted(shapes.items())

    def candidates(self, module: str) -> list[tuple[str, _Number, bool]]:
        """(expression, value, whether it is the module's path) of those that may match, in their order."""
        places = dict.fromkeys(self._others, False)
        for (length, dots), members in self._shapes:
            if length > len(module):
                break
            end = module[-length:]
            # A path's dots match anything, all else itself alone: an end with as many dots is the path, or no match.
            if end.count(".") < dots:
                places |= dict.fromkeys(members, False)
            elif end in self._paths and f".{module}".endswith(f".{end}"):
                places[self._paths[end]] = True
        found = [(self._entries[place], is_path) for place, is_path in sorted(places.items())]
        return [(text, value, is_path) for (text, value), is_path in found]
