"""What a report shows of a comparison with other models: tables and pictures made elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from bayeslat.errors import InputError

__all__ = ["Comparison", "ComparisonPicture", "ComparisonTable"]


@dataclass(frozen=True)
class ComparisonTable:
    """A table of scores.

    Parameters
    ----------
    title, note : str
        What it compares, and how to read it.
    columns : tuple of str
        Headings.
    rows : tuple of tuple
        Cells: text, numbers, or None for what there is not.

    Raises
    ------
    InputError
        A row has more or fewer cells than there are columns.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(
                    f"got a row of {len(row)} cells in the table {self.title!r}, expected"
                    f" {len(self.columns)}, one for each column; correct the row"
                )


@dataclass(frozen=True)
class ComparisonPicture:
    """A picture of scores.

    Parameters
    ----------
    title, alt : str
        Its heading, and what it shows in words.
    png : bytes
        Content of a PNG file.
    """

    title: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class Comparison:
    """The model beside others on the same steps.

    Parameters
    ----------
    tables : tuple of ComparisonTable
        Scores.
    pictures : tuple of ComparisonPicture
        Pictures of them.
    """

    tables: tuple[ComparisonTable, ...]
    pictures: tuple[ComparisonPicture, ...] = ()

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], pictures: tuple[ComparisonPicture, ...] = ()
    ) -> Self:
        """Read ``{"tables": [{"title", "note", "columns", "rows"}, ...]}``, as JSON holds it.

        Raises
        ------
        InputError
            Something is missing.
        """
        try:
            tables = tuple(
                ComparisonTable(
                    str(each["title"]), str(each.get("note", "")), each["columns"], each["rows"]
                )
                for each in values["tables"]
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"got a comparison that cannot be read ({error}), expected 'tables', a list of"
                " tables with title, note, columns and rows; write it again"
            ) from error
        return cls(tables, pictures)
