"""The declared site over HTTP: what it is, its versions, and a new one applied without a stop."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException

from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.site_changes import changes_of
from flyball_aggregator.site_versions import MAX_TOML_CHARACTERS, SiteVersions
from flyball_wire.config import print_config
from flyball_wire.errors import ConfigError


def site_routes(loop: PowerLoop, sites: SiteVersions, guard: Any) -> APIRouter:
    """Return the routes of the declared site; writing passes the guard."""
    router = APIRouter(prefix="/v1", tags=["site"])

    @router.get("/site")
    async def site() -> dict[str, Any]:
        """The site that is led now, as TOML; report keys are public."""
        return {"version": sites.newest(), "toml": print_config(loop.parts.fleet.site)}

    @router.get("/site/versions")
    async def versions() -> dict[str, Any]:
        """Applied sites, newest first."""
        return {"versions": sites.listed()}

    @router.put("/site", dependencies=[guard])
    async def apply(
        toml: Annotated[str, Body(max_length=MAX_TOML_CHARACTERS)],
        operator: Annotated[str, Body(min_length=1, max_length=64)] = "operator",
        is_dry_run: Annotated[bool, Body()] = False,  # noqa: FBT002 - a key of the body
    ) -> dict[str, Any]:
        """Make a site the declared and the led one; a dry run only says what would change."""
        before = loop.parts.fleet.site
        try:
            wanted = sites.read(toml)
            loop.check_site(wanted)
        except (ConfigError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        changes = changes_of(before, wanted)
        if is_dry_run or not changes:
            return {"version": sites.newest(), "changes": [str(change) for change in changes], "is_applied": False}
        try:
            version = sites.keep(wanted, changes, operator, loop.parts.unix_s())
            await loop.take_site(wanted)
        except (ConfigError, ValueError) as error:
            raise HTTPException(409, str(error)) from None
        return {"version": version.number, "changes": list(version.changes), "is_applied": True}

    return router
