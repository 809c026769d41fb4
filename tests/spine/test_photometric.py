"""Corners from the pixels: nearer to the truth than the detector's, and the same on any device."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cis_tasks.spine.options import Options
from cis_tasks.spine.photometric import Refiner
from cis_tasks.spine.procedure import calibrate_sightings
from cis_tasks.spine.tags import watch
from cis_tasks.spine.video import Video

SIDE_PX, BLUR_PX, NOISE = 30.0, 0.8, 3.0


def pictures(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Small tags in perspective, and where their corners are."""
    rng = np.random.default_rng(5)
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    sheet = np.pad(cv2.aruco.generateImageMarker(family, 0, 256), 32, constant_values=255)
    source = np.array([[31.5, 31.5], [287.5, 31.5], [287.5, 287.5], [31.5, 287.5]], np.float32)
    shown, corners = [], []
    for _ in range(count):
        turn = rng.uniform(0, 2 * np.pi)
        R = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * SIDE_PX
        place = square @ R.T + 45 + rng.uniform(-1, 1, 2) + rng.uniform(-2, 2, (4, 2))
        M = cv2.getPerspectiveTransform(source, ((place + 0.5) * 4 - 0.5).astype(np.float32))
        large = cv2.warpPerspective(sheet.astype(np.float32), M, (360, 360), borderValue=110)
        small = cv2.resize(large, (90, 90), interpolation=cv2.INTER_AREA)
        lit = 25 + 0.75 * cv2.GaussianBlur(small, (0, 0), BLUR_PX)
        shown.append(np.clip(lit + rng.normal(0, NOISE, lit.shape), 0, 255).astype(np.uint8))
        corners.append(place)
    return shown, np.array(corners)


def refine(shown, near, device="cpu"):
    refiner = Refiner("36h11", [0], torch.device(device))
    for picture, corners in zip(shown, near, strict=True):
        refiner.offer(0, corners, picture)
    return refiner.finish()


@pytest.fixture(scope="module")
def tags():
    shown, true = pictures(60)
    return shown, true, true + np.random.default_rng(1).normal(0, 0.4, true.shape)


def test_corners_come_within_hundredths_of_a_pixel(tags):
    shown, true, near = tags
    found = refine(shown, near)
    assert np.isfinite(found.corners_px).all()
    assert np.sqrt(((found.corners_px - true) ** 2).mean()) < 0.04


def test_the_information_tells_how_far_off_the_corners_are(tags):
    shown, true, near = tags
    found = refine(shown, near)
    error = (found.corners_px - true).reshape(-1, 8)
    chi2 = np.einsum("ki,kij,kj->k", error, found.information, error)
    assert 4 < np.median(chi2) < 16  # eight degrees of freedom: the median is 7.3


def test_where_there_is_no_tag_nothing_is_found():
    shown = [np.random.default_rng(k).integers(0, 255, (90, 90), np.uint8) for k in range(8)]
    near = np.tile(np.array([[30.0, 30], [60, 30], [60, 60], [30, 60]]), (8, 1, 1))
    found = refine(shown, near)
    certain = np.isfinite(found.corners_px).all((1, 2))
    sd = 1 / np.sqrt(found.information[certain].diagonal(axis1=1, axis2=2))
    assert certain.sum() == 0 or sd.min() > 0.1


def test_cpu_and_cuda_find_the_same_corners(tags):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    shown, _, near = tags
    on_cpu, on_cuda = refine(shown, near), refine(shown, near, "cuda")
    np.testing.assert_allclose(on_cuda.corners_px, on_cpu.corners_px, atol=0.002)


def test_a_session_is_calibrated_by_photometric_corners(files, cpu):
    made = files.session
    options = replace(cpu, refine="photometric")
    with Video(files.video) as video:
        sightings = watch(video, made.rig, options)
    assert sightings.information is not None
    apart = sightings.corners_px - made.sightings.corners_px
    assert np.sqrt(np.nanmean(apart**2)) < 0.15
    assert calibrate_sightings(made.recording, sightings, made.rig, options).passed


def test_where_there_is_no_gpu_the_outline_is_refined_alone(files):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with Video(files.video) as video:
        assert watch(video, files.session.rig, Options()).information is None
