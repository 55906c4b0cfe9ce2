"""The device side of a host: sampler, ring, lease, caps, fallback; it has no network."""
