"""Keep the embeddings of a gallery on disk, search them exactly, and show the matches."""

from gcl_fast.gallery.exact_search import top_k
from gcl_fast.gallery.index import Index, open_index, write_index

__all__ = ["Index", "open_index", "top_k", "write_index"]
