"""The build: flags, errors, and the CUDA kernels through nvcc for every architecture, without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import torch

from gcl_fast.cache_folder import cache_folder
from gcl_fast.csrc import build
from gcl_fast.errors import UserError


def test_each_source_gets_its_own_flags():
    commands = {command[-1].rsplit("/", 1)[-1]: command for command in build.recipe().compiles}
    assert "-ffp-contract=off" in commands["rasterize.cpp"]
    assert "-ffp-contract=off" not in commands["rasterize_op.cpp"]
    assert not any("march" in flag for command in commands.values() for flag in command)  # a wheel runs on any CPU


def test_flags_of_the_environment_come_behind_all_others_and_make_another_library(monkeypatch):
    monkeypatch.delenv("GCL_FAST_CXXFLAGS", raising=False)
    usual = build.recipe()
    monkeypatch.setenv("GCL_FAST_CXXFLAGS", "-O1 -fsanitize=undefined")
    how = build.recipe()
    assert all(command[-4:-2] == ("-O1", "-fsanitize=undefined") for command in how.compiles)
    assert "-fsanitize=undefined" in how.link
    assert how.mark != usual.mark
    assert how.key() != usual.key()


def test_missing_compiler_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    monkeypatch.setattr(build, "CSRC", tmp_path)  # nothing ahead of time
    for first_use in (build.library, lambda: build.build(tmp_path / "ops.so", build.recipe())):
        with pytest.raises(UserError, match=r"no compiler called no-such-compiler:.*apt-get install g\+\+"):
            first_use()
    assert build.main() == 2
    assert capsys.readouterr().err.startswith("gcl_fast: gcl_fast builds its C++ ops")


def test_a_compiler_may_be_of_several_words(monkeypatch, tmp_path):
    (tmp_path / "one.cpp").write_text("int one() { return 1; }")
    monkeypatch.setenv("CXX", "env g++")
    monkeypatch.setattr(build, "CSRC", tmp_path)
    how = build.recipe()
    assert how.compiles[0][:2] == ("env", "g++")
    monkeypatch.setenv("CXX", "env g++ -v")
    assert build.recipe().key() != how.key()
    small = build.Recipe(how.compilers, (("env", "g++", "-fPIC", "-c", how.compiles[0][-1]),), (), "", "")
    build.build(tmp_path / "one.so", small)
    assert (tmp_path / "one.so").exists()


def test_forced_cuda_without_a_toolkit_says_so(monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr(build, "find_toolkit", lambda: None)
    with pytest.raises(UserError, match="FORCE_CUDA=1, but no CUDA toolkit"):
        build.recipe()


@pytest.fixture
def toolkit(monkeypatch, tmp_path):
    """toolkit(version): there are two GPUs, and a CUDA toolkit of that version in the folder that is returned."""
    for name in ("CUDA_HOME", "CUDA_PATH", "FORCE_CUDA", "NO_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    for folder in ("bin", "include", "lib64"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lib64" / "libcudart.so").touch()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    monkeypatch.setattr(build, "USUAL_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(10, 0), (9, 0)].__getitem__)

    def make(version: str) -> Path:
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.write_text(f"#!/bin/sh\necho 'TOP={tmp_path}' >&2\necho 'Cuda compilation tools, release {version}'\n")
        nvcc.chmod(0o755)
        return tmp_path

    return make


def test_a_toolkit_that_is_not_on_the_path_is_found(toolkit, monkeypatch):
    home = toolkit("13.0")
    monkeypatch.setenv("PATH", "")
    assert build.find_toolkit() == build.Toolkit(home, "13", home / "lib64")
    assert build.recipe().notice == "CPU and CUDA (9.0;10.0+PTX)"  # a GPU newer than these compiles the PTX


def test_a_toolkit_of_another_version_leaves_the_cpu_ops(toolkit, monkeypatch):
    home = toolkit("12.8")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(build, "_pip_home", lambda: home / "none")
    how = build.recipe()
    assert how.notice.startswith(f"CPU only: GPU found, but {home} is CUDA 12, torch was built with 13.0 (`pip install")
    assert how.mark.endswith("-cpu")
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(UserError, match=r"FORCE_CUDA=1, but .* is CUDA 12"):
        build.recipe()


def test_a_toolkit_of_pip_s_packages_is_found_behind_one_of_another_version(toolkit, monkeypatch, tmp_path_factory):
    """Those have lib/ in place of lib64/, and the runtime library under its versioned name alone."""
    toolkit("12.8")
    home = tmp_path_factory.mktemp("site") / "nvidia" / "cu13"
    for file in ("bin/nvcc", "include/cuda_runtime.h", "lib/libcudart.so.13"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).touch()
    (home / "bin" / "nvcc").write_text(f"#!/bin/sh\necho 'TOP={home}/bin/..' >&2\necho 'release 13.0, V13.0.88'\n")
    (home / "bin" / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(build, "_pip_home", lambda: home)
    how = build.recipe()
    assert how.notice.startswith("CPU and CUDA")
    assert how.compilers[1] == (f"{home}/bin/nvcc",)
    assert how.link[-2:] == (f"-L{home}/lib", "-l:libcudart.so.13")


def test_a_failing_compile_is_one_sentence_and_leaves_no_library(tmp_path):
    (tmp_path / "broken.cpp").write_text("int f( {")
    how = build.Recipe((("g++",),), (("g++", "-c", str(tmp_path / "broken.cpp")),), (), "", "")
    with pytest.raises(UserError) as error:
        build.build(tmp_path / "out" / "ops.so", how)
    assert "\n" not in str(error.value)
    assert error.match(r"g\+\+ .* cannot build gcl_fast's C\+\+ ops \(.*broken.cpp.*error.*\): they need GCC 10")
    assert error.match(r"repeat the command that failed: g\+\+ -c .*broken.cpp")
    assert not list((tmp_path / "out").iterdir())


def test_an_old_compiler_is_named_with_the_version_that_is_needed(tmp_path):
    old = tmp_path / "old-g++"
    old.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "g++ (GCC) 9.4.0"; exit; fi\n'
        "echo \"old-g++: error: unrecognized command line option '-std=c++20'\" >&2; exit 1\n"
    )
    old.chmod(0o755)
    with pytest.raises(UserError, match=r"^g\+\+ .GCC. 9.4.0 cannot build .*'-std=c\+\+20'.*they need GCC 10 or"):
        build.build(tmp_path / "ops.so", build.Recipe(((str(old),),), ((str(old), "-c", "x.cpp"),), (), "", ""))


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot be written to .*file/cache.*Not a directory.* in GCL_FAST_CACHE"):
        build.cached(build.recipe())


def test_the_variable_comes_before_the_home_folder_that_nobody_has(monkeypatch, tmp_path):
    def homeless(path):
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("GCL_FAST_CACHE")
    with pytest.raises(UserError, match="no home folder: name a folder that can be written in GCL_FAST_CACHE"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "gcl_fast"


def test_a_library_that_another_user_owns_is_not_loaded(ahead, monkeypatch):
    ahead.unlink()
    assert build.library().read_bytes() == b"new"
    assert build.library().read_bytes() == b"new"  # of this user: it is taken again
    if os.geteuid() == 0:  # root is trusted by all
        os.chown(cache_folder(), 12345, -1)
    else:
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UserError, match=r"cache belongs to another user .uid \d+., so the code in it is not run"):
        build.library()


@pytest.mark.parametrize("place", ["library", "its folder", "the cache"])
def test_a_library_that_every_user_can_write_is_not_loaded(place, ahead):
    ahead.unlink()
    library = build.library()
    opened = {"library": library, "its folder": library.parent, "the cache": library.parents[1]}[place]
    mode = opened.stat().st_mode
    opened.chmod(mode | 0o002)
    with pytest.raises(UserError, match=rf"^every user can write {re.escape(str(opened))}, so the code in it is"):
        build.library()
    opened.chmod(mode)
    assert build.library() == library


def test_a_library_that_is_built_without_a_umask_is_loaded_again(ahead):
    ahead.unlink()
    umask = os.umask(0)
    try:
        assert build.library() == build.library()
    finally:
        os.umask(umask)


def test_a_shared_cache_with_the_sticky_bit_is_fine(ahead, tmp_path):
    ahead.unlink()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o1777)
    assert build.library().read_bytes() == b"new"


SPILL = (
    "ptxas info    : Compiling entry function '_ZN3gcl12cover_kernelEv' for 'sm_90'\n"
    "    0 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 55 registers\n"
)


@pytest.fixture
def ahead(monkeypatch, tmp_path):
    """A library ahead of time, of sources and a cache of this test's own, on a machine without a CUDA toolkit; what is
    built holds "new" and has a spill in its log."""
    for name in ("rasterize_op.cpp", "raster.h"):
        (tmp_path / name).write_text((build.CSRC / name).read_text())
    monkeypatch.delenv("NO_CUDA", raising=False)
    monkeypatch.setattr(build, "_usable_toolkit", lambda: (None, "no CUDA toolkit"))
    monkeypatch.setattr(build, "CSRC", tmp_path)
    monkeypatch.setattr(build, "build", lambda output, how: output.write_bytes(b"new") and SPILL)
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "cache"))
    path = tmp_path / f"{build.NAME}.so"
    path.write_bytes(b"..." + build.recipe().mark.encode() + b"...")
    return path


@pytest.mark.parametrize("changed", ["source", "flags"])
def test_a_library_ahead_of_time_is_used_only_when_it_is_of_these_sources_and_flags(changed, ahead, monkeypatch):
    assert build.library() == ahead
    if changed == "flags":
        monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    else:
        with (ahead.parent / "raster.h").open("a") as text:
            text.write("// changed\n")
    assert build.library().read_bytes() == b"new"


def test_a_library_with_cuda_serves_a_machine_without_a_toolkit(ahead, monkeypatch):
    ahead.write_bytes(build.recipe().mark.replace("-cpu", f"-cuda{torch.version.cuda}").encode())
    assert build.library() == ahead
    monkeypatch.setenv("NO_CUDA", "1")
    assert build.library().read_bytes() == b"new"


def test_the_command_builds_though_there_is_a_library_ahead_of_time(ahead, capsys):
    assert build.main() == 1
    assert "cover_kernel: 55 registers, 4 bytes spilled" in capsys.readouterr().out


def test_a_build_announces_itself_once_before_it_starts(ahead, monkeypatch, capsys):
    before = []

    def record(output, how):
        before.append(capsys.readouterr().err)
        output.write_bytes(b"new")
        return ""

    monkeypatch.setattr(build, "build", record)
    for _ in range(2):
        path = build.cached(build.recipe())
    (line,) = before[0].splitlines()
    assert line.startswith(f"gcl_fast: building its C++ ops (CPU only) into {path.parent}: about a minute")
    assert len(before) == 1
    assert capsys.readouterr().err == ""


def test_other_processes_of_a_machine_wait_in_silence(ahead, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    build.cached(build.recipe())
    assert capsys.readouterr().err == ""


def test_a_reader_of_the_cache_takes_no_lock(ahead, monkeypatch):
    built = build.cached(build.recipe())
    monkeypatch.setattr(filelock, "FileLock", lambda _: pytest.fail("a read-only cache cannot be locked"))
    assert build.cached(build.recipe()) == built


def test_a_process_looks_for_the_library_once(ahead, monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    build.load.cache_clear()
    try:
        build.load()
        build.load()
    finally:
        build.load.cache_clear()  # what was loaded here has no ops
    assert loaded == [str(ahead)]


def test_resource_report_sees_a_spill():
    assert build.resource_report(SPILL) == (["sm_90 cover_kernel: 55 registers, 4 bytes spilled"], True)
    assert not build.resource_report(SPILL.replace("4 bytes", "0 bytes"))[1]


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
