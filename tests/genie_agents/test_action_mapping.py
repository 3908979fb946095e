"""The paper's dictionary: sampled in proportion, falls back, survives saving."""

import numpy as np
import pytest

from genie_agents.action_mapping import LatentToRealMapping


def test_draws_each_latents_actions_in_the_proportion_seen():
    mapping = LatentToRealMapping.fit(np.array([0, 0, 0, 0, 2]), np.array([7, 7, 7, 8, 4]), num_codes=3)
    drawn = mapping.sample(np.zeros(20_000, dtype=int), np.random.default_rng(0))
    assert set(drawn) == {7, 8}
    assert abs((drawn == 8).mean() - 0.25) < 0.02
    assert set(mapping.sample(np.full(100, 2), np.random.default_rng(0))) == {4}
    assert mapping.num_fallbacks == 0


def test_temperature_sharpens_the_draw():
    mapping = LatentToRealMapping.fit(np.array([0, 0, 0, 0, 1]), np.array([7, 7, 7, 8, 8]), num_codes=2)
    codes = np.zeros(20_000, dtype=int)
    drawn = mapping.sample(codes, np.random.default_rng(0), temperature=0.5)
    assert abs((drawn == 8).mean() - 0.1) < 0.02  # 3 to 1 squared: 9 to 1
    assert set(mapping.sample(codes, np.random.default_rng(0), temperature=0)) == {7}


def test_an_unseen_latent_falls_back_on_all_samples_and_is_counted():
    mapping = LatentToRealMapping.fit(np.array([0, 0, 2]), np.array([7, 7, 4]), num_codes=4)
    drawn = mapping.sample(np.array([1, 3, 0] * 3000), np.random.default_rng(0))
    assert mapping.num_fallbacks == 6000
    unseen = np.concatenate([drawn[0::3], drawn[1::3]])
    assert abs((unseen == 4).mean() - 1 / 3) < 0.03


def test_save_and_load(tmp_path):
    mapping = LatentToRealMapping.fit(np.array([0, 2]), np.array([7, 4]), num_codes=3)
    mapping.save(tmp_path / "mapping.json")
    loaded = LatentToRealMapping.load(tmp_path / "mapping.json")
    codes = np.array([0, 1, 2] * 50)
    np.testing.assert_array_equal(loaded.sample(codes, np.random.default_rng(1)), mapping.sample(codes, np.random.default_rng(1)))
    for content in ("not json", "[]", "{}"):
        (tmp_path / "foreign.json").write_text(content)
        with pytest.raises(ValueError, match="not a saved mapping"):
            LatentToRealMapping.load(tmp_path / "foreign.json")


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        LatentToRealMapping.fit(np.array([], dtype=int), np.array([], dtype=int), num_codes=2)
    with pytest.raises(ValueError, match="0 ... 1"):
        LatentToRealMapping.fit(np.array([2]), np.array([0]), num_codes=2)
