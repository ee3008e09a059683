"""Procedural chest radiographs: synthetic patients with known anatomy and findings, drawn as an X-ray would show them.

Nothing here comes from a real film. Image coordinates are u (left to right) and v (top to bottom), both in [-1, 1];
as on a radiograph, the patient's left side is on the right of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Side = Literal["left", "right"]
View = Literal["AP", "PA", "lateral"]

SIDED: Final = ("Consolidation", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Lung Lesion")
UNSIDED: Final = ("Cardiomegaly", "Edema", "Support Devices")
FINDINGS: Final = (*UNSIDED, *SIDED)
"""The CheXpert labels that the phantom can draw."""

SUPERSAMPLING: Final = 2  # drawn at twice the size and averaged, so that thin ribs and lines stay soft
NORMAL_SHARE: Final = 0.12  # films without any finding
LATERAL_SHARE: Final = 0.12  # CheXpert has about one lateral in seven films
DEVICE_SIDES: Final[tuple[Side, ...]] = ("left", "right")
LATERAL_SHADOWS: Final = {  # centre, radii and brightness of what a side view shows; effusion and heart have shapes of their own
    "Atelectasis": ((0.05, 0.15), (0.35, 0.06), 0.30),
    "Consolidation": ((0.10, -0.20), (0.24, 0.22), 0.30),
    "Edema": ((0.00, -0.10), (0.40, 0.40), 0.20),
    "Lung Lesion": ((0.15, -0.35), (0.10, 0.10), 0.40),
    "Pneumothorax": ((0.00, -0.70), (0.35, 0.14), -0.20),
    "Support Devices": ((-0.30, -0.50), (0.13, 0.10), 0.50),
}


@dataclass(frozen=True)
class Patient:
    """A synthetic patient; the anatomy's values are drawn once and shared by all films of the patient."""

    id: int
    sex: Literal["Male", "Female"]
    age: int
    anatomy: dict[str, float]


@dataclass(frozen=True)
class Film:
    """One exposure: who, when, from where, and what is to be seen on which side (None: a finding without side)."""

    patient: Patient
    study: int
    view: View
    findings: dict[str, Side | None]
    accession: int
    exposure: dict[str, float] = field(default_factory=dict)


def make_cohort(patients: int, seed: int) -> list[Film]:
    """Draw a cohort: one to four films a patient, each with its own findings, exposure and accession number."""
    rng = np.random.default_rng(seed)
    plan = [
        (identity, study)
        for identity in range(1, patients + 1)
        for study in range(1, int(rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.2, 0.15])) + 1)
    ]
    accessions = 10_000 + rng.permutation(90_000)[: len(plan)]
    people = {identity: _draw_patient(identity, np.random.default_rng([seed, identity])) for identity in range(1, patients + 1)}
    films = []
    for (identity, study), accession in zip(plan, accessions, strict=True):
        film_rng = np.random.default_rng([seed, identity, study])
        films.append(_draw_exposure(people[identity], study, int(accession), film_rng))
    return films


def draw(film: Film, size: int) -> NDArray[np.uint8]:
    """Render a film as a size × size grey image (bone and fluid bright, air dark)."""
    side = size * SUPERSAMPLING
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    v, u = np.meshgrid(axis, axis, indexing="ij")
    u, v = _posed(u, v, film.exposure)
    canvas = _lateral(u, v, film) if film.view == "lateral" else _frontal(u, v, film)
    canvas = canvas.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean(axis=(1, 3))
    return _developed(canvas, film)


# ---------------------------------------------------------------- who and what


