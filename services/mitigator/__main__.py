"""`python -m services.mitigator` serves the mitigator."""

from services.mitigator.app import main

main()
