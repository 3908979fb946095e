"""Experts that play CoinRun well enough to be imitated: a planner without training, its apprentice, who sees only pictures, and PPO."""
