"""Importing a diffusers folder: looked at from outside in, copied, loaded once, and committed to the catalog.

Every refusal names the file or the entry. What is committed are the source's own bytes, under the names that loaders expect;
files that a model does not need are left behind.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

from services.trainer.import_spec import ImportSpec
from services.trainer.source_opening import folder_of
from services.trainer.weight_files import WeightFiles, read_config
from shared.catalog import Catalog, FileEntry, ModelManifest, open_catalog
from shared.diffusion.model import Model
from shared.diffusion.model_folder import (
    ALLOWED_COMPONENTS,
    IGNORED_COMPONENTS,
    PIPELINE,
    WEIGHTED_COMPONENTS,
    ModelFolderError,
    check_folder,
    read_json,
)
from shared.errors import LetheError, NotFoundError, PayloadTooLargeError
from shared.jobs.context import JobContext
from shared.settings import Settings
from shared.telemetry import lethe_version

MAX_MODEL_BYTES: Final = 16 * 2**30  # Stable Diffusion 2.x in full precision has 5 GiB
COPIED_AT_ONCE: Final = 2**20
TOKENIZER_FILES: Final = (
    *("vocab.json", "merges.txt", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
PROBE_SIDE: Final = 8  # latents of the one forward pass that proves the parts to fit each other
ARCHITECTURE: Final = "stable-diffusion"

Report = Callable[[int, int, str], None]
"""Told how far the import is: bytes, of how many, doing what. May raise to stop."""


@dataclass(frozen=True)
class Plan:
    """What of a folder is copied: sources by target, and what its index and configs say."""

    files: Mapping[str, Path]
    index: Mapping[str, Any]
    size_bytes: int


def run_import(context: JobContext) -> dict[str, Any]:
    """Import what the job's spec names; answers the model's id."""
    spec = ImportSpec.model_validate(context.spec)
    model_id = context.id.replace("job_", "mdl_", 1)
    with open_catalog(context.settings) as catalog:
        try:
            manifest = catalog.get("model", model_id)
        except NotFoundError:
            manifest = import_model(spec, model_id, catalog=catalog, settings=context.settings, report=context.advance)
    return {"model": manifest.id}


def import_model(spec: ImportSpec, model_id: str, *, catalog: Catalog, settings: Settings, report: Report) -> ModelManifest:
    """Import a folder under an id that was given before; nothing is committed unless all of it is sound."""
    source = folder_of(spec.uri, "uri", settings)
    report(0, 0, "looking at the folder")
    plan = plan_import(source)
    scratch = settings.home.resolve() / "model-imports" / model_id
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run of the same job left
    scratch.mkdir(parents=True)
    try:
        origins = _copy(plan, source, scratch, report)
        # The source may have changed since it was looked at; what counts is the copy.
        plan_import(scratch)
        report(plan.size_bytes, plan.size_bytes, "reading the weights")
        require_numbers(scratch)
        model = _loaded(scratch)
        manifest = ModelManifest(
            id=model_id,
            name=spec.name,
            architecture=ARCHITECTURE,
            dataset=None,
            base=None,
            spec=spec.model_dump(mode="json"),
            metrics={
                "parameters": sum(p.numel() for part in (model.unet, model.text_encoder, model.vae) for p in part.parameters()),
                "prediction_type": model.prediction_type,
            },
            seed=0,
            code_version=lethe_version(),
            lineage={
                "imported_from": spec.uri,
                "source_files": [entry.model_dump(mode="json") for entry in origins],
                "image_size": model.image_size,
            },
        )
        report(plan.size_bytes, plan.size_bytes, "storing the model")
        return catalog.commit(manifest, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def plan_import(folder: Path) -> Plan:
    """What would be copied; every rule that needs no weights in memory is checked here."""
    check_folder(folder)
    index = read_json(folder, "model_index.json")
    if index.get("_class_name") != PIPELINE:
        raise ModelFolderError(f"model_index.json: _class_name is {str(index.get('_class_name'))[:80]!r}; {PIPELINE} is read")
    files: dict[str, Path] = {}
    for component in sorted(WEIGHTED_COMPONENTS):
        key = "architectures" if component == "text_encoder" else "_class_name"
        config = read_config(folder, f"{component}/config.json", class_key=key, classes=frozenset({index[component][1]}))
        weights = WeightFiles.find(folder, component)
        weights.check(config)
        files |= {f"{component}/config.json": folder / component / "config.json", **weights.files}
    read_config(folder, "scheduler/scheduler_config.json", classes=frozenset({index["scheduler"][1]}))
    files["scheduler/scheduler_config.json"] = folder / "scheduler" / "scheduler_config.json"
    files |= _tokenizer(folder)
    size_bytes = sum(path.stat().st_size for path in files.values())
    if size_bytes > MAX_MODEL_BYTES:
        raise PayloadTooLargeError(f"The model has {size_bytes} bytes; up to {MAX_MODEL_BYTES} are imported.")
    return Plan(files, _own_index(index), size_bytes)


def require_numbers(folder: Path) -> None:
    """Refuse weights that hold NaN or infinity, one tensor in memory at a time."""
    for path in sorted(folder.glob("*/*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping, though it has keys
                tensor = weights.get_tensor(name)
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    raise ModelFolderError(f"{path.relative_to(folder).as_posix()}: {name} holds values that are no finite numbers")


def _tokenizer(folder: Path) -> dict[str, Path]:
    allowed = frozenset(ALLOWED_COMPONENTS["tokenizer"][1])
    # Its numbers make nothing; a window that is not limited is written as one with thirty digits.
    read_config(folder, "tokenizer/tokenizer_config.json", class_key="tokenizer_class", classes=allowed, sizes=False)
    found = {f"tokenizer/{name}": folder / "tokenizer" / name for name in TOKENIZER_FILES if (folder / "tokenizer" / name).is_file()}
    if not ({"tokenizer/vocab.json", "tokenizer/merges.txt"} <= found.keys() or "tokenizer/tokenizer.json" in found):
        raise ModelFolderError("tokenizer holds neither vocab.json and merges.txt nor tokenizer.json")
    return found


def _own_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """An index of what is copied alone, which diffusers reads."""
    own: dict[str, Any] = {"_class_name": PIPELINE, "requires_safety_checker": False}
    own |= {name: [None, None] for name in sorted(IGNORED_COMPONENTS)}
    return own | {name: index[name] for name in sorted(ALLOWED_COMPONENTS)}


def _copy(plan: Plan, source: Path, target: Path, report: Report) -> list[FileEntry]:
    """Copy the plan's files; answers where each came from, with the digest of what was read."""
    done = 0
    origins: list[FileEntry] = []
    for name, path in plan.files.items():
        (target / name).parent.mkdir(exist_ok=True)
        digest = hashlib.sha256()
        with path.open("rb") as reading, (target / name).open("xb") as writing:
            while chunk := reading.read(COPIED_AT_ONCE):
                digest.update(chunk)
                writing.write(chunk)
                done += len(chunk)
                if done > MAX_MODEL_BYTES:
                    raise PayloadTooLargeError(f"The model grew beyond {MAX_MODEL_BYTES} bytes while it was read.")
                report(min(done, plan.size_bytes), plan.size_bytes, "copying the files")
            origins.append(FileEntry(path=path.relative_to(source).as_posix(), size_bytes=writing.tell(), sha256=digest.hexdigest()))
    (target / "model_index.json").write_text(json.dumps(plan.index, indent=2))
    return origins


def _loaded(folder: Path) -> Model:
    """The model, once it has shown that its parts fit each other: a prompt goes in, finite noise of the latents' shape comes out."""
    try:
        model = Model.load(folder, key="imported")
        channels, _, _ = model.latent_shape
        told = model.encode(["chest X-ray"])
        with torch.no_grad():
            predicted = model.predict_noise(torch.ones(1, channels, PROBE_SIDE, PROBE_SIDE), 1, told.embeddings_BLE)
            decoded = model.to_images(predicted)
    except LetheError:
        raise
    except Exception as error:
        # Whatever a library stumbles over, the folder is at fault, and its text may name files.
        raise ModelFolderError(f"the folder's parts do not make a model that computes ({type(error).__name__})") from error
    if predicted.shape[1:] != (channels, PROBE_SIDE, PROBE_SIDE) or not bool(predicted.isfinite().all() and decoded.isfinite().all()):
        raise ModelFolderError("the model's first prediction is not finite noise in the shape of its latents")
    return model
