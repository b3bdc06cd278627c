"""Finished shards of a recording on disk, so that an interrupted pass loses at most the shards in flight.

Every file is whole or absent and its bytes follow from the plan, so no order of events can leave a wrong one. Locks
only keep two processes from doing the same work twice.
"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError
from neuroglot.storage.atomic import DRAFT, atomic_path, read_json, writing
from neuroglot.storage.digests import shard_name
from neuroglot.storage.names import check_name
from neuroglot.storage.results import load_json, refuse_differing, save_json
from neuroglot.tokens.shards import TextOfLanguage

__all__ = ["ShardStore", "merge", "recorded_text"]

PATIENCE = 5.0  # seconds that a part waits for another to look whether all parts are being recorded


class ShardStore:
    """The shards of one recording in a directory.

    `plan.json` says what is recorded and how, `text/` what was read; `shards/` and the tokens in `text/` last until the
    recording is finished: `recording.safetensors`. While a finished recording is extended by more tokens, `earlier/` is
    what it was, whole: plan, recording, and what was read. It counts as the first shards of every language.

    Args:
        directory: begun by this, unless it was begun before.
        settings: all that decides the recording but the text; by default those it was begun with.
        extend: a finished recording of the same settings, but for fewer tokens, is to be extended.

    Raises:
        NeuroglotError: the directory holds a recording of another model or setting, cannot be written, or (without
            settings) holds none; or it is to be extended and is not finished.
    """

    def __init__(self, directory: str | Path, settings: Mapping[str, Any] | None = None, *, extend: bool = False):
        self.directory = Path(directory)
        path = self.directory / "plan.json"
        old = self._plan(path)
        if old is None and settings is None:
            raise NeuroglotError(f"{self.directory} holds no recording; make one with `neuroglot record`.")
        self.settings: dict[str, Any] = dict(old if settings is None else settings)  # type: ignore[arg-type]
        if old is None:
            save_json(path, {"settings": self.settings})
            return
        if self._earlier.exists():
            with self._changing():
                self._settle()
            old = self._plan(path) or old
        if extend and old.get("tokens", math.inf) < self.settings["tokens"]:
            self.check_same({**old, **{name: self.settings[name] for name in ("tokens", "shard_tokens")}})
            with self._changing():
                old = self._extend()
        self.check_same(old)

    # --- more tokens -------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be the only process that moves `earlier/`."""
        with writing(self.directory), FileLock(self.directory / ".earlier.lock"):
            yield

    def _extend(self) -> dict[str, Any]:
        """Make a finished recording the earlier one of these settings; stopped anywhere, `_settle` undoes it."""
        plan = self.directory / "plan.json"
        old = self._plan(plan)
        assert old is not None
        if old == self.settings:  # another process, of another part
            return old
        if self.finished() is None:
            raise NeuroglotError(
                f"{self.directory} was begun with {old['tokens']:,} tokens and is not finished; finish it with so many "
                "first, and then ask for more."
            )
        with atomic_path(self._earlier) as draft:
            (draft / "text").mkdir(parents=True)
            for name in self._kept_names():
                shutil.copyfile(self.directory / name, draft / name)
        for name in reversed(self._kept_names()):
            if name != plan.name:
                (self.directory / name).unlink()
        save_json(plan, {"settings": self.settings})
        return self.settings

    def _settle(self) -> None:
        """Put an earlier recording back that was moved away for a plan that was never written; drop what is left."""
        earlier = self._plan(self._earlier / "plan.json")
        if earlier is not None and earlier == self._plan(self.directory / "plan.json"):
            for name in self._kept_names(self._earlier):
                if not (self.directory / name).exists():
                    with atomic_path(self.directory / name) as draft:
                        shutil.copyfile(self._earlier / name, draft)
        if self._finished.is_file():
            self._drop_earlier()

    def _kept_names(self, folder: Path | None = None) -> list[str]:
        """The files that are a finished recording; the one that says that it is finished comes last."""
        folder = folder or self.directory
        texts = sorted(f"text/{path.name}" for path in (folder / "text").glob("*.json"))
        return ["plan.json", *texts, self._finished.name]

    def _drop_earlier(self) -> None:
        (self._earlier / "plan.json").unlink(missing_ok=True)  # without it, nothing there counts
        shutil.rmtree(self._earlier, ignore_errors=True)

    @property
    def _earlier(self) -> Path:
        return self.directory / "earlier"

    def earlier(self) -> list[Recording]:
        """The recording that this one extends, if it extends one.

        Raises:
            NeuroglotError: it is damaged.
        """
        if not (self._earlier / "plan.json").is_file():
            return []
        return [Recording.load(self._earlier / self._finished.name)]

    def earlier_text(self, language: str) -> TextOfLanguage | None:
        """What the recording was read from that this one extends, if it extends one.

        Raises:
            NeuroglotError: it is damaged.
        """
        if not (self._earlier / "plan.json").is_file():
            return None
        found = _read_text(self._earlier / "text" / f"{language}.json")
        if found is None:
            raise NeuroglotError(f"{self._earlier} is damaged; delete {self.directory} to record again.")
        return found

    # --- what it holds -----------------------------------------------------------------------------------------------

    @staticmethod
    def _plan(path: Path) -> dict[str, Any] | None:
        try:
            settings = dict(load_json(path)["settings"])
            for tag in settings.get("languages", ()):
                check_name(tag)  # it becomes part of names of files
            return settings
        except (FileNotFoundError, NotADirectoryError):
            return None  # if a file is in the way, writing will say so
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise NeuroglotError(f"{path} is damaged; delete {path.parent} to record again.") from error

    def check_same(self, old: Mapping[str, Any]) -> None:
        """Refuse settings that differ, naming them."""
        left = {"model"}  # its fingerprint says which it is
        if "dtype" not in old or "dtype" not in self.settings:
            left.add("dtype")  # earlier plans do not say it
        before, now = (
            {name: value for name, value in settings.items() if name not in left} for settings in (old, self.settings)
        )
        remedy = "choose another directory, or delete this one to record again"
        refuse_differing(f"{self.directory} holds a recording made", before, now, remedy)

    @contextmanager
    def lock(self, part: tuple[int, int] = (1, 1)) -> Iterator[None]:
        """Be the only process that records this part; (1, 1), which is all of it, excludes every other.

        What an earlier process left half-written or damaged is removed.

        Raises:
            NeuroglotError: another process is at it, or the directory cannot be written.
        """
        all_parts = FileLock(self.directory / ".lock")
        with ExitStack() as stack:
            try:
                with writing(self.directory):
                    if part == (1, 1):
                        stack.enter_context(all_parts.acquire(timeout=0))
                        for path in self.directory.glob(".lock-*"):
                            with FileLock(path).acquire(timeout=0):
                                pass
                    else:
                        one_part = FileLock(self.directory / f".lock-{part[0]}-of-{part[1]}")
                        stack.enter_context(one_part.acquire(timeout=0))
                        with all_parts.acquire(timeout=PATIENCE):
                            pass
            except Timeout as error:
                raise NeuroglotError(
                    f"{self.directory} is being recorded by another process; wait until it is done, or choose another "
                    "directory."
                ) from error
            with writing(self.directory):
                self._clean(drafts=part == (1, 1))
            yield

    def _clean(self, drafts: bool) -> None:
        for path in self._shards.glob("*.safetensors"):
            try:
                Recording.load(path)
            except NeuroglotError:
                path.unlink()  # it is recorded again
        if drafts:
            for folder in (self.directory, self._shards, self._text):
                for path in folder.glob(f".*{DRAFT}"):
                    path.unlink()
        if self._finished.is_file():
            self._drop()

    def finished(self) -> Recording | None:
        """The recording, if it is finished."""
        if not self._finished.is_file():
            return None
        try:
            recording = Recording.load(self._finished)
        except NeuroglotError as error:
            raise NeuroglotError(f"{self._finished} is damaged; delete it, and record again.") from error
        if self._shards.exists() or self._earlier.exists():  # whoever finished it was stopped before they were dropped
            self._drop()
        return recording

    @property
    def keeps_text(self) -> bool:
        """Whether the tokens stay, since examples point into them."""
        return bool(self.settings.get("examples"))

    @property
    def _finished(self) -> Path:
        return self.directory / "recording.safetensors"

    @property
    def _shards(self) -> Path:
        return self.directory / "shards"

    @property
    def _text(self) -> Path:
        return self.directory / "text"

    def path(self, name: str) -> Path:
        """Where the recording of a shard is."""
        return self._shards / f"{name}.safetensors"

    def has(self, name: str) -> bool:
        """Whether a shard is finished."""
        return self.path(name).is_file()

    def put(self, name: str, recording: Recording) -> None:
        """Keep the recording of a shard; its tokens are not needed any more."""
        recording.save(self.path(name))
        if not self.keeps_text:
            with suppress(OSError):
                (self._text / f"{name}.i32").unlink(missing_ok=True)

    def get(self, name: str) -> Recording:
        """The recording of a shard.

        Raises:
            NeuroglotError: it is not there, or damaged.
        """
        return Recording.load(self.path(name))

    def finish(self, recording: Recording) -> None:
        """Save the recording, and drop the shards it is the sum of."""
        recording.save(self._finished)
        self._drop()

    def _drop(self) -> None:
        self._drop_earlier()
        shutil.rmtree(self._shards, ignore_errors=True)
        for path in [] if self.keeps_text else self._text.glob("*.i32"):
            with suppress(OSError):
                path.unlink()

    def text_path(self, name: str) -> Path:
        """Where a shard's tokens are."""
        return self._text / f"{name}.i32"

    def text(self, language: str) -> TextOfLanguage | None:
        """What was read of a language, if that was finished."""
        return _read_text(self._text / f"{language}.json")


