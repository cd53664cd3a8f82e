"""Every public call has an example in its docstring, and the example is right."""

import doctest
import inspect
import pkgutil
from dataclasses import is_dataclass
from importlib import import_module

import pytest

import gcl_fast
from gcl_fast import kernels


def public_calls() -> list[tuple[str, str]]:
    """Return (module, name) of each function and class in the `__all__` of a package, of an op's file, or of the bank.

    Dataclasses, named tuples and exceptions are left out: calls return or raise them, and their fields say the rest.
    """
    calls = []
    ops = pkgutil.iter_modules(kernels.__path__, "gcl_fast.kernels.")
    for info in (*pkgutil.iter_modules(gcl_fast.__path__, "gcl_fast."), *ops):
        if info.ispkg or info.name == "gcl_fast.memory" or info.name.startswith("gcl_fast.kernels."):
            package = import_module(info.name)
            for name in getattr(package, "__all__", ()):
                value = getattr(package, name)
                kinds = (Exception, tuple)
                plain = inspect.isclass(value) and (is_dataclass(value) or issubclass(value, kinds))
                if callable(value) and not plain:
                    calls.append((info.name, name))
    return calls


@pytest.mark.parametrize(("package", "name"), public_calls())
def test_example_of_a_public_call_runs(package, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    value = getattr(import_module(package), name)
    module = import_module(value.__module__)
    (test,) = doctest.DocTestFinder(recurse=False).find(value, name, module, globs={**vars(module)})
    assert test.examples, f"{package}.{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failures: list[str] = []
    runner.run(test, out=failures.append)
    assert not failures, "".join(failures)
