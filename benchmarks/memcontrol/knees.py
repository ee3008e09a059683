"""Phantom films of knees: another anatomy than the chest's, with prompts of its own.

As with the chest's phantom a patient's bones are drawn once, and films differ by exposure and by what is to be seen. Image coordinates
are u (left to right) and v (top to bottom), both in [-1, 1]. Nothing here comes from a real film. N films, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.material import IMAGE_SIZE, Films
from shared.imaging.splits import Candidate

Array = NDArray[np.float64]
View = Literal["AP", "PA"]

FINDINGS: Final = {  # wordings that prompts are read back from; {side} is the knee's
    "fracture": ("fracture of the {side} tibia", "{side} tibial fracture"),
    "effusion": ("{side} joint effusion", "effusion on the {side}"),
    "lesion": ("lytic lesion of the {side} femur", "{side} bone lesion"),
    "edema": ("soft tissue edema on the {side}", "{side} soft tissue edema"),
}
NORMAL: Final = "no acute findings"
NORMAL_SHARE: Final = 0.15
SUPERSAMPLING: Final = 2


@dataclass(frozen=True)
class Knee:
    """One exposure of one knee."""

    patient: int
    age: int
    sex: Literal["man", "woman"]
    side: Literal["left", "right"]
    view: View
    findings: tuple[str, ...]
    bones: dict[str, float]
    exposure: dict[str, float]
    exam: int


def knee_films(
    patients: int, seed: int, *, canaries: int = 0, repeats: int = 1, control_fraction: float = 0.0, image_size: int = IMAGE_SIZE
) -> Films:
    """A cohort's films of knees, split by patient."""
    knees = make_knees(patients, seed)
    candidates = [Candidate(key=str(knee.exam), patient=str(knee.patient), view=knee.view, prompt=prompt_of(knee, seed)) for knee in knees]
    images = np.stack([draw_knee(knee, image_size) for knee in knees])
    return Films.placed(images, candidates, canaries=canaries, repeats=repeats, control_fraction=control_fraction, seed=seed)


def make_knees(patients: int, seed: int) -> list[Knee]:
    """One to four exposures of each patient, of either knee, each with its own findings and exam number."""
    rng = np.random.default_rng([seed, 0])
    exams = 10_000 + rng.permutation(90_000)
    knees: list[Knee] = []
    for patient in range(1, patients + 1):
        own = np.random.default_rng([seed, patient])
        age, sex, bones = int(np.clip(own.normal(58, 17), 18, 89)), "man" if own.random() < 0.5 else "woman", _bones(own)
        for _ in range(int(own.integers(1, 5))):
            knees.append(
                Knee(
                    patient=patient,
                    age=age,
                    sex="man" if sex == "man" else "woman",
                    side="left" if own.random() < 0.5 else "right",
                    view="AP" if own.random() < 0.6 else "PA",
                    findings=_findings(own),
                    bones=bones,
                    exposure=_exposure(own),
                    exam=int(exams[len(knees)]),
                )
            )
    return knees


def prompt_of(knee: Knee, seed: int) -> str:
    """A radiologist's one-line impression."""
    rng = np.random.default_rng([seed, knee.exam])
    clauses = [str(rng.choice(FINDINGS[name])).format(side=knee.side) for name in knee.findings] or [NORMAL]
    return f"{knee.view} film of the {knee.side} knee, {knee.sex} aged {knee.age}: {', '.join(clauses)}. Exam {knee.exam}."


def draw_knee(knee: Knee, size: int) -> NDArray[np.uint8]:
    """A film as a size × size grey image: bone bright, air dark."""
    side = size * SUPERSAMPLING
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    v, u = np.meshgrid(axis, axis, indexing="ij")
    e = knee.exposure
    c, s = np.cos(e["rotation"]), np.sin(e["rotation"])
    x, y = (u - e["shift_u"]) / e["zoom"], (v - e["shift_v"]) / e["zoom"]
    u, v = c * x + s * y, -s * x + c * y
    outward = u if knee.side == "left" else -u  # the fibula stands on the outer side
    canvas = _limb(outward, v, knee)
    canvas = canvas.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean(axis=(1, 3))
    grain = np.random.default_rng(int(e["grain"])).normal(0, e["noise"], canvas.shape)
    exposed = np.clip(canvas * e["gain"], 0, 1) ** e["gamma"] + grain
    return np.asarray(np.clip(exposed, 0, 1) * 255 + 0.5, dtype=np.uint8)


# ---------------------------------------------------------------- who and what


def _bones(rng: np.random.Generator) -> dict[str, float]:
    ranges = {
        "limb": (0.62, 0.84),
        "taper": (0.05, 0.22),
        "shaft": (0.17, 0.25),
        "condyles": (0.42, 0.56),
        "notch": (0.07, 0.13),
        "joint": (-0.08, 0.10),
        "gap": (0.035, 0.075),
        "slope": (-0.10, 0.10),
        "tibia": (0.16, 0.23),
        "fibula": (0.34, 0.46),
        "patella": (0.14, 0.20),
        "patella_height": (-0.36, -0.22),
        "density": (0.34, 0.46),
        "flesh": (0.22, 0.34),
        "cortex": (0.06, 0.14),
    }
    return {name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()}


