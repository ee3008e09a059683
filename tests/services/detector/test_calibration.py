"""Calibrations: on the control fold alone, keyed by all that a score depends on, the same after a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from services.detector import calibration
from services.detector.calibration import (
    Calibrations,
    CalibrationSpec,
    alias_of,
    calibrate,
    calibration_key,
)
from shared.catalog import Catalog, new_id
from shared.errors import ConflictError, InvalidRequestError, NotFoundError
from shared.imaging.films import FilmTable
from shared.memorization import galleries
from shared.memorization.galleries import gallery_of
from shared.memorization.magnitude import UnconditionalCache, prompt_scores, screen
from shared.memorization.prompt_scoring import ScreeningSettings
from tests.fixtures.judging import ignore

if TYPE_CHECKING:
    from shared.diffusion.model import Model
    from tests.fixtures.judging import JudgingHome
    from tests.fixtures.models import StockedHome

SETTINGS = ScreeningSettings(steps=1, seeds_per_prompt=2, seed=0)


def spec_of(home: StockedHome, **changes: object) -> CalibrationSpec:
    spec = CalibrationSpec(
        model=home.model.id, dataset=home.dataset.id, false_positive_rate=0.2, screening=SETTINGS, signals=["noise_magnitude"]
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def test_calibration_scores_the_control_prompts_of_its_fold_alone(
    judging_home: JudgingHome, judging_catalog: Catalog, tiny_model: Model
) -> None:
    table = FilmTable(judging_catalog.fetch(judging_home.stocked.dataset))
    prompts = [table.facts[record].prompt for record in table.select("control", fold="calibration")]
    magnitudes = screen(tiny_model, tiny_model.encode(prompts), SETTINGS.seeds, steps=1, cache=UnconditionalCache())
    kept = Calibrations(judging_catalog).in_force(judging_home.stocked.model.id, SETTINGS)
    assert kept.control_scores == pytest.approx(sorted(prompt_scores(magnitudes).tolist()), rel=1e-4)
    assert kept.manifest.n_control == len(prompts)


def test_threshold_is_reached_by_no_more_than_the_rate(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    kept = Calibrations(judging_catalog).in_force(judging_home.stocked.model.id, SETTINGS)
    flagged = sum(score >= kept.manifest.threshold for score in kept.control_scores)
    assert (flagged + 1) / (kept.manifest.n_control + 1) <= max(0.2, 1 / (kept.manifest.n_control + 1))
    assert kept.control_scores[0] <= kept.manifest.control_median <= kept.control_scores[-1]


def test_key_changes_with_everything_that_the_score_depends_on(tiny_model: Model) -> None:
    def key(settings: ScreeningSettings = SETTINGS, model: Model = tiny_model) -> str:
        return calibration_key(model, settings, ["noise_magnitude"])

    others = [
        key(replace(SETTINGS, steps=2)),
        key(replace(SETTINGS, seeds_per_prompt=3)),
        key(replace(SETTINGS, seed=1)),
        key(model=replace(tiny_model, key="other weights")),
        key(model=replace(tiny_model, scheduler_config=tiny_model.scheduler_config | {"timestep_spacing": "trailing"})),
        key(model=replace(tiny_model, scheduler_config=tiny_model.scheduler_config | {"prediction_type": "v_prediction"})),
        calibration_key(tiny_model, SETTINGS, ["noise_magnitude", "other"]),
    ]
    assert key() == key()
    assert len({key(), *others}) == len(others) + 1


def test_calibration_on_a_data_set_without_gallery_builds_it(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    told: list[tuple[int, int, str]] = []
    with (
        mock.patch.object(galleries, "EMBEDDER_STEPS", 2),
        mock.patch.object(galleries, "READER_STEPS", 2),
        mock.patch.object(galleries, "BUILDING_STEPS", 4),
        mock.patch.object(calibration, "BUILDING_STEPS", 4),
    ):
        manifest, _ = calibrate(
            spec_of(stocked_home),
            new_id("calibration"),
            catalog=stocked_catalog,
            settings=stocked_home.settings,
            report=lambda *progress: told.append(progress),
        )
    gallery = gallery_of(stocked_catalog, stocked_home.dataset.id)
    assert gallery is not None
    assert gallery.id.removeprefix("gal_") == manifest.id.removeprefix("cal_")
    assert len({total for _, total, _ in told}) == 1
    assert [step for step, _, _ in told if step] == sorted(step for step, _, _ in told if step)
    assert told[-1][0] == told[-1][1]


def test_second_run_after_a_kill_answers_what_the_first_committed(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    spec = spec_of(judging_home.stocked, screening=replace(SETTINGS, seed=4))
    calibration_id = new_id("calibration")

    def run() -> str:
        return calibrate(spec, calibration_id, catalog=judging_catalog, settings=judging_home.settings, report=ignore)[0].digest

    with mock.patch.object(Catalog, "set_alias", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        run()
    with pytest.raises(ConflictError):
        Calibrations(judging_catalog).in_force(spec.model, spec.screening)
    with mock.patch.object(calibration, "score_prompts", side_effect=AssertionError("scored again")):
        digest = run()
    assert Calibrations(judging_catalog).in_force(spec.model, spec.screening).manifest.digest == digest


def test_newest_calibration_is_in_force(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    calibrations = Calibrations(judging_catalog)
    model = judging_home.stocked.model.id
    assert calibrations.in_force(model, SETTINGS).manifest.id == judging_home.calibration.id
    spec = spec_of(judging_home.stocked, false_positive_rate=0.4)
    newer, _ = calibrate(spec, new_id("calibration"), catalog=judging_catalog, settings=judging_home.settings, report=ignore)
    assert calibrations.in_force(model, SETTINGS).manifest.id == newer.id


def test_rate_that_so_few_controls_cannot_show_is_told(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    spec = spec_of(judging_home.stocked, false_positive_rate=0.001)
    manifest, warnings = calibrate(spec, new_id("calibration"), catalog=judging_catalog, settings=judging_home.settings, report=ignore)
    scores = json.loads(judging_catalog.read_file(manifest, "control_scores.json"))["scores"]
    assert manifest.threshold > max(scores)
    assert len(warnings) == 1
    assert "too few" in warnings[0]


def test_model_of_another_data_set_is_calibrated_with_a_warning(judging_home: JudgingHome) -> None:
    warnings = calibration._warnings(
        judging_home.calibration.model_copy(update={"dataset": "ds_other", "false_positive_rate": 0.5}), judging_home.stocked.model
    )
    assert len(warnings) == 1
    assert "not trained on this data set" in warnings[0]


def test_unknown_model_is_not_found(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="mdl_none"):
        Calibrations(stocked_catalog).in_force("mdl_none", SETTINGS)
    with pytest.raises(ConflictError, match="seeds_per_prompt 2"):
        Calibrations(stocked_catalog).in_force(stocked_home.model.id, SETTINGS)


def test_control_prompt_that_is_too_long_names_its_record(tiny_model: Model) -> None:
    with pytest.raises(InvalidRequestError, match="control record 8") as caught:
        calibration._require_short(tiny_model, ["edema", "edema " * 90], [7, 8])
    assert "edema" not in str(caught.value)


def test_alias_of_the_largest_settings_is_allowed(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    settings = ScreeningSettings(steps=10, seeds_per_prompt=32, seed=2**53 - 1)
    alias = alias_of(judging_home.stocked.model.id, settings)
    judging_catalog.set_alias("calibration", alias, judging_home.calibration.id)
    assert judging_catalog.get_alias("calibration", alias) == judging_home.calibration.id
