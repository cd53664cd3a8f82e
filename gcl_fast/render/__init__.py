"""From meshes to images: the camera of a crop, the rasterizer and the structure maps. The ops are in kernels/."""

from gcl_fast.kernels.rasterize import Fragments, rasterize, rasterize_reference
from gcl_fast.kernels.structure_maps import shade, vertex_normals
from gcl_fast.render.camera import project
from gcl_fast.render.structure import render_structure, render_structure_reference
from gcl_fast.render.turn import Turn

__all__ = [
    "Fragments",
    "Turn",
    "project",
    "rasterize",
    "rasterize_reference",
    "render_structure",
    "render_structure_reference",
    "shade",
    "vertex_normals",
]
