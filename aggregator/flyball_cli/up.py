"""`flyball up`: a whole governed site on this machine, from broker to console, with real programs."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from flyball_cli.fault_script import FaultEvent, parse_event
from flyball_cli.up_options import DEFAULT_API_PORT, DEFAULT_BROKER_PORT, UpOptions, check_options

DESCRIPTION = """\
Start a broker, the aggregator and hosts on this machine, each host a real flyball-governor and flyball-agent. GPUs are
simulated behind the NVML ABI; where NVML finds GPUs of this machine they are one more host, in observe unless
--enforce. Ctrl-C ends all of it. A child that dies is started again after a second.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `up` and its flags."""
    parser = subparsers.add_parser("up", help="start a governed site on this machine", description=DESCRIPTION)
    fleet = parser.add_argument_group("site")
    fleet.add_argument("--hosts", type=int, default=4, help="simulated hosts (default 4)")
    fleet.add_argument("--gpus", type=int, default=8, help="GPUs of each host (default 8)")
    fleet.add_argument("--model", default="h100", help="simulated GPU model (default h100)")
    fleet.add_argument("--limit-w", type=float, help="wall power limit of the site (default 625 W a GPU)")
    fleet.add_argument("--enforce", action="store_true", help="also write caps on this machine's own GPUs")
    fleet.add_argument("--simulated-only", action="store_true", help="leave this machine's own GPUs out")
    load = parser.add_argument_group("load")
    load.add_argument("--trace", type=Path, metavar="FILE", help="request list (CSV) to replay; default: greedy load")
    load.add_argument("--demand", type=float, default=1.2, help="uncapped mean draw of the trace over the limit (1.2)")
    load.add_argument("--seed", type=int, default=1, help="of device spread and noise (default 1)")
    run = parser.add_argument_group("run")
    run.add_argument("--for", dest="for_s", type=float, metavar="SECONDS", help="end after this much governed load")
    run.add_argument("--event", action="append", default=[], metavar="S:ACTION:TARGET", help="scripted fault")
    run.add_argument("--json", action="store_true", help="print one JSON object at the end, nothing else on stdout")
    run.add_argument("--state", type=Path, metavar="DIR", help="keep state here (default: a private temporary folder)")
    run.add_argument("--broker", choices=("auto", "mosquitto", "nats"), default="auto", help="which broker to start")
    run.add_argument("--port", type=int, default=DEFAULT_API_PORT, help="of the API and page (default 8480; 0: any)")
    run.add_argument("--broker-port", type=int, default=DEFAULT_BROKER_PORT, help="of MQTT (default 1883; 0: any)")
    parser.set_defaults(run=run_up)


def options_of(arguments: argparse.Namespace) -> UpOptions:
    """Return the flags as checked options.

    Raises:
        ConfigError: naming the flag and what was expected.
    """
    events: tuple[FaultEvent, ...] = tuple(sorted(parse_event(text) for text in arguments.event))
    return check_options(
        UpOptions(
            hosts=arguments.hosts,
            gpus=arguments.gpus,
            model=arguments.model,
            limit_w=arguments.limit_w,
            is_enforcing_local=arguments.enforce,
            is_simulated_only=arguments.simulated_only,
            trace=arguments.trace,
            demand_ratio=arguments.demand,
            seed=arguments.seed,
            for_s=arguments.for_s,
            events=events,
            is_json=arguments.json,
            state=arguments.state,
            broker=arguments.broker,
            api_port=arguments.port,
            broker_port=arguments.broker_port,
        )
    )


def run_up(arguments: argparse.Namespace) -> int:
    """Run the site until it ends, and return the exit code."""
    from flyball_cli.up_run import run_site  # noqa: PLC0415 - numpy and the twin load only when a site is started

    options = options_of(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    return asyncio.run(run_site(options))
