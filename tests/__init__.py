"""Tests, and what they share."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
