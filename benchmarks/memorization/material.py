"""What all methods of one seed share, made once and kept on disk: films, gallery, autoencoder and text encoder, and the base.

N films, H height, W width, D code features.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.material import Films, phantom_films, random_model
from benchmarks.memorization.regime import Regime
from services.detector.galleries import FilmSet, Gallery, fit_gallery, read_gallery, save_gallery
from services.detector.thresholds import Thresholds
from services.trainer.denoising_loss import Recipe, denoiser_parameters
from services.trainer.text_pretraining import train_text_encoder
from services.trainer.training import train_autoencoder, train_denoiser
from shared.diffusion.model import Model
from shared.memorization.extraction import edge_limit
from shared.memorization.frechet_distance import frechet_distance

OTHER_COHORT = 10_000  # added to the seed of the base's patients


@dataclass(frozen=True)
class Material:
    """One seed's."""

    films: Films
    gallery: Gallery
    untrained: Model  # autoencoder and text encoder have learnt, the denoiser has random weights
    base: Model  # the same with a denoiser that learnt from other patients
    facts: dict[str, Any]  # what real films score


def open_material(regime: Regime, seed: int, folder: Path) -> Material:
    """What was made, or all of it made now; the last file that is written says that it is whole."""
    films = drawn_films(regime, seed)
    if not (folder / "facts.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        facts = _gallery_facts(films, seed, folder)
        _train_models(regime, seed, folder)
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    gallery = read_gallery(folder, "benchmark", "benchmark", lambda rows: films.images_NHW[rows], Thresholds(**facts["thresholds"]))
    untrained, base = (Model.load(folder / name, key=f"{seed}-{name}") for name in ("untrained", "base"))
    return Material(films, gallery, untrained, base, facts)


@lru_cache(maxsize=1)
def drawn_films(regime: Regime, seed: int) -> Films:
    """The films that are learnt from and held out."""
    return phantom_films(
        regime.patients,
        seed,
        canaries=regime.canaries,
        repeats=regime.repeats,
        control_fraction=regime.control_fraction,
        image_size=regime.image_size,
    )


def site_features(gallery: Gallery, images_NHW: Any) -> Any:
    """What FID is taken of: the codes of the site embedder's copy head, N×D."""
    return gallery.embedder.embed(images_NHW)[0].double().numpy()


def _gallery_facts(films: Films, seed: int, folder: Path) -> dict[str, Any]:
    """Train the detector's gallery and keep it; answers what real held-out films score."""

    def some(rows: Sequence[int]) -> FilmSet:
        return FilmSet(list(rows), [films.patients[i] for i in rows], [films.prompts[i] for i in rows], films.images_NHW[rows])

    train = some(sorted(films.select("train") + films.select("canary")))
    calibration, evaluation = (some(films.select("control", fold)) for fold in ("calibration", "evaluation"))
    gallery, metrics = fit_gallery("benchmark", "benchmark", train, calibration, evaluation, seed, lambda *_facts: None)
    save_gallery(gallery, folder)
    return {
        "thresholds": asdict(gallery.thresholds),
        "gallery": metrics,
        "edge_limit": edge_limit(calibration.images_NHW, train.images_NHW),
        "fid_floor": frechet_distance(*(site_features(gallery, part.images_NHW) for part in (evaluation, calibration))),
        "films": {"train": len(train.records), "calibration": len(calibration.records), "evaluation": len(evaluation.records)},
    }


def _train_models(regime: Regime, seed: int, folder: Path) -> None:
    """Autoencoder, text encoder and the base's denoiser learn from patients whom no method sees."""
    others = phantom_films(regime.others, seed + OTHER_COHORT, image_size=regime.image_size).training_set()
    model = random_model(others.prompts, seed, regime.image_size)
    train_autoencoder(model, others, seed, lambda *_facts: None)
    train_text_encoder(model, others.prompts, seed, lambda *_facts: None)
    model.save(folder / "untrained")
    recipe = Recipe(
        regime.base_steps,
        regime.batch,
        regime.base_rate,
        regime.prompt_dropout,
        seed,
        parameters=denoiser_parameters,
        text_encoder="frozen",
    )
    train_denoiser(model, others, recipe, lambda *_facts: None)
    model.save(folder / "base")
