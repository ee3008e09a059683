"""The command line `lethe`: starts the services, drives them over HTTP, and measures the whole story."""

from shared.cli.app import main

__all__ = ["main"]
