"""`python -m services.trainer` serves the trainer."""

from services.trainer.app import main

main()
