from __future__ import annotations

import numpy as np
import pytest
import torch

from cis_tasks.spine import so3
from cis_tasks.spine.pose import find_poses, pick


def truth(made) -> torch.Tensor:
    time_s = made.sightings.time_s
    return torch.tensor(np.array([made.R_camera_tag(s, time_s) for s in range(len(made.rig.tags))]))


@pytest.mark.parametrize("distortion", [(), (-0.12, 0.03, 0.001, -0.001, 0.0)])
def test_perfect_corners_give_the_orientation_through_any_lens(session, distortion):
    made = session(sensors=2, duration_s=1, distortion=distortion)
    poses = find_poses(made.sightings.corners_px, made.rig.camera, made.rig.tag_size_m)
    R = pick(poses.R_camera_tag, poses.better)
    assert bool(poses.ok.all())
    assert float(so3.log(R.mT @ truth(made)).norm(dim=-1).max()) < 1e-4
    assert float(poses.error_px2.amin(-1).max()) < 1e-6


def test_the_right_pose_is_one_of_both_even_where_the_corners_prefer_the_other(session):
    made = session(sensors=2, duration_s=10, tag_size_m=0.02, corner_sd_px=0.2)
    poses = find_poses(made.sightings.corners_px, made.rig.camera, made.rig.tag_size_m)
    error = so3.log(poses.R_camera_tag.mT @ truth(made)[:, :, None]).norm(dim=-1)
    preferred = pick(error[..., None], poses.better)
    assert float((preferred > 0.3).double().mean()) > 0.05  # the ambiguity is real here
    assert float((error.amin(-1) > 0.3).double().mean()) < 0.02


def test_the_information_tells_how_far_noise_turns_a_tag(session):
    made = session(sensors=1, duration_s=20, corner_sd_px=0.2, tag_size_m=0.12)
    poses = find_poses(made.sightings.corners_px, made.rig.camera, made.rig.tag_size_m)
    R, information = pick(poses.R_camera_tag, poses.better), pick(poses.information, poses.better)
    error = so3.log(truth(made).mT @ R)
    squares = torch.einsum("ski,skij,skj->sk", error, information, error) / 0.2**2
    assert float(squares.mean()) == pytest.approx(3.0, rel=0.1)  # χ² with three degrees of freedom
    assert float(poses.noise) == pytest.approx(0.2, rel=0.1)


def test_frames_without_a_tag_have_no_pose_and_disturb_no_other(session):
    made = session(sensors=2, duration_s=1)
    corners = made.sightings.corners_px.copy()
    corners[0, 3:6] = np.nan
    poses = find_poses(corners, made.rig.camera, made.rig.tag_size_m)
    assert poses.ok[0].tolist() == [not 3 <= k < 6 for k in range(30)]
    assert bool(poses.ok[1].all())
    assert bool(torch.isfinite(poses.R_camera_tag).all())
