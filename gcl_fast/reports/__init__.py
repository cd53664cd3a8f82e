"""Pages and tables on finished runs: the report on one run, and the comparison of several."""
