"""Follow a site through its API while `flyball up` runs: is it governed, how much was acknowledged and sampled."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from flyball_cli.api_client import ApiClient, ApiError

POLL_S: Final = 1.0
TIMEOUT_S: Final = 2.0


class SiteWatch:
    """Reads the API of one aggregator, which may be away for a while; counters survive its restarts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = ApiClient(url, timeout_s=TIMEOUT_S)
        self.line = "starting"
        self.leases_acked = 0
        self._acked_of_this_run = 0
        self._samples: dict[str, tuple[int, int]] = {}  # host -> (of earlier governor runs, of this one)

    @property
    def samples_total(self) -> int:
        """Rows of one GPU at one tick, over all hosts and governor restarts."""
        return sum(earlier + current for earlier, current in self._samples.values())

    async def wait_answering(self) -> None:
        """Wait until the API answers."""
        while await self._get("/v1/status") is None:
            await asyncio.sleep(POLL_S / 4)

    async def is_governed(self, hosts: Sequence[str]) -> bool:
        """Say whether each of these hosts acknowledged a lease and works under it."""
        answer = await self._get("/v1/hosts")
        if answer is None:
            return False
        leased = {view["host"] for view in answer["hosts"] if view["lease_watts"] is not None and view["is_led"]}
        return leased.issuperset(hosts)

    async def run(self) -> None:
        """Keep the counters and the status line until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(POLL_S)

    async def read(self) -> None:
        """Read once; an aggregator that is away leaves everything as it was."""
        status, hosts = await self._get("/v1/status"), await self._get("/v1/hosts")
        if status is None or hosts is None:
            self.line = "the aggregator does not answer; hosts hold their leases"
            return
        self._count_acks(int(status["leases_acked"]))
        for view in hosts["hosts"]:
            if view["samples_total"] is not None:
                self._count_samples(view["host"], int(view["samples_total"]))
        self.line = status_line(status)

    def _count_acks(self, acked: int) -> None:
        if acked < self._acked_of_this_run:  # a restarted aggregator counts from nothing
            self._acked_of_this_run = 0
        self.leases_acked += acked - self._acked_of_this_run
        self._acked_of_this_run = acked

    def _count_samples(self, host: str, samples: int) -> None:
        earlier, current = self._samples.get(host, (0, 0))
        self._samples[host] = (earlier, samples) if samples >= current else (earlier + current, samples)

    async def _get(self, path: str) -> dict[str, Any] | None:
        try:
            return await asyncio.to_thread(self._client.get, path)
        except ApiError:
            return None


def status_line(status: dict[str, Any]) -> str:
    """Return the site in one line."""
    draw_w, limit_w = status.get("draw_watts"), status.get("limit_watts")
    if draw_w is None or limit_w is None:
        return "draw unknown"
    hosts = f"{status['hosts_online']}/{status['hosts']} hosts online, {status['hosts_enforcing']} enforcing"
    return f"draw {draw_w / 1000:.2f} kW of {limit_w / 1000:.2f} kW ({draw_w / limit_w:.0%}); {hosts}"
