"""Policies tried out on workloads: the same policy code, simulated machines, no AWS."""
