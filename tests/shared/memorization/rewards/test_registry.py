"""Opening rewards: by name, from any installed distribution, and refused with what would be right."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from shared.errors import InvalidRequestError
from shared.memorization.rewards.evaluation import measure
from shared.memorization.rewards.names import ENTRY_POINTS
from shared.memorization.rewards.registry import open_rewards
from tests.shared.memorization.rewards.conftest import EFFORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from shared.diffusion.model import Model
    from shared.memorization.rewards.reference import Reference

BRIGHTNESS = """
from shared.memorization.statistics import Group, mean_interval

class Brightness:
    name = "brightness"
    direction = "maximize"
    aspect = "quality"

    def __call__(self, evaluation):
        images = evaluation.control_images
        return mean_interval(Group(images.mean((1, 2)).tolist(), evaluation.reference.controls.patients))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a distribution with a module of rewards on the path."""

    def installed(source: str, distribution: str = "ward", reward: str = "brightness", factory: str = "Brightness") -> None:
        module = f"{distribution}_rewards"
        (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{reward} = {module}:{factory}\n")

    monkeypatch.syspath_prepend(tmp_path)
    yield installed
    for name in ("ward_rewards", "clinic_rewards"):
        sys.modules.pop(name, None)


def test_rewards_come_in_the_order_asked_for() -> None:
    assert [reward.name for reward in open_rewards(["fid", "memorization", "copy_rate"])] == ["fid", "memorization", "copy_rate"]


def test_unknown_reward_is_refused_with_those_that_are_known(install: Callable[..., None]) -> None:
    install(BRIGHTNESS)
    with pytest.raises(InvalidRequestError, match=r"no reward sharpness; known are memorization, .*coverage, brightness"):
        open_rewards(["fid", "sharpness"])


def test_reward_of_an_installed_distribution_is_measured_beside_the_others(
    install: Callable[..., None], tiny_model: Model, reference: Reference
) -> None:
    install(BRIGHTNESS)
    rewards = open_rewards(["fid", "brightness"])
    assert [reward.direction for reward in rewards] == ["minimize", "maximize"]
    figures = measure(tiny_model, reference, EFFORT, rewards)
    assert list(figures) == ["fid", "brightness"]
    assert 0 < figures["brightness"]["low"] <= figures["brightness"]["value"] <= 255
    assert figures["brightness"]["n"] == len(reference.controls.records)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (('    direction = "maximize"\n', ""), "lacks its direction, which must be minimize or maximize"),
        (('"maximize"', '"upwards"'), "lacks its direction"),
        (('"quality"', '"beauty"'), "lacks its aspect, which must be memorization or quality"),
        (('name = "brightness"', 'name = "darkness"'), "lacks its name, which must be brightness"),
        (("def __call__", "def figure"), "cannot be called"),
        (("class Brightness", "import nowhere_to_be_found\nclass Brightness"), "cannot be opened from ward_rewards:Brightness"),
        (("class Brightness", "class Other"), "cannot be opened"),
    ],
)
def test_what_is_no_reward_is_refused(install: Callable[..., None], changed: tuple[str, str], told: str) -> None:
    install(BRIGHTNESS.replace(*changed))
    with pytest.raises(InvalidRequestError, match=told):
        open_rewards(["brightness"])


def test_name_that_two_distributions_bring_is_refused(install: Callable[..., None]) -> None:
    install(BRIGHTNESS)
    install(BRIGHTNESS, distribution="clinic")
    with pytest.raises(InvalidRequestError, match="Several installed distributions bring a reward brightness"):
        open_rewards(["brightness"])


def test_plug_in_cannot_take_the_place_of_a_reward_of_lethe(install: Callable[..., None]) -> None:
    install(BRIGHTNESS.replace('"brightness"', '"fid"'), reward="fid")
    assert open_rewards(["fid"])[0].direction == "minimize"
