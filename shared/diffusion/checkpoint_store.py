"""A job's checkpoints in the object store: committed by their manifest, verified when read, the last few kept.

checkpoints/{job}/{step}/…safetensors, facts.json, and manifest.json, which is written last
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.catalog import FileEntry
from shared.catalog.digests import content_digest
from shared.diffusion.checkpoints import State
from shared.errors import IntegrityError, NotFoundError
from shared.storage import ObjectStore, integrity_failure, verify_digest
from shared.telemetry import get_logger

FOLDER: Final = "checkpoints"
_MANIFEST: Final = "manifest.json"
_FACTS: Final = "facts.json"
_SUFFIX: Final = ".safetensors"

_LOG = get_logger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A state as it was kept after a step."""

    step: int
    state: State


class CheckpointStore:
    """The checkpoints of one job. One process writes them at a time."""

    def __init__(self, store: ObjectStore, job_id: str, *, scratch: Path, keep: int) -> None:
        self._store = store
        self._prefix = f"{FOLDER}/{job_id}/"
        self._scratch = scratch
        self._keep = keep

    def steps(self) -> list[int]:
        """The steps of which something is there, in order; what has no manifest yet is among them."""
        return sorted(int(name) for name in self._store.list_folders(prefix=self._prefix) if name.isdecimal())

    def write(self, step: int, state: State) -> None:
        """Commit a checkpoint, and remove those that it makes superfluous."""
        # Written before by an attempt that was lost: nobody may read it while its files change.
        self._store.delete(key=self._key(step, _MANIFEST))
        with self._scratch_folder() as folder:
            entries = [self._upload(step, name, path) for name, path in _written(state, folder)]
        manifest = {"step": step, "files": [entry.model_dump(mode="json") for entry in entries]}
        manifest["digest"] = content_digest(manifest)
        self._store.put(key=self._key(step, _MANIFEST), data=json.dumps(manifest).encode())
        self._remove_superfluous(step)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, None without one; a damaged one is passed over, and the log says so."""
        for step in reversed(self.steps()):
            try:
                return self.read(step)
            except NotFoundError:
                # No manifest: its process ended while it was written.
                continue
            except IntegrityError as error:
                _LOG.warning("checkpoint damaged, the one before is taken", step=step, exc_info=error)
        return None

    def read(self, step: int) -> Checkpoint:
        """One checkpoint, every byte verified; NotFoundError where it was never committed, IntegrityError where it is damaged."""
        data = self._store.get(key=self._key(step, _MANIFEST))
        what = f"The checkpoint of step {step}"
        try:
            manifest = json.loads(data)
            verify_digest(what=what, kind="manifest", expected=str(manifest["digest"]), actual=content_digest(manifest))
            entries = [FileEntry.model_validate(entry) for entry in manifest["files"]]
            with self._scratch_folder() as folder:
                return Checkpoint(step, _read([(entry.path, self._download(step, entry, folder)) for entry in entries]))
        except (ValueError, KeyError, TypeError, AttributeError, NotFoundError, SafetensorError) as error:
            raise integrity_failure(what, kind="object") from error

    def remove(self) -> None:
        """Remove all checkpoints."""
        for step in self.steps():
            self._remove(step)

    def _remove_superfluous(self, newest: int) -> None:
        """Keep the newest and those before it; what has a later step is damaged, or the newest would not have been made."""
        steps = self.steps()
        kept = [step for step in steps if step <= newest][-self._keep :]
        for step in steps:
            if step not in kept:
                self._remove(step)

    def _remove(self, step: int) -> None:
        self._store.delete(key=self._key(step, _MANIFEST))
        for found in self._store.list(prefix=self._key(step, "")):
            self._store.delete(key=found.key)

    def _upload(self, step: int, name: str, path: Path) -> FileEntry:
        written = self._store.put_file(key=self._key(step, name), path=path)
        return FileEntry(path=name, size_bytes=written.size_bytes, sha256=str(written.sha256))

    def _download(self, step: int, entry: FileEntry, folder: Path) -> Path:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        got = self._store.get_file(key=self._key(step, entry.path), path=path)
        verify_digest(what=f"The file {entry.path!r} of step {step}", kind="object", expected=entry.sha256, actual=str(got.sha256))
        return path

    def _key(self, step: int, name: str) -> str:
        return f"{self._prefix}{step}/{name}"

    @contextmanager
    def _scratch_folder(self) -> Iterator[Path]:
        """A local folder for as long as files travel."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="checkpoint-") as folder:
            yield Path(folder)


def _written(state: State, folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a state, one after another, so that one at a time takes memory: tensors by the part they belong to, and the facts."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.tensors.items():
        part, _, name = key.rpartition("/")
        parts.setdefault(part, {})[name] = tensor
    for part, tensors in parts.items():
        path = folder / (part + _SUFFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        yield part + _SUFFIX, path
        path.unlink()
    path = folder / _FACTS
    path.write_text(json.dumps(state.facts, allow_nan=False), encoding="utf-8")
    yield _FACTS, path


def _read(files: list[tuple[str, Path]]) -> State:
    """The state of its files."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for name, path in files:
        if name == _FACTS:
            facts = json.loads(path.read_text(encoding="utf-8"))
        else:
            part = name.removesuffix(_SUFFIX)
            tensors |= {f"{part}/{key}": tensor for key, tensor in load_file(path).items()}
    return State(tensors, facts)
