"""The story asks the services what the contract allows, and its report adds up."""

from __future__ import annotations

import base64

import pytest

from shared.cli.demo import Plan
from shared.cli.report import Gallery, Report
from tests.shared.cli.fake_services import CANARIES, CONTROLS, REFUSED_PROMPT, FakeServices, png
from tests.shared.cli.reports import told_story


@pytest.fixture
def told() -> tuple[FakeServices, Report, Gallery]:
    return told_story()


def test_canaries_are_copied_plainly_and_not_with_mitigation(told: tuple[FakeServices, Report, Gallery]) -> None:
    _, report, _ = told
    assert (report.copy_rate.canary_plain.value, report.copy_rate.canary_plain.n) == (1.0, 2 * CANARIES)
    assert (report.copy_rate.canary_mitigated.value, report.copy_rate.canary_mitigated.n) == (0.0, 2 * (CANARIES - 1))
    assert (report.copy_rate.control_plain.value, report.copy_rate.control_plain.n) == (0.0, 9)
    assert (report.refusal_rate.value, report.refusal_rate.n) == (pytest.approx(1 / CANARIES), 2 * CANARIES)
    assert report.fidelity.prompt_agreement.canary_plain.value == 1.0
    assert report.fidelity.mitigated_over_control == pytest.approx(1.0)


def test_every_evaluation_control_is_screened_and_none_that_calibrated(told: tuple[FakeServices, Report, Gallery]) -> None:
    _, report, _ = told
    controls = [row for row in report.prompts if row.group == "control"]
    assert len(controls) == CONTROLS
    assert all(row.record % 2 for row in controls)
    assert report.detection.auc.value == pytest.approx(1.0)
    assert report.detection.tpr_at_1pct_fpr.value == 1.0
    assert report.detection.canaries_flagged.value == 1.0
    assert report.detection.controls_flagged.value == 0.0
    assert report.detection.threshold == 2.0


def test_strategies_are_compared_each_variant_by_itself(told: tuple[FakeServices, Report, Gallery]) -> None:
    _, report, _ = told
    rows = {row.name: (row.images, row.copies, row.refused) for row in report.strategies}
    assert rows == {
        "plain": (2 * CANARIES, 2 * CANARIES, 0),
        "prompt_generalisation": (CANARIES, 1, 1),
        "guidance_timing (static)": (CANARIES, CANARIES, CANARIES),
        "guidance_timing (dynamic)": (CANARIES, CANARIES, CANARIES),
        "auto": (2 * CANARIES, 2, 2),
    }
    assert [row.paper for row in report.strategies] == ["", "Wen", "Jain", "Jain", "Lethe"]


def test_refusal_is_kept_with_its_reason_and_without_images(told: tuple[FakeServices, Report, Gallery]) -> None:
    _, report, gallery = told
    refused = next(row for row in report.prompts if row.prompt == REFUSED_PROMPT)
    assert refused.refused == "No strategy helped."
    assert refused.mitigated == []
    assert gallery.canaries[refused.record].mitigated is None


def test_pictures_belong_to_their_prompts(told: tuple[FakeServices, Report, Gallery]) -> None:
    _, _, gallery = told
    shown = gallery.canaries[1]
    pictures = (shown.film, shown.plain, shown.mitigated or b"")
    assert [base64.b64encode(picture).decode() for picture in pictures] == [png(1), png(200), png(40)]
    assert len(gallery.controls) == 6


def test_canary_words_are_explained_and_changes_named(told: tuple[FakeServices, Report, Gallery]) -> None:
    _, report, _ = told
    canary = report.prompts[0]
    assert [word.text for word in canary.words] == ["canary", "film", "0"]
    assert canary.mitigated[0].strategy == "prompt_generalisation+guidance_timing"
    assert canary.mitigated[0].changes == ['dropped "film"']
    assert report.prompts[-1].words == []


def test_times_of_all_phases_are_told(told: tuple[FakeServices, Report, Gallery]) -> None:
    _, report, _ = told
    assert set(report.seconds) == {
        "dataset",
        "train",
        "calibrate",
        "screen",
        "sample",
        "match",
        "mitigate",
        "strategies",
        "report",
        "total",
    }


def test_requests_stay_within_the_bounds_of_the_contract(told: tuple[FakeServices, Report, Gallery]) -> None:
    services, _, _ = told
    assert max(len(body["prompts"]) for body in services.bodies["/v1/screenings"]) == 64
    assert all(len(body["images"]) <= 64 for body in services.bodies["/v1/matches"])
    assert all(len(body["prompts"]) * body["images_per_prompt"] <= 16 for body in services.bodies["/v1/generations"])
    seeds = {body["seed"] for body in services.bodies["/v1/generations"]}
    assert seeds == {0}


def test_rehearsal_is_small_and_says_so() -> None:
    plan = Plan.rehearsal(3)
    assert (plan.seed, plan.quick) == (3, True)
    assert plan.steps < 100
