"""Every setting of `multiflora serve`: one field is one flag, one `MULTIFLORA_…` variable and one key of the YAML file.

Owns names, defaults and bounds. Does not know where values come from, the command line's parser or the services.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

ENV_PREFIX = "MULTIFLORA_"
# The password in a database's URL.
_PASSWORD = re.compile(r"(//[^/@:]*:).*@")
SECRETS = frozenset({"api_key", "hf_token", "oidc_client_secret"})
_RESOLVER = re.compile(r"dir:.+|hf:[A-Za-z0-9][\w.-]{0,60}/\*")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+\Z")
_SITE = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?")
_ZMQ = r"^(tcp://[^/\s]+:[0-9]{1,5}|ipc://\S+)$"
_TCP = r"^tcp://[^/\s]+:[0-9]{1,5}$"
LONGEST_SESSION_SECONDS = 30 * 86_400
_LARGEST_INTEGER = 2**63 - 1
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ConfigurationError(Exception):
    """A setting that cannot be used; the message names the setting and the next step. Exit code 3."""


def _split(value: Any) -> Any:
    """`a,b` or `a b` from the environment becomes a list; lists and tuples pass through."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_split)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_split)]


def _json_objects(value: Any) -> Any:
    """`[{...}]`, or an object at a time, from the command line and the environment."""
    given = [value] if isinstance(value, str | dict) else value
    if not isinstance(given, list | tuple):
        return given
    found: list[Any] = []
    for one in given:
        parsed = json.loads(one) if isinstance(one, str) else one
        found += parsed if isinstance(parsed, list) else [parsed]
    return tuple(found)


Models = Annotated[tuple[dict[str, Any], ...], BeforeValidator(_json_objects)]


