"""Tables as CSV that spreadsheets show as they are, whatever names of files stand in them."""

from collections.abc import Iterable, Sequence


FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Half of the world's spreadsheets separate cells by semicolons, and would find more of them in an unquoted name.
QUOTED = (",", ";", "\t", "\r", "\n", '"')


def to_csv(columns: Sequence[str], rows: Iterable[dict]) -> str:
    """A table with a line of names above its rows.

    Args:
        columns: names, in their order.
        rows: column → value, for some or all columns. Text that a spreadsheet would take for a formula gets an
            apostrophe before it, as files may have such names on purpose; numbers and truth values are left alone.
    """
    lines = [columns, *([row.get(column) for column in columns] for row in rows)]
    return "".join(f"{','.join(map(_cell, line))}\n" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = str(value)
    if not isinstance(value, (int, float)) and text.startswith(FORMULA_MARKS):
        text = f"'{text}"
    return '"{}"'.format(text.replace('"', '""')) if any(mark in text for mark in QUOTED) else text
