"""Imported SMPL estimates keep each vertex at the pixel where the estimator's camera puts it."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from gcl_fast.bodies import SMPLBody, import_estimates, load_body_parameters
from gcl_fast.bodies.estimates import MAX_PITCH, main, split_view
from gcl_fast.errors import UserError
from gcl_fast.render import project

pytest.importorskip("smplx")
PARENTS = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]


@pytest.fixture
def smpl(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "SMPL_NEUTRAL.npz"
    np.savez(
        path,
        v_template=generator.normal(0, 0.4, (50, 3)),
        shapedirs=generator.normal(0, 0.02, (50, 3, 10)),
        posedirs=generator.normal(0, 0.01, (50, 3, 207)),
        J_regressor=generator.dirichlet(np.ones(50), 24),
        weights=generator.dirichlet(np.full(24, 0.1), 50),
        f=generator.integers(0, 50, (80, 3)),
        kintree_table=np.array([PARENTS, range(24)]),
    )
    return path


def estimates(count=5):
    """Make estimates of upright people before a camera with y down and z away, each turned and slightly tilted."""
    generator = np.random.default_rng(1)
    pose = generator.normal(0, 0.2, (count, 72)).astype(np.float32)
    flip = Rotation.from_euler("x", 180, degrees=True)
    view = Rotation.from_euler(
        "xy", np.stack((generator.uniform(-20, 30, count), generator.uniform(-180, 180, count)), 1), True
    )
    pose[:, :3] = (flip * view * Rotation.from_rotvec(pose[:, :3])).as_rotvec()
    return {
        "names": np.array([f"dir/{i}.jpg" for i in range(count)]),
        "pose": pose,
        "betas": generator.normal(0, 1, (count, 10)).astype(np.float32),
        "cam": np.stack([generator.uniform(*r, count) for r in ((0.7, 1.1), (-0.1, 0.1), (-0.1, 0.3))], 1).astype(
            np.float32
        ),
        "size": np.tile([[128, 64]], (count, 1)),
    }


def estimator_pixels(body, arrays, centre_x, centre_y, side):
    """Project the vertices by the estimator's weak perspective, to pixels of the crop."""
    pose, betas = torch.from_numpy(arrays["pose"]), torch.from_numpy(arrays["betas"])
    vertices, joints, _ = body.articulate(pose, betas)
    in_camera = vertices - joints[:, :1] + body.rest_pelvis(betas)[:, None]  # SMPL does not move the pelvis
    camera = torch.from_numpy(arrays["cam"])[:, None]
    square = camera[..., :1] * (in_camera[..., :2] + camera[..., 1:])  # -1..1
    return torch.tensor([centre_x, centre_y]) + square * side / 2


@pytest.mark.parametrize("square", [None, (30.0, 70.0, 150.0)])
def test_every_vertex_falls_on_the_estimators_pixel(tmp_path, smpl, square):
    arrays = estimates()
    if square is not None:
        arrays["square"] = np.tile([square], (5, 1))
    np.savez(tmp_path / "est.npz", **arrays)
    body = SMPLBody(smpl)
    params = import_estimates(tmp_path / "est.npz", body)
    assert params.names == arrays["names"].tolist()
    assert params.model == "smpl"
    ours = project(body(params.pose, params.shape), params.yaw, params.camera, (128, 64))[..., :2]
    torch.testing.assert_close(
        ours, estimator_pixels(body, arrays, *(square or (32.0, 64.0, 128.0))), atol=2e-2, rtol=0
    )


