"""Planted mistakes that the tests have to notice; ``python -m tests.mutants --help`` says how."""
