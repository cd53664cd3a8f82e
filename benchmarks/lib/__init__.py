"""Libraries that the scripts of benchmarks/ share."""
