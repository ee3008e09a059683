"""The model, the denoising loop, guidance: no policy, no HTTP."""
