"""`flyball bench reaction`: real processes; from a limit cut, or other load up, to true power under the row again."""

import argparse
import asyncio
import json
import math
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal

from flyball_cli.api_client import ApiClient
from flyball_cli.plant_link import PlantLink
from flyball_cli.up_options import UpOptions, check_options
from flyball_wire.errors import FlyballError

if TYPE_CHECKING:
    from flyball_cli.up_run import SiteRun

Kind = Literal["limit", "load", "feed"]
CUT_RATIO: Final = 0.15  # of the limit
LOAD_RATIO: Final = 0.10  # of the limit
LOAD_EVERY: Final = 5  # every fifth step is other load; the room it takes is given back by raising the limit as much
OVERSUBSCRIPTION: Final = 1.4  # of what is left when a feed is lost
BASE_W_PER_GPU: Final = 820.0  # so that caps bite at the base limit (1,069 W uncapped) and have room below it
RATING_RATIO: Final = 3.0  # of the base limit: room for the limits that follow other load upwards
POLL_S: Final = 0.02
MEAN_S: Final = 0.2  # true power is judged by means this long: a board overshoots its cap for a few milliseconds
HELD_S: Final = 1.2  # under the row for this long counts as under it again
GIVE_UP_S: Final = 15.0
RESTORE_S: Final = 12.0
FULL_RATIO: Final = 0.93  # of the limit: the row is in use, a step bites
SETTLE_S: Final = 1.5  # for the meter's second to be a whole one of the full row
SOURCE: Final = "bench"


class ReactionError(FlyballError):
    """The site did not do what a step needs."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `reaction_s` is None where the power did not come under the row again."""

    kind: Kind
    limit_w: float
    before_w: float
    reaction_s: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds from a step to true power under the row; `feed_loss_s` is apart from the steps."""

    steps: int
    p50_s: float | None
    p95_s: float | None
    max_s: float | None
    missed: int  # not under the row within 15 s
    limit_steps: int
    limit_p95_s: float | None
    load_steps: int
    load_p95_s: float | None
    feed_loss_s: float | None
    wall_s: float
    simulated: bool = True
    note: str = "real processes, simulated GPUs; true power of the plant in means of 0.2 s"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `reaction` under `bench`."""
    parser = subparsers.add_parser("reaction", help="time from a step to power under its row, with real processes")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of each host")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "nats"), default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 where a step was missed."""
    from flyball_cli.up_run import run_site  # noqa: PLC0415 - numpy and the twin load only when a site is started

    base_w = arguments.hosts * arguments.gpus * BASE_W_PER_GPU
    options = UpOptions(
        hosts=arguments.hosts,
        gpus=arguments.gpus,
        limit_w=base_w * RATING_RATIO,
        is_simulated_only=True,
        for_s=3600.0,
        is_json=True,
        broker=arguments.broker,
        api_port=0,
        broker_port=0,
    )
    bench = ReactionBench(base_w, arguments.steps)
    code = asyncio.run(run_site(check_options(options), bench.take))
    if code:
        return code
    figures = asdict(summarise(bench.taken, bench.wall_s))
    print(json.dumps(figures) if arguments.json else "\n".join(f"{key:14} {value}" for key, value in figures.items()))
    return 1 if figures["missed"] else 0