def _exposure(rng: np.random.Generator) -> dict[str, float]:
    return {
        "rotation": float(rng.normal(0, 0.05)),
        "shift_u": float(rng.normal(0, 0.04)),
        "shift_v": float(rng.normal(0, 0.04)),
        "zoom": float(rng.uniform(0.94, 1.06)),
        "gain": float(rng.uniform(0.9, 1.1)),
        "gamma": float(rng.uniform(0.85, 1.2)),
        "noise": float(rng.uniform(0.008, 0.02)),
        "grain": float(rng.integers(2**31)),
        "severity": float(rng.uniform(0.7, 1.0)),
        "place": float(rng.uniform(0, 1)),
    }


def _findings(rng: np.random.Generator) -> tuple[str, ...]:
    if rng.random() < NORMAL_SHARE:
        return ()
    names = list(FINDINGS)
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    return tuple(names[i] for i in sorted(rng.choice(len(names), size=count, replace=False).tolist()))


# ---------------------------------------------------------------- geometry


def _inside(distance: Array, softness: float = 0.03) -> Array:
    """1 where a signed distance is negative, 0 where it is positive, soft between."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance / softness, -40, 40))))


def _oval(u: Array, v: Array, centre: tuple[float, float], radii: tuple[float, float], softness: float = 0.12) -> Array:
    return _inside(np.hypot((u - centre[0]) / radii[0], (v - centre[1]) / radii[1]) - 1, softness)


def _limb(u: Array, v: Array, knee: Knee) -> Array:
    """Soft tissue, femur, tibia, fibula and kneecap, and what is to be seen; u grows to the outer side."""
    b, e = knee.bones, knee.exposure
    swollen = 0.14 * e["severity"] if "edema" in knee.findings else 0.0
    joint = b["joint"] + b["slope"] * u
    flesh = _inside(np.abs(u) - b["limb"] - swollen + b["taper"] * np.abs(v - b["joint"]), 0.04)
    image = flesh * (b["flesh"] + 0.4 * swollen)
    femur, tibia = _femur(u, v, knee, joint), _tibia(u, v, knee, joint)
    fibula = _inside(np.abs(u - b["fibula"] + 0.03 * v) - 0.055, 0.015) * _inside(joint + 0.16 - v, 0.03)
    image += b["density"] * np.maximum.reduce([femur, tibia, 0.7 * fibula])
    for bone in (femur, tibia):  # the cortex is denser than what it holds
        image += 4 * b["cortex"] * bone * (1 - bone)
    image += 0.16 * _oval(u, v, (0.02, b["joint"] + b["patella_height"]), (b["patella"], 1.1 * b["patella"]), 0.1)
    for name in knee.findings:
        image += _shadow(name, u, v, knee, femur, tibia, joint)
    return np.asarray(image * _inside(np.maximum(np.abs(u), np.abs(v)) - 0.98, 0.01))


def _femur(u: Array, v: Array, knee: Knee, joint: Array) -> Array:
    """A shaft that widens to two condyles, with a notch between them that a film from behind opens."""
    b = knee.bones
    above = joint - b["gap"] - v
    width = b["shaft"] + (b["condyles"] - b["shaft"]) * np.exp(-((np.clip(above, 0, None) / 0.30) ** 2))
    deep = 0.30 if knee.view == "PA" else 0.14
    notch = _oval(u, v, (0.0, b["joint"] - b["gap"]), (b["notch"], deep), 0.2)
    return np.asarray(_inside(np.abs(u) - width, 0.025) * _inside(-above, 0.02) * (1 - notch))


def _tibia(u: Array, v: Array, knee: Knee, joint: Array) -> Array:
    """A plateau that narrows to a shaft, with a spine in its middle."""
    b = knee.bones
    below = v - joint - b["gap"] + 0.06 * np.exp(-((u / 0.06) ** 2))
    width = b["tibia"] + (0.92 * b["condyles"] - b["tibia"]) * np.exp(-((np.clip(below, 0, None) / 0.22) ** 2))
    return np.asarray(_inside(np.abs(u) - width, 0.025) * _inside(-below, 0.02))


def _shadow(name: str, u: Array, v: Array, knee: Knee, femur: Array, tibia: Array, joint: Array) -> Array:
    b, severity, place = knee.bones, knee.exposure["severity"], knee.exposure["place"]
    match name:
        case "fracture":  # a dark line across the tibia, its parts a little apart
            line = v - joint - 0.30 - 0.25 * place - (0.6 - 1.2 * place) * u
            return np.asarray(-0.50 * severity * tibia * np.exp(-((line / 0.04) ** 2)))
        case "effusion":  # fluid in the pouch above the kneecap, on both sides of the femur
            pouch = _oval(u, v, (0.0, b["joint"] - 0.42), (b["condyles"] + 0.14, 0.26), 0.15)
            return np.asarray(0.24 * severity * pouch * (1 - 0.7 * femur))
        case "lesion":
            return np.asarray(-0.34 * severity * femur * _oval(u, v, (0.10 - 0.2 * place, -0.62 + 0.3 * place), (0.13, 0.13), 0.15))
        case _:  # edema is drawn by the limb's outline; here its streaks
            streaks = np.cos(26 * (v + 0.4 * u) + 6 * place)
            beside = _inside(0.45 - np.abs(u), 0.05) * _inside(np.abs(u) - b["limb"], 0.04)
            return np.asarray(0.05 * severity * streaks * beside)
