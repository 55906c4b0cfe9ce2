"""Print plain tables and watts at the terminal."""

from collections.abc import Sequence


def render_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table, the first column to the left, the others to the right unless their head ends in '<'."""
    shown = [head.removesuffix("<") for head in heads]
    widths = [max(len(row[column]) for row in (shown, *lines)) for column in range(len(heads))]
    is_left = [column == 0 or head.endswith("<") for column, head in enumerate(heads)]
    return "\n".join(_line(row, widths, is_left) for row in (shown, *lines))


def _line(row: Sequence[str], widths: Sequence[int], is_left: Sequence[bool]) -> str:
    cells = [
        cell.ljust(width) if left else cell.rjust(width) for cell, width, left in zip(row, widths, is_left, strict=True)
    ]
    return "  ".join(cells).rstrip()


def show_watts(value: float | None) -> str:
    """Return watts for a person; unknown is a dash."""
    if value is None:
        return "-"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3f} MW"
    return f"{value / 1e3:.2f} kW" if abs(value) >= 1e4 else f"{value:.0f} W"


def show_ratio(value: float | None) -> str:
    """Return a ratio as percent; unknown is a dash."""
    return "-" if value is None else f"{100 * value:.0f} %"
