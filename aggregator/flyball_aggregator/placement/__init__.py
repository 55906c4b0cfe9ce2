"""Queues, gangs and placement that know GPUs, topology, health and watts."""
