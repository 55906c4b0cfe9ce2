"""The digital twin: plants, workloads, scenarios, policies and reports around the real control code."""
