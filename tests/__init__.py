"""The test suite; it mirrors services/ and shared/."""
