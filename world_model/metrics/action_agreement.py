"""How well latent actions name the true ones, for videos whose true actions are known.

All functions take flat arrays of the same length: latent actions (codes) and real actions, the latter after merging those that
do the same (aliases): without merging, agreement measures which of several equal keys happened to be recorded.
"""

import numpy as np


def contingency(latent_actions: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """counts[k, a] (K, A): how often latent action k went with real action a."""
    if latent_actions.shape != actions.shape or latent_actions.ndim != 1 or len(actions) == 0:
        raise ValueError(f"need two flat arrays of equal, positive length; got shapes {latent_actions.shape} and {actions.shape}")
    if latent_actions.min() < 0 or actions.min() < 0:
        raise ValueError("found an action of -1, which none is: leave out the last frame of each episode")
    counts = np.zeros((latent_actions.max() + 1, actions.max() + 1), dtype=np.int64)
    np.add.at(counts, (latent_actions, actions), 1)
    return counts


def majority_agreement(latent_actions: np.ndarray, actions: np.ndarray) -> float:
    """Share of transitions whose action is the one most often seen with their code; compare with the most frequent action's share."""
    return float(contingency(latent_actions, actions).max(axis=1).sum() / len(actions))


def mutual_information(latent_actions: np.ndarray, actions: np.ndarray) -> float:
    """Bits that a code tells about the action; at most the entropy of the actions."""
    joint = contingency(latent_actions, actions) / len(actions)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / independent[seen])).sum())


def code_use(latent_actions: np.ndarray, *, num_codes: int) -> list[float]:
    """Share of transitions per code: a collapsed codebook shows as one share near 1."""
    return (np.bincount(latent_actions, minlength=num_codes) / len(latent_actions)).tolist()


def precision_and_recall(latent_actions: np.ndarray, happened: np.ndarray) -> tuple[float, float]:
    """How well codes tell an event (N,) bool: predicted wherever the event is the majority of a code. (nan, 0) when of none."""
    counts = contingency(latent_actions, happened.astype(np.int64))
    says_event = counts[:, 1] > counts[:, 0] if counts.shape[1] == 2 else np.zeros(len(counts), dtype=bool)
    predicted = says_event[latent_actions]
    true_positives = float((predicted & happened).sum())
    return (true_positives / predicted.sum() if predicted.any() else float("nan")), true_positives / max(1, happened.sum())
