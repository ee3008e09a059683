"""Which of the denoiser's numbers learn while the others stay (parameter-efficient fine-tuning)."""
