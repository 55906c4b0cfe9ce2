"""`flyball status|hosts|rows|explain` against the real API of a site in virtual time."""

import argparse
import asyncio
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.flyball_aggregator.small_site import SmallSite, build_small_site
from tests.flyball_aggregator.test_api import parts_of

from flyball_aggregator.api import build_api
from flyball_aggregator.config import ApiConfig
from flyball_aggregator.server import bind_api, serve_api
from flyball_cli import bench_budget, explain, hosts, rows, status
from flyball_cli.api_client import ApiError


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A served site after five seconds."""
    small = build_small_site(tmp_path_factory.mktemp("site"))
    asyncio.run(small.seconds(5))
    listener = bind_api(ApiConfig(port=0))
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    serving = threading.Thread(target=serve, args=(small, loop, listener, stop))
    serving.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    loop.call_soon_threadsafe(stop.set)
    serving.join()
    loop.close()
    small.stop()


def serve(small: SmallSite, loop: asyncio.AbstractEventLoop, listener: socket.socket, stop: asyncio.Event) -> None:
    loop.run_until_complete(serve_api(build_api(parts_of(small)), listener, stop))


def ask(*words: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for command in (status, hosts, rows, explain):
        command.add_parser(commands)
    arguments = parser.parse_args(words)
    code: int = arguments.run(arguments)
    return code


def test_status_in_words_and_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("status", "--url", url) == 0
    words = capsys.readouterr().out
    assert "feed is full" in words
    assert "19.40 kW" in words

    ask("status", "--url", url, "--json")
    assert json.loads(capsys.readouterr().out)["limit_watts"] == 20_000.0


def test_url_comes_from_the_environment(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYBALL_URL", url)

    assert ask("rows") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("feed")


def test_hosts_as_a_table_and_one_with_its_gpus(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    ask("hosts", "--url", url)
    assert len(capsys.readouterr().out.splitlines()) == 5

    ask("hosts", "host-2", "--url", url)
    assert len(capsys.readouterr().out.splitlines()) == 10


@pytest.mark.parametrize(("what", "name"), [("host", "host-0"), ("gpu", "host-0/3"), ("row", "feed")])
def test_explanations_name_the_holders(url: str, capsys: pytest.CaptureFixture[str], what: str, name: str) -> None:
    assert ask("explain", what, name, "--url", url) == 0

    assert "who has the watts" in capsys.readouterr().out


def test_errors_say_what_to_do(url: str) -> None:
    with pytest.raises(ApiError, match="is it running"):
        ask("status", "--url", "http://127.0.0.1:1")
    with pytest.raises(ApiError, match="expected an http"):
        ask("status", "--url", "file:///etc/passwd")
    with pytest.raises(ApiError, match="lists host-0"):
        ask("hosts", "nobody", "--url", url)
    with pytest.raises(ApiError, match="expected HOST/INDEX"):
        ask("explain", "gpu", "host-0", "--url", url)


def test_bench_certifies_every_solve(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench_budget.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["budget", "--gpus", "1152", "--runs", "3", "--json"])

    assert arguments.run(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["gpus"], result["groups"], result["certificate_failures"]) == (1152, 20, 0)
