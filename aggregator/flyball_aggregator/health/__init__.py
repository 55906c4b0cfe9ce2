"""Fleet health: incidents, permits, host lifecycle and integrity."""
