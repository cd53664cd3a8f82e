"""The embedded dataset: a small synthetic world of clothed people seen by several cameras, in Market-1501 layout."""

from gcl_fast.synthetic.baseline import colour_retrieval
from gcl_fast.synthetic.build import make_world, read_config, true_views
from gcl_fast.synthetic.world import WorldConfig

__all__ = ["WorldConfig", "colour_retrieval", "make_world", "read_config", "true_views"]
