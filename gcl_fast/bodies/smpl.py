"""Provide SMPLBody, the SMPL body model, for users who have its licensed files and the package smplx.

The official .pkl files hold chumpy objects of Python 2. An unpickler reads them without chumpy. It makes numpy arrays
and sparse matrices and refuses everything else, so that a model file cannot run code. An .npz with the same keys works
too: v_template (V, 3), shapedirs (V, 3, S), posedirs (V, 3, 207), J_regressor (24, V) dense, weights (V, 24), f (F, 3),
kintree_table (2, 24).
"""

from __future__ import annotations

import builtins
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from gcl_fast.bodies.body_model import BodyModel, Posed
from gcl_fast.bodies.parameters import DAMAGED
from gcl_fast.bodies.rotation import axis_angle_to_matrix
from gcl_fast.bodies.skinning import Skeleton
from gcl_fast.errors import UserError

NUM_JOINTS = 24
JOINT_NAMES = [
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee",
    "spine2", "left_ankle", "right_ankle", "spine3", "left_foot", "right_foot",
    "neck", "left_collar", "right_collar", "head", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
]  # fmt: skip
SHAPES: dict[str, tuple[int | str, ...]] = {
    "v_template": ("V", 3),
    "shapedirs": ("V", 3, "S"),
    "posedirs": ("V", 3, 9 * (NUM_JOINTS - 1)),
    "J_regressor": (NUM_JOINTS, "V"),
    "weights": ("V", NUM_JOINTS),
    "f": ("F", 3),
    "kintree_table": (2, NUM_JOINTS),
}


class SMPLBody(BodyModel):
    """Represents SMPL with 24 joints, with the same calls as AnnyBody.

    `body(params)` and `body(pose, shape)` return vertices (B, V, 3), see `BodyModel`.

    - pose (B, 72): axis-angle in radians for each of `joint_names`. pose[:, :3] turns the pelvis in the body frame; the
      view's yaw is a body parameter of its own.
    - shape (B, S): betas, from 1 to as many as the file holds.

    Args:
        path: an SMPL file (.pkl or .npz), or a folder with SMPL_{GENDER}.pkl or .npz.
        gender: "neutral", "female" or "male", for a folder.

    Raises:
        UserError: smplx is missing, or the file is missing, damaged or of another format.

    Example:
        >>> try:
        ...     body = SMPLBody("SMPL_NEUTRAL.pkl")
        ...     vertices = body(torch.zeros(1, 72), torch.zeros(1, 10))  # (1, 6890, 3)
        ... except UserError as error:  # smplx or its licensed model file is missing
        ...     print("no SMPL:", error)
        no SMPL: ...
    """

    name = "smpl"
    joint_names = JOINT_NAMES
    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    weights: Tensor
    parents: Tensor

    def __init__(self, path: str | Path, gender: str = "neutral") -> None:
        super().__init__()
        try:
            from smplx.lbs import lbs
        except ImportError as error:
            raise UserError("the SMPL body needs smplx: pip install smplx (its licence is non-commercial)") from error
        self._lbs = lbs
        arrays = load_smpl_file(_find_file(Path(path), gender))
        faces, parents = arrays.pop("f").astype(np.int64), arrays.pop("kintree_table")[0].astype(np.int64)
        parents[0] = -1
        self.skeleton = Skeleton(parents.tolist())
        self.shape_columns = range(1, arrays["shapedirs"].shape[2] + 1)
        arrays["posedirs"] = arrays["posedirs"].reshape(-1, 9 * (NUM_JOINTS - 1)).T
        for key, array in {"faces": faces, "parents": parents, **arrays}.items():
            value = torch.from_numpy(np.ascontiguousarray(array))
            self.register_buffer(key, value if key in ("faces", "parents") else value.float(), persistent=False)

    @property
    def template(self) -> Tensor:  # type: ignore[override]
        """Return the vertices (V, 3) of the average body in the rest pose."""
        return self.v_template

    def _pose(self, pose: Tensor, shape: Tensor) -> Posed:
        """Pose by smplx, then set the body on the ground."""
        vertices, joints = self._lbs(
            shape, pose, self.v_template, self.shapedirs[..., : shape.shape[1]], self.posedirs,
            self.J_regressor, self.parents, self.weights,
        )  # fmt: skip
        pelvis = joints[:, 0]
        origin = torch.stack((pelvis[:, 0], vertices[..., 1].amin(1), pelvis[:, 2]), 1)[:, None]
        rotations, _ = self.skeleton(axis_angle_to_matrix(pose.unflatten(1, (-1, 3))), joints)
        return Posed(vertices - origin, joints - origin, rotations)

    def rest_pelvis(self, shape: Tensor) -> Tensor:
        """Return the pelvis (B, 3) in SMPL's own coordinates for shapes (B, S); SMPL turns the body about it."""
        pelvis = self.J_regressor[0] @ self.v_template
        directions = torch.einsum("v,vcs->cs", self.J_regressor[0], self.shapedirs[..., : shape.shape[1]])
        return pelvis + shape.float() @ directions.T


