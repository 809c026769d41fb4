"""Where torch works: the device that was asked for, or the best there is."""

from __future__ import annotations

import torch

from cis_tasks.errors import PermanentError
from cis_tasks.spine.options import Options


def choose_device(options: Options) -> torch.device:
    """The device of ``options``; ``auto`` takes CUDA where there is one.

    Raises:
        PermanentError: ``device_absent``.
    """
    wanted = options.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PermanentError(
            "device_absent",
            f"The device {wanted} was asked for, and there are {torch.cuda.device_count()} here.",
            "Leave the parameter out, or run the job on a GPU host.",
        )
    return device


def refines_photometrically(options: Options) -> bool:
    """Whether corners are fitted to the pixels: by choice, or because a GPU makes it cheap."""
    if options.refine == "auto":
        return choose_device(options).type == "cuda"
    return options.refine == "photometric"
