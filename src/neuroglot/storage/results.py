"""Results kept as JSON, found again by a digest of what they depend on, and settings that must not differ."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from neuroglot.errors import NeuroglotError, first_line
from neuroglot.storage.atomic import read_json, save_text
from neuroglot.storage.sealed import note_unsealed, sealed_json, unsealed_json

__all__ = ["JsonResult", "ResultCache", "digest_of_settings", "load_json", "readable", "refuse_differing", "save_json"]

LONGEST = 120  # characters of a value that a refusal shows
SHOWN = 48  # characters of a longer one, from just before the first that differs


def save_json(path: str | Path, value: Mapping[str, Any]) -> Path:
    """Write a value as JSON, whole or not at all; its last entry is a digest of all of it."""
    return save_text(path, sealed_json(value))


def load_json(path: str | Path) -> dict[str, Any]:
    """Read what `save_json` wrote.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is no JSON object, or its digest does not match.
    """
    value, sealed = unsealed_json(Path(path).read_bytes())
    if not isinstance(value, dict):
        raise ValueError("it holds no names")
    if not sealed:
        note_unsealed(Path(path))
    return value


@contextmanager
def readable(path: str | Path, remedy: str) -> Iterator[None]:
    """Say in one sentence that `path` cannot be read as what it should be, if it cannot.

    Raises:
        NeuroglotError: it is missing or damaged; the sentence ends with `remedy`.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NeuroglotError(f"{path} is missing or damaged ({first_line(error)}); {remedy}.") from error


class JsonResult:
    """A dataclass of plain values that is kept as one JSON file."""

    remedy: ClassVar[str]
    """What to do if the file is damaged."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Attributes by the names that earlier files have for them."""

    def save(self, path: str | Path) -> Path:
        """Write it as JSON."""
        return save_json(path, vars(self))

    def check_whole(self) -> None:
        """Refuse values of the right types that make no sense together.

        Raises:
            ValueError: what is wrong.
        """

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            NeuroglotError: the file is missing or damaged.
        """
        from pydantic import TypeAdapter, ValidationError

        with readable(path, cls.remedy):
            kept = {cls.renamed.get(name, name): value for name, value in load_json(path).items()}
            made = cls(**kept)
            try:
                TypeAdapter(cls).validate_python(vars(made))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
            made.check_whole()
            return made


# --- found by a digest ------------------------------------------------------------------------------------------------


def digest_of_settings(settings: Any) -> str:
    """A digest of plain values, as names of files hold it: 32 hexadecimal digits. The order of keys does not count."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


class ResultCache:
    """Results by the digest of all that they depend on: the same question is answered once.

    Args:
        directory: keeps them, one `DIGEST.json` each; without it they are kept in memory only.
    """

    def __init__(self, directory: str | Path | None = None):
        self.directory = None if directory is None else Path(directory)
        self._known: dict[str, dict[str, Any]] = {}

    def find(self, digest: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """The result of a digest; None if it is missing or damaged, and is to be made again.

        Args:
            digest: of what it depends on.
            holds: whether what was read from a file holds all that a result must.

        Raises:
            NeuroglotError: its file is there and cannot be opened.
        """
        if digest not in self._known and self.directory is not None:
            kept = read_json(self.directory / f"{digest}.json")
            if kept is not None and holds(kept):
                self._known[digest] = kept
        return self._known.get(digest)

    def keep(self, digest: str, result: dict[str, Any]) -> dict[str, Any]:
        """Keep a result, and give it back."""
        if self.directory is not None:
            save_json(self.directory / f"{digest}.json", result)
        self._known[digest] = result
        return result


# --- settings that differ ---------------------------------------------------------------------------------------------


def refuse_differing(what: str, before: Mapping[str, Any], now: Mapping[str, Any], remedy: str) -> None:
    """Refuse to go on with what was made with other settings, naming each that differs with its old and new value.

    Args:
        what: the beginning of the sentence, such as `runs/first is a run`.
        before: name → value; of sections within sections each value is named: `record.tokens`.
        now: the same, as asked for now.
        remedy: what to do, the end of the sentence.

    Raises:
        NeuroglotError: a setting differs, or only one of the two has it.
    """
    old, new = _flat(before), _flat(now)
    differing = [name for name in {**old, **new} if name not in old or name not in new or old[name] != new[name]]
    # a section that one of the two lacks (None) is named by what the other has in it
    differing = [name for name in differing if not any(other.startswith(f"{name}.") for other in differing)]
    if differing:
        said = ", ".join(f"{name} ({_change(old, new, name)})" for name in differing)
        raise NeuroglotError(f"{what} with other settings: {said}; {remedy}.")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings without sections: `{"record": {"tokens": 5}}` is `{"record.tokens": 5}`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value  # JSON knows no tuples
    return flat


def _change(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> str:
    one, two = (str(values[name]) if name in values else "not set" for values in (old, new))
    return f"was {_short(one, two)}, now {_short(two, one)}"


def _short(text: str, other: str) -> str:
    """The text; of a digest its beginning, of what is long the part from where it differs from the other."""
    if re.fullmatch("[0-9a-f]{16,}", text) and text[:8] != other[:8]:
        return f"{text[:8]}…"
    if len(text) <= LONGEST:
        return text
    same = next((i for i, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), len(other))
    first = max(0, min(same - 12, len(text) - SHOWN))
    return f"{'…' if first else ''}{text[first : first + SHOWN]}{'…' if first + SHOWN < len(text) else ''}"
