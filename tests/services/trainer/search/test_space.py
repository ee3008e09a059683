from __future__ import annotations

import math
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Choice, Space, modules_digest
from shared.errors import InvalidRequestError

TINY = ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]
SD15 = [
    *(f"down_blocks.{block}.attentions.{number}" for block in range(3) for number in range(2)),
    "mid_block.attentions.0",
    *(f"up_blocks.{block}.attentions.{number}" for block in range(1, 4) for number in range(3)),
]
ONE_RATE = {"low": 1e-4, "high": 1e-4, "points": 1}
TWO_RATES = {"low": 1e-4, "high": 1e-3, "points": 2}


def space_of(modules: list[str], **told: Any) -> Space:
    training = {"name": "find", "dataset": "dst_1", "base": "mdl_1"}
    return Space.of(SearchSpec.model_validate({"training": training, "space": "svdiff"} | told), modules)


def everything(space: Space, start: Choice) -> dict[str, Choice]:
    """All that steps from one choice to its neighbours reach."""
    found, ahead = {start.key(): start}, [start]
    while ahead:
        for near in space.neighbours(ahead.pop()):
            if near.key() not in found:
                found[near.key()] = near
                ahead.append(near)
    return found


def chosen(space: Space, pick: int) -> Choice | None:
    """Some choice of a space, made axis by axis from a number's digits."""
    genes: dict[str, int] = {}
    for name, axis in space.axes(genes):
        pick, genes[name] = divmod(pick, axis.options)
    return space.choice(genes, "suggested")


@pytest.mark.parametrize(("kind", "bits"), [("svdiff", 13), ("diffit", 13), ("attention", 16), ("lora", 16)])
def test_stable_diffusion_has_the_papers_bits(kind: str, bits: int) -> None:
    space = space_of(SD15, space=kind, **({"ranks": [4]} if kind == "lora" else {}))
    free = [name for name, _ in space.axes({}) if name.startswith("bit.")]
    assert len(free) == bits
    assert space.size == 9 * (2**bits - (kind in {"attention", "lora"}))


def test_the_third_attention_of_an_up_block_always_takes_part() -> None:
    space = space_of(SD15)
    nothing = space.choice(
        {"rate.svdiff": 0, **{f"bit.{index}": 0 for index in range(16)}, "bit.9": 1, "bit.12": 1, "bit.15": 1}, "suggested"
    )
    assert nothing is not None
    assert [name for name, bit in zip(SD15, nothing.mask, strict=True) if bit] == [f"up_blocks.{block}.attentions.2" for block in (1, 2, 3)]


@pytest.mark.parametrize(
    "told",
    [
        {"learning_rate": TWO_RATES},
        {"space": "attention", "learning_rate": TWO_RATES},
        {"space": "lora", "ranks": [1, 3], "learning_rate": TWO_RATES},
        {"space": "lora", "ranks": [1, 3], "always": [TINY[1]], "learning_rate": ONE_RATE},
        {
            "space": "auto",
            "ranks": [2, 4],
            "learning_rate": dict.fromkeys(("svdiff", "lora"), ONE_RATE) | {"diffit": TWO_RATES, "attention": ONE_RATE},
        },
        {
            "vary": {"batch_filter": [None, {"kind": "magnitude"}], "captions": [[], [{"kind": "scrub"}]]},
            "learning_rate": ONE_RATE,
        },
    ],
)
def test_steps_between_neighbours_reach_as_many_choices_as_the_size_tells(told: dict[str, Any]) -> None:
    space = space_of(TINY[:3], **told)
    start = next(choice for pick in range(100) if (choice := chosen(space, pick)) is not None)
    found = everything(space, start)
    assert len(found) == space.size
    assert all(space.choice(space.genes(choice), choice.origin) == choice for choice in found.values())
    assert all(any(choice.mask) for choice in found.values() if choice.kind in {"attention", "lora"})


def test_rates_are_a_logarithmic_grid_of_six_digits() -> None:
    space = space_of(TINY)
    rates = space.rates["svdiff"]
    assert (rates[0], rates[4], rates[-1], len(rates)) == (1e-5, 1e-4, 1e-3, 9)
    assert space.middle_rate("svdiff") == 1e-4
    assert all(high / low == pytest.approx(math.sqrt(math.sqrt(10)), rel=1e-4) for low, high in pairwise(rates))


