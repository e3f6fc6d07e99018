"""Weights and models of other packages."""
