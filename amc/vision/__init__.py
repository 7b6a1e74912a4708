"""Image classification: images in memory, the evaluation of a candidate, the task."""
