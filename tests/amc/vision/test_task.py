"""Tasks: the splits stay apart, and no plan is scored twice."""

import torch

from amc.config import DataConfig, EvaluateConfig
from amc.models.factory import build_model
from amc.pruning.find_units import find_units
from amc.pruning.plan_evaluator import PlanEvaluator
from amc.pruning.slicing.slice import slice_model
from amc.task import Task
from amc.vision.sources import load_data
from amc.vision.task import image_task

SETTINGS = EvaluateConfig(images=60, calibration_images=60)


def test_the_search_never_sees_test_images():
    data = load_data(DataConfig(spec="digits"), progress=False)
    torch.manual_seed(0)
    task = image_task("amc:smallcnn", data, SETTINGS)
    quality = task.evaluate(task.model)
    ruined = data.test.images.random_(0, 256, generator=torch.Generator().manual_seed(0))
    assert ruined is data.test.images
    torch.manual_seed(0)
    again = image_task("amc:smallcnn", data, SETTINGS)
    assert again.evaluate(again.model) == quality


def test_the_probe_sees_training_images_only():
    data = load_data(DataConfig(spec="digits"), progress=False)
    probed = []
    for ruined in (None, "search_val", "test", "train"):
        if ruined is not None:
            getattr(data, ruined).images.random_(0, 256, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        task = image_task("amc:smallcnn", data, SETTINGS)
        units = find_units(task.model, task.example_inputs)
        small = slice_model(task.model, units, [unit.width // 2 for unit in units])
        slopes = [loss.item() for loss in task.divergence(small)]
        probed.append((task.probe(small), *slopes))
    assert probed[0][0] > 0
    assert probed[0] == probed[1] == probed[2]
    assert not set(probed[0]) & set(probed[3])


def test_the_factory_learns_classes_and_channels_from_the_data():
    task = image_task("amc:resnet20", "digits", SETTINGS, progress=False)
    assert task.model.conv1.weight.shape[1] == 1
    assert task.model(task.example_inputs).shape == (1, 10)
    again = build_model(task.config)  # a plan or a saved network has no images at hand
    assert again.load_state_dict(task.model.state_dict())


def test_a_task_says_how_its_images_are_prepared():
    task = image_task("amc:smallcnn", DataConfig(std=(0.25,)), SETTINGS, progress=False)
    assert (task.data.mean, task.data.std, task.data.image_size) == ((0.5,), (0.25,), None)
    preprocessing, data, dense = task.notes
    assert data.startswith("data  ")
    assert "mean .5 (the data set's); std .25 (yours); images as stored, 8x8 px" in preprocessing
    assert dense.startswith("dense  accuracy ")
    assert dense.endswith(" on 60 search-val images")
    images = load_data(DataConfig(spec="digits"), progress=False)
    assert image_task("amc:smallcnn", images, SETTINGS).data is None  # nothing describes them


def test_what_does_not_look_right_is_said_where_that_is_asked():
    named = ("amc:smallcnn", "digits", SETTINGS)
    assert not any("random" in note for note in image_task(*named, progress=False).notes)
    notes = image_task(*named, progress=False, check=True).notes
    assert any(note.startswith("warning  without --weights") for note in notes)


def test_identical_widths_are_scored_once():
    calls = []
    dense = image_task("amc:smallcnn", "digits", SETTINGS, progress=False)

    def evaluate(candidate):
        calls.append(sum(p.numel() for p in candidate.parameters()))
        return {"kl": 0.0}

    units = find_units(dense.model, dense.example_inputs)
    quality = PlanEvaluator(Task(dense.model, dense.example_inputs, evaluate), units)
    narrow = tuple(unit.width // 2 for unit in units)
    assert quality(narrow) is quality(list(narrow))
    quality(units.dense_widths)
    assert calls == [calls[0], sum(p.numel() for p in dense.model.parameters())]
    assert calls[0] < calls[1]