def _draw_patient(identity: int, rng: np.random.Generator) -> Patient:
    sex: Literal["Male", "Female"] = "Male" if rng.random() < 0.55 else "Female"
    age = int(np.clip(rng.normal(58, 17), 18, 90))
    ranges = {
        "chest_half_width": (0.68, 0.92),
        "chest_shape": (1.8, 3.2),
        "lung_apex": (-0.86, -0.66),
        "lung_base": (0.42, 0.74),
        "lung_width": (0.36, 0.46),
        "lung_shape": (1.9, 2.8),
        "lung_gap": (0.06, 0.12),
        "dome_height": (0.10, 0.26),
        "dome_step": (-0.10, 0.06),
        "heart_width": (0.20, 0.29),
        "heart_height": (0.26, 0.36),
        "heart_shift": (0.05, 0.16),
        "heart_tilt": (-0.5, 0.1),
        "rib_spacing": (0.15, 0.25),
        "rib_phase": (0.0, 1.0),
        "rib_slope": (0.10, 0.55),
        "rib_contrast": (0.05, 0.16),
        "rib_thickness": (0.22, 0.40),
        "clavicle_height": (-0.74, -0.60),
        "clavicle_angle": (-0.28, 0.22),
        "clavicle_contrast": (0.08, 0.20),
        "spine_contrast": (0.06, 0.16),
        "aortic_knob": (0.04, 0.10),
        "hilum": (0.06, 0.15),
        "soft_tissue": (0.48, 0.64),
        "scoliosis": (-0.08, 0.08),
        "breast": (0.06, 0.14) if sex == "Female" else (0.0, 0.02),
    }
    return Patient(identity, sex, age, {name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()})


def _draw_exposure(patient: Patient, study: int, accession: int, rng: np.random.Generator) -> Film:
    view: View = "lateral" if rng.random() < LATERAL_SHARE else ("AP" if rng.random() < 0.6 else "PA")
    exposure = {
        "rotation": float(rng.normal(0, 0.035)),
        "shift_u": float(rng.normal(0, 0.035)),
        "shift_v": float(rng.normal(0, 0.035)),
        "zoom": float(rng.uniform(0.95, 1.06)),
        "gain": float(rng.uniform(0.9, 1.1)),
        "gamma": float(rng.uniform(0.85, 1.2)),
        "noise": float(rng.uniform(0.008, 0.02)),
        "collimation": float(rng.uniform(0.93, 1.05)),
        "marker_v": float(rng.uniform(-0.92, -0.55)),
        "severity": float(rng.uniform(0.7, 1.0)),
        "texture_seed": float(rng.integers(2**31)),
        "place": float(rng.uniform(0, 1)),
    }
    return Film(patient, study, view, _draw_findings(rng), accession, exposure)


def _draw_findings(rng: np.random.Generator) -> dict[str, Side | None]:
    if rng.random() < NORMAL_SHARE:
        return {}
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.38, 0.12]))
    chosen = rng.choice(len(FINDINGS), size=count, replace=False)
    sides = rng.choice(2, size=count)
    return {
        FINDINGS[i]: (DEVICE_SIDES[s] if FINDINGS[i] in SIDED else None)
        for i, s in sorted(zip(chosen.tolist(), sides.tolist(), strict=True))
    }


# ---------------------------------------------------------------- geometry


def _posed(u: Array, v: Array, exposure: dict[str, float]) -> tuple[Array, Array]:
    c, s = np.cos(exposure["rotation"]), np.sin(exposure["rotation"])
    x, y = (u - exposure["shift_u"]) / exposure["zoom"], (v - exposure["shift_v"]) / exposure["zoom"]
    return c * x + s * y, -s * x + c * y


def _inside(distance: Array, softness: float = 0.03) -> Array:
    """A soft indicator: 1 where the signed distance is negative, 0 where it is positive."""
    return 1 / (1 + np.exp(np.clip(distance / softness, -40, 40)))


def _blob(u: Array, v: Array, centre: tuple[float, float], radii: tuple[float, float], softness: float = 0.12) -> Array:
    """A soft ellipse."""
    r = np.hypot((u - centre[0]) / radii[0], (v - centre[1]) / radii[1])
    return _inside(r - 1, softness)


