"""The settings of one more base model: the server's own, but for what describes the model, and its options."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
from pydantic import ValidationError

from multiflora_platform.base_models.model_schemas import NewModel
from multiflora_platform.model_files import ModelFiles
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.web import typed_json
from multiflora_platform.web.names import check_name
from multiflora_platform.web.problems import InvalidRequest, Problem

OF_THE_MODEL = {field.name for field in fields(ModelFiles)} | {
    "dequantize",
    "max_model_len",
    "reasoning_parser",
    "tool_call_parser",
}
"""They describe a model: another one does not inherit them."""
OF_ITS_ENGINES = {
    "adapter_matrix_memory",
    "device",
    "dtype",
    "enable_prompt_lookup",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "kv_cache_memory",
    "kv_offload_bytes",
    "max_cpu_loras",
    "max_loras",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_waiting",
    "num_threads",
    "seed",
}
"""As the server's, unless the model's options say otherwise."""
IN_THE_FILE = {"chat_template", "download_dir", "generation_config", "hf_token", "tokenizer"}
"""They name files of the server's machine, or a secret: an operator writes them into the configuration file."""


def asked_models(server: Settings, *, elsewhere: bool = False) -> list[NewModel]:
    """`models:` of the configuration file. elsewhere: as settings_of takes it. Raises ConfigurationError naming the
    model and what is wrong with it."""
    found: list[NewModel] = []
    for number, given in enumerate(server.models):
        try:
            model = msgspec.convert(given, NewModel)
            check_name(model.name)
            settings_of(model, server, in_file=True, elsewhere=elsewhere)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"models: number {number + 1}: {typed_json.told(str(error))[1]}") from None
        except Problem as problem:
            raise ConfigurationError(f"models: {given.get('name')}: {problem.detail}") from None
        found.append(model)
    names = [model.name for model in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(f"models: there are two of the name {twice!r}; choose another for one of them")
    return found


def settings_of(model: NewModel, server: Settings, *, in_file: bool, elsewhere: bool = False) -> Settings:
    """in_file: from the configuration file rather than from a request. elsewhere: its engines are started on other
    hosts, with options of their own. Raises InvalidRequest naming the option."""
    allowed = (OF_THE_MODEL | ({"group"} if elsewhere else OF_ITS_ENGINES)) - {"model"}
    allowed -= set() if in_file else IN_THE_FILE
    given = {name.replace("-", "_"): value for name, value in model.options.items()}
    unknown = sorted(given.keys() - allowed)
    if unknown:
        raise InvalidRequest(
            f"{unknown[0]!r} is no option of one model{' in a request' if unknown[0] in IN_THE_FILE else ''}; there "
            f"are {', '.join(sorted(allowed))}.",
            pointer=f"/options/{unknown[0]}",
        )
    if elsewhere and (model.min_replicas, model.max_replicas, model.idle_seconds) != (1, 1, None):
        detail = "A gateway starts no engines: leave out how many there are, and start them with `multiflora engine`."
        raise InvalidRequest(detail, pointer="/max_replicas")
    if model.min_replicas > model.max_replicas:
        raise InvalidRequest(
            f"min_replicas is {model.min_replicas}, more than max_replicas, {model.max_replicas}.",
            pointer="/min_replicas",
        )
    if model.min_replicas == 0 and model.idle_seconds is None:
        detail = "min_replicas 0 needs idle_seconds: without a request for so long, the last engine ends."
        raise InvalidRequest(detail, pointer="/idle_seconds")
    inherited = {name: getattr(server, name) for name in Settings.model_fields if name not in OF_THE_MODEL}
    own: dict[str, Any] = {
        "model": model.source,
        "served_model_name": (model.name,),
        "group": None,
        "replicas": model.max_replicas,
        "kv_offload_dir": None,
        "lora_modules": (),
        "adapter_resolver": (),
        "models": (),
    }
    try:
        return Settings(**{**inherited, **own, **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{name}: {message}", pointer=f"/options/{name}") from None
