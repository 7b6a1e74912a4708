"""Trials in a child process, and their verdicts on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from amc.compute import kernel_check, kernel_trial
from amc.compute.convolutions import Convolution, convolutions
from amc.compute.kernel_check import try_out, unsound

# Switching oneDNN off sets its other flags as well, and one of them wants an Intel GPU.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")
REAL_TRIAL = str(kernel_trial.__file__)


def convolution(channels: int, kind: type[nn.Conv2d] = nn.Conv2d) -> Convolution:
    layer = kind(channels, 4, 3, padding=1)
    example = torch.zeros(1, channels, 6, 5)
    found = convolutions(layer, example, images=2, bf16=False, backward=True)
    return next(iter(found[""]))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AMC_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def trials(monkeypatch) -> list[int]:
    """How many convolutions each child was to try; none is started, those of 7 channels fail."""
    asked: list[int] = []

    def fake(groups: Sequence[Sequence[Convolution]]) -> list[bool]:
        asked.append(len(groups))
        return [all(each.in_channels != 7 for each in group) for group in groups]

    monkeypatch.setattr(kernel_check, "try_out", fake)
    return asked


DEADLY = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("kernel_trial", {real!r})
trial = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trial)
is_sound = trial.is_sound
def act(fields, runs, before_run):
    if fields["in_channels"] == 5:
        os.kill(os.getpid(), signal.SIGABRT)
    return fields["in_channels"] != 6 and is_sound(fields, runs, before_run)
trial.is_sound = act
trial.main()
"""


def test_a_child_that_dies_or_finds_a_wrong_result_condemns_one_group(tmp_path, monkeypatch):
    program = tmp_path / "trial.py"
    program.write_text(DEADLY.format(real=REAL_TRIAL), encoding="utf-8")
    monkeypatch.setattr(kernel_trial, "__file__", str(program))
    groups = [[convolution(channels)] for channels in (3, 5, 8)]
    groups.append([convolution(4), convolution(6)])
    groups.append([convolution(8, nn.ConvTranspose2d), convolution(16)])
    assert try_out(groups) == [True, False, True, False, True]


def test_memory_that_is_corrupted_unnoticed_is_not_taken_for_sound(monkeypatch):
    """Group 1 lets whatever comes after it die, or the end of the process."""

    def trial(groups: Sequence[Sequence[Convolution]]) -> tuple[int, bool]:
        channels = [group[0].in_channels for group in groups]
        poisoned = channels.index(2) if 2 in channels else None
        if poisoned is None:
            return len(groups) - 1, True
        return min(poisoned + 1, len(groups) - 1), False

    monkeypatch.setattr(kernel_check, "_trial", trial)
    groups = [[convolution(channels)] for channels in (1, 2, 3)]
    assert try_out(groups) == [True, False, False]


def test_without_a_child_nothing_is_taken_for_sound_or_kept(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(kernel_check.sys, "executable", str(tmp_path / "nothing"))
        assert try_out([[convolution(3)]]) == [None]
        assert unsound([convolution(3)]) == {convolution(3)}
    monkeypatch.setattr(kernel_check, "try_out", lambda groups: [True] * len(groups))
    assert unsound([convolution(3)]) == set()


def test_results_are_compared():
    fields = asdict(convolution(3))
    assert kernel_trial.is_sound(fields, 2)
    layer, images = kernel_trial.make(fields), torch.randn(2, 3, 6, 5)
    output, *gradients = kernel_trial.results(layer, images, backward=True)
    assert output.shape == (2, 4, 6, 5)
    assert [tuple(g.shape) for g in gradients] == [(2, 3, 6, 5), (4, 3, 3, 3), (4,)]


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_wrong_gradient_is_unsound(monkeypatch, wrong):
    results = kernel_trial.results

    def of_a_faulty_kernel(layer, images, backward):
        output, first, *others = results(layer, images, backward)
        if torch.backends.mkldnn.enabled:
            first[0, 0, 0, 0] *= wrong
            first[0, 0, 0, 0] += (wrong - 1) * first.abs().max()
        return [output, first, *others]

    monkeypatch.setattr(kernel_trial, "results", of_a_faulty_kernel)
    assert not kernel_trial.is_sound(asdict(convolution(3)), 1)


def test_verdicts_are_kept_on_disk(cache, trials, monkeypatch):
    few = [convolution(3), convolution(7)]
    assert unsound(few) == {few[1]}
    assert unsound(few) == {few[1]}
    monkeypatch.setattr(kernel_check, "_known", {})  # as in another process
    assert unsound(few) == {few[1]}
    assert trials == [2]
    assert unsound([*few, convolution(9)]) == {few[1]}
    assert trials == [2, 1]  # the new one alone
    (file,) = cache.iterdir()
    assert sorted(json.loads(file.read_text())["verdicts"].values()) == [False, True, True]


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "3", '{"machine": {}, "verdicts": {}}', b"\xff\xfe", '{"verdicts": 3}'],
)
def test_a_damaged_or_foreign_file_is_ignored_and_replaced(cache, trials, monkeypatch, damage):
    few = [convolution(3), convolution(7)]
    unsound(few)
    (file,) = cache.iterdir()
    sound = file.read_text()
    file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    monkeypatch.setattr(kernel_check, "_known", {})
    assert unsound(few) == {few[1]}
    assert trials == [2, 2]
    assert file.read_text() == sound


def test_a_folder_that_cannot_be_written_does_no_harm(cache, trials, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("AMC_CACHE", str(cache / "file" / "below"))
    assert unsound([convolution(7)]) == {convolution(7)}
    assert trials == [1]


def test_any_width_stands_for_widths_of_every_remainder():
    exact = replace(convolution(48), height=112, width=50)
    samples = exact.of_any_width().samples()
    assert exact.samples() == (exact,)
    assert {each.in_channels % 8 for each in samples} == set(range(8))
    assert {each.out_channels % 8 for each in samples} == set(range(8))
    assert {(each.height, each.width) for each in samples} == {(48, 50)}
    assert exact.of_any_width() == replace(exact, in_channels=16).of_any_width()
    grouped = replace(exact, groups=2).of_any_width().samples()
    assert all(each.in_channels % 2 == each.out_channels % 2 == 0 for each in grouped)
    depthwise = replace(exact, out_channels=96, groups=48).of_any_width().samples()
    assert all(2 * each.groups == 2 * each.in_channels == each.out_channels for each in depthwise)
