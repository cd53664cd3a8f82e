"""gcl_fast: joint generative and contrastive learning for unsupervised person re-identification, fast."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcl_fast.inference.images import find_images
    from gcl_fast.inference.load import load
    from gcl_fast.inference.model import Matches, Model

__version__ = "0.3.0"

# The names that `import gcl_fast` offers, and the modules that hold them; a module is imported with the first use of
# its name, since torch and the C++ ops take seconds
_MODULES = {
    "load": "inference.load",
    "Model": "inference.model",
    "Matches": "inference.model",
    "find_images": "inference.images",
}
__all__ = ["Matches", "Model", "find_images", "load"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'gcl_fast' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"gcl_fast.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
