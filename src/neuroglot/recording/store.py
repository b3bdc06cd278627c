"""Finished shards of a recording on disk, so that an interrupted pass loses at most the shard in flight."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroglot.errors import NeuroglotError
from neuroglot.files import save_text
from neuroglot.recording.recording import Recording

__all__ = ["ShardStore"]


class ShardStore:
    """The shards of one recording in a directory.

    Attributes:
        directory: holds `plan.json` (what is recorded, how), `shards/` while it lasts, then `recording.safetensors`.

    Raises:
        NeuroglotError: the directory holds a recording of another model, text or setting.
    """

    def __init__(self, directory: str | Path, settings: Mapping[str, Any], digests: Mapping[str, str]):
        self.directory = Path(directory)
        plan = {"settings": dict(settings), "shards": dict(digests)}
        path = self.directory / "plan.json"
        if path.is_file():
            self._check_same(json.loads(path.read_text(encoding="utf-8")), plan)
        else:
            save_text(path, json.dumps(plan, indent=1))

    def _check_same(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        differing = [
            f"{name} (was {value}, now {new['settings'].get(name)})"
            for name, value in old["settings"].items()
            if new["settings"].get(name) != value and name != "model"
        ]
        if not differing and old["shards"] != new["shards"]:
            differing = ["the text, its languages, or how much of it"]
        if differing:
            raise NeuroglotError(
                f"{self.directory} holds a recording that differs in {'; '.join(differing)}; choose another directory, "
                "or delete this one to record again."
            )

    def finished(self) -> Recording | None:
        """The whole recording, if an earlier run made it with the same settings from the same text."""
        path = self.directory / "recording.safetensors"
        return Recording.load(path) if path.is_file() else None

    def _path(self, name: str) -> Path:
        return self.directory / "shards" / f"{name}.safetensors"

    def get(self, name: str) -> Recording | None:
        """The recording of a shard, if it is finished. A damaged one is recorded again."""
        if not self._path(name).is_file():
            return None
        try:
            return Recording.load(self._path(name))
        except NeuroglotError:
            return None

    def put(self, name: str, recording: Recording) -> None:
        """Keep the recording of a shard."""
        recording.save(self._path(name))

    def finish(self, recording: Recording) -> None:
        """Save the whole, and drop the shards it is the sum of."""
        recording.save(self.directory / "recording.safetensors")
        shutil.rmtree(self.directory / "shards", ignore_errors=True)
