"""Body-parameter files give back what was saved, and wrong parameters are refused."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from gcl_fast.bodies import BodyParameters, align, load_body_parameters, save_body_parameters
from gcl_fast.errors import UserError


def make(count=3, model="anny"):
    generator = torch.Generator().manual_seed(0)
    return BodyParameters(
        names=[f"{i:04d}_c1s1_00000{i}_00.jpg" for i in range(count)],
        model=model,
        pose=torch.randn(count, {"anny": 57, "smpl": 72}[model], generator=generator),
        shape=torch.rand(count, {"anny": 6, "smpl": 10}[model], generator=generator),
        yaw=torch.rand(count, generator=generator) * 360,
        camera=torch.rand(count, 4, generator=generator) + 0.1,
        confidence=torch.rand(count, generator=generator),
    )


def same(a, b):
    assert a.names == b.names
    assert a.model == b.model
    for key, value in a.tensors().items():
        assert torch.equal(value, b.tensors()[key]), key


@pytest.mark.parametrize("model", ["anny", "smpl"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_file_gives_back_what_was_saved(tmp_path, count, model):
    params = make(count, model)
    save_body_parameters(tmp_path / "body_parameters" / "train.npz", params)
    same(load_body_parameters(tmp_path / "body_parameters" / "train.npz"), params)
    assert [path.name for path in (tmp_path / "body_parameters").iterdir()] == ["train.npz"]  # no temporary file


def test_saving_what_is_wrong_keeps_the_old_file(tmp_path):
    path = tmp_path / "train.npz"
    save_body_parameters(path, make())
    broken = make()
    broken.pose[1, 3] = torch.nan
    with pytest.raises(UserError, match=r"pose of '0001_c1s1_000001_00.jpg' is not finite"):
        save_body_parameters(path, broken)
    same(load_body_parameters(path), make())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": torch.zeros(3, 72)}, r"pose has shape \(3, 72\), expected \(3, 57\)"),
        ({"yaw": torch.zeros(2)}, r"yaw has shape \(2,\), expected \(3,\)"),
        (
            {"camera": torch.tensor([[0.5, 0.5, 0.5, 0.0], [-1, 0, 0, 0], [1, 0, 0, 0]])},
            r"scale of '0001.*not positive",
        ),
        ({"names": ["a.jpg", "b.jpg", "a.jpg"]}, "'a.jpg' is listed twice"),
        ({"model": "smplx"}, "unknown body model 'smplx'"),
        ({"shape": torch.zeros(3, 10)}, r"shape has shape \(3, 10\), expected \(3, 6\)"),
        ({"shape": torch.tensor(1.0)}, r"shape has shape \(\), expected \(3, 6\)"),
        (
            {"model": "smpl", "pose": torch.zeros(3, 72), "shape": torch.zeros(3)},
            r"shape has shape \(3,\), expected \(3, ",
        ),
        ({"confidence": torch.full((3,), torch.inf)}, r"confidence of '0000.*not finite"),
    ],
)
def test_inconsistent_parameters_are_refused_with_the_reason(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        save_body_parameters(tmp_path / "train.npz", replace(make(), **change))
    assert not list(tmp_path.iterdir())


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"no body parameters at .*gcl-fast estimate"):
        load_body_parameters(tmp_path / "train.npz")


@pytest.mark.parametrize("keep", [0, 10, 700, -30])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "train.npz"
    save_body_parameters(path, make())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"train.npz: damaged"):
        load_body_parameters(path)


def test_a_file_with_a_flipped_byte_is_named(tmp_path):
    path = tmp_path / "train.npz"
    save_body_parameters(path, make())
    content = bytearray(path.read_bytes())
    content[content.find(b"NUMPY", 600) + 200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train.npz: damaged"):
        load_body_parameters(path)


def test_an_npy_file_and_packed_bytes_that_are_damaged_are_named(tmp_path):
    path = tmp_path / "train.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"train.npz: damaged or not an .npz"):
        load_body_parameters(path)
    np.savez_compressed(path, names=np.array(make().names), model="anny", **make().tensors())
    content = bytearray(path.read_bytes())
    start = content.find(b"names.npy") + len("names.npy")
    content[start : start + 40] = bytes([0xFF] * 40)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train.npz: damaged or not an .npz"):
        load_body_parameters(path)


def test_other_npz_files_and_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "train.npz"
    np.savez(path, names=np.array(["a"]), pose=np.zeros((1, 57)))
    with pytest.raises(UserError, match="lacks model, shape, yaw, camera, confidence"):
        load_body_parameters(path)
    arrays = {key: value.numpy() for key, value in make().tensors().items()}
    np.savez(path, names=np.array(make().names, dtype=object), model=np.array("anny"), **arrays)
    with pytest.raises(UserError, match="damaged or not"):
        load_body_parameters(path)
    np.savez(path, names=np.array(make().names), model=np.array("anny"), **{**arrays, "yaw": np.array(["a", "b", "c"])})
    with pytest.raises(UserError, match="damaged or not"):
        load_body_parameters(path)


def test_an_array_that_claims_more_than_any_memory_is_refused(tmp_path):
    path = tmp_path / "train.npz"
    save_body_parameters(path, make())
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, header.getvalue() if name == "yaw.npy" else old.read(name))
        new.writestr("../elsewhere.npy", header.getvalue())  # a member that nobody asks for is not unpacked
    with pytest.raises(UserError, match=r"new.npz: damaged or not an .npz file .Unable to allocate"):
        load_body_parameters(tmp_path / "new.npz")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.npz", "train.npz"]
    assert not (tmp_path.parent / "elsewhere.npy").exists()


def test_align_puts_them_in_the_datasets_order(tmp_path):
    params = make(5)
    names = [params.names[i] for i in (3, 0, 4)]
    aligned = align(params, names, "train.npz")
    assert aligned.names == names
    assert torch.equal(aligned.pose, params.pose[[3, 0, 4]])
    assert torch.equal(aligned.camera, params.camera[[3, 0, 4]])


def test_align_lists_the_first_crops_without_parameters():
    names = [*make(3).names, *(f"new{i}.jpg" for i in range(8))]
    with pytest.raises(
        UserError,
        match=r"train.npz: no body parameters for 8 of 11 crops \(new0.jpg, .*new4.jpg, ...\).*--images market/query ",
    ):
        align(make(3), names, "train.npz", "market/query")


def test_subset_and_to_keep_the_rest():
    params = make(4)
    picked = params.subset(torch.tensor([2, 2, 0]))
    assert picked.names == [params.names[i] for i in (2, 2, 0)]
    assert torch.equal(picked.yaw, params.yaw[[2, 2, 0]])
    assert params.to("cpu").model == "anny"
    assert len(picked) == 3
