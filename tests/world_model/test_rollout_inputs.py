"""What a rollout is given: whole numbers of any kind are actions, all else is refused in one sentence and the worlds stay as they were."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from bold_world import BOLD, GREEDY, LAYERS, NUM_ACTIONS, bold_genie, videos

from world_model import Genie, Rollout


@pytest.fixture(scope="module")
def genie() -> Genie:
    return bold_genie()


def test_the_first_frame_comes_before_the_first_step(genie: Genie) -> None:
    rollout = Rollout(genie, 2)
    with pytest.raises(RuntimeError, match=r"call reset\(\) before step\(\)"):
        rollout.step([0, 0])
    rollout.reset(mask=[True, False])
    with pytest.raises(RuntimeError, match=r"call reset\(\) before step\(\)"):
        rollout.step([0, 0])
    rollout.reset(mask=[False, True])
    rollout.step([0, 0])


@pytest.mark.parametrize(
    "actions", [[0], [0, 1, 2], [[0, 1]], [0, NUM_ACTIONS], [-1, 0], [0.0, 1.0], np.array([0.5, 1]), torch.tensor(1)], ids=str
)
def test_bad_actions_are_refused_and_the_worlds_stay(genie: Genie, actions: Any) -> None:
    rollout, undisturbed = Rollout(genie, 2), Rollout(genie, 2)
    for each in (rollout, undisturbed):
        each.reset(videos(2, 1), seeds=[0, 1])
    with pytest.raises(ValueError, match=r"need 2 latent actions, whole numbers in 0 \.\.\. 3, got"):
        rollout.step(actions)
    assert torch.equal(rollout.step([0, 1]), undisturbed.step([0, 1]))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_whole_numbers_of_any_size_are_actions(genie: Genie, dtype: Any) -> None:
    expected_by_number(genie, np.array([1, 0, 1, 1], dtype=dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_whole_numbers_of_small_types_are_actions(genie: Genie, dtype: Any) -> None:
    expected_by_number(genie, np.array([1, 0, 1, 1], dtype=dtype))


def expected_by_number(genie: Genie, actions: np.ndarray) -> None:
    rollout, expected = Rollout(genie, 4, sampling=GREEDY), Rollout(genie, 4, sampling=GREEDY)
    for each in (rollout, expected):
        each.reset(videos(4, 1))
    assert torch.equal(rollout.step(actions), expected.step(actions.tolist()))


def test_truth_values_are_no_actions(genie: Genie) -> None:
    rollout = Rollout(genie, 4)
    rollout.reset()
    with pytest.raises(ValueError, match="whole numbers"):
        rollout.step(np.ones(4, dtype=bool))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (videos(2, 1)[:, 0], r"expected prompts \(2, P, 16, 16, 3\)"),
        (videos(3, 1), r"expected prompts \(2, P, 16, 16, 3\).*got .*\(3, 1, 16, 16, 3\)"),
        (videos(2, 1)[:, :0], "at least one frame"),
        (videos(2, 2)[:, :, :8], "resize or convert"),
        (videos(2, 2).float(), "uint8"),
        (videos(2, 1).numpy().astype(np.int64), "uint8"),
    ],
    ids=["no time", "worlds", "no frame", "size", "float", "int64"],
)
def test_bad_prompts_are_refused_and_the_worlds_stay(genie: Genie, prompts: Any, message: str) -> None:
    rollout, undisturbed = Rollout(genie, 2), Rollout(genie, 2)
    for each in (rollout, undisturbed):
        each.reset(videos(2, 1), seeds=[0, 1])
    with pytest.raises(ValueError, match=message):
        rollout.reset(prompts)
    assert torch.equal(rollout.step([0, 1]), undisturbed.step([0, 1]))


def test_a_refused_reset_leaves_the_generators_alone(genie: Genie) -> None:
    rollout, undisturbed = Rollout(genie, 2), Rollout(genie, 2)
    for each in (rollout, undisturbed):
        each.reset(videos(2, 1), seeds=[0, 1])
    with pytest.raises(ValueError, match="uint8"):
        rollout.reset(videos(2, 1).float(), seeds=[7, 8])
    assert torch.equal(rollout.step([0, 1]), undisturbed.step([0, 1]))


@pytest.mark.parametrize(
    ("seeds", "mask"),
    [([1], None), ([1, 2, 3], None), ([], None), (None, [True]), (None, [True, False, True])],
    ids=["few seeds", "many seeds", "no seeds", "short mask", "long mask"],
)
def test_seeds_and_masks_of_another_length_are_refused(genie: Genie, seeds: Any, mask: Any) -> None:
    rollout = Rollout(genie, 2)
    with pytest.raises(ValueError, match="seeds|mask"):
        rollout.reset(seeds=seeds, mask=mask)


def test_seeds_may_stand_in_an_array(genie: Genie) -> None:
    seeds: Sequence[int] = np.array([5, 6])  # type: ignore[assignment]
    assert torch.equal(Rollout(genie, 2).reset(seeds=seeds), Rollout(genie, 2).reset(seeds=[5, 6]))


def test_a_state_from_before_the_first_reset_is_one_before_the_first_reset(genie: Genie) -> None:
    rollout = Rollout(genie, 2)
    state = rollout.get_state()
    rollout.reset()
    rollout.set_state(state)
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        rollout.step([0, 0])


def test_a_genie_without_prompts_asks_for_some() -> None:
    with pytest.raises(ValueError, match="holds no prompt frames: give prompts"):
        Rollout(bold_genie(replace(BOLD, num_prompts=0)), 1).reset()


def test_what_cannot_be_rolled_out_says_why(genie: Genie) -> None:
    with pytest.raises(ValueError, match="num_worlds is 0"):
        Rollout(genie, 0)
    endless = replace(BOLD, dynamics=replace(BOLD.dynamics, transformer=replace(LAYERS, temporal_window=None)))
    with pytest.raises(ValueError, match="temporal_window"):
        Rollout(Genie(endless), 1)
