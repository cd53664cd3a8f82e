"""Camera, rasterizer and shading: meshes to structure maps. The kernels are in csrc/."""

from gcl_fast.render.camera import project
from gcl_fast.render.rasterizer import Fragments, rasterize, rasterize_reference
from gcl_fast.render.shading import render_structure, render_structure_reference, shade, vertex_normals

__all__ = [
    "Fragments",
    "project",
    "rasterize",
    "rasterize_reference",
    "render_structure",
    "render_structure_reference",
    "shade",
    "vertex_normals",
]
