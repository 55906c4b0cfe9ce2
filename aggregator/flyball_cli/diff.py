"""`flyball diff SITE.toml`: what the running site differs in from a declared one; exit code 1 where it does."""

import argparse
import json
import tempfile
from pathlib import Path

from flyball_aggregator.site import Site, load_site
from flyball_aggregator.site_changes import changes_of
from flyball_cli.api_client import add_url, client_of


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `diff`."""
    parser = subparsers.add_parser("diff", help="what the running site differs in from a SITE.toml")
    parser.add_argument("site", type=Path, metavar="SITE.toml")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what `apply` would change; 1 where there is anything.

    Raises:
        ConfigError: the file is no valid site.
        ApiError: no aggregator answers.
    """
    wanted = load_site(arguments.site)
    answer = client_of(arguments).get("/v1/site")
    lines = [str(change) for change in changes_of(site_of_text(answer["toml"]), wanted)]
    if arguments.json:
        print(json.dumps({"version": answer["version"], "changes": lines}, indent=2))
    else:
        print("\n".join(lines) or "nothing differs from the running site")
    return 1 if lines else 0


def site_of_text(toml: str) -> Site:
    """Return the checked site of a text.

    Raises:
        ConfigError: naming what is wrong in it.
    """
    with tempfile.TemporaryDirectory(prefix="flyball-diff-") as folder:
        path = Path(folder) / "running.toml"
        path.write_text(toml, encoding="utf-8")
        return load_site(path)
