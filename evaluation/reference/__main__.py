"""`python -m evaluation.reference`: rebuild the pair; see `evaluation.reference.build`."""

from evaluation.reference.build import main

main()
