"""Fixtures for all tests; `support.cloud` says how to use them."""

from support.cloud import _no_outside_aws, cloud, cloud_of_module, emulator, make_cloud

__all__ = ["_no_outside_aws", "cloud", "cloud_of_module", "emulator", "make_cloud"]