@given(pick=st.integers(0, 10**12), kind=st.sampled_from(["svdiff", "lora", "auto"]))
@settings(max_examples=60, deadline=None)
def test_choices_come_back_from_json_and_from_genes(pick: int, kind: str) -> None:
    space = space_of(SD15, space=kind)
    if (choice := chosen(space, pick)) is None:
        return
    again = Choice.model_validate_json(choice.model_dump_json())
    assert again == choice
    assert again.key() == choice.key()
    assert space.choice(space.genes(choice), "suggested") == choice
    near = list(islice(space.neighbours(choice), 40))
    assert choice.key() not in {other.key() for other in near}
    assert len({other.key() for other in near}) == len(near)


def test_who_thought_of_it_is_no_part_of_what_it_is() -> None:
    choice = Choice(kind="svdiff", mask=[1, 0], learning_rate=1e-4)
    assert choice.key() == choice.model_copy(update={"origin": "neighbour"}).key()
    assert choice.key() != choice.model_copy(update={"learning_rate": 2e-4}).key()
    assert choice.key() != choice.model_copy(update={"mask": [1, 1]}).key()


def test_a_choice_becomes_the_training_it_stands_for() -> None:
    space = space_of(
        TINY, vary={"batch_filter": [None, {"kind": "anti_gradient"}], "captions": [[], [{"kind": "embedding_noise", "scale": 0.2}]]}
    )
    choice = Choice(kind="svdiff", mask=[1, 0, 0, 1], learning_rate=1e-4, batch_filter=1, captions=1)
    training = space.training(choice)
    assert training.parameters.kind == "svdiff"
    assert (training.parameters.mask, training.parameters.learning_rate, training.learning_rate) == ([1, 0, 0, 1], 1e-4, 1e-4)
    assert training.batch_filter is not None
    assert training.batch_filter.kind == "anti_gradient"
    assert [rule.kind for rule in training.captions] == ["embedding_noise"]
    assert (training.name, training.dataset, training.base, training.text_encoder) == ("find", "dst_1", "mdl_1", "frozen")
    plain = space.training(choice.model_copy(update={"batch_filter": 0, "captions": 0}))
    assert plain.batch_filter is None
    assert plain.captions == []


def test_what_does_not_vary_stays_as_the_training_says() -> None:
    training = {"name": "find", "dataset": "dst_1", "base": "mdl_1", "batch_filter": {"kind": "magnitude"}, "captions": [{"kind": "scrub"}]}
    space = space_of(TINY, training=training)
    told = space.training(Choice(kind="svdiff", mask=[1, 1, 1, 1], learning_rate=1e-3))
    assert told.batch_filter is not None
    assert [rule.kind for rule in told.captions] == ["scrub"]


def test_a_lora_has_ranks_where_others_have_bits() -> None:
    space = space_of(TINY, space="lora")
    choice = space.choice({"rate.lora": 8, "bit.0": 1, "rank.0": 2, "bit.1": 0, "bit.2": 1, "rank.2": 0, "bit.3": 0}, "suggested")
    assert choice is not None
    assert (choice.mask, choice.ranks, choice.learning_rate) == ([1, 0, 1, 0], [8, 0, 2, 0], 1e-3)


@pytest.mark.parametrize("kind", ["svdiff", "diffit", "attention", "lora"])
def test_every_kind_becomes_a_training_of_that_kind(kind: str) -> None:
    space = space_of(TINY, space=kind)
    choice = chosen(space, 9 * 5 + 3)
    assert choice is not None
    parameters = space.training(choice).parameters
    assert (parameters.kind, parameters.learning_rate) == (kind, choice.learning_rate)
    assert (parameters.ranks, parameters.mask) == (choice.ranks, None) if parameters.kind == "lora" else parameters.mask == choice.mask


def test_a_base_that_does_not_fit_is_refused_with_the_field() -> None:
    with pytest.raises(InvalidRequestError, match="no attention modules") as without:
        space_of([])
    assert without.value.field == "space"
    with pytest.raises(InvalidRequestError, match="no attention module up_blocks") as unknown:
        space_of(TINY, always=["up_blocks.7.attentions.0"])
    assert unknown.value.field == "always"


def test_the_digest_tells_bases_with_other_modules_apart() -> None:
    assert space_of(TINY).modules_digest == modules_digest(TINY)
    assert modules_digest(TINY) != modules_digest(TINY[::-1])
