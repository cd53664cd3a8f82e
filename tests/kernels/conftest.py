"""Triton's interpreter, before 3.7, reads a scalar from an array in a way that NumPy has refused since 2.4."""

import os
from typing import Any

import numpy as np

if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, *others: Any) -> None:
        patch_tensor(tensor, *others)
        index = lambda self: int(np.asarray(self.handle.data).item())
        others[0].set_attr(tensor, "__index__", index) if others else setattr(tensor, "__index__", index)

    interpreter._patch_lang_tensor = patched
