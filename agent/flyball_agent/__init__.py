"""The network side of a host: session, spool, kernel log, health, isolation, jobs; it may not touch GPUs."""
