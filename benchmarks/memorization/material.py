"""What all methods of one seed share, made once and kept on disk: films, gallery, autoencoder and text encoder, and the base.

N films, H height, W width.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.material import Films, Phantom, phantom_films, random_model
from benchmarks.memorization.regime import Regime
from services.trainer.caption_rules import MultipleCaptions
from services.trainer.caption_transforms import all_texts
from services.trainer.denoising_loss import Recipe, denoiser_parameters
from services.trainer.text_pretraining import train_text_encoder
from services.trainer.training import train_autoencoder, train_denoiser
from services.trainer.training_set import TrainingSet
from shared.diffusion.model import Model
from shared.memorization.extraction import edge_limit
from shared.memorization.frechet_distance import frechet_distance
from shared.memorization.galleries import FilmSet, Gallery, fit_gallery, read_gallery, save_gallery, site_features
from shared.memorization.thresholds import Thresholds

OTHER_COHORT: Final = 10_000  # added to the seed of the base's patients


@dataclass(frozen=True)
class Material:
    """One seed's."""

    films: Films
    gallery: Gallery
    untrained: Model  # autoencoder and text encoder have learnt, the denoiser has random weights
    base: Model  # the same with a denoiser that learnt from other patients
    facts: dict[str, Any]  # what real films score


def open_material(regime: Regime, seed: int, folder: Path, phantom: Phantom = phantom_films) -> Material:
    """What was made, or all of it made now; the last file that is written says that it is whole."""
    films = drawn_films(regime, seed, phantom)
    if not (folder / "facts.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        gallery, facts = fit_and_judge(films, seed)
        save_gallery(gallery, folder)
        _train_models(regime, seed, folder, phantom)
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    gallery = read_gallery(folder, "benchmark", "benchmark", lambda rows: films.images_NHW[rows], Thresholds(**facts["thresholds"]))
    untrained, base = (Model.load(folder / name, key=f"{seed}-{name}") for name in ("untrained", "base"))
    return Material(films, gallery, untrained, base, facts)


@lru_cache(maxsize=1)
def drawn_films(regime: Regime, seed: int, phantom: Phantom = phantom_films) -> Films:
    """The films that are learnt from and held out."""
    return phantom(
        regime.patients,
        seed,
        canaries=regime.canaries,
        repeats=regime.repeats,
        control_fraction=regime.control_fraction,
        image_size=regime.image_size,
    )


def film_set(films: Films, rows: Sequence[int]) -> FilmSet:
    """Some of the films, as what judges takes them."""
    return FilmSet(list(rows), [films.patients[i] for i in rows], [films.prompts[i] for i in rows], films.images_NHW[rows])


def fit_and_judge(films: Films, seed: int) -> tuple[Gallery, dict[str, Any]]:
    """The detector's gallery of the training films, and what real held-out films score by it."""
    train = film_set(films, films.learnt)
    calibration, evaluation = (film_set(films, films.select("control", fold)) for fold in ("calibration", "evaluation"))
    gallery, metrics = fit_gallery("benchmark", "benchmark", train, calibration, evaluation, seed, lambda *_facts: None)
    return gallery, {
        "thresholds": asdict(gallery.thresholds),
        "gallery": metrics,
        "edge_limit": edge_limit(calibration.images_NHW, train.images_NHW),
        "fid_floor": frechet_distance(*(site_features(gallery, part.images_NHW) for part in (evaluation, calibration))),
        "films": {"train": len(train.records), "calibration": len(calibration.records), "evaluation": len(evaluation.records)},
    }


def films_of_others(regime: Regime, seed: int, phantom: Phantom = phantom_films) -> tuple[TrainingSet, TrainingSet]:
    """Patients whom no method sees, as the methods' site takes its films, and as another one does.

    The other one's films show the middle of the picture alone in other greys; else there were nothing to fine-tune a base for.
    """
    margin = regime.image_size // 8
    films = phantom(regime.others, seed + OTHER_COHORT, image_size=regime.image_size)
    wide = phantom(regime.others, seed + OTHER_COHORT, image_size=regime.image_size + 2 * margin)
    brighter = np.round(255 * (0.15 + 0.7 * np.linspace(0, 1, 256) ** 0.6)).astype(np.uint8)
    elsewhere = replace(films, images_NHW=brighter[wide.images_NHW[:, margin:-margin, margin:-margin]])
    return films.training_set(), elsewhere.training_set()


def _train_models(regime: Regime, seed: int, folder: Path, phantom: Phantom) -> None:
    """Autoencoder, text encoder and the base's denoiser learn from others, the base from those of another site.

    As ones that come trained, the autoencoder has seen more than one site, and the text encoder knows other words for its prompts.
    """
    here, others = films_of_others(regime, seed, phantom)
    images = np.concatenate([here.images_NHW, others.images_NHW])
    both = TrainingSet(images, here.prompts + others.prompts, np.concatenate([here.repeats, others.repeats]))
    texts = list(dict.fromkeys(all_texts(others.prompts, [MultipleCaptions(kind="multiple")])))
    model = random_model(texts, seed, regime.image_size)
    train_autoencoder(model, both, seed, lambda *_facts: None)
    train_text_encoder(model, texts, seed, lambda *_facts: None)
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
