"""`python -m services.detector` serves the detector."""

from services.detector.app import main

main()
