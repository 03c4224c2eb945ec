"""Chat templates in a Jinja sandbox, rendered as transformers renders them (`apply_chat_template`, v5).

Templates come from the model's folder, never from a request. Knows no tokens: conversations in, one string out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from multiflora_platform.text.errors import ChatTemplateError, TokenizerError
from multiflora_platform.text.template_dates import DateChoice, dates

_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
# Characters of a text that json writes in well under a millisecond.
_PIECE = 1 << 16
_OWN = {"messages", "tools", "documents", "add_generation_prompt", "chat_template"}


@dataclass(frozen=True)
class Template:
    """takes_parts: whether it loops over a message's content, so that a list of parts may stay one."""

    source: str
    compiled: jinja2.Template
    takes_parts: bool


@dataclass(frozen=True)
class ChatOptions:
    """What an operator says about chats instead of the model's folder."""

    template: str | None = None
    """Jinja, in place of all of the model's templates."""
    content_format: Literal["auto", "string", "openai"] = "auto"
    """Whether a template gets a message's content as a string or as parts; auto looks at the template."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """For the template, where a request's chat_template_kwargs do not say otherwise."""
    date: DateChoice = "now"
    """What `strftime_now` tells."""


OF_THE_MODEL = ChatOptions()
"""All as the model's folder says."""


