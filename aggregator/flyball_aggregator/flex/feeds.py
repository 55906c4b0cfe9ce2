"""Feeds as the grid knows them: a tag, the row of the power network it stands for, and what it can carry.

Elements that carry one `feed_tag` are one feed (an A/B pair that serves one load is one). Where several carry it, the
power network has a row `target/TAG` over their sum. A site that tags nothing has one feed for each row at its top.
"""

from dataclasses import dataclass

import numpy as np

from flyball_aggregator.power.rows import Row, RowMatrix
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.site import Site


@dataclass(frozen=True, slots=True)
class Feed:
    """One feed.

    Attributes:
        row: Name of its row. index: Of that row. meters: Elements whose meters add up to it; empty without.
        minimum_w: At the wall with every GPU at its least cap. maximum_w, default_w: The row's rating.
    """

    tag: str
    row: str
    index: int
    meters: tuple[str, ...]
    minimum_w: float
    maximum_w: float

    @property
    def default_w(self) -> float:
        """The level without any target."""
        return self.maximum_w


@dataclass(frozen=True, slots=True)
class FeedReading:
    """One second of a feed, wall watts.

    Attributes:
        calculated_w: What its hosts may draw at most, by their commitments, and its other load.
        drawn_w: Metered; modelled where the feed has no meter; None when neither is known.
    """

    calculated_w: float
    drawn_w: float | None
    is_metered: bool
    cooling_w: float | None = None


def build_feeds(site: Site, rows: tuple[Row, ...], roots: tuple[int, ...], matrix: RowMatrix) -> dict[str, Feed]:
    """Return the feeds of a site by tag."""
    tags: dict[str, list[str]] = {}
    for element in site.elements:
        if element.feed_tag is not None:
            tags.setdefault(element.feed_tag, []).append(element.name)
    if not tags:
        tags = {rows[index].name: [rows[index].name] for index in roots}
    index_of = {row.name: index for index, row in enumerate(rows)}
    least_w = matrix.load_w(np.array([host.minimum_w for host in site.hosts]))
    has_meter = {element.name for element in site.elements if element.has_meter}
    feeds = {}
    for tag, elements in tags.items():
        name = f"target/{tag}" if f"target/{tag}" in index_of else elements[0]
        index = index_of.get(name)
        if index is not None:
            meters = tuple(elements) if has_meter.issuperset(elements) else ()
            minimum_w = float(least_w[index]) + rows[index].unmanaged_w
            feeds[tag] = Feed(tag, name, index, meters, minimum_w, rows[index].limit_w)
    return feeds


def read_feed(feed: Feed, snapshot: PowerSnapshot, metered_w: float | None) -> FeedReading:
    """Return one second of a feed; `metered_w` is the sum of its meters, None when one is unknown or it has none."""
    unmanaged_w = float(snapshot.columns.unmanaged_w[feed.index])
    calculated_w = float(snapshot.committed_w[feed.index]) + unmanaged_w
    if feed.meters:
        return FeedReading(calculated_w, metered_w, is_metered=True)
    modelled_w = float(snapshot.managed_w[feed.index]) + unmanaged_w
    return FeedReading(calculated_w, modelled_w if np.isfinite(modelled_w) else None, is_metered=False)
