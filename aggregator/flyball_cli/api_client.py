"""Ask a flyball aggregator over HTTP: where it is, with which token, and errors a person can act on."""

import argparse
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flyball_wire.errors import FlyballError

DEFAULT_URL: Final = "http://127.0.0.1:8480"
TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 256 << 20


class ApiError(FlyballError):
    """The aggregator cannot be reached or refused; the message is for a person."""


@dataclass(frozen=True, slots=True)
class ApiClient:
    """One aggregator."""

    url: str
    token: str | None = None
    timeout_s: float = TIMEOUT_S

    def get(self, path: str, **query: str | float | None) -> dict[str, Any]:
        """Return the JSON object at a path such as `/v1/status`.

        Raises:
            ApiError: no answer, or an error; it names the address and what was said.
        """
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urllib.parse.urlencode(given)}" if given else path, None)

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON object to a path and return the answer.

        Raises:
            ApiError: as `get`.
        """
        return self._ask("PUT", path, json.dumps(body).encode())

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask with a JSON object and return the answer.

        Raises:
            ApiError: as `get`.
        """
        return self._ask("POST", path, json.dumps(body).encode())

    def delete(self, path: str) -> dict[str, Any]:
        """Delete what stands at a path and return the answer.

        Raises:
            ApiError: as `get`.
        """
        return self._ask("DELETE", path, None)

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310 (checked in add_url)
                return _object(self.url, answer.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(f"{self.url}{path}: {error.code}: {_said(error.read(65_536))}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ApiError(f"no aggregator at {self.url}: {reason}; is it running? (--url or FLYBALL_URL)") from None


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which aggregator to ask, and how to print."""
    parser.add_argument("--url", help=f"of the aggregator (default FLYBALL_URL, else {DEFAULT_URL})")
    parser.add_argument("--token-file", type=Path, help="file with the token for writing (default FLYBALL_TOKEN_FILE)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def client_of(arguments: argparse.Namespace) -> ApiClient:
    """Return the client that the options and the environment name.

    Raises:
        ApiError: the address is no http(s) URL, or the token cannot be read.
    """
    url = str(arguments.url or os.environ.get("FLYBALL_URL") or DEFAULT_URL).rstrip("/")
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise ApiError(f"{url!r}: expected an http or https address")
    given = os.environ.get("FLYBALL_TOKEN_FILE")
    path: Path | None = arguments.token_file or (Path(given) if given else None)
    return ApiClient(url, None if path is None else _read_token(path))


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ApiError(f"token file {path}: {error.strerror}") from None


def _object(url: str, payload: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(payload)
    except ValueError:
        raise ApiError(f"{url}: the answer is not JSON; is this an aggregator?") from None
    if not isinstance(plain, dict):
        raise ApiError(f"{url}: the answer is no JSON object; is this an aggregator?")
    return plain


def _said(payload: bytes) -> str:
    try:
        plain = json.loads(payload)
    except ValueError:
        return payload[:200].decode(errors="replace").strip()
    return str(plain.get("error", plain)) if isinstance(plain, dict) else str(plain)
