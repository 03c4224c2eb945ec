"""`multiflora serve` and `gateway`: puts the parts together, watches over their life, takes them apart in order.

Owns the order of start and end. Each part's own work is elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop
from uvicorn.config import LOG_LEVELS

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.messages import Ready
from multiflora_platform.auth.budgets import BudgetedLimits, Budgets
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.limits.opening import open_limits
from multiflora_platform.auth.oidc.opening import identity_of, open_sign_on
from multiflora_platform.auth.tallies.peaks import WatchedLimits
from multiflora_platform.auth.usage import UsageLedger
from multiflora_platform.base_models.group_making import make_grammars, make_link, route_by_content
from multiflora_platform.base_models.model_settings import asked_models
from multiflora_platform.base_models.opening import (
    ServedBase,
    open_model,
    prepare_data_dir,
    require_paths,
    warn_of_template,
)
from multiflora_platform.contexts.service import Contexts
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.fleet.hosts.far_fleet import FarLines
from multiflora_platform.gateway.explaining.placing import readers
from multiflora_platform.groups import Group, Groups
from multiflora_platform.insight.alerts.events import AlertEvents
from multiflora_platform.insight.alerts.findings import Thresholds
from multiflora_platform.insight.drift.drift import Drift
from multiflora_platform.insight.insight import Insight
from multiflora_platform.insight.kept_bodies import KeptBodies
from multiflora_platform.insight.mirrors.zmq_publisher import CacheEventsPublisher, CannotPublish, publishing
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.observability.tracing import Tracing
from multiflora_platform.prices import prices_of
from multiflora_platform.registry.artifacts.opening import open_store
from multiflora_platform.registry.changes.rollout_pairs import KeptPairs
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.shadow_runs import Shadows
from multiflora_platform.server.app import create_app
from multiflora_platform.server.banner import Banner, key_source_of
from multiflora_platform.server.beginnings import log_to_stderr, open_database, require_shared_database
from multiflora_platform.server.engines.sources import Engines, FarEngines, OwnEngines
from multiflora_platform.server.garbage import collecting_while_idle
from multiflora_platform.server.http_server import (
    HttpServer,
    address,
    allow_many_connections,
    listen,
    require_certificate,
)
from multiflora_platform.server.loading import LoadingDisplay
from multiflora_platform.server.middleware import access_log
from multiflora_platform.server.only_server import only_server_of
from multiflora_platform.server.registered import require_ranks, seed
from multiflora_platform.services import Services
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.storage.outbox_follower import Follower
from multiflora_platform.webhooks.service import Webhooks

_log = logging.getLogger(__name__)
# 16 random characters of 64 are 96 bits.
SHORTEST_KEY = 16

# What runs, in the order of its start:
#
#   serve    lock, socket   one server for a SQLite file; the port is bound before the weights are loaded
#   _parts   database
#            follower       before the first row is read that another process may change
#            keys           evaluations and webhooks use their secret; the end writes when keys were last used
#            sign-on        asks its provider nothing before the first person signs in
#            contexts       read; the end writes when requests named them
#            registry       takes up unfinished jobs at once; its leases are held by what comes below
#            webhooks
#            usage          the end writes what was counted since the last write
#            limits         where servers share them; the end gives back what this one holds
#            tracing        where it is configured; the end sends the last spans
#            grammars       compilers, each a process of its own
#            shadows        nothing to start; they lease versions of the registry and ask the engine
#            insight        samples the engine, also while it does not run
#            mirrors        where the cache's events are published over ZeroMQ
#            engines        load the model, each in a process of its own; a gateway's are found in the database
#   _serve   HTTP server    answers health checks while the engine loads
#            base models    of the configuration file, beside the one that the server is started with
#            adapters       of the demo and --lora-modules, once all engines are ready; then the first admin key
#            batch runner   once its batches can find those adapters
#            eval runner    likewise
#            keeper         computes and holds contexts, of those adapters, too
#
# A signal first drains: new requests are refused, running ones end. Then the HTTP server ends, for its routes reach all
# the others; then the keeper and the runners of evals and batches; then the engines and the rest of _parts in reverse,
# so that what a request still changes as its engine ends it is counted and written; the socket and the lock last. Where
# all engines die for good there is no drain; the rest is the same.


def serve(settings: Settings, sources: Mapping[str, str]) -> int:
    """Run until a signal ends it; returns the exit code. sources: where each setting came from.

    Raises ConfigurationError or CommandError.
    """
    if settings.listen is not None:
        raise ConfigurationError("--listen is of `multiflora engine`; drop it, or start that")
    return _run(settings, sources, starts_engines=True)


def serve_gateway(settings: Settings, sources: Mapping[str, str]) -> int:
    """The same with engines of other hosts alone."""
    if settings.listen is not None:
        raise ConfigurationError("a gateway has no engines of its own, and does not take --listen; drop it")
    require_shared_database(settings)
    return _run(settings, sources, starts_engines=False)


def _run(settings: Settings, sources: Mapping[str, str], *, starts_engines: bool) -> int:
    log_to_stderr(settings)
    _log_requests(settings)
    if settings.hf_token is not None:
        os.environ["HF_TOKEN"] = settings.hf_token  # for adapters, too, whatever asks the hub for them
    require_paths(settings)
    # What is wrong with them is told before time goes into loading.
    asked_models(settings, elsewhere=not starts_engines)
    require_certificate(settings)
    opened = open_model(settings)
    prepare_data_dir(settings)
    allow_many_connections()
    _warn_of_short_keys(settings)
    with only_server_of(settings), listen(settings) as listener:
        return uvloop.run(_serve(settings, sources, opened, listener, starts_engines))


def _warn_of_short_keys(settings: Settings) -> None:
    for number, key in enumerate(settings.api_key, start=1):
        if len(key) < SHORTEST_KEY:
            _log.warning(
                "--api-key number %d has %d characters and can be guessed; use %d or more (`openssl rand -hex 24`)",
                number,
                len(key),
                SHORTEST_KEY,
            )


def _log_requests(settings: Settings) -> None:
    """Access lines stay pure JSON."""
    bare = logging.StreamHandler()
    bare.setFormatter(logging.Formatter("%(message)s"))
    access_log.handlers, access_log.propagate = [bare], False
    access_log.setLevel(logging.NOTSET if settings.enable_log_requests else logging.WARNING)
    if settings.log_level != "debug" or settings.uvicorn_log_level != "warning":
        logging.getLogger("uvicorn").setLevel(LOG_LEVELS[settings.uvicorn_log_level])


async def _serve(
    settings: Settings, sources: Mapping[str, str], opened: ServedBase, listener: socket.socket, starts_engines: bool
) -> int:
    with LoadingDisplay() as display:
        async with _parts(settings, opened, display, starts_engines) as (services, engines):
            url = address(listener, settings)
            services.setting_sources = sources
            app = create_app(services)
            server = HttpServer(app, services)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await asyncio.to_thread(warn_of_template, opened.served)  # while the engines load
                ready = await _ready_or_stopped(engines, serving)
                if ready is not None:
                    await app.state.models.start()
                    await seed(services.registry, settings, opened.demo)
                    key = await services.keys.bootstrap()
                    services.seeding = False
                    await app.state.batches.start()
                    app.state.evals.runner.start()
                    app.state.keeper.start()
                    print(_banner(services, opened, ready, url, key).text(), flush=True)
                    async with collecting_while_idle(services.active):
                        await _watch(engines, serving)
            except EngineFailed as error:
                if error.kind == "configuration":
                    raise ConfigurationError(error.message) from None
                raise CommandError(f"the engine cannot be started: {error.message}") from None
            finally:
                server.should_exit = True
                await serving
                await app.state.keeper.close()
                await app.state.evals.close()
                await app.state.batches.close()
                await app.state.models.close()
    return ExitCode.OK


async def _artifacts(settings: Settings) -> ArtifactStore:
    """Raises ConfigurationError where the origin is none, or cannot be used."""
    store = open_store(settings.data_dir, settings.artifact_store, settings.artifact_cache_bytes)
    if store.origin is not None:
        try:
            await asyncio.to_thread(store.origin.check)
            await asyncio.to_thread(store.cache.make_room)
        except OSError as error:
            raise ConfigurationError(f"cannot use --artifact-store {settings.artifact_store}: {error}") from None
    return store


@asynccontextmanager
async def _parts(
    settings: Settings, opened: ServedBase, display: LoadingDisplay, starts_engines: bool
) -> AsyncIterator[tuple[Services, Engines]]:
    """The services and their engines, started; stopped in reverse order."""
    async with AsyncExitStack() as stack:
        database = await open_database(settings.resolved_database_url)
        stack.push_async_callback(database.close)
        follower = Follower(database)
        await follower.start()
        stack.push_async_callback(follower.close)
        keys = await KeyStore.open(
            database,
            follower,
            settings.data_dir,
            admin_keys=settings.api_key,
            no_auth=settings.no_auth,
            provider=identity_of(settings),
        )
        stack.push_async_callback(keys.close)
        sign_on = open_sign_on(settings, keys)
        if sign_on is not None:
            stack.push_async_callback(sign_on.provider.close)
        artifacts = await _artifacts(settings)
        metrics = Metrics(opened.served.name)
        engines: Engines  # asked from now on, started last
        lines = None if starts_engines else FarLines.of(database, keys.secret.derive, artifacts, settings.line_timeout)
        if lines is None:
            engines = OwnEngines(settings, opened, metrics, display)
        else:
            engines = FarEngines(settings, opened, metrics, lines)
        engine = engines.fleet
        contexts = await Contexts.open(database, follower)
        stack.push_async_callback(contexts.close)
        registry = await Registry.open(
            database,
            follower,
            artifacts,
            make_link(engine, opened, keys, contexts.book),
            settings.max_lora_rank,
            scratch=settings.data_dir / "incoming",
            source_roots=settings.allow_source_root,
            max_upload_bytes=settings.max_upload_bytes,
            reserved_names=set(opened.served.names),
            adapter_resolvers=settings.adapter_resolver,
            resolver_tenants=settings.adapter_resolver_tenants,
            pairs=KeptPairs() if settings.log_bodies else None,
        )
        stack.push_async_callback(registry.close)
        route_by_content(engine, settings, opened, registry)
        require_ranks(registry.snapshot, settings.max_lora_rank)
        webhooks = Webhooks(database, keys.secret, settings.allow_webhook_target)
        webhooks.dispatcher.start()
        stack.push_async_callback(webhooks.close)
        usage = UsageLedger(database, prices_of(settings))
        budgets = Budgets(database, usage, prices_of(settings))
        usage.start()
        stack.push_async_callback(usage.close)
        limits = WatchedLimits(usage.peaks, BudgetedLimits(budgets, open_limits(database)))
        stack.push_async_callback(limits.close)
        tracing = None
        if settings.otlp_traces_endpoint is not None:
            tracing = Tracing.open(settings.otlp_traces_endpoint)
            stack.callback(tracing.close)
        grammars = make_grammars(opened)
        grammars.start()
        stack.push_async_callback(grammars.close)
        shadows = Shadows(registry.rollouts, registry.lease)
        stack.push_async_callback(shadows.close)
        bodies = KeptBodies() if settings.log_bodies else None
        model = opened.served
        alert_events = AlertEvents(database, f"{socket.gethostname()}:{settings.port}")
        await alert_events.clear_left()
        stack.push_async_callback(alert_events.close)
        groups = Groups(Group(model, opened.base.digest, engine, grammars))
        drift = Drift(readers(groups))
        insight = Insight(
            groups,
            bodies,
            drift=drift,
            thresholds=Thresholds.of(settings),
            further_findings=registry.splits.findings,
        )
        insight.alerts.on_change = alert_events.note
        engine.on_removed = lambda replica: insight.cache_feeds.forget([replica])
        insight.start()
        stack.push_async_callback(insight.close)
        if settings.cache_events_zmq is not None:
            publisher = CacheEventsPublisher(
                insight.cache_feeds, groups, keys.cache_owners, settings.cache_events_topic
            )
            await stack.enter_async_context(_publishing(publisher, settings, settings.cache_events_zmq))
        services = Services(
            settings=settings,
            groups=groups,
            registry=registry,
            keys=keys,
            metrics=metrics,
            limits=limits,
            usage=usage,
            budgets=budgets,
            shadows=shadows,
            tracing=tracing,
            webhooks=webhooks,
            insight=insight,
            contexts=contexts,
            sign_on=sign_on,
            lines=lines,
            seeding=True,
        )
        stack.push_async_callback(engines.stop)
        await engines.start()
        yield services, engines


@asynccontextmanager
async def _publishing(publisher: CacheEventsPublisher, settings: Settings, endpoint: str) -> AsyncIterator[None]:
    """Raises ConfigurationError."""
    try:
        async with publishing(publisher, endpoint, settings.cache_events_replay_zmq):
            yield
    except CannotPublish as error:
        raise ConfigurationError(f"cache events cannot be published at {error}; choose another address") from None


async def _ready_or_stopped(engines: Engines, serving: asyncio.Task[None]) -> Ready | None:
    """None when a signal ended the server before its engines were ready. Raises EngineFailed."""
    waiting = asyncio.create_task(engines.wait_ready())
    await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        return None
    return waiting.result()


async def _watch(engines: Engines, serving: asyncio.Task[None]) -> None:
    """Until the server ends. Raises EngineFailed when all engines have died for good."""
    while not serving.done():
        await asyncio.wait({serving}, timeout=1.0)
        engines.check()


def _banner(services: Services, opened: ServedBase, ready: Ready, url: str, key: str | None) -> Banner:
    adapters = services.registry.served() if services.settings.enable_lora else []
    shown = next((adapter for adapter in adapters if adapter.demo_prompt), None)
    return Banner(
        url=url,
        base=opened.served.name,
        adapters=tuple(adapter.name for adapter in adapters) if services.settings.enable_lora else None,
        ready=ready,
        engines=len(services.engine.replicas),
        quantization=services.settings.quantization,
        key=key,
        key_source=key_source_of(services.settings),
        model=shown.name if shown else opened.served.name,
        prompt=(shown.demo_prompt if shown else None) or "Hello!",
    )