def test_yaw_and_pitch_of_upright_people_are_recovered():
    flip = Rotation.from_euler("x", 180, degrees=True)
    for yaw, pitch in ((0, 0), (90, 10), (-135, 25), (179, -15)):
        orient = flip * Rotation.from_euler("x", pitch, True) * Rotation.from_euler("y", yaw, True)
        *view, rotation = split_view(torch.from_numpy(orient.as_matrix())[None])
        torch.testing.assert_close(torch.stack(view)[:, 0], torch.tensor([yaw, pitch]).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(rotation[0], torch.eye(3).double(), atol=1e-9, rtol=0)
    bow = flip * Rotation.from_euler("x", 80, True)
    _, pitch, rotation = split_view(torch.from_numpy(bow.as_matrix())[None])
    assert pitch.item() == pytest.approx(MAX_PITCH)
    expected = Rotation.from_euler("x", 80 - MAX_PITCH, True).as_matrix()
    torch.testing.assert_close(rotation[0], torch.from_numpy(expected))


def test_other_spellings_of_the_same_estimates(tmp_path, smpl):
    arrays, body = estimates(), SMPLBody(smpl)
    np.savez(tmp_path / "a.npz", **arrays)
    matrices = Rotation.from_rotvec(arrays["pose"].reshape(-1, 3)).as_matrix().reshape(5, 24, 3, 3)
    common = {"imgname": arrays["names"], "betas": arrays["betas"], "pred_cam": arrays["cam"], "size": arrays["size"]}
    np.savez(tmp_path / "b.npz", pose=matrices, **common)
    np.savez(tmp_path / "c.npz", global_orient=matrices[:, :1], body_pose=arrays["pose"][:, 3:], **common)
    expected = import_estimates(tmp_path / "a.npz", body)
    for name in ("b.npz", "c.npz"):
        read = import_estimates(tmp_path / name, body)
        torch.testing.assert_close(read.camera, expected.camera, atol=1e-4, rtol=0)
        torch.testing.assert_close(read.pose, expected.pose, atol=1e-4, rtol=0)


def test_the_command_reads_sizes_from_the_images_and_writes_the_file(tmp_path, smpl, capsys):
    arrays = estimates()
    np.savez(tmp_path / "with.npz", **arrays)
    del arrays["size"]
    np.savez(tmp_path / "without.npz", **arrays)
    for i in range(5):
        Image.new("RGB", (64, 128)).save(tmp_path / f"{i}.jpg")
    arguments = ["--smpl", str(smpl), "--out", str(tmp_path / "out" / "train.npz"), "--estimates"]
    main([*arguments, str(tmp_path / "without.npz"), "--images", str(tmp_path)])
    assert "5 crops" in capsys.readouterr().out
    read, expected = (
        load_body_parameters(tmp_path / "out" / "train.npz"),
        import_estimates(tmp_path / "with.npz", SMPLBody(smpl)),
    )
    assert torch.equal(read.camera, expected.camera)
    with pytest.raises(SystemExit):
        main([*arguments, str(tmp_path / "without.npz")])
    assert "no `size` of the crops" in capsys.readouterr().err


def test_names_are_those_below_the_folder_of_the_split(tmp_path, smpl):
    arrays, split = estimates(), tmp_path / "MSMT17_V1" / "train"
    for name in ("0000/1.jpg", "0001/1.jpg", "2.jpg", "0003/0003/1.jpg"):
        (split / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 128)).save(split / name)

    def names(paths, images=None):
        np.savez(tmp_path / "est.npz", **(arrays | {"names": np.array(paths)}))
        return import_estimates(tmp_path / "est.npz", SMPLBody(smpl), images).names

    paths = ["0000/1.jpg", f"{split}/0001/1.jpg", "/elsewhere/train/2.jpg", "train/0003/0003/1.jpg", "/no/such.jpg"]
    assert names(paths, split) == ["0000/1.jpg", "0001/1.jpg", "2.jpg", "0003/0003/1.jpg", "such.jpg"]
    paths = ["a/1.jpg", "b/1.jpg", "/c/2.jpg", "d/1.jpg", "1.jpg"]
    assert names(paths) == ["a/1.jpg", "b/1.jpg", "2.jpg", "d/1.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": np.zeros((5, 69))}, r"pose has shape \(5, 69\), expected \(5, 24, 3\)"),
        ({"cam": np.zeros((5, 4))}, r"cam has shape \(5, 4\)"),
        ({"cam": np.zeros((5, 3))}, "scale of 'dir/0.jpg' is not positive"),
        ({"betas": None}, "no betas; it holds"),
        ({"pose": np.full((5, 72), np.nan)}, "pose of 'dir/0.jpg' is not finite"),
        ({"pose": np.zeros((72, 5))}, r"pose has shape \(72, 5\), expected \(5, 24, 3\)"),
        ({"cam": np.zeros((3, 5))}, r"cam has shape \(3, 5\), expected \(5, 3\)"),
        ({"cam": np.array([["1", "0", "far"]] * 5)}, r"cam has shape \(5, 3\), expected \(5, 3\) numbers"),
        ({"betas": np.zeros((5, 16))}, r"est\.npz, betas: shape has 16 columns, expected 1 to 10"),
        ({"names": np.array(["a", "b", "c", "d", "a"])}, "'a' is listed twice"),
        ({"pose": np.array([{}] * 5, dtype=object)}, "damaged, or not an .npz of plain arrays"),
    ],
)
def test_wrong_estimates_are_named(tmp_path, smpl, change, message):
    arrays = {key: value for key, value in (estimates() | change).items() if value is not None}
    np.savez(tmp_path / "est.npz", **arrays)
    with pytest.raises(UserError, match=message):
        import_estimates(tmp_path / "est.npz", SMPLBody(smpl))


def test_missing_and_truncated_files_are_named(tmp_path, smpl):
    with pytest.raises(FileNotFoundError, match="no estimates at"):
        import_estimates(tmp_path / "est.npz", SMPLBody(smpl))
    with (tmp_path / "est.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"est\.npz: damaged, or not an \.npz"):
        import_estimates(tmp_path / "est.npz", SMPLBody(smpl))
    np.savez(tmp_path / "est.npz", **estimates())
    content = (tmp_path / "est.npz").read_bytes()
    (tmp_path / "est.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"est\.npz: damaged"):
        import_estimates(tmp_path / "est.npz", SMPLBody(smpl))
