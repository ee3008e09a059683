"""Models of other shapes, of which there are configs and nothing else: what is refused before a job needs no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.catalog import Catalog, ModelManifest, new_id


def commit_base(catalog: Catalog, like: ModelManifest, folder: Path, *, unet: dict[str, Any] | None = None, **vae: Any) -> str:
    """The id of a model whose configs are those of another but for some fields."""
    for part, changes in (("unet", unet or {}), ("vae", vae)):
        config = json.loads(catalog.read_file(like, f"{part}/config.json")) | changes
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    manifest = like.model_copy(update={"id": new_id("model"), "files": [], "digest": ""})
    return catalog.commit(ModelManifest.model_validate(manifest.model_dump()), folder).id
