"""Fixtures for all tests; `support.cloud` says how to use them."""

from hypothesis import settings

from support.cloud import _no_outside_aws, cloud, cloud_of_module, emulator, make_cloud

__all__ = ["_no_outside_aws", "cloud", "cloud_of_module", "emulator", "make_cloud"]

settings.register_profile("shared machines", deadline=None, max_examples=60)
settings.load_profile("shared machines")
