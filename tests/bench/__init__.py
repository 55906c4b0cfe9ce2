"""Benchmarks: ratios and JSON, never a gate."""
