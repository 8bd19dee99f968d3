"""Measurements that are too long or too machine-bound for the tests."""
