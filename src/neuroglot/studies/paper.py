"""What a paper says: its tables and figures, with its numbers. Read from `papers/NAME.toml`."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING, Any

from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Item", "choose", "paper"]


@dataclass(frozen=True)
class Item:
    """A table or figure of a paper.

    Attributes:
        key: `table-3` or `figure-2`; `--only` takes it, and files are named by it.
        name: as the paper calls it.
        title: what it is about.
        section: where it is.
        says: the paper's finding, in our words.
        test: when what was measured counts as agreeing.
        numbers: the paper's own, as CSV; empty if it gives none that can be copied.
        of: whose numbers they are.
        also: keys of tables and figures that are this one for another model of the paper.
    """

    key: str
    name: str
    title: str
    section: str
    says: str
    test: str
    numbers: str = ""
    of: str = ""
    also: tuple[str, ...] = ()

    @property
    def table(self) -> "pd.DataFrame | None":
        """The paper's numbers, as it prints them."""
        import pandas as pd

        return pd.read_csv(StringIO(self.numbers), keep_default_na=False, dtype=str) if self.numbers else None


def paper(name: str) -> dict[str, Any]:
    """What a paper says: its `title`, `authors`, `venue`, `url`, and `items`."""
    said = tomllib.loads((files("neuroglot.studies") / "papers" / f"{name}.toml").read_text(encoding="utf-8"))
    return {**said, "items": [Item(**{**item, "also": tuple(item.get("also", ()))}) for item in said["items"]]}


def choose(said: Mapping[str, Any], only: Iterable[str] | None) -> list[Item]:
    """The items of these names, in the paper's order; all of them by default.

    Args:
        said: what `paper` gave.
        only: `table-3` or `Table 3`.

    Raises:
        NeuroglotError: the paper has no item of such a name.
    """
    items: list[Item] = said["items"]
    if only is None:
        return items
    wanted = [name.strip().lower().replace(" ", "-") for name in only]
    known = [name for item in items for name in (item.key, *item.also)]
    if unknown := [name for name in wanted if name not in known]:
        raise NeuroglotError(f"The paper has no {unknown[0]}; it has {', '.join(known)}.")
    return [item for item in items if {item.key, *item.also} & set(wanted)]
