from flyball_governor.cap_book import CapBook, book_of, standing_limit
from flyball_governor.device import GpuInfo, Limits, PendingWrite

SETTLE_MS = 1000


def info(index: int, **more: object) -> GpuInfo:
    """Return an H100 that can be written to."""
    known = {"min_limit_mw": 200_000, "max_limit_mw": 700_000, "default_limit_mw": 700_000}
    return GpuInfo(
        index=index,
        uuid=f"GPU-{index}",
        name="H100",
        pci="0000:01:00.0",
        capabilities=frozenset({"set_limit"}),
        **(known | more),  # type: ignore[arg-type]  # GpuInfo's own fields
    )


def standing(*limits: int) -> CapBook:
    """Return a book whose caps were read back long ago."""
    book = book_of([info(gpu) for gpu in range(len(limits))], SETTLE_MS)
    book.take_read_back(0, [Limits(limit, limit) for limit in limits])
    book.take_power(10 * SETTLE_MS, [None] * len(limits))
    return book


def test_what_was_never_read_counts_at_the_maximum() -> None:
    assert book_of([info(0)], SETTLE_MS).exposures(()) == (700_000,)


def test_a_gpu_that_tells_no_limits_is_not_written_and_counts_as_the_largest_board() -> None:
    book = book_of([info(0, min_limit_mw=None, max_limit_mw=None, default_limit_mw=None)], SETTLE_MS)

    assert not book.records[0].is_writable
    assert book.exposures(()) == (1_400_000,)


def test_a_write_left_behind_counts_for_its_gpu_alone() -> None:
    book = standing(300_000, 300_000)

    assert book.exposures((PendingWrite(1, "limit", 650_000, 0.0),)) == (300_000, 650_000)


def test_a_lowered_cap_counts_at_the_old_one_until_power_is_under_it() -> None:
    book = standing(600_000)
    book.take_write(20_000, book.records[0], 300_000, Limits(300_000, 300_000))
    before = book.exposures(())
    book.take_power(20_200, [450_000])
    during = book.exposures(())
    ended = book.take_power(20_300, [299_000])

    assert (before, during, ended, book.exposures(())) == ((600_000,), (600_000,), True, (300_000,))


def test_settling_ends_after_the_settle_time_where_power_is_unknown() -> None:
    book = standing(600_000)
    book.take_write(20_000, book.records[0], 300_000, Limits(300_000, 300_000))

    assert not book.take_power(20_900, [None])
    assert book.take_power(21_000, [None])


def test_the_settle_time_is_learnt_from_what_was_measured() -> None:
    book = standing(600_000)
    book.take_write(20_000, book.records[0], 300_000, Limits(300_000, 300_000))
    book.take_power(20_400, [250_000])

    assert book.settle.limit_ms == 600


def test_our_own_write_is_not_taken_for_another_hands() -> None:
    book = standing(600_000)
    book.take_write(20_000, book.records[0], 300_000, Limits(300_000, 300_000))

    assert book.take_read_back(21_000, [Limits(300_000, 300_000)]) == []


def test_a_cap_from_outside_the_host_is_not_the_limit_that_stands() -> None:
    assert standing_limit(Limits(enforced_mw=400_000, requested_mw=700_000)) == 700_000
    assert standing_limit(Limits(enforced_mw=400_000, requested_mw=None)) == 400_000
    assert standing_limit(Limits(None, None)) is None


def test_another_hands_limit_is_told_once_for_as_long_as_it_stands() -> None:
    book = standing(600_000)
    book.take_write(20_000, book.records[0], 500_000, Limits(500_000, 500_000))
    first = book.take_read_back(21_000, [Limits(250_000, 250_000)])
    second = book.take_read_back(22_000, [Limits(250_000, 250_000)])

    assert [record.gpu for record in first] == [0]
    assert second == []
    assert book.records[0].ceiling_milliwatts == 250_000
    assert book.is_foreign_capped(60_000)
