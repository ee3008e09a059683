"""Model folders: read and written as diffusers does, refused where they could run code; prompts; ε from ε and from v."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from diffusers import StableDiffusionPipeline

from shared.diffusion.model import Conditioning, Model
from shared.diffusion.model_folder import ModelFolderError
from shared.diffusion.noise import draw_noise
from shared.errors import InvalidRequestError
from tests.denoisers import IMAGE_SIZE, PROMPTS, stable_diffusion_pipeline, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

# ᾱ_t of Stable Diffusion 1.x, as its papers' schedule gives it.
ALPHA_BAR = {
    1: 0.99830,
    41: 0.96087,
    100: 0.89422,
    200: 0.75369,
    500: 0.27633,
    600: 0.16078,
    650: 0.11710,
    700: 0.08252,
    800: 0.03687,
    981: 0.00578,
    999: 0.00466,
}


@pytest.fixture
def folder(tiny: Model, tmp_path: Path) -> Path:
    """The tiny model on disk."""
    tiny.save(tmp_path)
    return tmp_path


def noise_of(model: Model, count: int = 2) -> torch.Tensor:
    """Starting noise."""
    return draw_noise(range(count), model.latent_shape)


@pytest.mark.parametrize("t", ALPHA_BAR)
def test_schedule_has_reference_values(tiny: Model, t: int) -> None:
    assert float(tiny.alphas_cumprod[t]) == pytest.approx(ALPHA_BAR[t], abs=6e-6)


@pytest.mark.parametrize("t", [41, 500, 981])
def test_v_is_converted_to_epsilon(t: int, tmp_path: Path) -> None:
    stable_diffusion_pipeline("v_prediction").save_pretrained(tmp_path)
    model = Model.load(tmp_path, key="v")
    x, conditioning = noise_of(model), model.encode(PROMPTS[:2])
    with torch.no_grad():
        v_cond = model.unet(x, t, encoder_hidden_states=conditioning.embeddings_BLE).sample
        v_uncond = model.unet(x, t, encoder_hidden_states=model.unconditional_1LE.expand(2, -1, -1)).sample
        eps_cond = model.predict_noise(x, t, conditioning.embeddings_BLE)
        eps_uncond = model.predict_noise(x, t, model.unconditional_1LE.expand(2, -1, -1))
    alpha, sigma = ALPHA_BAR[t] ** 0.5, (1 - ALPHA_BAR[t]) ** 0.5
    torch.testing.assert_close(eps_cond, alpha * v_cond + sigma * x, rtol=0, atol=1e-4)
    torch.testing.assert_close(eps_cond - eps_uncond, alpha * (v_cond - v_uncond), rtol=0, atol=1e-5)


def test_epsilon_is_what_the_network_says(tiny: Model) -> None:
    x, conditioning = noise_of(tiny), tiny.encode(PROMPTS[:2])
    with torch.no_grad():
        native = tiny.unet(x, 981, encoder_hidden_states=conditioning.embeddings_BLE).sample
        assert torch.equal(tiny.predict_noise(x, 981, conditioning.embeddings_BLE), native)
        assert torch.equal(tiny.predict_noise(x, torch.tensor([981, 981]), conditioning.embeddings_BLE), native)


def test_each_image_may_have_its_own_timestep(stable_diffusion: Model) -> None:
    x, conditioning = noise_of(stable_diffusion), stable_diffusion.encode(PROMPTS[:2])
    with torch.no_grad():
        mixed = stable_diffusion.predict_noise(x, torch.tensor([981, 41]), conditioning.embeddings_BLE)
        early = stable_diffusion.predict_noise(x, 981, conditioning.embeddings_BLE)
        late = stable_diffusion.predict_noise(x, 41, conditioning.embeddings_BLE)
    torch.testing.assert_close(mixed, torch.stack([early[0], late[1]]), rtol=0, atol=1e-5)


def test_saved_model_loads_again_and_predicts_the_same(tiny: Model, folder: Path) -> None:
    again = Model.load(folder, key="again")
    x = noise_of(tiny)
    with torch.no_grad():
        ours, theirs = (m.predict_noise(x, 981, m.encode(PROMPTS[:2]).embeddings_BLE) for m in (tiny, again))
    assert torch.equal(ours, theirs)
    assert torch.equal(tiny.tokenize(PROMPTS), again.tokenize(PROMPTS))
    assert (again.key, again.image_size, again.latent_shape, again.token_limit) == ("again", IMAGE_SIZE, (4, 8, 8), 64)


def test_saved_tiny_model_loads_as_diffusers_pipeline(tiny: Model, folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    for ours, theirs in ((tiny.unet, pipeline.unet), (tiny.vae, pipeline.vae), (tiny.text_encoder, pipeline.text_encoder)):
        assert all(torch.equal(left, right) for left, right in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert pipeline.tokenizer(PROMPTS)["input_ids"] == tiny.tokenizer(PROMPTS)["input_ids"]
    assert torch.equal(pipeline.scheduler.alphas_cumprod, tiny.alphas_cumprod)


def test_stable_diffusion_folder_of_diffusers_loads(stable_diffusion: Model) -> None:
    assert (stable_diffusion.latent_shape, stable_diffusion.image_size, stable_diffusion.token_limit) == ((4, 8, 8), IMAGE_SIZE, 77)
    assert stable_diffusion.prediction_type in {"epsilon", "v_prediction"}
    images = stable_diffusion.to_images(noise_of(stable_diffusion))
    assert images.shape == (2, IMAGE_SIZE, IMAGE_SIZE)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_half_precision_folder_is_loaded_in_single_precision(tmp_path: Path) -> None:
    stable_diffusion_pipeline("epsilon").to(torch.float16).save_pretrained(tmp_path)
    model = Model.load(tmp_path, key="half")
    assert {p.dtype for part in (model.unet, model.text_encoder, model.vae) for p in part.parameters()} == {torch.float32}
    with torch.no_grad():
        prediction = model.predict_noise(noise_of(model), 981, model.encode(PROMPTS[:2]).embeddings_BLE)
    assert prediction.dtype == torch.float32


def test_stable_diffusion_folder_with_pndm_schedule_keeps_the_schedule(tmp_path: Path) -> None:
    from diffusers import PNDMScheduler

    pipeline = stable_diffusion_pipeline("epsilon")
    pipeline.scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    )
    pipeline.save_pretrained(tmp_path)
    model = Model.load(tmp_path, key="pndm")
    assert float(model.alphas_cumprod[500]) == pytest.approx(ALPHA_BAR[500], abs=6e-6)
    assert model.prediction_type == "epsilon"


@pytest.mark.parametrize("prediction", ["sample", "flow_prediction", "x"])
def test_unknown_prediction_type_is_refused(tiny: Model, prediction: str) -> None:
    config = tiny.scheduler_config | {"prediction_type": prediction}
    with pytest.raises(ModelFolderError, match=prediction):
        Model(tiny.text_encoder, tiny.tokenizer, tiny.unet, tiny.vae, config, "key", tiny.device)


def test_longest_prompt_is_read_and_a_longer_one_refused_with_the_limit(tiny: Model) -> None:
    fitting = " ".join("7" * (tiny.token_limit - 2))
    assert tiny.tokenize([fitting]).shape == (1, 64)
    with pytest.raises(InvalidRequestError, match="prompt 1 has 65 tokens; the text encoder reads 64") as caught:
        tiny.tokenize([PROMPTS[0], fitting + " 7"])
    assert caught.value.field == "prompts.1"
    assert "X-ray" not in str(caught.value)


def test_longer_prompt_is_cut_where_it_may_be(tiny: Model) -> None:
    limit = tiny.token_limit - 2
    cut, short = tiny.encode([" ".join(["edema"] * (limit + 5)), " ".join(["edema"] * limit)], truncate=True).embeddings_BLE
    assert torch.equal(cut, short)


def test_prompts_are_padded_and_alone_read_as_in_company(tiny: Model) -> None:
    together = tiny.encode([PROMPTS[0], "", PROMPTS[2]])
    assert together.embeddings_BLE.shape == (3, 64, 64)
    torch.testing.assert_close(tiny.encode([PROMPTS[2]]).embeddings_BLE, together.embeddings_BLE[2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(tiny.unconditional_1LE[0], together.embeddings_BLE[1], rtol=0, atol=1e-5)
    assert not together.embeddings_BLE.requires_grad


def test_case_and_spaces_do_not_matter_as_in_clip(tiny: Model) -> None:
    assert torch.equal(tiny.tokenize(["Large  LEFT\npleural effusion"]), tiny.tokenize(["large left pleural effusion"]))


def test_conditioning_repeats_prompt_by_prompt(tiny: Model) -> None:
    conditioning = tiny.encode(PROMPTS[:2])
    repeated = conditioning.repeat(3)
    assert len(repeated) == 6
    assert torch.equal(repeated.embeddings_BLE[:3], conditioning.embeddings_BLE[:1].expand(3, -1, -1))
    assert torch.equal(repeated.token_ids_BL[3:], conditioning.token_ids_BL[1:].expand(3, -1))
    assert isinstance(repeated[2:4], Conditioning)
    assert torch.equal(repeated[2:4].token_ids_BL, conditioning.token_ids_BL)


def test_empty_prompt_is_encoded_once_until_the_weights_change() -> None:
    model = tiny_model(seed=5)
    before = model.unconditional_1LE
    assert model.unconditional_1LE is before
    with torch.no_grad():
        model.text_encoder.get_input_embeddings().weight.neg_()
    model.weights_changed()
    assert (model.unconditional_1LE - before).abs().max() > 1e-3


def test_latents_are_scaled_once_and_decoded_back(tiny: Model) -> None:
    images = torch.rand(3, IMAGE_SIZE, IMAGE_SIZE)
    latents = tiny.to_latents(images)
    assert latents.shape == (3, 4, 8, 8)
    mean = tiny.vae.encode((images * 2 - 1)[:, None]).latent_dist.mean
    torch.testing.assert_close(latents, mean * tiny.vae.config.scaling_factor)
    decoded = tiny.vae.decode(mean).sample
    torch.testing.assert_close(tiny.to_images(latents), (decoded[:, 0] / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
