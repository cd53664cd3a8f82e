"""SMPLBody agrees with SMPL's equations in numpy, on a small model file of the official format."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix
from scipy.spatial.transform import Rotation

from gcl_fast.bodies import SMPLBody
from gcl_fast.bodies.smpl import JOINT_NAMES
from gcl_fast.errors import UserError

pytest.importorskip("smplx")
PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]


def model_arrays(vertices=60):
    """Make the arrays of a model file with random values; the root's parent is 2**32 - 1, as in the official files."""
    generator = np.random.default_rng(0)
    return {
        "v_template": generator.normal(0, 0.4, (vertices, 3)),
        "shapedirs": generator.normal(0, 0.02, (vertices, 3, 10)),
        "posedirs": generator.normal(0, 0.01, (vertices, 3, 207)),
        "J_regressor": generator.dirichlet(np.ones(vertices), 24),
        "weights": generator.dirichlet(np.full(24, 0.1), vertices),
        "f": generator.integers(0, vertices, (80, 3)).astype(np.uint32),
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(24)], dtype=np.uint32),
    }


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "SMPL_NEUTRAL.npz"
    np.savez(path, **model_arrays())
    return path


def reference(arrays, pose, betas):
    """Compute SMPL by its paper (Loper et al. 2015, eq. 2 to 10) for one body."""
    rest = arrays["v_template"] + arrays["shapedirs"][..., : len(betas)] @ betas
    joints = arrays["J_regressor"] @ rest
    rotations = Rotation.from_rotvec(pose.reshape(24, 3)).as_matrix()
    rest = rest + arrays["posedirs"] @ (rotations[1:] - np.eye(3)).ravel()
    world = []
    for joint, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = rotations[joint]
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(world[parent] @ local if parent >= 0 else local)
    vertices = np.zeros_like(rest)
    for joint, transform in enumerate(world):
        rigid = (rest - joints[joint]) @ transform[:3, :3].T + transform[:3, 3]
        vertices += arrays["weights"][:, joint : joint + 1] * rigid
    positions = np.stack([transform[:3, 3] for transform in world])
    origin = np.array([positions[0, 0], vertices[:, 1].min(), positions[0, 2]])
    return vertices - origin, positions - origin


def test_vertices_and_joints_follow_the_papers_equations(model_file):
    generator = np.random.default_rng(1)
    pose, betas = generator.normal(0, 0.4, (3, 72)), generator.normal(0, 1, (3, 10))
    body = SMPLBody(model_file)
    vertices, joints, _ = body.articulate(torch.from_numpy(pose), torch.from_numpy(betas))
    for i in range(3):
        expected_vertices, expected_joints = reference(model_arrays(), pose[i], betas[i])
        np.testing.assert_allclose(vertices[i].numpy(), expected_vertices, atol=2e-5)
        np.testing.assert_allclose(joints[i].numpy(), expected_joints, atol=2e-5)
    assert torch.equal(body(torch.from_numpy(pose), torch.from_numpy(betas)), vertices)
    assert body.faces.dtype == torch.int64
    assert body.faces.shape == (80, 3)
    assert len(JOINT_NAMES) == body.num_joints == 24


def test_fewer_betas_are_the_first_ones(model_file):
    body, pose = SMPLBody(model_file), torch.full((1, 72), 0.1)
    few, padded = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.5, -1.0] + [0.0] * 8])
    torch.testing.assert_close(body(pose, few), body(pose, padded))
    with pytest.raises(ValueError, match="shape has 11 columns, expected 1 to 10"):
        body(pose, torch.zeros(1, 11))
    with pytest.raises(ValueError, match=r"pose must be \(B, 72\)"):
        body(torch.zeros(1, 57), few)


