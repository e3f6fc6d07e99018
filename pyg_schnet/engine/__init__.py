"""The one place of choice: what may be computed how (eligibility, plan), and what is kept for it (cache, freeze)."""