def recorded_text(directory: Path) -> dict[str, TextOfLanguage]:
    """What a finished recording was read from, by language, or the one that is being extended; nothing is changed."""
    for folder in (directory, directory / "earlier"):
        if (folder / "plan.json").is_file() and (folder / "recording.safetensors").is_file():
            found = {path.stem: _read_text(path) for path in (folder / "text").glob("*.json")}
            return {tag: text for tag, text in found.items() if text is not None}
    return {}


def _read_text(path: Path) -> TextOfLanguage | None:
    try:
        return TextOfLanguage.model_validate(read_json(path))
    except (NeuroglotError, ValidationError):
        return None


def merge(directories: Sequence[str | Path], into: str | Path) -> Recording:
    """Add up shards that were recorded as parts, in one directory or several, in the order of the shards.

    The result is that of one process to the byte. It is saved in `into`, whose own shards are then dropped; other
    directories are left as they are.

    Raises:
        NeuroglotError: the directories differ in a setting or in the text, or a shard is missing or damaged; no shard
            is touched.
    """
    stores = [ShardStore(directory) for directory in directories]
    for store in stores[1:]:
        store.check_same(stores[0].settings)
    target = ShardStore(into, stores[0].settings)
    done = target.finished()
    if done is not None:
        return done
    with target.lock():
        texts = {tag: _text(stores, tag) for tag in stores[0].settings["languages"]}
        extended = next((store for store in (target, *stores) if store.earlier_text(next(iter(texts)))), target)
        found = _found(stores, target, texts, extended)
        recording = Recording.merge(chain(extended.earlier(), map(Recording.load, found)))
        for tag, text in texts.items():
            save_json(target.directory / "text" / f"{tag}.json", text.model_dump())
        if target.keeps_text:
            for path in found:
                _copy_text(path.stem, stores, target)
        target.finish(recording)
    return recording


