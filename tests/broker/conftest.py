"""Fixtures for the broker's tests; `jobs` says how to use them."""

from jobs import jobs, make_jobs

__all__ = ["jobs", "make_jobs"]
