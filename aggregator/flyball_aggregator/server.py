"""Serve the API inside this program: one uvicorn server that leaves signals to the program."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from flyball_aggregator.config import ApiConfig
from flyball_wire.errors import ConfigError

LOG: Final = logging.getLogger(__name__)
GOODBYE_S: Final = 1


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals: the program has its own."""
        yield


def bind_api(config: ApiConfig) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"api.host {config.host} api.port {config.port}: {error.strerror}") from None
    listener.listen(128)
    return listener


async def serve_api(api: FastAPI, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve until told to stop."""
    settings = uvicorn.Config(
        api, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=GOODBYE_S
    )
    server = _Server(settings)
    LOG.info("API on http://%s:%d", *listener.getsockname()[:2])
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="api")
    await stop.wait()
    server.should_exit = True
    await serving