def _found(
    stores: Sequence[ShardStore], target: ShardStore, texts: Mapping[str, TextOfLanguage], extended: ShardStore
) -> list[Path]:
    """Where each shard is that the earlier recording of a store lacks, in the order in which they are added."""
    found: list[Path] = []
    missing: list[str] = []
    for tag, text in texts.items():
        earlier = extended.earlier_text(tag)
        for index, digest in enumerate(text.shards):
            if earlier is not None and index < len(earlier.shards):
                continue
            name = shard_name(tag, index, digest)
            paths = [store.path(name) for store in (target, *stores) if store.has(name)]
            found += paths[:1]
            missing += [] if paths else [name.rsplit("-", 1)[0]]
    if missing:
        raise NeuroglotError(
            f"{', '.join(str(store.directory) for store in stores)}: {len(missing)} of "
            f"{len(missing) + len(found)} shards are missing ({', '.join(missing[:3])}"
            f"{' …' if len(missing) > 3 else ''}); record the parts that they belong to, then merge again."
        )
    return found


def _copy_text(name: str, stores: Sequence[ShardStore], target: ShardStore) -> None:
    have = [path for store in stores if (path := store.text_path(name)).is_file()]
    if have and not target.text_path(name).is_file():
        with atomic_path(target.text_path(name)) as draft:
            shutil.copyfile(have[0], draft)


def _text(stores: Sequence[ShardStore], language: str) -> TextOfLanguage:
    found = [(store, text) for store in stores if (text := store.text(language)) is not None]
    if not found:
        raise NeuroglotError(
            f"{stores[0].directory} has not been read to the end in {language}; record its parts, then merge again."
        )
    for store, text in found:
        if text != found[0][1]:
            raise NeuroglotError(
                f"{store.directory} and {found[0][0].directory} were recorded from different text in {language}; "
                "record the parts from one corpus."
            )
    return found[0][1]