def test_the_official_pickle_is_read_without_chumpy(tmp_path, model_file, monkeypatch):
    """Check a file with chumpy arrays (Ch: `x`; Select: `a`, `idxs`, `preferred_shape`) and a sparse regressor."""
    modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["chumpy.ch"].Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    modules["chumpy.reordering"].Select = type("Select", (), {"__module__": "chumpy.reordering"})

    def ch(value):
        array = modules["chumpy.ch"].Ch()
        array.__dict__.update(x=value, _dirty_vars=set(), _itr=None)
        return array

    arrays = model_arrays()
    shapedirs = modules["chumpy.reordering"].Select()
    padded = np.concatenate((arrays["shapedirs"].ravel(), np.zeros(7)))
    shapedirs.__dict__.update(a=ch(padded), idxs=np.arange(60 * 3 * 10), preferred_shape=(60, 3, 10))
    content = arrays | {
        "v_template": ch(arrays["v_template"]),
        "weights": ch(arrays["weights"]),
        "shapedirs": shapedirs,
        "J_regressor": csc_matrix(arrays["J_regressor"]),
        "bs_style": "lbs",
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "SMPL_MALE.pkl").write_bytes(pickle.dumps(content, protocol=2))
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    pose, betas = torch.full((1, 72), 0.2), torch.full((1, 10), 0.5)
    read = SMPLBody(tmp_path / "folder", gender="male")(pose, betas)
    torch.testing.assert_close(read, SMPLBody(model_file)(pose, betas))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cleaned_pickles_of_any_protocol_are_read(tmp_path, model_file, protocol):
    path = tmp_path / "cleaned.pkl"
    path.write_bytes(pickle.dumps(model_arrays(), protocol=protocol))
    assert torch.equal(SMPLBody(path).posedirs, SMPLBody(model_file).posedirs)


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(pickle.dumps(model_arrays() | {"weights": Evil()}, protocol=2))
    with pytest.raises(UserError, match=r"asks for (__builtin__|builtins)\.print"):
        SMPLBody(path)
    assert "must not run" not in capsys.readouterr().out


class Changed:
    """Unpickles as the object of a call whose state is then filled in."""

    def __init__(self, call, arguments, state):
        self.reduced = (call, arguments, state)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Changed(np.dtype, ("O",), (3, "|", None, None, None, -1, -1, 0)), "it changes what the dtype object is"),
        (
            Changed(np.dtype, ("<f8",), (3, "<", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 0)),
            "what the dtype float",
        ),
        (Changed(set, ((),), {"a": 1}), "it changes a set"),
    ],
)
def test_a_pickle_that_changes_what_bytes_mean_is_refused(value, reason, tmp_path):
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(pickle.dumps(model_arrays() | {"weights": value}, protocol=2))
    with pytest.raises(UserError, match=reason):
        SMPLBody(path)


@pytest.mark.parametrize("form", [csc_matrix, csr_matrix, coo_matrix])
def test_a_sparse_matrix_with_indices_outside_is_refused(form, tmp_path, monkeypatch):
    arrays = model_arrays()
    matrix = form(arrays["J_regressor"])
    index = matrix.row if form is coo_matrix else matrix.indices
    index[0] = 10**6
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(pickle.dumps(arrays | {"J_regressor": matrix}, protocol=2))
    monkeypatch.setattr(form, "toarray", lambda _: pytest.fail("scipy would write outside of its memory"))
    with pytest.raises(UserError, match="damaged, or not an SMPL"):
        SMPLBody(path)


@pytest.mark.parametrize("form", [csc_matrix, csr_matrix, coo_matrix])
def test_sparse_matrices_are_made_dense(form, tmp_path):
    arrays = model_arrays()
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(pickle.dumps(arrays | {"J_regressor": form(arrays["J_regressor"])}, protocol=2))
    assert torch.equal(SMPLBody(path).J_regressor, torch.from_numpy(arrays["J_regressor"]).float())


def test_files_of_other_formats_are_named(tmp_path, model_file):
    with pytest.raises(UserError, match=r"SMPL_FEMALE.pkl or .*SMPL_FEMALE.npz"):
        SMPLBody(tmp_path, gender="female")
    path = tmp_path / "other.npz"
    np.savez(path, poses=np.zeros(3))
    with pytest.raises(UserError, match="lacks v_template"):
        SMPLBody(path)
    np.savez(path, **(model_arrays() | {"J_regressor": np.zeros((52, 60))}))
    with pytest.raises(UserError, match=r"J_regressor has shape \(52, 60\), expected \(24, 60\).*not SMPL-H"):
        SMPLBody(path)
    np.savez(path, **(model_arrays() | {"weights": np.zeros((61, 24))}))
    with pytest.raises(UserError, match=r"weights has shape \(61, 24\), expected \(60, 24\)"):
        SMPLBody(path)
    np.savez(path, **(model_arrays() | {"f": np.full((4, 3), 60)}))
    with pytest.raises(UserError, match=r"faces refer to vertices outside 0..59"):
        SMPLBody(path)
    for damaged in (model_file.read_bytes()[:5000], b"", b"not a model"):
        for name in ("cut.npz", "cut.pkl"):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(UserError, match=f"{name}: (damaged|holds)"):
                SMPLBody(tmp_path / name)
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="holds a list, not an SMPL model"):
        SMPLBody(tmp_path / "list.pkl")
