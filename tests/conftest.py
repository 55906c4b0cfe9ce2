"""Fixtures that every package's tests may ask for."""

from tests.brokers import broker, broker_kind, tls_broker

__all__ = ["broker", "broker_kind", "tls_broker"]
