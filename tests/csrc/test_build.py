"""The build: flags, errors, and the CUDA kernels through nvcc for every architecture, without a GPU."""

import os
import subprocess
import sys

import pytest

from gcl_fast.csrc import build
from gcl_fast.errors import UserError


def test_each_source_gets_its_own_flags():
    commands = {command[-1].rsplit("/", 1)[-1]: command for command in build.recipe().compiles}
    assert "-ffp-contract=off" in commands["rasterize.cpp"]
    assert "-ffp-contract=off" not in commands["ops.cpp"]
    assert not any("march" in flag for command in commands.values() for flag in command)  # a wheel runs on any CPU


def test_missing_compiler_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no compiler called no-such-compiler.*apt-get install g\+\+"):
        build.build(tmp_path / "ops.so", build.recipe())


def test_forced_cuda_without_a_toolkit_says_so(monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr(build, "find_toolkit", lambda: None)
    with pytest.raises(UserError, match="FORCE_CUDA=1, but no CUDA toolkit"):
        build.recipe()


def test_a_failing_compile_shows_the_command_and_leaves_no_library(tmp_path):
    (tmp_path / "broken.cpp").write_text("int f( {")
    how = build.Recipe((("g++", "-c", str(tmp_path / "broken.cpp")),), (), "", "")
    with pytest.raises(RuntimeError, match=r"(?s)building ops.so failed: g\+\+ .*broken.cpp.*error"):
        build.build(tmp_path / "out" / "ops.so", how)
    assert not list((tmp_path / "out").iterdir())


def test_a_library_ahead_of_time_is_used_only_when_it_is_of_these_sources(monkeypatch, tmp_path):
    built = build.library()
    for name in ("ops.cpp", "raster.h"):
        (tmp_path / name).write_text((build.CSRC / name).read_text())
    monkeypatch.setattr(build, "CSRC", tmp_path)
    ahead = tmp_path / f"{build.NAME}.so"
    ahead.write_bytes(b"..." + build.recipe().mark.encode() + b"...")
    assert build.library() == ahead
    with (tmp_path / "raster.h").open("a") as text:
        text.write("// changed\n")
    monkeypatch.setattr(build, "build", lambda output, how: output.write_bytes(b"new") and "log")
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "cache"))
    assert build.library().read_bytes() == b"new"
    assert built.exists()


def test_resource_report_sees_a_spill():
    log = (
        "ptxas info    : Compiling entry function '_ZN3gcl12cover_kernelEv' for 'sm_90'\n"
        "    0 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 55 registers\n"
    )
    assert build.resource_report(log) == (["sm_90 cover_kernel: 55 registers, 4 bytes spilled"], True)
    assert not build.resource_report(log.replace("4 bytes", "0 bytes"))[1]


@pytest.mark.slow
@pytest.mark.skipif(build.find_toolkit() is None, reason="needs the CUDA toolkit")
def test_cuda_kernels_compile_link_and_load_without_gpu(tmp_path):
    environment = os.environ | {"FORCE_CUDA": "1", "GCL_FAST_CACHE": str(tmp_path)}
    environment["TORCH_CUDA_ARCH_LIST"] = "8.0;9.0;10.0+PTX"
    run = [sys.executable, "-m", "gcl_fast.csrc.build"]
    said = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count(" 0 bytes spilled") == said.stdout.count("registers") >= 8 * 3
    script = (
        "from gcl_fast.csrc import build; import torch; build.load()\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "ops = ('rasterize', 'rasterize_backward', 'structure')\n"
        "print([has(f'gcl_fast::{op}', key) for op in ops for key in ('CPU', 'CUDA')])"
    )
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "False" not in said.stdout, said.stdout
    assert "True" in said.stdout, said.stderr
