"""Install the packages, and build the C++/CUDA ops if torch can be imported (`--no-build-isolation`).

pip's isolated build has no torch. The sources are then installed as they are, and csrc/build.py builds them at their
first use by the same recipe.
"""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "gcl_fast" / "csrc"), str(HERE)]  # build.py, and the errors and versions that it imports
try:
    import build
except ModuleNotFoundError:  # no torch here
    build = None


class BuildOps(build_ext):
    """Builds the extension by csrc/build.py, which calls the compilers itself."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return a file name without Python's version, since the library does not use Python's API."""
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        """Build the library where setuptools expects it."""
        how = build.recipe()
        print(f"{ext.name}: {how.notice}\n{build.build(Path(self.get_ext_fullpath(ext.name)).resolve(), how)}")


if not all((HERE / "gcl_fast" / name).is_dir() for name in ("kernels", "csrc")):
    raise SystemExit(
        "gcl_fast/kernels and gcl_fast/csrc are no folders: whatever unpacked this archive dropped its links; install"
        " from a git clone, from the tar.gz archive, or by `pip install git+URL`"
    )
setup(
    packages=find_packages(include=["gcl_fast", "gcl_fast.*"]),  # gcl_fast/kernels and gcl_fast/csrc are links
    package_dir={"": "."},  # an editable install is then a path, which type checkers and editors follow
    package_data={"gcl_fast.csrc": ["*.cpp", "*.cu", "*.h"], "gcl_fast": ["py.typed", "**/assets/*"]},
    ext_modules=[Extension(f"gcl_fast.csrc.{build.NAME}", sources=[])] if build else [],
    cmdclass={"build_ext": BuildOps},
)
