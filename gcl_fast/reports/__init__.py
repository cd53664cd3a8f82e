"""Show finished runs: the page on one run, and the comparison of several."""
