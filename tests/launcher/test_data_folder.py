import os
import stat

import pytest

from launcher import data_folder
from launcher.children import Children, StartFault


@pytest.fixture
def children():
    with Children() as children:
        yield children


def test_it_is_made_for_its_owner_alone(children, tmp_path):
    with data_folder.taken(tmp_path / "new" / "data", children):
        assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o700


def test_the_second_is_refused_until_the_first_has_ended(children, tmp_path, monkeypatch):
    monkeypatch.setattr(data_folder, "_LOCK_S", 0.2)
    expected = rf"^Another Parley \(process {os.getpid()}\) [^\n]* set PARLEY_DATA to another folder.$"
    with (
        data_folder.taken(tmp_path, children),
        pytest.raises(StartFault, match=expected),
        data_folder.taken(tmp_path, children),
    ):
        pass

    with data_folder.taken(tmp_path, children):
        pass


def test_where_nothing_can_be_written_it_says_so_in_one_line(children, tmp_path):
    (tmp_path / "data").write_text("a file")
    expected = r"^The data folder [^\n]* cannot be written to [^\n]* set PARLEY_DATA to another folder.$"

    with pytest.raises(StartFault, match=expected), data_folder.taken(tmp_path / "data", children):
        pass
