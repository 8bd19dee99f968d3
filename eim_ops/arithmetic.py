"""The version of our own arithmetic, by which a run knows that an upgrade would give other pixels."""

ARITHMETIC = 1
"""Raised with each change after which the same models and settings make other pixels, rounding of floats aside: it is
part of the fingerprint, so that an output begun before is not gone on with (tests/eim_ops/test_arithmetic.py)."""
