"""What bc_coinrun.py reports and draws, of results and labels that are known."""

import json

import numpy as np
import pytest
from bc_report import compare, interval, label_report
from plot_level_solve import COLUMNS, draw_curve, plot, plt, read_results
from report import write_json
from train_lam import CardSettings, card

from genie_agents.coinrun import LEFT, RIGHT, RIGHT_UP
from genie_agents.evaluation import confidence_interval


def test_reports_of_labels_count_what_they_say():
    """Two keys on the ground, one of them a take-off that was missed; in the air an UP, which does nothing; the end of the episode."""
    report = label_report(
        np.array([0, 1, 0, 0, 0, -1]),
        np.array([RIGHT, RIGHT_UP, RIGHT_UP, RIGHT, RIGHT - 1, -1]),
        np.array([1, 1, 1, 0, 1, 0], dtype=bool),
        num_codes=2,
        named={"mapping": np.array([RIGHT, RIGHT_UP, RIGHT, LEFT, RIGHT, LEFT])},
    )
    assert (report["frames"], report["ground_frames"]) == (5, 4)
    assert (report["take_off_precision"], report["take_off_recall"]) == (1, 0.5)
    assert report["mapping_agreement_on_ground"] == {"mapping": 0.75}
    assert report["keys_in_air"] == {0: {RIGHT: 1}} and report["code_use"] == [0.8, 0.2]
    text = card(CardSettings(lam_games=("climber",)), {"easy": report}, {"lam": 12.0})
    assert "# A latent action model of climber\n" in text and "; 12 s." in text
    assert "| take off recall | 0.500 |" in text and "| 1 | 25.0 % | RIGHT+UP 100 % |" in text


def test_what_is_undefined_is_null_in_json(tmp_path):
    report = label_report(np.array([0, 0, -1]), np.array([RIGHT, RIGHT, -1]), np.array([True, True, False]), num_codes=1, named={})
    write_json(tmp_path / "summary.json", {"labels": report, "most": float("inf"), "folder": tmp_path})
    assert "NaN" not in (tmp_path / "summary.json").read_text()
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["labels"]["take_off_precision"] is None and written["labels"]["take_off_recall"] == 0
    assert (written["most"], written["folder"]) == (None, str(tmp_path))


def test_results_of_several_runs_are_read_together(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + "\ngenie_lam,easy,16,0,100,80\ngenie_lam,easy,16,1,50,35\noracle,easy,,0,100,90\n")
    assert read_results([path]) == {("genie_lam", "easy", 16): [80, 70], ("oracle", "easy", 0): [90]}
    other = tmp_path / "other.csv"
    other.write_text(",".join(COLUMNS) + "\noracle,hard,,0,100,70\n")
    assert set(read_results([path, other])) == {("genie_lam", "easy", 16), ("oracle", "easy", 0), ("oracle", "hard", 0)}
    with pytest.raises(ValueError, match="genie_lam on easy levels, seed 0, was in another run or row"):
        read_results([path, path])
    with pytest.raises(FileNotFoundError, match="finished run"):
        read_results([tmp_path / "missing.csv"])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no results.csv"):
        read_results([path])


def test_an_agent_is_compared_with_the_oracle_seed_by_seed() -> None:
    assert compare([80.0, 70.0, 90.0], [82.0, 71.0, 90.0]) == {
        "mean": -1.0,
        "confidence_interval_95": [-3.48, 1.48],
        "by_seed": [-2, -1, 0],
    }
    assert compare([80.0], [82.0]) == {"mean": -2.0, "confidence_interval_95": None, "by_seed": [-2]}
    assert compare([80.0], None) is None
    assert interval([0.0, 8.0, 60.0], least=0, most=100)[0] == 0  # no agent solves less than none


def test_an_agent_of_one_number_of_samples_is_drawn_with_its_interval() -> None:
    figure, axis = plt.subplots()
    draw_curve(axis, {("relabelled_linear", "easy", 200): [90.0, 92.0, 94.0]}, "relabelled_linear", "easy", "agent", color="k", marker="P")
    ((bar,),) = (container.lines[2][0].get_segments() for container in axis.containers)
    np.testing.assert_allclose(bar[:, 1], confidence_interval([90.0, 92.0, 94.0]))
    plt.close(figure)


def test_a_result_without_a_number_of_samples_is_no_point_of_a_curve() -> None:
    """So were those of fine-tuned agents, which are drawn as lines."""
    figure, axis = plt.subplots()
    draw_curve(axis, {("ppo_from_clone", "easy", 0): [90.0, 92.0]}, "ppo_from_clone", "easy", "agent", color="k", marker="*")
    assert not axis.containers and not axis.lines
    plt.close(figure)


def test_what_another_latent_action_model_alone_played_is_drawn_too(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(plt, "close", lambda _: None)
    percents = {("relabelled_linear", "easy", 16): [60.0, 70.0], ("relabelled_linear", "easy", 64): [90.0, 92.0]}
    other = {("relabelled_linear", difficulty, 200): [80.0, 82.0] for difficulty in ("easy", "hard")}
    plot(percents, tmp_path / "picture.png", {"other": other})
    easy, hard = plt.gcf().axes
    monkeypatch.undo()
    plt.close(easy.figure)
    assert [axis.get_title() for axis in (easy, hard)] == ["CoinRun, easy", "CoinRun, hard"]
    assert [[label.get_text() for label in axis.get_xticklabels()] for axis in (easy, hard)] == [["16", "64", "200"], ["200"]]
    assert len(easy.containers) == len(hard.containers) == 1  # a single number of samples is drawn with its interval
