"""Simulated device libraries behind the real ABI, and the client that controls them."""