class ReactionBench:
    """The steps of one governed site."""

    def __init__(self, base_w: float, steps: int) -> None:
        self.base_w = base_w  # of limits; rises with other load
        self.step_w = LOAD_RATIO * base_w
        self.steps = steps
        self.taken: list[Step] = []
        self.wall_s = 0.0

    async def take(self, site: "SiteRun", plant: PlantLink) -> None:
        """Take all steps, then the loss of a feed."""
        client = ApiClient(site.watch.url, site.files.token.read_text(encoding="utf-8").strip())
        await asyncio.sleep(SETTLE_S)
        await self._put(client, self.base_w)
        await self._fill(plant)
        started_s = time.monotonic()
        for number in range(1, self.steps + 1):
            if number % LOAD_EVERY:
                await self._cut(client, plant)
            else:
                await self._load(client, plant)
            await self._fill(plant)
        self.wall_s = time.monotonic() - started_s
        await self._lose_feed(client, plant)

    async def _cut(self, client: ApiClient, plant: PlantLink) -> None:
        limit_w = self.base_w * (1.0 - CUT_RATIO)
        before_w = plant.site_power_w()
        started_s = time.monotonic()
        await self._put(client, limit_w)
        self.taken.append(Step("limit", limit_w, before_w, await wait_under(plant, limit_w, started_s)))
        await self._put(client, self.base_w)

    async def _load(self, client: ApiClient, plant: PlantLink) -> None:
        before_w = plant.site_power_w()
        started_s = time.monotonic()
        plant.set_unmanaged_w(self.step_w * (1 + sum(step.kind == "load" for step in self.taken)))
        self.taken.append(Step("load", self.base_w, before_w, await wait_under(plant, self.base_w, started_s)))
        self.base_w += self.step_w
        await self._put(client, self.base_w)

    async def _lose_feed(self, client: ApiClient, plant: PlantLink) -> None:
        """Cut the limit to what is left of the present draw after a loss; other load goes with the feed."""
        before_w = plant.site_power_w()
        plant.set_unmanaged_w(0.0)
        limit_w = plant_share_w(before_w, self.step_w * sum(step.kind == "load" for step in self.taken))
        started_s = time.monotonic()
        await self._put(client, limit_w)
        self.taken.append(Step("feed", limit_w, before_w, await wait_under(plant, limit_w, started_s)))

    async def _put(self, client: ApiClient, limit_w: float) -> None:
        body = {"limit_watts": limit_w, "source": SOURCE}
        await asyncio.to_thread(client.put, "/v1/limits/site", body)

    async def _fill(self, plant: PlantLink) -> None:
        """Wait until the row is in use again, so that the next step bites."""
        end_s = time.monotonic() + RESTORE_S
        while time.monotonic() < end_s:
            if await mean_power(plant) >= FULL_RATIO * self.base_w:
                await asyncio.sleep(SETTLE_S)
                return
        found = await mean_power(plant)
        raise ReactionError(f"the site draws {found:.0f} W of {self.base_w:.0f} W after {RESTORE_S:.0f} s")


async def mean_power(plant: PlantLink) -> float:
    """Return true power over the next moments."""
    readings = []
    for _ in range(round(MEAN_S / POLL_S)):
        readings.append(plant.site_power_w())
        await asyncio.sleep(POLL_S)
    return sum(readings) / len(readings)


async def wait_under(plant: PlantLink, limit_w: float, started_s: float) -> float | None:
    """Return seconds from the start until means of true power stay within the limit; None where they never do."""
    window: deque[tuple[float, float]] = deque()
    under_since_s: float | None = None
    while (now_s := time.monotonic()) - started_s < GIVE_UP_S:
        window.append((now_s, plant.site_power_w()))
        while window[0][0] < now_s - MEAN_S:
            window.popleft()
        if sum(power_w for _at_s, power_w in window) / len(window) > limit_w:
            under_since_s = None
        elif under_since_s is None:
            under_since_s = now_s
        elif now_s - under_since_s >= HELD_S:
            return under_since_s - started_s
        await asyncio.sleep(POLL_S)
    return None


def plant_share_w(draw_w: float, gone_w: float) -> float:
    """Return what the surviving feed may carry of a draw, less the load that went with the lost one."""
    return (draw_w - gone_w) / OVERSUBSCRIPTION


def summarise(taken: list[Step], wall_s: float) -> Figures:
    """Return the figures of all steps; a missed step counts as endless in the percentiles' order."""
    steps = [step for step in taken if step.kind != "feed"]
    every = _seconds(steps)
    limits = _seconds([step for step in steps if step.kind == "limit"])
    loads = _seconds([step for step in steps if step.kind == "load"])
    return Figures(
        steps=len(steps),
        p50_s=percentile(every, 0.5),
        p95_s=percentile(every, 0.95),
        max_s=percentile(every, 1.0),
        missed=sum(step.reaction_s is None for step in taken),
        limit_steps=len(limits),
        limit_p95_s=percentile(limits, 0.95),
        load_steps=len(loads),
        load_p95_s=percentile(loads, 0.95),
        feed_loss_s=next((step.reaction_s for step in taken if step.kind == "feed"), None),
        wall_s=round(wall_s, 1),
    )


def percentile(seconds: list[float], ratio: float) -> float | None:
    """Return the smallest of the values that this share of them stays within; None where it is endless."""
    if not seconds:
        return None
    found = sorted(seconds)[max(math.ceil(ratio * len(seconds)) - 1, 0)]
    return round(found, 3) if math.isfinite(found) else None


def _seconds(steps: list[Step]) -> list[float]:
    return [math.inf if step.reaction_s is None else step.reaction_s for step in steps]
