"""The tables and figures of README.md and docs/, each computed from the rows of the result files."""

from __future__ import annotations

from collections.abc import Callable

from page_tables import quality, scale, speed
from page_tables.backbones import backbones
from page_tables.rows import Files, times

TABLES: dict[str, Callable[[Files], str]] = {
    "demo": quality.demo,
    "demo-seeds": quality.demo_seeds,
    "demo-without-bfloat16": quality.demo_without_bfloat16,
    "joint-variants": quality.joint_variants,
    "view-variants": quality.view_variants,
    "warmups": quality.warmups,
    "ablation": quality.ablation,
    "adaptation": lambda files: quality.adaptation(files, "AVX512"),
    "adaptation-all-stages": lambda files: quality.adaptation(files, "AVX2"),
    "precision-quality": quality.precision_quality,
    "precision-loss": quality.precision_loss,
    "views": quality.views,
    "ways-to-rank": quality.ways_to_rank,
    "published": quality.published,
    "hot-parts": speed.hot_parts,
    "joint-step": lambda files: speed.step_table(files, "joint"),
    "generative-step": lambda files: speed.step_table(files, "generative"),
    "backbones": backbones,
    "search": speed.search,
    "embedding": speed.embedding,
    "launches": speed.launches,
    "clustering-scale": scale.clustering_scale,
    "clustering-estimate": scale.clustering_estimate,
    "ranks-measured": speed.ranks_measured,
    "ranks-bytes": speed.ranks_bytes,
    "ranks-estimate": speed.ranks_estimate,
}

FIGURES: dict[str, Callable[[Files], str]] = {
    "demo-minutes": quality.demo_minutes,
    "more-warm-up": quality.more_warm_up,
    "demo-minutes-without-bfloat16": lambda files: quality.demo_minutes(files, "AVX2"),
    "ssim-of-copy": quality.ssim_of_copy,
    "loader": lambda files: times(speed.factor(files, "loader, JPEG files", 960, "torchvision, 2 workers")),
    "rasterizer": lambda files: times(speed.factor(files, "rasterizer", 64, "plain loop, 1 thread")),
    "contrastive": lambda files: times(speed.factor(files, "contrastive loss", 12936, "official")),
    "jaccard": lambda files: f"{speed.factor(files, 'Jaccard, with neighbours', 1500, 'dense definition'):.0f}x",
    "joint-step": lambda files: times(speed.step_factor(files, "joint")),
    "estimator-median": lambda files: quality.estimator(files, "median error, degrees", "queries"),
    "estimator-share": lambda files: quality.estimator(files, "share within 30 degrees", "queries"),
    "estimator-real-share": lambda files: quality.estimator(files, "share within 45 degrees", "street"),
    "python-versions": lambda files: quality.span(files, "python"),
    "torch-versions": lambda files: quality.span(files, "torch"),
}
