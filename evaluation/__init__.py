"""Evaluation: suites, baselines, metrics, tables and the project's own reference pair."""