DATABASE_NAME = "multiflora.db"


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/multiflora`, by default `~/.local/share/multiflora`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "multiflora"


class Settings(BaseModel):
    """Frozen; derive with `model_copy(update=…)`. A field's description is its help text and its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="Hugging Face id or local folder; without it, the bundled demo")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    served_model_name: Names = Field(
        (), description="the base model's names in the API; the banner and metrics show the first"
    )
    revision: str | None = Field(None, min_length=1, description="branch, tag or commit of a model on the hub")
    tokenizer: str | None = Field(None, min_length=1, description="folder or hub id of another tokenizer")
    tokenizer_revision: str | None = Field(None, min_length=1, description="branch, tag or commit of --tokenizer")
    download_dir: Path | None = Field(None, description="where models from the hub are kept; default its own cache")
    hf_token: str | None = Field(None, min_length=1, description="token for the hub; default HF_TOKEN or its login")
    hf_overrides: dict[str, Any] = Field({}, description="values in the place of those of config.json, as JSON")
    quantization: str | None = Field(
        None, description="int8: of dense weights; else how the checkpoint is quantised, which must agree"
    )
    dequantize: bool = Field(False, description="serve a quantised checkpoint's linears in --dtype, not in their bits")
    generation_config: str = Field(
        "auto", description="sampling defaults: auto, the model's own; vllm, none; or a folder's generation_config.json"
    )
    override_generation_config: dict[str, Any] = Field({}, description="sampling defaults that go before, as JSON")
    chat_template: str | None = Field(None, min_length=1, description="Jinja file, or the template itself")
    chat_template_content_format: Literal["auto", "string", "openai"] = Field(
        "auto", description="how templates get a message's content: as a string, or as parts"
    )
    default_chat_template_kwargs: dict[str, Any] = Field(
        {}, description="variables for the chat template, as JSON, where a request gives none"
    )
    template_date: Literal["now", "utc-day", "fixed"] = Field(
        "now", description="the time that chat templates are told: now, the day in UTC, or always 26 July 2024"
    )
    api_key: Words = Field((), description="admin key; may be given several times")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="weights and KV cache")
    kv_cache_dtype: Literal["auto", "int8", "fp8", "fp8_e4m3", "fp8_e5m2"] = Field(
        "auto",
        description="keys and values: as the model computes them, or in 8 bits for about twice the context (bfloat16)",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the engine runs")
    max_model_len: int | None = Field(None, ge=1, description="longest prompt plus answer in tokens")
    block_size: int = Field(16, ge=1, le=256, description="tokens of a KV block")
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the GPU's memory to use; default 0.9, or more where less stays enough free",
    )
    kv_cache_memory: int | None = Field(
        None, ge=1, description="bytes for KV blocks of each engine; default sized from the device"
    )
    kv_offload_bytes: int | None = Field(None, ge=1, description="bytes of host memory for copies of KV blocks")
    kv_offload_dir: str | None = Field(
        None, min_length=1, description="folder for copies of KV blocks, which outlive the server"
    )
    kv_offload_disk_bytes: int = Field(10 << 30, ge=1, description="bytes that copies in that folder may take")
    enforce_eager: bool = Field(False, description="on a GPU: no CUDA graphs for decode steps")
    max_num_seqs: int | None = Field(
        None, ge=1, le=1 << 16, description="sequences that run at the same time; default by the device and the model"
    )
    max_num_batched_tokens: int | None = Field(
        None, ge=1, le=1 << 22, description="token budget of one engine step; default by the device and the model"
    )
    max_waiting: int = Field(1024, ge=1, description="requests that may queue before 429")
    enable_prefix_caching: bool = Field(True, description="share KV blocks of equal prefixes")
    context_budget: float = Field(
        0.25, gt=0, le=0.5, description="part of all KV blocks that one tenant's contexts may hold"
    )
    cache_events_zmq: str | None = Field(
        None, pattern=_ZMQ, description="address at which the cache's events are published over ZeroMQ, as tcp://*:5557"
    )
    cache_events_replay_zmq: str | None = Field(
        None, pattern=_ZMQ, description="address at which mirrors ask for events that they miss, or for all"
    )
    cache_events_topic: str = Field(
        "", max_length=256, description="what the topic of each engine's events begins with"
    )
    currency: str = Field("USD", pattern="^[A-Z]{3}$", description="of the prices, as ISO 4217 names it")
    price_per_device_second: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="what a second of the device costs, for usage in money",
    )
    price_per_cached_token: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="what a prompt's token costs that the prefix cache had"
    )
    price_per_stored_token_hour: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="what an hour costs in which contexts and marks hold a token in the prefix cache",
    )
    enable_lora: bool = Field(True, description="serve adapters; off: the base model alone")
    lora_modules: Words = Field(
        (), description="adapters to register at start, as name=folder, name=org/repository, name=s3://… or JSON"
    )
    adapter_resolver: Words = Field(
        (), description="where unknown models are looked for at their first use: dir:FOLDER or hf:ORG/*; repeatable"
    )
    adapter_resolver_tenants: Words = Field(
        (), description="tenants whose requests may cause that, as acme,globex; without it, admins alone"
    )
    max_loras: int = Field(
        8, ge=1, le=1 << 16, description="adapters of --max-lora-rank that fit on the device at once"
    )
    max_lora_rank: int = Field(64, ge=1, le=1024, description="largest accepted rank")
    adapter_matrix_memory: int = Field(
        256 << 20,
        ge=0,
        description="bytes of the device for embeddings, heads and LoRA on experts that adapters bring along",
    )
    max_cpu_loras: int = Field(64, ge=1, description="adapters kept in host memory")
    adapter_timeout: float = Field(
        300.0, gt=0, allow_inf_nan=False, description="seconds that a request may wait for its adapter before 503"
    )
    alora_fallback: Literal["error", "base"] = Field(
        "error",
        description="what a prompt that does not invoke its activated LoRA gets: an error (400), or the base",
    )
    seed: int = Field(0, ge=0, description="for requests that bring none")
    enable_prompt_lookup: bool = Field(
        False, description="draft tokens that a text repeats and verify them in one step; answers stay the same"
    )
    num_speculative_tokens: int = Field(8, ge=1, le=1024, description="tokens of the longest draft")
    prompt_lookup_max: int = Field(4, ge=1, le=1024, description="tokens that are looked up in the text, at most")
    prompt_lookup_min: int = Field(2, ge=1, le=1024, description="tokens that are looked up in the text, at least")
    speculative_disable_by_batch_size: int = Field(
        8, ge=1, description="running requests beyond which nothing is drafted"
    )
    tool_call_parser: Literal[
        "auto",
        "none",
        "hermes",
        "qwen",
        "llama3_json",
        "llama4_json",
        "mistral",
        "pythonic",
        "llama4_pythonic",
        "qwen3_coder",
        "qwen3_xml",
        "openai",
    ] = Field("auto", description="how the model writes tool calls; auto looks at its chat template")
    reasoning_parser: Literal[
        "none", "deepseek_r1", "qwen3", "glm45", "granite", "mistral", "seed_oss", "openai_gptoss"
    ] = Field("none", description="how the model marks its reasoning, which is then kept apart from the answer")
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads of each rank; default all cores, divided among replicas and their ranks"
    )
    replicas: int = Field(1, ge=1, le=64, description="engines behind this server, each a process with the whole model")
    tensor_parallel_size: int = Field(
        1, ge=1, le=64, description="ranks of each engine, which divide the model; on GPUs each has one of its own"
    )
    pipeline_parallel_size: int = Field(
        1, ge=1, le=64, description="stages of each engine, which have some layers each; so many times as many ranks"
    )
    models: Models = Field((), description="further base models, as a list in the configuration file; else JSON")
    routing: Literal["score", "least-loaded", "round-robin"] = Field(
        "score", description="which replica gets a request: the soonest for it, that with the fewest, or all in turn"
    )
    database_url: str | None = Field(None, description="SQLAlchemy URL; default SQLite in the data folder")
    data_dir: Path = Field(default_factory=default_data_dir, description="database, artifacts and secrets")
    artifact_store: str | None = Field(
        None, description="s3://bucket/folder that hosts share, of which their data folders keep what they need"
    )
    artifact_cache_bytes: int | None = Field(
        None, ge=1, description="bytes of fetched artifacts in the data folder; those needed longest ago go for others"
    )
    secret_file: Path | None = Field(
        None, description="file of 64 hex digits that hosts share; without it, a secret is made in the data folder"
    )
    group: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="name by which gateways find engines that serve the same; default the model's",
    )
    listen: str | None = Field(
        None, pattern=_TCP, description="where `multiflora engine` is reached by gateways, as tcp://10.0.0.5:5570"
    )
    advertise: str | None = Field(
        None, pattern=_TCP, description="the same as gateways see it; default --listen, where that names one address"
    )
    allow_source_root: Paths = Field((), description="folder below which file:// sources are allowed; repeatable")
    allow_webhook_target: Words = Field((), description="network, as 10.0.0.0/8, that webhooks may reach; repeatable")
    allowed_host: Words = Field((), description="further Host header that is accepted; repeatable")
    allowed_origins: Words = Field(
        (), description="web page's origin, as https://app.example.com, that browsers may call from; repeatable; *: any"
    )
    public_url: str | None = Field(
        None,
        description="the server's address as browsers see it, as https://llm.example.com; default the request's",
    )
    oidc_issuer: str | None = Field(
        None, description="OpenID Connect provider by which people sign in to the UI; needs multiflora[oidc]"
    )
    oidc_client_id: str | None = Field(None, min_length=1, description="this server's name at the provider")
    oidc_client_secret: str | None = Field(
        None, min_length=1, description="its secret there; without one, a public client"
    )
    oidc_client_secret_file: Path | None = Field(None, description="file that holds the secret")
    oidc_scopes: Words = Field(("openid", "profile", "email"), description="what the provider is asked for")
    oidc_role_claim: str = Field("groups", min_length=1, description="claim with roles or groups; a.b is b inside of a")
    oidc_admin_value: Names = Field((), description="value of that claim that makes an administrator; repeatable")
    oidc_tenant_claim: str | None = Field(
        None, min_length=1, description="claim that names the tenant of those who are no administrators"
    )
    oidc_create_tenants: bool = Field(False, description="make a tenant that the claim names and that is not there")
    oidc_name_claim: str = Field(
        "email", min_length=1, description="claim by which the audit names people; default of it `sub`"
    )
    oidc_display_name: str = Field(
        "single sign-on", min_length=1, max_length=40, description="the provider on the sign-in page's button"
    )
    oidc_session_seconds: int = Field(
        43_200, ge=60, le=LONGEST_SESSION_SECONDS, description="how long a session lasts from its ID token's issue on"
    )
    oidc_max_age: int | None = Field(
        None,
        ge=60,
        description="seconds after a person's sign-in at the provider for which it counts",
    )
    no_auth: bool = Field(False, description="serve without keys; only on a loopback address")
    root_path: str = Field("", description="path that a proxy strips before it passes requests on")
    ssl_keyfile: Path | None = Field(None, description="the certificate's private key; with it the server speaks HTTPS")
    ssl_certfile: Path | None = Field(None, description="the server's certificate, with its chain")
    ssl_ca_certs: Path | None = Field(None, description="authorities of clients' certificates")
    ssl_cert_reqs: int = Field(
        0, ge=0, le=2, description="clients' certificates: 0 not asked for, 1 optional, 2 required"
    )
    ssl_ciphers: str | None = Field(None, description="accepted ciphers of TLS up to 1.2, as OpenSSL names them")
    disable_fastapi_docs: bool = Field(False, description="serve neither /docs nor /openapi.json")
    line_timeout: float = Field(
        2.0, ge=0.1, le=600, description="seconds of silence after which a line between hosts is held for cut"
    )
    drain_timeout: float = Field(30.0, ge=0, description="seconds that streams may go on after SIGTERM")
    max_request_bytes: int = Field(8 << 20, ge=1024, description="largest body of an API request")
    max_upload_bytes: int = Field(4 << 30, ge=1024, description="largest adapter upload")
    alert_waiting: int = Field(5, ge=0, description="waiting sequences beyond which an alert is raised")
    alert_waiting_seconds: int = Field(30, ge=1, le=900, description="seconds for which more than these have to wait")
    alert_error_rate: float = Field(
        0.05, gt=0, le=1, description="share of a minute's requests that fail at which an alert is raised"
    )
    alert_cache_thrash: float = Field(
        0.25, gt=0, le=1, description="share of prompts' tokens computed again after eviction at which one is raised"
    )
    alert_memory_growth: float = Field(
        0.2, gt=0, allow_inf_nan=False, description="part by which memory has to grow in an hour for an alert"
    )
    otlp_traces_endpoint: str | None = Field(
        None, description="OTLP collector (HTTP) that traces go to; needs multiflora[otel]"
    )
    log_bodies: bool = Field(
        False,
        description="keep the last requests' prompts and answers in memory, for admins to look at, and answers of a "
        "rollout's shadows that differ",
    )
    enable_log_requests: bool = Field(True, description="write one line for each HTTP request, without its texts")
    uvicorn_log_level: Literal["critical", "error", "warning", "info", "debug", "trace"] = Field(
        "warning", description="what the HTTP server's own parts log"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")

    @field_validator("*")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        """The engine is told in 64 bits."""
        if isinstance(value, int) and value > _LARGEST_INTEGER:
            raise ValueError(f"the largest integer is {_LARGEST_INTEGER}")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(origin.rstrip("/") for origin in origins)
        wrong = [origin for origin in origins if not _ORIGIN.fullmatch(origin)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no origin; give scheme and host, as https://app.example.com, or *")
        return origins

    @field_validator("public_url", "oidc_issuer")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None and not _SITE.fullmatch(url):
            raise ValueError(f"{url!r} is no address; give scheme and host, as https://login.example.com")
        return url

    @field_validator("public_url")
    @classmethod
    def _strip_slash(cls, url: str | None) -> str | None:
        return None if url is None else url.rstrip("/")

    @field_validator("oidc_scopes")
    @classmethod
    def _split_scopes(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for given in scopes for name in given.replace(",", " ").split())

    @field_validator("lora_modules")
    @classmethod
    def _name_and_path(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        for module in modules:
            name, _, path = module.partition("=")
            if not name or not path:
                raise ValueError(f"{module!r} is not name=path")
        return modules

    @field_validator("adapter_resolver")
    @classmethod
    def _check_resolvers(cls, resolvers: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [resolver for resolver in resolvers if not _RESOLVER.fullmatch(resolver)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no resolver; give dir:/folder/of/adapters or hf:organisation/*")
        return resolvers

    @field_validator("adapter_resolver_tenants")
    @classmethod
    def _split_tenants(cls, tenants: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for given in tenants for name in given.replace(",", " ").split())

    @field_validator("allow_webhook_target")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network, strict=False)
        return networks

    @model_validator(mode="after")
    def _no_adapters_where_they_are_off(self) -> Settings:
        if self.lora_modules and not self.enable_lora:
            raise ValueError("lora_modules needs enable_lora; drop --no-enable-lora or --lora-modules")
        if self.adapter_resolver and not self.enable_lora:
            raise ValueError("adapter_resolver needs enable_lora; drop --no-enable-lora or --adapter-resolver")
        return self

    @model_validator(mode="after")
    def _events_of_a_cache(self) -> Settings:
        if self.cache_events_replay_zmq and not self.cache_events_zmq:
            raise ValueError("cache_events_replay_zmq needs cache_events_zmq; give both")
        if self.cache_events_zmq and not self.enable_prefix_caching:
            raise ValueError("cache_events_zmq needs a prefix cache; drop it or --no-enable-prefix-caching")
        return self

    @model_validator(mode="after")
    def _shortest_and_longest_lookup(self) -> Settings:
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError(
                f"prompt_lookup_min ({self.prompt_lookup_min}) is above prompt_lookup_max ({self.prompt_lookup_max}); "
                "give both"
            )
        return self

    @model_validator(mode="after")
    def _whole_sign_on(self) -> Settings:
        if self.oidc_issuer is None:
            if self.oidc_client_id or self.oidc_admin_value or self.oidc_tenant_claim:
                raise ValueError("single sign-on needs oidc_issuer; give the provider's address")
            return self
        if not is_safe_url(self.oidc_issuer):
            raise ValueError("oidc_issuer has to be https, except on this machine")
        if self.oidc_client_id is None:
            raise ValueError("oidc_issuer needs oidc_client_id; give this server's name at the provider")
        if self.oidc_client_secret and self.oidc_client_secret_file:
            raise ValueError("oidc_client_secret and oidc_client_secret_file are one thing; give one of them")
        if not self.oidc_admin_value and self.oidc_tenant_claim is None:
            raise ValueError("oidc_issuer lets nobody in; give oidc_admin_value or oidc_tenant_claim, too")
        if self.no_auth:
            raise ValueError("no_auth asks nobody to sign in; drop it or oidc_issuer")
        return self

    @model_validator(mode="after")
    def _key_and_certificate(self) -> Settings:
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ValueError("ssl_keyfile and ssl_certfile belong together; give both")
        return self

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> Settings:
        if self.no_auth and not self.is_local:
            raise ValueError(f"no_auth needs a loopback host, not {self.host}; drop --no-auth or use --host 127.0.0.1")
        return self

    @property
    def is_local(self) -> bool:
        """Only this machine reaches the server."""
        return self.host in _LOOPBACK

    @property
    def num_ranks(self) -> int:
        """Processes that compute the model together, of each engine."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / DATABASE_NAME}"


def is_safe_url(url: str) -> bool:
    """Whether nobody on the way can read or change what is sent there: HTTPS, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def flag(field: str) -> str:
    """`max_loras` -> `--max-loras`; the model is positional."""
    return "MODEL" if field == "model" else "--" + field.replace("_", "-")


def shown(field: str, value: Any) -> str:
    """A setting's value as text that may be printed: no key, and no password of a database."""
    if field in SECRETS and value:
        return "(hidden)"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    text = "" if value is None else str(value)
    return _PASSWORD.sub(r"\1***@", text) if field == "database_url" else text