def _stroke(u: Array, v: Array, start: tuple[float, float], end: tuple[float, float], width: float) -> Array:
    """A straight line of the given half width."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = np.clip(((u - start[0]) * du + (v - start[1]) * dv) / (du * du + dv * dv), 0, 1)
    return _inside(np.hypot(u - start[0] - along * du, v - start[1] - along * dv) - width, width / 3)


def _texture(u: Array, v: Array, seed: float) -> Array:
    """Smooth blotches in [0, 1], the same for the same seed."""
    rng = np.random.default_rng(int(seed))
    waves = np.zeros_like(u)
    for _ in range(8):
        fu, fv, phase = rng.normal(0, 9), rng.normal(0, 9), rng.uniform(0, 2 * np.pi)
        waves += np.cos(fu * u + fv * v + phase)
    return 1 / (1 + np.exp(-waves / 1.5))


# ---------------------------------------------------------------- frontal films


def _frontal(u: Array, v: Array, film: Film) -> Array:
    a, e = film.patient.anatomy, film.exposure
    u = u - a["scoliosis"] * np.sin(np.pi * v)  # the spine's curve carries the thorax along
    body = _inside((np.abs(u / a["chest_half_width"]) ** a["chest_shape"] + np.maximum(-v - 0.55, 0) * 1.6) - 1, 0.08)
    image = body * a["soft_tissue"]
    lungs: dict[Side, Array] = {side: _lung(u, v, film, side) for side in DEVICE_SIDES}
    lung = lungs["left"] + lungs["right"]
    image -= lung * 0.40
    image += body * a["spine_contrast"] * np.exp(-((u / 0.09) ** 2)) * (1 + 0.3 * np.cos(v * 40))
    image -= body * 0.10 * np.exp(-(((u - 0.01) / 0.035) ** 2)) * _inside(v + 0.42, 0.05)  # trachea
    image += _ribs(u, v, a) * (0.35 * body + 0.65 * lung)
    image += _hila(u, v, a, lung)
    image += _heart(u, v, film)
    image += _clavicles(u, v, a, body)
    for sign in (1.0, -1.0):
        image += a["breast"] * _blob(u, v, (sign * 0.42, 0.42), (0.26, 0.24), 0.15)
        if film.view == "AP":  # supine patients do not roll their shoulders forward: the blades stay over the lungs
            image += 0.16 * _blob(u, v, (sign * 0.60, -0.36), (0.13, 0.30), 0.12)
    for finding, side in film.findings.items():
        image += _finding(finding, side, u, v, film, lungs)
    image += 0.5 * _blob(u, v, (0.93, e["marker_v"]), (0.05, 0.06), 0.15)  # the technologist's L marker
    frame = _inside(np.maximum(np.abs(u), np.abs(v)) - e["collimation"], 0.01)
    return image * frame


def _base_height(film: Film, side: Side) -> float:
    """Where the dome of the diaphragm stands; the right one is usually higher, collapse raises either."""
    a = film.patient.anatomy
    base = a["lung_base"] + (a["dome_step"] if side == "right" else 0.0) + (0.06 if film.view == "PA" else -0.06)
    return base - (0.24 * film.exposure["severity"] if film.findings.get("Atelectasis") == side else 0.0)


def _lung(u: Array, v: Array, film: Film, side: Side) -> Array:
    a = film.patient.anatomy
    sign = 1.0 if side == "left" else -1.0
    base = _base_height(film, side)
    middle_v, half_v = (a["lung_apex"] + base) / 2, (base - a["lung_apex"]) / 2
    centre_u = sign * (a["lung_gap"] + a["lung_width"])
    centre_u, x = centre_u * 0.98, sign * u
    taper = 1 - 0.28 * np.clip((middle_v - v) / half_v, 0, 1) ** 1.5  # narrower towards the apex
    r = (
        np.abs((x - abs(centre_u) * taper) / (a["lung_width"] * taper)) ** a["lung_shape"]
        + np.abs((v - middle_v) / half_v) ** a["lung_shape"]
    ) - 1
    dome = v - (base - a["dome_height"] * (1 - ((x - abs(centre_u)) / a["lung_width"]) ** 2))
    return _inside(r, 0.10) * _inside(dome, 0.025)


def _ribs(u: Array, v: Array, a: dict[str, float]) -> Array:
    arch = v - a["rib_slope"] * np.abs(u) ** 1.6 + 0.25 * np.abs(u)
    wave = np.cos(2 * np.pi * (arch / a["rib_spacing"] + a["rib_phase"]))
    posterior = _inside(a["rib_thickness"] * 2 - 0.6 - wave, 0.12)
    return a["rib_contrast"] * posterior * _inside(v - 0.62, 0.08) * _inside(0.10 - np.abs(u), 0.03)


def _hila(u: Array, v: Array, a: dict[str, float], lung: Array) -> Array:
    vessels = sum(np.exp(-(((u - s * 0.17) / 0.10) ** 2) - ((v + 0.08) / 0.20) ** 2) for s in (-1.0, 1.0))
    return np.asarray(a["hilum"] * vessels * (0.4 + 0.6 * lung))


def _heart(u: Array, v: Array, film: Film) -> Array:
    a = film.patient.anatomy
    enlarged = 1 + (0.62 + 0.2 * film.exposure["severity"] if "Cardiomegaly" in film.findings else 0.0)
    width = a["heart_width"] * enlarged * (1.08 if film.view == "AP" else 0.94)  # closer to the tube, larger on the film
    centre = (a["heart_shift"] * (1 + 0.45 * (enlarged - 1)), 0.24)
    x, y = u - centre[0], v - centre[1]
    c, s = np.cos(a["heart_tilt"]), np.sin(a["heart_tilt"])
    shape = np.hypot((c * x - s * y) / width, (s * x + c * y) / (a["heart_height"] * (1 + 0.25 * (enlarged - 1)))) - 1
    knob = _blob(u, v, (0.10, -0.26), (a["aortic_knob"] + 0.05, 0.10), 0.2)
    mediastinum = _blob(u, v, (0.02, -0.2), (0.11, 0.5), 0.25)
    return np.asarray(0.34 * np.maximum.reduce([_inside(shape, 0.09), 0.7 * knob, 0.6 * mediastinum]))


def _clavicles(u: Array, v: Array, a: dict[str, float], body: Array) -> Array:
    line = v - a["clavicle_height"] - a["clavicle_angle"] * (np.abs(u) - 0.3) + 0.10 * np.sin(np.abs(u) * 5)
    between = _inside(0.08 - np.abs(u), 0.02) * _inside(np.abs(u) - 0.72, 0.04)
    return np.asarray(a["clavicle_contrast"] * body * np.exp(-((line / 0.035) ** 2)) * between)


# ---------------------------------------------------------------- findings


def _finding(name: str, side: Side | None, u: Array, v: Array, film: Film, lungs: dict[Side, Array]) -> Array:
    severity, place = film.exposure["severity"], film.exposure["place"]
    sign = 1.0 if side == "left" else -1.0
    a = film.patient.anatomy
    centre_u = sign * (a["lung_gap"] + a["lung_width"]) * 0.95
    lung = lungs[side] if side is not None else lungs["left"] + lungs["right"]
    if name == "Pleural Effusion":
        level = _base_height(film, side or "left") - 0.26 - 0.32 * severity
        meniscus = level + 0.16 - 0.30 * ((sign * u - a["lung_gap"]) / (2 * a["lung_width"])) ** 2
        return 0.46 * lung * _inside(meniscus - v, 0.03)
    if name == "Consolidation":
        centre = (centre_u * (0.9 + 0.15 * place), -0.42 + 0.55 * place)
        return (
            0.36 * severity * lung * _blob(u, v, centre, (0.28, 0.24), 0.25) * (0.55 + 0.6 * _texture(u, v, film.exposure["texture_seed"]))
        )
    if name == "Atelectasis":  # the raised dome is drawn by `_base_height`; here the plate above it
        height = _base_height(film, side or "left") - a["dome_height"] - 0.12
        return 0.34 * lung * np.exp(-(((v - height - 0.25 * sign * (u - centre_u)) / 0.045) ** 2))
    if name == "Pneumothorax":
        edge = _blob(u, v, (centre_u * 0.82, 0.18), (a["lung_width"] * 0.80, 0.62), 0.04)
        outside = lung * (1 - edge) * _inside(v - 0.25, 0.08)
        rim = np.exp(-(((np.hypot((u - centre_u * 0.82) / (a["lung_width"] * 0.80), (v - 0.18) / 0.62) - 1) / 0.06) ** 2))
        return -0.22 * outside + 0.16 * lung * rim * _inside(v - 0.25, 0.08)
    if name == "Lung Lesion":
        return 0.42 * _blob(u, v, (centre_u * (0.85 + 0.25 * place), -0.35 + 0.5 * place), (0.11, 0.11), 0.15)
    if name == "Edema":
        haze = np.exp(-((np.abs(u) - 0.26) ** 2) / 0.05 - ((v + 0.02) ** 2) / 0.16)
        return 0.34 * severity * lung * haze * (0.6 + 0.5 * _texture(u, v, film.exposure["texture_seed"]))
    return _devices(u, v, place)


def _devices(u: Array, v: Array, place: float) -> Array:
    """A pacemaker below the clavicle with its lead into the heart, and a tube in the trachea."""
    box = _blob(u, v, (0.56, -0.48 + 0.12 * place), (0.15, 0.11), 0.08)
    lead = np.maximum(_stroke(u, v, (0.50, -0.50), (0.06, -0.38), 0.022), _stroke(u, v, (0.06, -0.38), (0.14, 0.34), 0.022))
    tube = _stroke(u, v, (0.0, -1.0), (0.0, -0.42 + 0.1 * place), 0.022)
    return np.asarray(0.55 * np.maximum.reduce([box, lead, tube]))


# ---------------------------------------------------------------- lateral films and development


def _lateral(u: Array, v: Array, film: Film) -> Array:
    """A plain side view: enough to be a lateral among frontals, findings shown as opacities of the lung field."""
    a, e = film.patient.anatomy, film.exposure
    body = _inside(np.hypot(u / (a["chest_half_width"] * 0.9), v / 1.25) - 1, 0.06)
    lung = _blob(u, v, (0.02, -0.1), (0.5, 0.72), 0.10) * _inside(v - a["lung_base"] - 0.2 * u, 0.04)
    image = body * a["soft_tissue"] - 0.34 * lung
    image += 0.22 * _blob(u, v, (-0.22, 0.22), (a["heart_width"] * (1.6 if "Cardiomegaly" in film.findings else 1.1), 0.3), 0.1)
    image += body * a["spine_contrast"] * np.exp(-(((u - 0.52 - 0.1 * v) / 0.1) ** 2)) * (1 + 0.4 * np.cos(v * 30))
    image += a["rib_contrast"] * body * (np.cos(2 * np.pi * ((v - 0.5 * u) / a["rib_spacing"])) > 0.5)
    if "Pleural Effusion" in film.findings:
        image += 0.4 * lung * _inside(a["lung_base"] - 0.25 - v, 0.04)
    for centre, radii, brightness in (shadow for name, shadow in LATERAL_SHADOWS.items() if name in film.findings):
        image += brightness * _blob(u, v, centre, radii, 0.2)
    frame = _inside(np.maximum(np.abs(u), np.abs(v)) - e["collimation"], 0.01)
    return image * frame


def _developed(canvas: Array, film: Film) -> NDArray[np.uint8]:
    e = film.exposure
    rng = np.random.default_rng(int(e["texture_seed"]) + 1)
    exposed = np.clip(canvas * e["gain"], 0, 1) ** e["gamma"] + rng.normal(0, e["noise"], canvas.shape)
    return np.asarray(np.clip(exposed, 0, 1) * 255 + 0.5, dtype=np.uint8)
