from pathlib import Path

from shared import disk


def test_a_folder_that_can_be_written_to_has_no_fault_and_is_left_as_it_was(tmp_path: Path) -> None:
    assert disk.fault(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_fault_is_told_in_the_systems_words(tmp_path: Path) -> None:
    assert disk.fault(tmp_path / "not there") == "No such file or directory"
