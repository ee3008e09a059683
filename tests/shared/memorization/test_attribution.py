"""Token attribution: right gradients, ignored tokens at exactly zero, words from their pieces."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch

from shared.diffusion.noise import draw_noise
from shared.memorization.attribution import attribute, span_weights, token_gradients
from shared.memorization.magnitude import UnconditionalCache, noise_prediction_magnitude
from tests.denoisers import PROMPTS, ListeningModel, counted_forwards

if TYPE_CHECKING:
    from shared.diffusion.model import Model

SEEDS = [1, 2]
PROMPT = PROMPTS[0]


def gradients(model: Model, prompts: list[str], seeds: list[int] | None = None) -> torch.Tensor:
    """Token gradients with a cold cache."""
    return token_gradients(model, prompts, seeds or SEEDS, UnconditionalCache())


def listening(model: Model, **weight: float) -> Any:
    """A model that hears the tokens at these positions only, with these weights."""
    weights = torch.zeros(model.token_limit)
    for position, value in weight.items():
        weights[int(position.removeprefix("at"))] = value
    return ListeningModel.of(model, weights_L=weights)


@pytest.mark.parametrize("token", [0, 5, 20])
def test_gradient_equals_finite_differences_in_double_precision(tiny: Model, token: int) -> None:
    unet = copy.deepcopy(tiny.unet).double()
    embedding = tiny.encode([PROMPT]).embeddings_BLE[0].double()
    features, step = embedding.shape[1], 1e-5
    with torch.no_grad():
        norms = []
        for noise in draw_noise(SEEDS, tiny.latent_shape).double():
            empty = unet(noise[None], 981, encoder_hidden_states=tiny.unconditional_1LE.double()).sample
            moved = embedding.repeat(2 * features, 1, 1)
            for feature in range(features):
                moved[2 * feature, token, feature] += step
                moved[2 * feature + 1, token, feature] -= step
            predictions = unet(noise.expand(2 * features, -1, -1, -1), 981, encoder_hidden_states=moved).sample
            d = (predictions - empty).flatten(1).norm(dim=1)
            norms.append(((d[0::2] - d[1::2]) / (2 * step)).norm())
    assert float(gradients(tiny, [PROMPT])[0, token]) == pytest.approx(float(torch.stack(norms).mean()), rel=2e-3)


def test_ignored_tokens_get_exactly_zero_and_heard_ones_their_weight(tiny: Model) -> None:
    found = gradients(listening(tiny, at3=2.0, at7=0.5), [PROMPT])[0]
    heard = found.nonzero().flatten().tolist()
    assert heard == [3, 7]
    assert float(found[3] / found[7]) == pytest.approx(4.0, rel=1e-5)


def test_gradient_has_its_closed_form(tiny: Model) -> None:
    model = listening(tiny, at3=2.0)
    e_c, e_u = model.encode([PROMPT]).embeddings_BLE, model.unconditional_1LE
    delta = 2.0 * torch.einsum("e,echw->chw", (e_c - e_u)[0, 3], model.map_ECHW)
    expected = 2.0 * torch.einsum("chw,echw->e", delta / delta.norm(), model.map_ECHW).norm()
    assert float(gradients(model, [PROMPT])[0, 3]) == pytest.approx(float(expected), rel=1e-4)


def test_mean_runs_over_images_not_over_the_stacked_batch(tiny: Model) -> None:
    separate = [gradients(tiny, [PROMPT], [seed]) for seed in (1, 2, 3)]
    torch.testing.assert_close(gradients(tiny, [PROMPT], [1, 2, 3]), torch.stack(separate).mean(0), rtol=1e-3, atol=1e-5)


def test_prompts_do_not_disturb_each_other(tiny: Model) -> None:
    together = gradients(tiny, PROMPTS[:2])
    torch.testing.assert_close(together[1], gradients(tiny, [PROMPTS[1]])[0], rtol=1e-3, atol=1e-5)


def test_unconditional_prediction_and_weights_receive_no_gradient(tiny: Model) -> None:
    cache = UnconditionalCache()
    token_gradients(tiny, [PROMPT], SEEDS, cache)
    assert not cache.get(tiny, SEEDS).requires_grad
    assert all(p.grad is None for part in (tiny.unet, tiny.text_encoder) for p in part.parameters())


def test_attribution_costs_one_row_a_prompt_and_seed(tiny: Model) -> None:
    cache = UnconditionalCache()
    cache.get(tiny, SEEDS)
    with counted_forwards(tiny) as seen:
        attribute(tiny, PROMPTS[:3], SEEDS, cache)
    assert (seen.conditional, seen.unconditional) == (6, 0)


def test_attribution_works_where_gradients_are_switched_off(tiny: Model) -> None:
    with torch.no_grad():
        assert float(gradients(tiny, [PROMPT]).max()) > 0


def test_words_are_those_of_the_prompt_and_weights_sum_to_one(tiny: Model) -> None:
    words = attribute(tiny, [PROMPT], SEEDS, UnconditionalCache())[0]
    assert [word.text for word in words] == PROMPT.split()
    assert sum(word.weight for word in words) == pytest.approx(1.0)
    assert all(word.weight > 0 for word in words)


def test_word_that_carries_the_score_ranks_first(tiny: Model) -> None:
    offsets = tiny.tokenizer(PROMPT, return_offsets_mapping=True)["offset_mapping"]
    place = PROMPT.index("effusion")
    position = next(k for k, (start, end) in enumerate(offsets) if start <= place < end)
    words = attribute(listening(tiny, **{f"at{position}": 1.0}), [PROMPT], SEEDS, UnconditionalCache())[0]
    assert [(word.text, word.weight) for word in words if word.weight > 0] == [("effusion.", 1.0)]


def test_pieces_of_a_word_are_merged_by_their_maximum(tiny: Model) -> None:
    prompt = "effusion 48213"  # digits are tokens of their own
    offsets = tiny.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    digits = [k for k, (start, end) in enumerate(offsets) if start < end and start >= 9]
    first = [k for k, (start, end) in enumerate(offsets) if start < end and start < 9]
    assert len(digits) == 5
    gradient = torch.zeros(tiny.token_limit)
    gradient[digits] = torch.tensor([0.1, 0.2, 3.0, 0.4, 0.5])
    gradient[first] = 1.0
    gradient[0] = gradient[-1] = 100.0  # markers and padding do not count
    assert span_weights(tiny, prompt, gradient, [(0, 8), (9, 14)]) == pytest.approx([0.25, 0.75])


def test_span_of_several_words_takes_the_strongest(tiny: Model) -> None:
    prompt = "left pleural effusion"
    offsets = tiny.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    gradient = torch.tensor([float(end) if start < end else 0.0 for start, end in offsets])
    left, rest = span_weights(tiny, prompt, gradient, [(0, 4), (5, 21)])
    assert rest / left == pytest.approx(21 / 4)


def test_accents_and_case_keep_their_places(tiny: Model) -> None:
    words = attribute(tiny, ["Épanchement  pleural, LEFT"], SEEDS, UnconditionalCache())[0]
    assert [word.text for word in words] == ["Épanchement", "pleural,", "LEFT"]
    assert all(word.weight > 0 for word in words)


def test_prompt_without_words_has_no_weights(tiny: Model) -> None:
    assert attribute(tiny, ["", "  "], SEEDS, UnconditionalCache()) == [[], []]


def test_prompt_that_pulls_nowhere_weighs_nothing(gaussian: Any) -> None:
    assert noise_prediction_magnitude(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)).tolist() == [0.0]
    deaf = listening(gaussian)
    assert [word.weight for word in attribute(deaf, ["left effusion"], SEEDS, UnconditionalCache())[0]] == [0.0, 0.0]