def _find_file(path: Path, gender: str) -> Path:
    """Return the model file at `path` or in that folder."""
    candidates = [path] if not path.is_dir() else [path / f"SMPL_{gender.upper()}.{ext}" for ext in ("pkl", "npz")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        f"no SMPL model at {' or '.join(map(str, candidates))}; it is licensed: get it from smpl.is.tue.mpg.de, or use "
        f"AnnyBody, which needs no file"
    )


def load_smpl_file(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of SHAPES from an SMPL .pkl or .npz and check their shapes.

    Raises:
        UserError: the file is damaged or of another format.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in SHAPES if key in file}
        else:
            with path.open("rb") as stream:
                content = _ModelUnpickler(stream, encoding="latin1").load()
            if not isinstance(content, dict):
                raise UserError(f"{path}: holds a {type(content).__name__}, not an SMPL model")
            arrays = {key: _dense(content[key]) for key in SHAPES if key in content}
    except (
        pickle.UnpicklingError,
        *DAMAGED,
        IndexError,
        AttributeError,
        struct.error,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged, or not an SMPL .pkl or .npz ({error})") from error
    missing = [key for key in SHAPES if key not in arrays]
    if missing:
        raise UserError(f"{path}: not an SMPL model, it lacks {', '.join(missing)}")
    sizes: dict[str, int] = {}
    for key, expected in SHAPES.items():
        shape = arrays[key].shape
        names = {n: s for n, s in zip(expected, shape) if isinstance(n, str)}
        fits = len(shape) == len(expected) and all(isinstance(n, str) or n == s for n, s in zip(expected, shape))
        if not fits or any(sizes.setdefault(n, s) != s for n, s in names.items()):
            dimensions = tuple(sizes.get(n, n) if isinstance(n, str) else n for n in expected)
            raise UserError(
                f"{path}: {key} has shape {shape}, expected {dimensions}; SMPL (24 joints) is read, not SMPL-H or -X"
            )
    if arrays["f"].min() < 0 or arrays["f"].max() >= sizes["V"]:
        raise UserError(f"{path}: faces refer to vertices outside 0..{sizes['V'] - 1}")
    return arrays


class _Chumpy:
    """Replaces chumpy's arrays: Ch (its value is `x`) and Select (entries `idxs` of `a`, in `preferred_shape`)."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        state = self.__dict__
        if "x" in state:
            return np.asarray(state["x"], dtype)
        return np.asarray(state["a"], dtype).ravel()[np.asarray(state["idxs"])].reshape(state["preferred_shape"])


class _Sparse:
    """Replaces a sparse matrix until its indices are checked: scipy trusts those in a state."""

    form: Any  # scipy's class

    def dense(self) -> np.ndarray:
        """Return the matrix as a dense array.

        Raises:
            ValueError: indices lie outside.
        """
        state = self.__dict__
        shape = state["_shape"] if "_shape" in state else state["shape"]
        if self.form is scipy.sparse.coo_matrix:
            places = state["coords"] if "coords" in state else (state["row"], state["col"])
            return self.form((state["data"], places), shape=shape).toarray()
        matrix = self.form((state["data"], state["indices"], state["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
        return matrix.toarray()


SPARSE = {
    name: type(name, (_Sparse,), {"form": getattr(scipy.sparse, name)})
    for name in ("csc_matrix", "csr_matrix", "coo_matrix")
}


def _new(kind: Any, base: Any, state: Any) -> Any:
    """Make an empty object, as Python 2's object protocol does; its state is filled in afterwards."""
    return kind.__new__(kind)


_Unpickler: Any = pickle._Unpickler  # the one in Python, where BUILD can be checked


class _ModelUnpickler(_Unpickler):
    """Unpickles arrays, sparse matrices and plain containers, and refuses to call or to change anything else."""

    def load_build(self) -> None:
        """Fill an object with its state, unless that is a dtype's and makes NumPy take bytes for pointers."""
        target, state = self.stack[-2:]
        if not isinstance(target, (np.ndarray, np.dtype, _Chumpy, _Sparse)):
            raise pickle.UnpicklingError(f"it changes a {type(target).__name__}, which no SMPL model does")
        if isinstance(target, np.dtype) and tuple(state[2:8]) != target.__reduce__()[2][2:8]:  # all but the byte order
            raise pickle.UnpicklingError(f"it changes what the dtype {target} is, which no SMPL model does")
        super().load_build()

    dispatch: ClassVar = {**_Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function that a pickle asks for, or a harmless replacement."""
        owner = module.split(".")[0]
        if owner == "chumpy":
            return _Chumpy
        if owner == "scipy" and name in SPARSE:
            return SPARSE[name]
        if owner == "numpy" and name in ("_reconstruct", "scalar"):
            return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
        if owner == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if owner == "numpy" and name == "_frombuffer":
            return np._core.numeric._frombuffer  # type: ignore[attr-defined]
        if owner in ("__builtin__", "builtins") and name in ("object", "set"):
            return getattr(builtins, name)
        if owner in ("copy_reg", "copyreg") and name == "_reconstructor":
            return _new
        if (owner, name) == ("_codecs", "encode"):
            return str.encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no SMPL model needs")


def _dense(value: Any) -> np.ndarray:
    """Return an array, a sparse matrix or a chumpy array as a dense array."""
    return value.dense() if isinstance(value, _Sparse) else np.asarray(value)
