"""What runs and measurements leave behind: the files of `evaluation/results` and their columns."""
