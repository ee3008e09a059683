"""Importing diffusers folders: what is committed, and every refusal by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from services.trainer import model_import
from services.trainer.import_spec import ImportSpec
from services.trainer.model_import import import_model, run_import
from shared.catalog import new_id, open_catalog
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.errors import ForbiddenError, InvalidRequestError, JobCancelledError, NotFoundError, PayloadTooLargeError
from shared.settings import Settings
from tests.denoisers import tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.catalog import Catalog, ModelManifest
    from shared.jobs.context import JobContext

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "roots").mkdir()
    return Settings(home=tmp_path / "home", import_roots=str(tmp_path / "roots"))


@pytest.fixture
def folder(stable_diffusion_folder: Path, settings: Settings) -> Path:
    """A folder in Stable Diffusion's shape within the import roots, to change; once of 1.x and once of 2.x."""
    return shutil.copytree(stable_diffusion_folder, settings.import_folders[0] / "sd")


@pytest.fixture(scope="session")
def lethes_own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model on disk."""
    folder = tmp_path_factory.mktemp("own")
    tiny_model().save(folder)
    return folder


@pytest.fixture
def own(lethes_own: Path, settings: Settings) -> Path:
    """The tiny model within the import roots, to change."""
    return shutil.copytree(lethes_own, settings.import_folders[0] / "own")


def ignore(_step: int, _total: int, _message: str) -> None:
    """Nobody watches."""


def imported(folder: Path, settings: Settings, model_id: str | None = None, report: Any = ignore) -> tuple[ModelManifest, Path]:
    """The manifest and a local copy of what an import committed."""
    with open_catalog(settings) as catalog:
        spec = ImportSpec(name="sd", uri=folder.as_uri())
        manifest = import_model(spec, model_id or new_id("model"), catalog=catalog, settings=settings, report=report)
        return manifest, catalog.fetch(manifest)


def refused(folder: Path, settings: Settings, message: str) -> None:
    """An import that names what is wrong and leaves nothing behind."""
    model_id = new_id("model")
    with pytest.raises(InvalidRequestError, match=message):
        imported(folder, settings, model_id)
    with open_catalog(settings) as catalog, pytest.raises(NotFoundError):
        catalog.get("model", model_id)
    assert not list((settings.home.resolve() / "model-imports").glob("*"))


# ---------------------------------------------------------------- what is committed


def test_folder_becomes_a_model_with_the_sources_bytes_and_digests(folder: Path, settings: Settings) -> None:
    (folder / "README.md").write_text("a page")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"never read")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest, copy = imported(folder, settings)
    source = Model.load(folder, key="source")
    held = Model.load(copy, key="held")
    assert (manifest.architecture, manifest.dataset, manifest.base) == ("stable-diffusion", None, None)
    assert manifest.metrics["prediction_type"] == source.prediction_type == held.prediction_type
    assert manifest.lineage["imported_from"] == folder.as_uri()
    assert manifest.lineage["image_size"] == 32
    told = {entry["path"]: entry["sha256"] for entry in manifest.lineage["source_files"]}  # type: ignore[index, union-attr, call-overload]
    assert told[UNET] == hashlib.sha256((folder / UNET).read_bytes()).hexdigest()
    assert {entry.path: entry.sha256 for entry in manifest.files if entry.path != "model_index.json"} == told
    assert "README.md" not in told
    assert not any("safety_checker" in path for path in told)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not list((settings.home.resolve() / "model-imports").glob("*"))
    images = generate_images(held, ["chest X-ray"], images_per_prompt=1, seed=0, steps=2, guidance=ClassifierFreeGuidance(2.0))
    assert images.shape == (1, 32, 32)
    StableDiffusionPipeline.from_pretrained(copy, local_files_only=True, use_safetensors=True)


def test_lethes_own_folder_comes_back(own: Path, settings: Settings) -> None:
    manifest, copy = imported(own, settings)
    assert manifest.metrics["parameters"] == sum(
        p.numel() for part in (tiny_model().unet, tiny_model().text_encoder, tiny_model().vae) for p in part.parameters()
    )
    assert all(torch.equal(a, b) for a, b in zip(Model.load(copy, key="x").unet.parameters(), tiny_model().unet.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_computed_with_in_full(own: Path, settings: Settings, dtype: torch.dtype) -> None:
    halves = {name: value.to(dtype) for name, value in load_file(own / UNET).items()}
    (own / UNET).unlink()
    save_file(halves, own / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    manifest, copy = imported(own, settings)
    assert load_file(copy / UNET)["conv_in.weight"].dtype == dtype
    assert Model.load(copy, key="x").unet.dtype == torch.float32
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in {entry["path"] for entry in manifest.lineage["source_files"]}  # type: ignore[index, union-attr, call-overload]


def test_configs_of_older_libraries_are_read(own: Path, settings: Settings) -> None:
    """Keys and values as folders of 2022 have them."""
    write(own, "tokenizer/tokenizer_config.json", model_max_length=10**30, bos_token={"__type": "AddedToken", "content": "<|startoftext|>"})
    write(
        own, "text_encoder/config.json", torch_dtype="float16", transformers_version="4.21.0", _name_or_path="openai/clip-vit-large-patch14"
    )
    write(own, "unet/config.json", _diffusers_version="0.6.0", _name_or_path="somewhere", center_input_sample=False)
    write(own, "scheduler/scheduler_config.json", _diffusers_version="0.6.0", skip_prk_steps=True)
    _, copy = imported(own, settings)
    assert Model.load(copy, key="x").token_limit == 64


def test_links_within_the_folder_are_followed(own: Path, settings: Settings) -> None:
    (own / UNET).rename(own / "blob")
    (own / UNET).symlink_to("../blob")
    manifest, _ = imported(own, settings)
    assert UNET in {entry.path for entry in manifest.files}


def test_job_imports_once(context: Callable[..., JobContext], own: Path) -> None:
    job = context("import", new_id("job"), {"name": "sd", "uri": own.as_uri()})
    job.settings = job.settings.model_copy(update={"import_roots": str(own.parent)})
    first = run_import(job)
    assert first == {"model": job.id.replace("job_", "mdl_")}
    shutil.rmtree(own)
    assert run_import(job) == first


def test_progress_counts_bytes_and_may_stop_it(own: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []
    imported(own, settings, report=lambda *facts: seen.append(facts))
    total = seen[-1][0]
    assert seen[0] == (0, 0, "looking at the folder")
    assert seen[-1] == (total, total, "storing the model")
    assert total == sum(path.stat().st_size for path in own.rglob("*") if path.is_file() and path.name != "model_index.json")
    monkeypatch.setattr(model_import, "COPIED_AT_ONCE", 4096)

    def stop(step: int, _total: int, _message: str) -> None:
        if step > 10_000:
            raise JobCancelledError

    with pytest.raises(JobCancelledError):
        imported(own, settings, report=stop)
    assert not list((settings.home.resolve() / "model-imports").glob("*"))


# ---------------------------------------------------------------- where from


@pytest.mark.parametrize("uri", ["file:///etc", "file:///", "file://{root}/../outside"])
def test_folder_outside_the_roots_is_forbidden(settings: Settings, catalog_of: Callable[[Settings], Catalog], uri: str) -> None:
    spec = ImportSpec(name="a", uri=uri.format(root=settings.import_folders[0]))
    with pytest.raises(ForbiddenError, match="uri lies outside"):
        import_model(spec, new_id("model"), catalog=catalog_of(settings), settings=settings, report=ignore)


def test_root_that_is_a_link_to_elsewhere_is_forbidden(
    settings: Settings, lethes_own: Path, catalog_of: Callable[[Settings], Catalog]
) -> None:
    (settings.import_folders[0] / "link").symlink_to(lethes_own)
    spec = ImportSpec(name="a", uri=(settings.import_folders[0] / "link").as_uri())
    with pytest.raises(ForbiddenError):
        import_model(spec, new_id("model"), catalog=catalog_of(settings), settings=settings, report=ignore)


@pytest.fixture
def catalog_of() -> Any:
    from shared.catalog import Catalog
    from shared.storage import DirectoryStore

    return lambda settings: Catalog(DirectoryStore(settings.home / "store"), settings.home / "cache")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["unet/modeling.py", "text_encoder/pytorch_model.bin", "sd.ckpt", "vae/model.pt", "tokenizer/x.pkl"])
def test_code_and_pickles_are_refused_by_name(own: Path, settings: Settings, name: str) -> None:
    (own / name).write_bytes(b"\x80\x04.")
    refused(own, settings, f"{name}: only safetensors weights are loaded, and no code")


def test_pickle_under_the_name_of_safetensors_is_refused(own: Path, settings: Settings) -> None:
    (own / UNET).write_bytes(b"\x80\x04\x95" + bytes(100))
    refused(own, settings, f"{UNET}: not a safetensors file")


def test_link_out_of_the_folder_is_refused(own: Path, settings: Settings, tmp_path: Path) -> None:
    (own / UNET).rename(tmp_path / "blob")
    (own / UNET).symlink_to(tmp_path / "blob")
    refused(own, settings, f"{UNET} is a link that leaves the folder")


def write(own: Path, name: str, **changes: Any) -> None:
    """Change a JSON file; None removes an entry."""
    content = json.loads((own / name).read_text()) | changes
    (own / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "vae = .* is not on the allow-list"),
        ("model_index.json", {"unet": None}, "unet is missing"),
        ("model_index.json", {"controlnet": ["diffusers", "ControlNetModel"]}, "controlnet = .* is not on the allow-list"),
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionPipeline is read"),
        ("model_index.json", {"_class_name": "evil"}, "StableDiffusionPipeline is read"),
        ("model_index.json", {"scheduler": ["diffusers", "PNDMScheduler"]}, "_class_name is 'DDIMScheduler', model_index.json says PNDM"),
        ("unet/config.json", {"_class_name": "AutoencoderKL"}, "unet/config.json: _class_name is 'AutoencoderKL'"),
        ("text_encoder/config.json", {"architectures": ["EvilModel"]}, r"text_encoder/config.json: architectures is .*EvilModel"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map is not allowed"),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "EvilTokenizer"}, "tokenizer_class is 'EvilTokenizer'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction type 'sample' is not supported"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "evil"}, "do not make a model that computes"),
        ("unet/config.json", {"cross_attention_dim": 48}, "its config describes"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "unet lacks"),
    ],
)
def test_index_or_config_that_does_not_fit_is_refused(
    own: Path, settings: Settings, name: str, changes: dict[str, Any], message: str
) -> None:
    write(own, name, **changes)
    refused(own, settings, message)


def test_missing_config_and_tokenizer_are_named(own: Path, settings: Settings) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (own / "tokenizer" / name).unlink(missing_ok=True)
    refused(own, settings, "tokenizer holds neither")
    (own / "vae" / "config.json").unlink()
    refused(own, settings, r"vae/config.json is missing or unreadable")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(own: Path, settings: Settings, value: float) -> None:
    tensors = load_file(own / UNET)
    tensors["conv_in.bias"][3] = value
    save_file(tensors, own / UNET, {"format": "pt"})
    refused(own, settings, f"{UNET}: conv_in.bias holds values that are no finite numbers")


def test_weights_too_large_to_compute_with_are_refused(own: Path, settings: Settings) -> None:
    save_file({name: torch.full_like(value, 3e38) for name, value in load_file(own / UNET).items()}, own / UNET, {"format": "pt"})
    refused(own, settings, "not finite noise")


def test_parts_of_different_models_are_refused(own: Path, settings: Settings, stable_diffusion_folder: Path) -> None:
    shutil.rmtree(own / "text_encoder")
    shutil.copytree(stable_diffusion_folder / "text_encoder", own / "text_encoder")
    refused(own, settings, "do not make a model that computes")


def test_model_above_the_limit_is_refused(own: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_import, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(PayloadTooLargeError, match="up to 1000 are imported"):
        imported(own, settings)


def test_file_that_grows_while_it_is_read_is_refused(own: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = model_import.plan_import(own)
    monkeypatch.setattr(model_import, "MAX_MODEL_BYTES", plan.size_bytes)
    (settings.home / "copy").mkdir(parents=True)
    (own / "scheduler" / "scheduler_config.json").write_bytes(b" " * 10_000)
    with pytest.raises(PayloadTooLargeError, match="grew beyond"):
        model_import._copy(plan, own, settings.home / "copy", ignore)
