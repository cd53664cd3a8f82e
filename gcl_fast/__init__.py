"""gcl_fast: joint generative and contrastive learning for unsupervised person re-identification, fast."""

__version__ = "0.3.0"
