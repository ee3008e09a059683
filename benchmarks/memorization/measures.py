"""What a trained model is measured by: copies of canaries, extraction, the screening's score, FID, and whether it shows what is asked.

M images.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from benchmarks.memorization.material import Material
from benchmarks.memorization.regime import Regime
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.memorization.agreements import agreements
from shared.memorization.extraction import extracted_films
from shared.memorization.frechet_distance import frechet_distance
from shared.memorization.galleries import Gallery, site_features
from shared.memorization.matching import match
from shared.memorization.prompt_scoring import ScreeningSettings, score_prompts
from shared.memorization.statistics import auc
from shared.memorization.thresholds import Images

TAIL: Final = 95.0  # percentile of similarity that Somepalli et al. (2023) tell beside the mean


def measure(model: Model, material: Material, regime: Regime, seed: int) -> dict[str, Any]:
    """Draw canary prompts and held-out ones, and look: every method meets the same noises.

    Canaries say what was learnt by heart. Held-out prompts, one image each, say how good the images are, and how often a copy is
    seen where nobody asked for one.
    """
    films, gallery = material.films, material.gallery
    canaries, controls = films.select("canary"), films.select("control", "evaluation")
    asked, held_out = ([films.prompts[i] for i in rows] for rows in (canaries, controls))
    drawn = _draw(model, asked, regime.images_per_canary, regime, seed)
    fresh = _draw(model, held_out, 1, regime, seed)
    copied, similarity, tile = _nearest(gallery, drawn)
    per_canary = np.asarray(copied).reshape(len(canaries), regime.images_per_canary)
    training = films.images_NHW[films.learnt]
    groups = list(drawn.reshape(len(canaries), regime.images_per_canary, *drawn.shape[1:]))
    settings = ScreeningSettings(steps=1, seeds_per_prompt=regime.screening_seeds, seed=seed)
    scores = score_prompts(model, asked + held_out, settings)
    canary_scores, control_scores = scores[: len(asked)], scores[len(asked) :]
    reference = films.images_NHW[films.select("control", "calibration")]
    return {
        "copies_by_canary": per_canary.mean(1).tolist(),
        "copies": float(per_canary.mean()),
        "similarity": float(np.mean(similarity)),
        "similarity_tail": float(np.percentile(similarity, TAIL)),
        "tile_distance": float(np.mean(tile)),
        "extracted": len(extracted_films(groups, training, limit=material.facts["edge_limit"], size=regime.clique)),
        "score_auc": auc(canary_scores, control_scores),
        "canary_score": float(np.mean(canary_scores)),
        "control_score": float(np.mean(control_scores)),
        "control_copies": float(np.mean(_nearest(gallery, fresh)[0])),
        "fid": frechet_distance(site_features(gallery, fresh), site_features(gallery, reference)),
        "agreement": _agreement(gallery, held_out, fresh),
    }


def _draw(model: Model, prompts: list[str], images: int, regime: Regime, seed: int) -> Images:
    guidance = ClassifierFreeGuidance(regime.guidance)
    return generate_images(model, prompts, images_per_prompt=images, seed=seed, steps=regime.sampling_steps, guidance=guidance)


def _nearest(gallery: Gallery, images_MHW: Images) -> tuple[list[bool], list[float], list[float]]:
    """Whether each image is a copy of a training film, and how alike the nearest one is."""
    nearest = [neighbours[0] for neighbours in match(gallery, images_MHW, k=1)]
    return [n.verdict == "copy" for n in nearest], [n.similarity for n in nearest], [n.tile_distance for n in nearest]


def _agreement(gallery: Gallery, prompts: list[str], images_MHW: Images) -> float:
    """How much of what was asked for the finding reader sees, on average over prompts that ask for something."""
    found = agreements(gallery.reader, prompts, images_MHW)
    return float(np.mean([agreement.value for agreement in found if agreement.value is not None]))
