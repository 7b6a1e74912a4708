"""Memory or disk."""

from pathlib import Path

import pytest

from amc.vision import caching
from amc.vision.caching import available_bytes, choose

GB = 10**9


def test_images_are_in_memory_where_they_fit_and_are_soon_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caching, "available_bytes", lambda: 8 * GB)
    assert choose("auto", 2 * GB, 19).in_memory
    large, slow = choose("auto", 2 * GB + 1, 1), choose("auto", GB, 90)
    assert not large.in_memory
    assert "2.0 GB, more than a quarter of the 8.0 GB of free memory" in large.reason
    assert not slow.in_memory
    assert "about 1 min 30 s" in slow.reason
    assert choose("memory", 100 * GB, 9000).in_memory
    assert not choose("disk", 1, 0).in_memory


def test_a_container_may_have_less_memory_than_its_machine(tmp_path: Path) -> None:
    assert 0 < available_bytes() < 2**50
    assert caching._of_container(tmp_path) > 2**60
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert caching._of_container(tmp_path) > 2**60
    (tmp_path / "memory.max").write_text("1000\n")
    assert caching._of_container(tmp_path) == 450
