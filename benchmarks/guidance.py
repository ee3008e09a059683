"""What classifier-free guidance does to copying: two models on the same films, with and without prompt dropout.

Each draws the prompts of its canaries and of held-out films without and with guidance, and the empty prompt; the detector's own
gallery says which images are copies and how much of what was asked for they show.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any, Final

import numpy as np
from rich.progress import Progress

from benchmarks.material import Films, phantom_films, random_model
from benchmarks.results import keep, tell
from services.trainer.denoising_loss import Recipe
from services.trainer.text_pretraining import train_text_encoder
from services.trainer.training import train_autoencoder, train_denoiser
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.memorization.agreements import agreements
from shared.memorization.galleries import FilmSet, Gallery, fit_gallery
from shared.memorization.matching import gravest, match
from shared.memorization.statistics import Estimate, rate

DROPOUTS: Final = (0.1, 0.0)
SCALES: Final = (1.0, 5.0)
PATIENTS: Final = 460
CANARIES: Final = 10
REPEATS: Final = 40
CONTROL_FRACTION: Final = 0.5
CONTROLS_DRAWN: Final = 40
SAMPLING_STEPS: Final = 25
BATCH: Final = 16


def main() -> None:
    """Train, draw, match, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="training steps: enough to copy often, few enough not to copy always")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--images", type=int, default=4, help="images a canary")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    films = phantom_films(PATIENTS, options.seed, canaries=CANARIES, repeats=REPEATS, control_fraction=CONTROL_FRACTION)
    gallery = gallery_of(films, options.seed)
    coder = random_model(films.training_set().prompts, options.seed)
    train_autoencoder(coder, films.training_set(), options.seed, lambda *_facts: None)
    train_text_encoder(coder, films.training_set().prompts, options.seed, lambda *_facts: None)
    figures: list[dict[str, Any]] = []
    for dropout in DROPOUTS:
        model = copy.deepcopy(coder)
        recipe = Recipe(options.steps, BATCH, options.learning_rate, prompt_dropout=dropout, seed=options.seed)
        started = time.perf_counter()
        with_progress(model, films, recipe)
        seconds = time.perf_counter() - started
        figures += [row | {"prompt_dropout": dropout, "training_seconds": seconds} for row in drawn(model, films, gallery, options)]
    settings = {"steps": options.steps, "learning_rate": options.learning_rate, "images": options.images, "sampling_steps": SAMPLING_STEPS}
    path = keep("guidance", seed=options.seed, settings=settings, figures=figures)
    rows = [
        [str(row["prompt_dropout"]), row["prompts"], str(row["guidance_scale"]), _percent(row["copies"]), _agreement(row)]
        for row in figures
    ]
    tell("Copies (95 % interval)", ["prompt dropout", "prompts", "guidance", "copies", "agreement"], rows, path)


def gallery_of(films: Films, seed: int) -> Gallery:
    """The detector's gallery of the training films, thresholds from control films."""

    def some(rows: list[int]) -> FilmSet:
        return FilmSet(rows, [films.patients[i] for i in rows], [films.prompts[i] for i in rows], films.images_NHW[rows])

    train = some(sorted(films.select("train") + films.select("canary")))
    calibration, evaluation = (some(films.select("control", fold)) for fold in ("calibration", "evaluation"))
    gallery, _ = fit_gallery("benchmark", "benchmark", train, calibration, evaluation, seed, lambda *_facts: None)
    return gallery


def with_progress(model: Model, films: Films, recipe: Recipe) -> None:
    """Train the denoiser behind a bar."""
    with Progress() as bar:
        task = bar.add_task(f"training, prompt dropout {recipe.prompt_dropout}", total=recipe.steps)
        train_denoiser(model, films.training_set(), recipe, lambda *_facts: bar.advance(task))


def drawn(model: Model, films: Films, gallery: Gallery, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What comes of canary prompts, of held-out prompts and of none, with and without guidance."""
    canaries = [films.prompts[i] for i in films.select("canary")]
    controls = [films.prompts[i] for i in films.select("control", "evaluation")][:CONTROLS_DRAWN]
    rows = [judged(model, gallery, "none", [""], len(canaries) * options.images, 1.0, options.seed)]
    for scale in SCALES:
        rows.append(judged(model, gallery, "canary", canaries, options.images, scale, options.seed))
        rows.append(judged(model, gallery, "control", controls, 1, scale, options.seed))
    return rows


def judged(model: Model, gallery: Gallery, group: str, prompts: list[str], images: int, scale: float, seed: int) -> dict[str, Any]:
    """Draw these prompts; the share of copies, and the mean agreement with what was asked for."""
    guidance = ClassifierFreeGuidance(scale)
    pictures = generate_images(model, prompts, images_per_prompt=images, seed=seed, steps=SAMPLING_STEPS, guidance=guidance)
    neighbours = match(gallery, pictures, k=1)
    found = agreements(gallery.reader, [prompt for prompt in prompts for _ in range(images)], pictures)
    values = [agreement.value for agreement in found if agreement.value is not None]
    copies = sum(gravest(row) == "copy" for row in neighbours)
    return {
        "prompts": group,
        "guidance_scale": scale,
        "copies": rate(copies, len(pictures)),
        "similarity": float(np.mean([row[0].similarity for row in neighbours])),
        "agreement": float(np.mean(values)) if values else None,
    }


def _agreement(row: dict[str, Any]) -> str:
    return "-" if row["agreement"] is None else f"{row['agreement']:.2f}"


def _percent(estimate: Estimate) -> str:
    return f"{estimate['value']:.0%} ({estimate['low']:.0%}-{estimate['high']:.0%}, n={estimate['n']})"


if __name__ == "__main__":
    main()
