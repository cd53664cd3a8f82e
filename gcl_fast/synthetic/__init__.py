"""Make the embedded dataset: a small synthetic world of clothed people and several cameras, in Market-1501's layout."""

from gcl_fast.synthetic.colour_baseline import colour_retrieval
from gcl_fast.synthetic.world import WorldConfig
from gcl_fast.synthetic.world_folder import make_world, read_config, true_views

__all__ = ["WorldConfig", "colour_retrieval", "make_world", "read_config", "true_views"]
