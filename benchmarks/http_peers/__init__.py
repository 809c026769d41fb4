"""The peers of `benchmarks/http_service.py`."""
