"""Agents: the real CoinRun, experts, demonstrations, cloning from latent actions, mapping to real actions, evaluation."""
