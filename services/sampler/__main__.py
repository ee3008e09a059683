"""`python -m services.sampler` serves the sampler."""

from services.sampler.app import main

main()
