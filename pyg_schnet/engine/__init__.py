"""Choice of the program that computes a model (eligibility, plan), and cached or frozen data for it (cache, freeze)."""
