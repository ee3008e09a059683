"""What a search found, as pictures: their size, and what is in them by colour."""

from __future__ import annotations

import io
from threading import Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from services.trainer.search import pictures
from services.trainer.search.pictures import BASE, FLOOR, FRONT, KIND_COLOURS, PICTURES, ROWS_MAX, Drawing, picture_of, short_name
from tests.services.trainer.search.finished import finished


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def coloured(png: bytes, colour: str) -> int:
    return int((pixels(png) == np.array(ImageColor.getrgb(colour))).all(2).sum())


@pytest.mark.parametrize("objectives", [["memorization"], ["memorization", "finding_agreement"]])
def test_front_is_drawn_for_one_objective_and_for_more(objectives: list[str]) -> None:
    png = PICTURES["front"](Drawing(*finished(objectives=objectives)))
    assert coloured(png, FRONT) > 100


@pytest.mark.parametrize("objectives", [["memorization"], ["memorization", "finding_agreement"]])
def test_base_and_floor_are_drawn_where_they_were_measured(objectives: list[str]) -> None:
    summary, trials = finished(objectives=objectives)
    middle = {name: summary["pareto"][0]["values"][name] for name in objectives}
    base = {"values": middle, "intervals": {name: [value, value] for name, value in middle.items()}}
    floors = {objectives[-1]: middle[objectives[-1]]}
    for found, told, colours in ((None, None, (0, 0)), (base, None, (1, 0)), (None, floors, (0, 1)), (None, {"fid": 0.25}, (0, 0))):
        png = PICTURES["front"](Drawing(summary | {"base": found, "floors": told}, trials))
        assert (coloured(png, BASE) > 0, coloured(png, FLOOR) > 0) == colours


def test_frame_takes_in_a_base_that_lies_beyond_all_trials() -> None:
    summary, trials = finished()
    far = {"values": {"memorization": 9.0, "finding_agreement": -9.0}, "intervals": {}}
    far["intervals"] = {name: [value, value] for name, value in far["values"].items()}
    near = Drawing(summary, trials), Drawing(summary | {"base": far}, trials)
    dots = [np.argwhere((pixels(PICTURES["front"](drawing))[:600] == np.array(ImageColor.getrgb(FRONT))).all(2)) for drawing in near]
    assert np.ptp(dots[1][:, 1]) < np.ptp(dots[0][:, 1]) / 3  # the front is a corner now


def test_picture_is_drawn_again_only_when_something_new_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Drawing] = []

    def draw(drawing: Drawing) -> bytes:
        drawn.append(drawing)
        return b"%d" % len(drawn)

    monkeypatch.setattr(pictures, "PICTURES", {"front": draw, "masks": draw})
    picture_of.cache_clear()
    summary, trials = finished()
    assert [picture_of("front", Drawing(dict(summary), list(trials))) for _ in range(3)] == [b"1"] * 3
    assert picture_of("masks", Drawing(summary, trials)) == b"2"
    assert picture_of("front", Drawing(summary, trials[:-1])) == b"3"
    assert picture_of("front", Drawing(summary | {"steps": 1}, trials)) == b"4"
    picture_of.cache_clear()


def test_front_of_three_objectives_has_two_panels() -> None:
    summary, trials = finished()
    more = summary | {"objectives": summary["objectives"] | {"amd": "maximize"}}
    measured = [
        trial if trial.values is None else trial.model_copy(update={"values": trial.values | {"amd": trial.values["memorization"]}})
        for trial in trials
    ]
    two = pixels(PICTURES["front"](Drawing(more, measured))).shape[1]
    assert two > 1.3 * pixels(PICTURES["front"](Drawing(summary, trials))).shape[1]


def test_masks_fill_a_cell_for_each_module_that_took_part() -> None:
    summary, trials = finished()
    filled = sum(sum(trial.choice.mask) for trial in trials)
    cell = coloured(PICTURES["masks"](Drawing(summary, trials)), KIND_COLOURS["svdiff"]) / filled
    fewer = [trial.model_copy(update={"choice": trial.choice.model_copy(update={"mask": [1, *[0] * 5]})}) for trial in trials]
    assert coloured(PICTURES["masks"](Drawing(summary, fewer)), KIND_COLOURS["svdiff"]) == pytest.approx(cell * len(fewer), rel=0.02)


def test_masks_of_many_trials_stay_a_picture() -> None:
    summary, trials = finished()
    many = [trials[0].model_copy(update={"number": number}) for number in range(3 * ROWS_MAX)]
    assert len(pixels(PICTURES["masks"](Drawing(summary, many)))) == len(pixels(PICTURES["masks"](Drawing(summary, many[:ROWS_MAX]))))


def test_ranks_of_lora_are_written_into_the_cells() -> None:
    summary, trials = finished(space="lora")
    plain = [trial.model_copy(update={"choice": trial.choice.model_copy(update={"ranks": None})}) for trial in trials]
    colour = KIND_COLOURS["lora"]
    assert coloured(PICTURES["masks"](Drawing(summary, trials)), colour) < coloured(PICTURES["masks"](Drawing(summary, plain)), colour)


def test_hypervolume_never_falls_and_is_drawn() -> None:
    summary, trials = finished()
    shares = [share for _, share in summary["hypervolume"]]
    assert shares == sorted(shares)
    assert coloured(PICTURES["hypervolume"](Drawing(summary, trials)), FRONT) > 100


@pytest.mark.parametrize("picture", PICTURES)
def test_search_without_any_finished_trial_has_empty_pictures(picture: Any) -> None:
    summary, trials = finished()
    nothing = summary | {"pareto": [], "recommended": None, "hypervolume": []}
    assert pixels(PICTURES[picture](Drawing(nothing, trials[-1:]))).std() > 0


def test_pictures_drawn_side_by_side_are_those_drawn_alone() -> None:
    drawing = Drawing(*finished())
    alone = {name: draw(drawing) for name, draw in PICTURES.items()}
    together: dict[str, bytes] = {}
    threads = [Thread(target=lambda name=name, draw=draw: together.update({name: draw(drawing)})) for name, draw in PICTURES.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_module_names_are_short() -> None:
    assert [short_name(name) for name in ("down_blocks.0.attentions.1", "mid_block.attentions.0", "up_blocks.3.attentions.2")] == [
        "down 0.1",
        "mid",
        "up 3.2",
    ]
