"""The one place of choice: what may be computed how, and what is kept for it."""
