"""Options about the HTTP server: what it answers, how it listens, what it writes."""

from __future__ import annotations

from collections.abc import Mapping

from multiflora_engine.protocol.sampling_ranges import MAX_LOGPROBS
from multiflora_platform.vllm_options.rules import (
    Option,
    acts,
    harmless,
    mapping,
    opposite,
    partly,
    refused,
    switches,
    words,
)

_NO_CODE = "code that comes with a model or a client is never run"
_ALWAYS = "it is always so"
_NO_PROMPTS = "prompts and answers are never logged; --log-bodies keeps the last ones in memory, for admins"
_HEADS = "request heads may have 64 KiB"

SERVER: Mapping[str, Option] = {
    # What requests are answered.
    "chat_template": acts("chat_template", str),
    "chat_template_content_format": acts("chat_template_content_format", str),
    "default_chat_template_kwargs": acts("default_chat_template_kwargs", mapping),
    "trust_request_chat_template": refused(f"{_NO_CODE}, and templates are code; give --chat-template", shape="switch"),
    "response_role": refused("answers are the assistant's; leave it out", "assistant"),
    "return_tokens_as_token_ids": refused(
        "each request asks for it, with return_tokens_as_token_ids; leave it out", shape="switch"
    ),
    "max_logprobs": partly(
        tuple(str(number) for number in range(MAX_LOGPROBS)),
        f"requests may ask for up to {MAX_LOGPROBS}",
        f"requests may ask for up to {MAX_LOGPROBS}; leave it out",
        str(MAX_LOGPROBS),
    ),
    "enable_auto_tool_choice": harmless("tools are offered and their calls read without it", shape="switch"),
    "exclude_tools_when_tool_choice_none": harmless(_ALWAYS, "true", shape="switch"),
    "tool_parser_plugin": refused(f"{_NO_CODE}; choose a --tool-call-parser"),
    "tool_server": refused("tools are run by clients, never by the server; leave it out"),
    "enable_prompt_tokens_details": harmless(_ALWAYS, "true", shape="switch"),
    "enable_force_include_usage": refused(
        "each request asks for it, with stream_options.include_usage; leave it out", shape="switch"
    ),
    "enable_tokenizer_info_endpoint": harmless(_ALWAYS, "true", shape="switch"),
    "enable_server_load_tracking": harmless(_ALWAYS, "true", shape="switch"),
    "enable_request_id_headers": harmless(_ALWAYS, "true", shape="switch"),
    "enable_per_request_metrics": harmless("/metrics has them for all requests together", shape="switch"),
    "tokens_only": refused("all routes are served; leave it out", shape="switch"),
    "fingerprint_mode": harmless("answers name the model's version in x-multiflora-version"),
    "fingerprint_value": harmless("answers name the model's version in x-multiflora-version"),
    # How it listens.
    "uds": refused("the server listens on an address; give --host and --port"),
    "grpc": refused("the server speaks HTTP; leave it out", shape="switch"),
    "api_server_count": harmless("one process serves HTTP for all engines", "1", short=("-asc",)),
    "disable_frontend_multiprocessing": harmless("the engine is always a process of its own", shape="switch"),
    "allowed_origins": acts("allowed_origins", words),
    "allowed_methods": harmless("pages of --allowed-origins may use every method"),
    "allowed_headers": harmless("pages of --allowed-origins may send every header"),
    "allow_credentials": refused("cookies of other pages are never accepted; let them send a key", shape="switch"),
    "middleware": refused(f"{_NO_CODE}; put a proxy in front", shape="values"),
    "root_path": acts("root_path", str),
    "ssl_keyfile": acts("ssl_keyfile", str),
    "ssl_certfile": acts("ssl_certfile", str),
    "ssl_ca_certs": acts("ssl_ca_certs", str),
    "ssl_cert_reqs": acts("ssl_cert_reqs"),
    "ssl_ciphers": acts("ssl_ciphers", str),
    "enable_ssl_refresh": refused("certificates are read at the start; restart to renew them", shape="switch"),
    "disable_fastapi_docs": switches("disable_fastapi_docs"),
    "enable_offline_docs": harmless(_ALWAYS, "true", shape="switch"),
    "h11_max_incomplete_event_size": harmless(_HEADS),
    "h11_max_header_count": harmless(_HEADS),
    "shutdown_timeout": acts("drain_timeout"),
    # What it writes.
    "enable_log_requests": switches("enable_log_requests"),
    "disable_log_requests": switches("enable_log_requests", opposite),
    "disable_uvicorn_access_log": switches("enable_log_requests", opposite),
    "disable_access_log_for_endpoints": harmless("--no-enable-log-requests silences all of them"),
    "disable_log_stats": harmless("numbers are in /metrics and the admin UI, never in the log", shape="switch"),
    "aggregate_engine_logging": harmless("the gateway logs for all engines", shape="switch"),
    "enable_log_outputs": harmless(_NO_PROMPTS, shape="switch"),
    "enable_log_deltas": harmless(_NO_PROMPTS, "true", shape="switch"),
    "max_log_len": harmless(_NO_PROMPTS),
    "log_error_stack": harmless("--log-level debug shows tracebacks", shape="switch"),
    "log_config_file": refused("what is logged is set with --log-level; leave it out"),
    "uvicorn_log_level": acts("uvicorn_log_level", str),
    "collect_detailed_traces": harmless("traces cover the whole way of a request"),
    "show_hidden_metrics_for_version": harmless("no metric is hidden"),
    "kv_cache_metrics": harmless("/metrics always has them", shape="switch"),
    "fail_on_environ_validation": harmless("variables of vLLM's own are not read", shape="switch"),
}
