"""Put the parts of the aggregator together and run them until a signal or a lost leadership."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI

from flyball_aggregator.api import ApiParts, build_api
from flyball_aggregator.broadcast import Broadcast
from flyball_aggregator.broker import BrokerSession
from flyball_aggregator.config import AggregatorConfig
from flyball_aggregator.exchange.exchange_api import exchange_router
from flyball_aggregator.exchange.exchange_room import ExchangeRoom, broker_like, build_room
from flyball_aggregator.fleet import build_fleet
from flyball_aggregator.flex.flex_api import flex_router
from flyball_aggregator.health.health_desk import HealthDesk
from flyball_aggregator.health.health_keeper import HealthKeeper
from flyball_aggregator.health.order_sender import OrderSender
from flyball_aggregator.history import History
from flyball_aggregator.intake import Intake
from flyball_aggregator.picture import picture_of
from flyball_aggregator.power.facility import FacilityPublisher
from flyball_aggregator.power.holds import HoldBook
from flyball_aggregator.power.lease_desk import LeaseDesk
from flyball_aggregator.power.ledger_store import LedgerStore, LedgerStoreError
from flyball_aggregator.power.loop import LoopParts, PowerLoop
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.server import bind_api, serve_api
from flyball_aggregator.site import Site
from flyball_aggregator.site_versions import SiteVersions
from flyball_aggregator.store import SqliteStore
from flyball_wire.errors import ConfigError
from flyball_wire.signing import SigningKey

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """All parts, built and not started."""

    config: AggregatorConfig
    store: SqliteStore
    ledger_store: LedgerStore
    loop: PowerLoop
    intake: Intake
    session: BrokerSession
    broadcast: Broadcast
    history: History
    version: str
    exchange: ExchangeRoom
    health: HealthDesk


def build_program(config: AggregatorConfig, site: Site, key: SigningKey, version: str) -> Program:
    """Return the parts of one aggregator; opens its files, starts nothing.

    Raises:
        ConfigError: the state directory cannot be used.
    """
    state = Path(config.state_dir)
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir {state}: {error.strerror}") from None
    store = SqliteStore(state / "history.db", config.store)
    ledger_store = LedgerStore(state / "ledger.db", state / "ledger.witness")
    history = History(store)
    fleet = build_fleet(site)
    holds = HoldBook(state / "holds.json")
    holds.load()
    desk = LeaseDesk(site, ledger_store, key, history.note_alarm)
    intake = Intake(fleet)
    session = BrokerSession(config.broker, intake.subscriptions(), intake.take)
    loop = PowerLoop(LoopParts(fleet, desk, session, store, version, holds))
    room = build_room(config.exchange, loop, state, broker_like(config.broker, f"{config.broker.client_id}-exchange"))
    orders = OrderSender(fleet, key, session, lambda: desk.epoch, loop.publish_soon)
    keeper = HealthKeeper(loop, session, store)
    health = HealthDesk(site, orders, keeper.publish_alarm, loop.parts.unix_s)
    health.restore(store.documents())
    program = Program(config, store, ledger_store, loop, intake, session, Broadcast(), history, version, room, health)
    intake.on_ack.append(loop.take_ack)
    intake.on_meter.append(loop.take_meter)
    intake.on_event += [history.note_event, health.take_event]
    intake.on_birth.append(health.take_birth)
    loop.on_tick += [FacilityPublisher(loop, session).handle, history.note_second, _picture_sender(program)]
    loop.on_tick.append(room.handle)
    loop.on_tick.append(lambda _snapshot: keeper.tick(health))
    return program


async def run_program(program: Program) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigError: something configured cannot be used.
        LedgerStoreError: leadership is lost; nothing more may be sent.
    """
    try:
        await _run_parts(program)
    except* (ConfigError, LedgerStoreError) as errors:
        raise _first(errors) from None


async def _run_parts(program: Program) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = bind_api(program.config.api)
    program.loop.open()
    LOG.info("leading site %s in epoch %d", program.loop.parts.fleet.site.name, program.loop.parts.desk.epoch)
    try:
        async with asyncio.TaskGroup() as group:
            sessions = [group.create_task(program.session.run(), name="broker")]
            if program.exchange.is_on:
                sessions.append(group.create_task(program.exchange.open().run(), name="exchange"))
            group.create_task(program.history.run(stop), name="history")
            group.create_task(serve_api(_api(program), listener, stop), name="api")
            group.create_task(program.loop.run(stop, program.config.period_s), name="budget")
            group.create_task(_end_with(stop, program, sessions), name="end")
    finally:
        program.ledger_store.close()
        program.store.close()


async def _end_with(stop: asyncio.Event, program: Program, sessions: list[asyncio.Task[None]]) -> None:
    """Once told to stop, end what waits for others."""
    await stop.wait()
    program.broadcast.close()
    for session in sessions:
        session.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await session


def _api(program: Program) -> FastAPI:
    token = _read_token(program.config.api.token_file)
    return build_api(
        ApiParts(
            loop=program.loop,
            intake=program.intake,
            session=program.session,
            store=program.store,
            broadcast=program.broadcast,
            config=program.config.api,
            token=token,
            version=program.version,
            health=program.health,
            sites=SiteVersions(Path(program.config.site_file), Path(program.config.state_dir) / "site_versions"),
        ),
        [_flex_router(program, token), exchange_router(program.exchange)],
    )


def _flex_router(program: Program, token: str | None) -> APIRouter:
    loop, room = program.loop, program.exchange
    return flex_router(room, room.webhooks, token, loop.parts.unix_s, lambda: loop.snapshot)


def _read_token(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"api.token_file {path}: {error.strerror}") from None
    if len(token) < 16:
        raise ConfigError(f"api.token_file {path}: {len(token)} characters, expected at least 16")
    return token


def _picture_sender(program: Program) -> Callable[[PowerSnapshot], None]:
    def send(_snapshot: PowerSnapshot) -> None:
        if program.broadcast.watchers:
            picture = picture_of(program.loop, program.intake, program.session, program.version, program.health)
            program.broadcast.send("picture", picture)

    return send


def _first(errors: BaseExceptionGroup[ConfigError | LedgerStoreError]) -> ConfigError | LedgerStoreError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
