"""What contenders ask for: the same space for all searches, and in it the fixed choices of the kinds that are searched."""

from __future__ import annotations

import pytest

from benchmarks.memcontrol.contenders import CONTENDERS, FIXED, OURS, QUICK_CONTENDERS, SEARCHES, Fixed, search_spec, sweep
from benchmarks.memcontrol.regime import FULL
from services.trainer.search.space import Choice, Space

MODULES = ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0"]
SPACE = Space.of(search_spec(OURS, FULL, 2), MODULES)


def test_searches_differ_in_how_they_search_alone() -> None:
    spaces = [Space.of(search_spec(search, FULL, 0), MODULES) for search in SEARCHES]
    assert all(space == spaces[0] for space in spaces)
    asked = {search.name: search_spec(search, FULL, 0) for search in SEARCHES}
    told = {name: (spec.sampler, spec.warm_starts, spec.pruning is not None) for name, spec in asked.items()}
    assert told == {
        "ours": ("tpe", True, True),
        "TPE": ("tpe", False, False),
        "NSGA-II": ("nsga2", False, False),
        "random search": ("random", False, False),
    }
    assert all(spec.trials * FULL.steps >= FULL.budget for spec in asked.values())
    assert {tuple(spec.objectives) for spec in asked.values()} == {("memorization", "fid")}


@pytest.mark.parametrize("fixed", FIXED, ids=lambda fixed: fixed.name)
def test_sweep_tries_every_rate_from_the_middle_outwards(fixed: Fixed) -> None:
    specs = sweep(fixed, SPACE, FULL)
    rates = [spec.parameters.learning_rate for spec in specs]
    grid = FULL.rates_of(specs[0].parameters.kind).rates
    assert sorted(rate for rate in rates if rate is not None) == grid
    assert rates[0] == grid[len(grid) // 2]
    assert {rates[-1], rates[-2]} == {grid[0], grid[-1]}
    assert {(spec.seed, spec.steps, spec.learning_rate == spec.parameters.learning_rate) for spec in specs} == {(2, FULL.steps, True)}


def test_fixed_choice_of_a_searched_kind_is_a_point_of_the_space() -> None:
    choice = Choice(kind="svdiff", mask=[1, 1, 1], learning_rate=SPACE.rates["svdiff"][0])
    svdiff = next(fixed for fixed in FIXED if fixed.kind == "svdiff")
    assert SPACE.training(choice) in sweep(svdiff, SPACE, FULL)
    lora = next(fixed for fixed in FIXED if fixed.kind == "lora")
    choice = Choice(kind="lora", mask=[1, 1, 1], ranks=[4, 4, 4], learning_rate=SPACE.rates["lora"][2])
    assert sweep(lora, SPACE, FULL)[0] == SPACE.training(choice)


def test_names_are_different_and_quick_ones_known() -> None:
    names = [contender.name for contender in CONTENDERS]
    assert len(set(names)) == len(names)
    assert set(QUICK_CONTENDERS) < set(names)
