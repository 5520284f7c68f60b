"""Storage layouts of which the HDF5 library tells wrong places."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from activestore import Active

NUMBERS = np.arange(1, 13, dtype="u1").reshape(3, 4)


@pytest.mark.parametrize("maxshape", [(3, None), (5, None)])
@pytest.mark.parametrize("written", [4, 1])
def test_an_extensible_array_whose_unlimited_dimension_is_not_the_first(
    maxshape: tuple[int | None, ...], written: int, tmp_path: Path
) -> None:
    # H5Dchunk_iter and H5Dget_chunk_info count such chunks in another order than that in which they lie.
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        dataset = file.create_dataset("x", NUMBERS.shape, "u1", chunks=(1, 1), maxshape=maxshape)
        dataset[:, :written] = NUMBERS[:, :written]
        wanted = dataset[...]
    assert Active(tmp_path / "a.h5", "x").read().tolist() == wanted.tolist()


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_an_unwritten_contiguous_variable_behind_a_user_block(libver: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver=libver, userblock_size=512) as file:
        file.create_dataset("x", (5,), "u8", fillvalue=3)
    assert Active(tmp_path / "a.h5", "x").read().tolist() == [3] * 5