class ChatTemplates:
    """A model's templates by name: "default", and perhaps "tool_use" and others."""

    def __init__(
        self,
        sources: Mapping[str, str],
        options: ChatOptions = OF_THE_MODEL,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        if refused := sorted(_OWN & options.variables.keys()):
            raise TokenizerError(f"default_chat_template_kwargs must not contain {', '.join(refused)}.")
        environment = _environment(dates(options.date, clock))
        compiled = {name: _compile(environment, name, source) for name, source in sources.items()}
        if options.content_format != "auto":
            takes_parts = options.content_format == "openai"
            compiled = {name: replace(template, takes_parts=takes_parts) for name, template in compiled.items()}
        self._templates = compiled
        self._variables = options.variables
        self._options = options

    @classmethod
    def load(cls, folder: Path, configured: Any, options: ChatOptions = OF_THE_MODEL) -> ChatTemplates:
        """configured: `chat_template` of tokenizer_config.json, a string or a list of {name, template}; files of the
        folder take precedence, and the operator's template over both. Raises TokenizerError."""
        if options.template is not None:
            return cls({"default": options.template}, options)
        return cls({**_configured(configured), **_from_files(folder)}, options)

    def with_clock(self, clock: Callable[[], datetime]) -> ChatTemplates:
        """The same as they write at the clock's time."""
        sources = {name: template.source for name, template in self._templates.items()}
        return ChatTemplates(sources, self._options, clock)

    @property
    def is_empty(self) -> bool:
        return not self._templates

    @property
    def source(self) -> str | None:
        """The default template's text."""
        template = self._templates.get("default")
        return template.source if template else None

    @property
    def tool_source(self) -> str | None:
        """The text of the template that conversations with tools use."""
        template = self._templates.get("tool_use") or self._templates.get("default")
        return template.source if template else None

    def pick(self, tools: Sequence[Mapping[str, Any]] | None) -> Template:
        """ "tool_use" when tools are given and it exists, otherwise "default". Raises ChatTemplateError."""
        template = (tools is not None and self._templates.get("tool_use")) or self._templates.get("default")
        if template is None:
            raise ChatTemplateError(
                f"The model has no default chat template, only {', '.join(sorted(self._templates))}."
            )
        return template

    def render(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        documents: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """Raises ChatTemplateError, also for what the template itself refuses."""
        if refused := sorted(_OWN & variables.keys()):
            raise ChatTemplateError(f"chat_template_kwargs must not contain {', '.join(refused)}.")
        template = self.pick(tools)
        given = ({k: v for k, v in message.items() if v is not None} for message in messages)
        chat = [_with_reasoning(message if template.takes_parts else _as_text(message)) for message in given]
        final = _open_final_message(chat, add_generation_prompt) if continue_final_message else None
        try:
            text = template.compiled.render(
                messages=chat,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                **{**self._variables, **variables},
            )
        except RecursionError:
            raise ChatTemplateError("The conversation is nested too deeply.") from None
        except Exception as error:  # a template may fail in any way, given what a client sent
            raise ChatTemplateError(f"The model's chat template refuses this conversation: {error}") from None
        return text if final is None else _cut_at_tag(text, final)


def _configured(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        return {str(entry["name"]): str(entry["template"]) for entry in value}
    except (TypeError, KeyError):
        raise TokenizerError("tokenizer_config.json: chat_template is no string and no list of named ones") from None


def _from_files(folder: Path) -> dict[str, str]:
    files = {"default": folder / "chat_template.jinja"} | {
        path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))
    }
    return {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.is_file()}


def _compile(environment: jinja2.Environment, name: str, source: str) -> Template:
    try:
        return Template(source, environment.from_string(source), _takes_parts(environment.parse(source)))
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(f"chat template {name!r} is not valid Jinja: {error}") from None


def _takes_parts(tree: jinja2.nodes.Template) -> bool:
    """Whether some loop runs over `….content`, or over a variable set to it (vLLM's "openai" content format)."""
    names = {
        assign.target.name
        for assign in tree.find_all(jinja2.nodes.Assign)
        if isinstance(assign.target, jinja2.nodes.Name) and _is_content(assign.node)
    }
    return any(
        _is_content(loop.iter) or (isinstance(loop.iter, jinja2.nodes.Name) and loop.iter.name in names)
        for loop in tree.find_all(jinja2.nodes.For)
    )


def _is_content(node: jinja2.nodes.Node | None) -> bool:
    if isinstance(node, jinja2.nodes.Filter):
        return _is_content(node.node)
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    return (
        isinstance(node, jinja2.nodes.Getitem)
        and isinstance(node.arg, jinja2.nodes.Const)
        and node.arg.value == "content"
    )


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """For a template that reads a message's content as one text: a list of parts becomes its lines."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    lines = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ChatTemplateError(f"A part of a message's content must be text; {str(kind)[:40]!r} is not supported.")
        lines.append(text)
    return {**message, "content": "\n".join(lines)}


def reasoning_of(message: Mapping[str, Any]) -> Any:
    """Under any of its names; None where there is none."""
    return next((message[key] for key in REASONING_KEYS if message.get(key) is not None), None)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning is written under several names; templates read one of them."""
    reasoning = reasoning_of(message)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _open_final_message(chat: list[dict[str, Any]], add_generation_prompt: bool) -> str:
    """Marks the end of the last message's text; returns that text."""
    if add_generation_prompt:
        raise ChatTemplateError("continue_final_message needs add_generation_prompt to be false.")
    content = chat[-1].get("content") if chat else None
    if isinstance(content, str):
        chat[-1]["content"] = content + _TAG
        return content
    parts = [dict(part) for part in content] if isinstance(content, list) else []
    for part in reversed(parts):
        if isinstance(text := part.get("text"), str):
            part["text"] = text + _TAG
            chat[-1]["content"] = parts
            return text
    raise ChatTemplateError("continue_final_message needs a last message with text to continue.")


def _cut_at_tag(text: str, final: str) -> str:
    tag = _TAG.strip()
    if final.strip() not in text or tag not in text:
        raise ChatTemplateError("The model's chat template does not keep the final message, so it cannot be continued.")
    at = text.rindex(tag)
    # A template that trims the message has trimmed the tag's space, too.
    return text[:at] if text[at : at + len(_TAG)] == _TAG else text[:at].rstrip()


def _environment(strftime_now: Callable[[str], str]) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks training targets; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return str(caller())


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike Jinja's own, which escapes HTML. Long texts are written in pieces: json keeps the interpreter lock for a
    whole one."""
    long_texts: dict[str, str] = {}
    marked = _with_marks(value, long_texts)
    out = json.dumps(marked, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    for mark, text in long_texts.items():
        pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
        out = out.replace(mark, "".join(json.dumps(piece, ensure_ascii=ensure_ascii)[1:-1] for piece in pieces), 1)
    return out


def _with_marks(value: Any, long_texts: dict[str, str]) -> Any:
    """The value with a mark in each long text's place. long_texts: gains mark -> text."""
    if isinstance(value, dict):
        return {key: _with_marks(item, long_texts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_marks(item, long_texts) for item in value]
    if not isinstance(value, str) or len(value) <= _PIECE:
        return value
    mark = uuid4().hex
    long_texts[mark] = value
    return mark


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Dict:
    """`dict(…)` without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """Refuses names that begin with an underscore, which would reach into the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        for name in dict(*rest, **kwargs):
            _check_namespace_name(name)
        jinja2.utils.Namespace.__init__(self, *rest, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_namespace_name(name)
        super().__setitem__(name, value)


def _check_namespace_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.TemplateError(f"a namespace cannot hold {name!r}")
