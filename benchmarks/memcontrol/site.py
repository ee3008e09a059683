"""Where is trained: one anatomy of one seed, with its films, its base, and what its models are measured against."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.material import Phantom, phantom_films
from benchmarks.memcontrol.knees import knee_films
from benchmarks.memcontrol.regime import Regime
from benchmarks.memorization.material import Material, film_set, open_material
from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.attention_names import in_order
from shared.catalog.digests import content_digest
from shared.memorization.rewards.reference import Reference

Anatomy = Literal["chest", "knee"]
PHANTOMS: Final[dict[Anatomy, Phantom]] = {"chest": phantom_films, "knee": knee_films}
SEARCHED: Final[Anatomy] = "chest"
TRANSFERRED: Final[Anatomy] = "knee"


@dataclass(frozen=True)
class Site:
    """Below which folder everything of one anatomy and seed lies, in one regime."""

    anatomy: Anatomy
    seed: int
    regime: Regime
    folder: Path

    @property
    def home(self) -> Path:
        """Another regime is another folder."""
        return self.folder / f"seed-{self.seed}" / f"{self.anatomy}-{content_digest(asdict(self.regime))[:16]}"

    @property
    def material_folder(self) -> Path:
        """Where films' gallery and base lie, which many regimes have in common."""
        return self.folder / f"seed-{self.seed}" / f"{self.anatomy}-material-{content_digest(asdict(self.regime.material))[:16]}"

    @property
    def facts_path(self) -> Path:
        """The file that is there when the material is whole."""
        return self.material_folder / "facts.json"


def make_material(site: Site) -> dict[str, Any]:
    """Have a site's material on disk."""
    began = time.perf_counter()
    material_of(site)
    return {"seconds": time.perf_counter() - began}


@lru_cache(maxsize=2)
def material_of(site: Site) -> Material:
    """A site's material, made if it is not there."""
    return open_material(site.regime.material, site.seed, site.material_folder, PHANTOMS[site.anatomy])


@lru_cache(maxsize=4)
def reference_of(site: Site, *, held_out: bool = False) -> Reference:
    """What a site's models are measured against; held out, prompts and real films change places."""
    material = material_of(site)
    folds = ("evaluation", "calibration") if held_out else ("calibration", "evaluation")
    canaries, controls, others = (
        film_set(material.films, material.films.select(split, fold)) for split, fold in (("canary", ""), *(("control", f) for f in folds))
    )
    training = film_set(material.films, material.films.learnt)
    return Reference.of(material.gallery, canaries, controls, others, training, site.regime.effort(site.seed, held_out=held_out))


def modules_of(site: Site) -> list[str]:
    """The attention modules of a site's base, in the order of a pass."""
    return in_order(attention_modules(material_of(site).base.unet))
