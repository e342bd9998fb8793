"""The evidence: every step from queries to results for the reference pair, each with its output, each resumable.

`run` owns the order of the steps; every other module owns one of them. What they leave is described in
`evaluation.records.results_files` and drawn by `evaluation.report`.
"""
