"""`Active`: a variable of a file, or a part of it, that is reduced where its bytes are."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from activestore.config import Settings, resolve
from activestore.core.aggregate import Aggregator
from activestore.core.backend import Backend
from activestore.core.conditions import Condition, parse_condition
from activestore.core.dispatch import Fallback, Outcome, run
from activestore.core.formats.read import locate
from activestore.core.groups import By, group_selection
from activestore.core.joined_plan import JoinedPlan
from activestore.core.missing import Missing
from activestore.core.packing import Packing
from activestore.core.plan import Plan, ReductionRequest, grouped_axes, normalize_axes
from activestore.core.reductions import READ, Reduction, find_reduction
from activestore.core.selection import Selection
from activestore.core.threads import concurrently, default_workers
from activestore.core.variable import Variable
from activestore.errors import (
    ArgumentError,
    ConfigurationError,
    CorruptChunkError,
    FallbackWarning,
    JoinError,
    ReductionError,
    to_install,
)
from activestore.inputs.combine import arranged
from activestore.inputs.open import check_name, open_variable, opened_backends, settings_of, workers_of
from activestore.inputs.part import METADATA_READS, Part, Parts, join, join_parts, reads_at_once
from activestore.inputs.paths import Addresses, check_several, files_of, is_local
from activestore.named_reductions import Axis, NamedReductions
from activestore.network.concurrency_limit import at_most
from activestore.results.explanation import Explanation, explain
from activestore.results.html import chunk_grid_svg, page
from activestore.results.result import Report, Result
from activestore.sources.open import Source

__all__ = ["Active", "Axis"]


class Active(NamedReductions):
    """A variable, or a part of one, that is reduced chunk by chunk where its bytes are.

    It never changes: an index or `with_options` gives a new one. Nothing is read before a reduction, `read`, or
    `numpy.asarray` asks for it. It may be used from many threads at once, and pickled.

    Missing values (`_FillValue`, `missing_value`, `valid_min`, `valid_max`, `valid_range`, default fill values) are left
    out and packed numbers (`scale_factor`, `add_offset`, `_Unsigned`) unpacked, as netCDF4-python does. Sums are kept in 64
    bits. A result with nothing valid under it is masked; results that are arrays are masked arrays.

    Examples:
        >>> tas = Active("docs/tas.nc", "tas")
        >>> tas.dims, tas.shape
        (('time', 'lat', 'lon'), (24, 18, 36))
        >>> print(round(tas[0:12, :, 20:30].mean(), 3))
        279.293
        >>> tas.mean(axis=("lat", "lon")).shape
        (24,)
    """

    __slots__ = ("_parts", "_selection")
    _parts: Parts

    def __init__(  # noqa: PLR0913  # the one door has all the options
        self,
        source: Addresses,
        variable: str,
        *,
        dim: int | str | None = None,
        backend: str | Backend | None = None,
        server: str | None = None,
        storage_options: Mapping[str, object] | None = None,
        backend_options: Mapping[str, object] | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        fallback: Fallback | None = None,
        progress: bool | None = None,
    ) -> None:
        """Read the metadata of a variable; its data stay where they are.

        Parameters:
            source: Path or address of a netCDF or HDF5 file: a local path, `s3://bucket/key`, `https://…`, or any address
                that fsspec reads. Or a source that is open already, as `open_source` gives it. Several files are joined: a
                list of them, in their order; a pattern ("data/tas_*.nc"); or a folder ("data/", "s3://bucket/run/"), whose
                netCDF and HDF5 files are taken. Those of a pattern or folder are sorted by their coordinates, or by name.
            variable: Name of the variable, with its groups: "group/var".
            dim: The dimension along which several files are joined, by name or number; by default the one along which
                lengths or coordinates differ. For one file it is refused: what is reduced is said where it is reduced.
            backend: Who computes the chunks: a name from `activestore backends`, or a backend of your own. The route of
                the address, if one is configured, by default; else "reductionist" if there is a `server`, else "posix".
            server: Address of the server that computes, for backends that have one.
            storage_options: How the store is reached, as fsspec takes it: for S3 `key`, `secret`, `token`, `anon`,
                `endpoint_url`. What is not given is taken from the environment, as s3fs does.
            backend_options: Options of the backend's own; its page in the documentation lists them.
            workers: How many chunks are computed at once, and how many requests are under way, for metadata too. By default as
                many as there are processors; more where they are computed elsewhere, or come over a network.
            executor: Where chunks are computed, in place of threads of our own; any `concurrent.futures.Executor`.
            fallback: "local", the default, computes here what the backend cannot do; "error" refuses it before any data
                are read.
            progress: Whether runs show a progress bar (needs tqdm, of the extra "progress").

        Raises:
            ArgumentError: The file or the name of the variable is of a type that it cannot be of.
            SourceNotFoundError: There is no such file.
            SourceError: The file is neither netCDF nor HDF5, or damaged.
            VariableNotFoundError: It has no such variable; the message names what is near.
            NotNumericError: The variable holds text or records.
            ConfigurationError: An option is not understood.
            JoinError: Files do not fit together, or it cannot be told how.
        """
        given = {
            "backend": backend,
            "server": server,
            "storage_options": storage_options,
            "backend_options": backend_options,
            "workers": workers,
            "executor": executor,
            "fallback": fallback,
            "progress": progress,
        }
        if not isinstance(variable, str):
            raise ArgumentError(f"the name of a variable is text, not {variable!r}; `activestore inspect FILE` shows them all")
        files = files_of(source, lambda address: resolve(address, given)[1])
        if len(files) == 1:
            self._parts = open_variable(files[0], variable, given)
        else:
            at_once = default_workers() if all(map(is_local, files)) else METADATA_READS
            with at_most(workers_of(files[0], given)):
                opened = concurrently(lambda file: open_variable(file, variable, given), files, at_once)
                parts, axis = arranged([one.first for one in opened], dim, listed=isinstance(source, (list, tuple)))
            self._parts = join_parts(parts, axis)
        if dim is not None:
            normalize_axes(dim, self._parts.variable.dims)
            check_several(source, files, "dim=")
        self._selection = self._parts.whole

    @classmethod
    def of(cls, source: Source, variable: Variable, **options: Any) -> Self:
        """Return a variable whose metadata have been read already, as `read_variable` gives them.

        Parameters:
            source: Where they were read from.
            variable: The variable.
            **options: Options as above: `backend`, `workers`, …

        Raises:
            ConfigurationError: An option is not understood.

        Examples:
            >>> from activestore.core.formats.read import read_variable
            >>> from activestore.sources.open import open_source
            >>> source = open_source("docs/tas.nc")
            >>> Active.of(source, read_variable(source, "tas"), workers=1).count()
            np.int64(15480)
        """
        made = object.__new__(cls)
        made._parts = Parts.single(source, variable, settings_of(source, options))
        made._selection = made._parts.whole
        return made

    def with_options(
        self,
        *,
        backend: str | Backend | None = None,
        server: str | None = None,
        backend_options: Mapping[str, object] | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        fallback: Fallback | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Return the same selection of the same variable, computed with other options; None keeps what was set.

        Another backend starts without the server and the options of the one before.

        Examples:
            >>> Active("docs/tas.nc", "tas").with_options(workers=1).count()
            np.int64(15480)
        """
        given = {
            "backend": backend,
            "server": server,
            "backend_options": backend_options,
            "workers": workers,
            "executor": executor,
            "fallback": fallback,
            "progress": progress,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if backend is not None:
            check_name(backend)
            changes = {"server": None, "backend_options": {}} | changes
        return self._copy(parts=self._parts.changed(changes))

    def with_decoding(self, *, dtype: np.dtype[np.generic], missing: Missing, packing: Packing | None) -> Self:
        """Return the same selection with its stored numbers understood in another way than netCDF4-python's.

        Parameters:
            dtype: Type of the stored numbers: of the size that it has, signed or unsigned. Their byte order is the file's.
            missing: Which stored numbers are missing.
            packing: How they become values; None where they are the values.

        Examples:
            >>> from activestore.core.missing import Missing
            >>> tas = Active("docs/tas.nc", "tas")
            >>> tas.with_decoding(dtype=tas.dtype, missing=Missing(), packing=None).max()
            np.float32(1e+20)
        """
        if self._variable is not self._parts.first.variable:
            raise JoinError(f"{self._parts.files}: are joined already; say how each is decoded, then join them")
        stored = dtype.newbyteorder(self._variable.dtype.byteorder)
        decoded = dataclasses.replace(self._variable, dtype=stored, missing=missing, packing=packing)
        part = dataclasses.replace(self._parts.first, variable=decoded)
        return self._copy(parts=dataclasses.replace(self._parts, each=(part,), variable=decoded))

    @classmethod
    def concatenate(cls, parts: Sequence[Active], dim: int | str) -> Self:
        """Return parts joined one after the other along a dimension, as one; nothing is read.

        Types, packing, missing values, chunks and codecs may differ from part to part; values have the type that NumPy
        would give to them together. Runs are carried out with the options of the first part, but each part is computed by its
        own backend.

        Parameters:
            parts: The parts, in their order; each may be a selection. The names of their dimensions are the same, and the
                lengths of all but `dim`.
            dim: The dimension along which they are joined, by name or number.

        Raises:
            JoinError: They do not fit together.
            SelectionError: There is no such dimension.

        Examples:
            >>> tas = Active("docs/tas.nc", "tas")
            >>> Active.concatenate([tas[:6], tas[18:]], "time").shape
            (12, 18, 36)
        """
        if not parts:
            raise JoinError("there is nothing to be joined: the list is empty")
        (axis,) = normalize_axes(dim, parts[0].dims)
        copy = object.__new__(cls)
        copy._parts = join([(part._parts, part._selection) for part in parts], parts[0]._selection.kept[axis])
        copy._selection = copy._parts.whole
        return copy

    def _copy(self, *, selection: Selection | None = None, parts: Parts | None = None) -> Self:
        copy = object.__new__(type(self))
        copy._parts = self._parts if parts is None else parts
        copy._selection = self._selection if selection is None else selection
        return copy

    @property
    def _source(self) -> Source:
        return self._parts.first.source

    @property
    def _settings(self) -> Settings:
        return self._parts.first.settings

    @property
    def _variable(self) -> Variable:
        return self._parts.variable

    def __getitem__(self, key: Any) -> Self:  # Any: whatever NumPy takes as an index
        """Return the part that `key` selects, without reading it.

        Parameters:
            key: Integers, slices of any step, `...`, boolean masks and integer lists; each list or mask indexes its own
                dimension, as in netCDF4-python. Selections of selections compose.

        Raises:
            SelectionError: It does not fit the shape.

        Examples:
            >>> Active("docs/tas.nc", "tas")[::2, 3][:5, [0, 7]].shape
            (5, 2)
        """
        return self._copy(selection=self._selection[key])

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a scalar has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    @property
    def variable(self) -> Variable:
        """All that is known of the whole variable: layout, codecs, missing values, chunk table."""
        with at_most(self._settings.workers):
            return locate(self._variable, self._source)

    @property
    def files(self) -> tuple[str, ...]:
        """Addresses of the files, in the order in which they are joined."""
        return tuple(part.source.uri for part in self._parts.each)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The open sources of the files, in the order in which they are joined."""
        return tuple(part.source for part in self._parts.each)

    @property
    def name(self) -> str:
        """Name of the variable, with its groups."""
        return self._variable.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the selection's dimensions."""
        return self._selection.shape

    @property
    def ndim(self) -> int:
        """How many dimensions the selection has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers are selected."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values, unpacked and in native byte order."""
        return self._variable.value_dtype

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the selection's dimensions."""
        return tuple(self._variable.dims[dim] for dim in self._selection.kept)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Lengths of a chunk (of a piece, where the variable is contiguous) along the selection's dimensions."""
        return tuple(self._variable.chunk_shape[dim] for dim in self._selection.kept)

    @property
    def attrs(self) -> Mapping[str, object]:
        """The variable's attributes; read-only."""
        attrs = self._variable.attrs.items()
        return MappingProxyType({name: value.copy() if isinstance(value, np.ndarray) else value for name, value in attrs})

    def plan(
        self,
        reduction: str | Reduction | tuple[str | Reduction, ...],
        axis: Axis = None,
        *,
        skipna: bool = True,
        by: By | None = None,
        where: str | Condition | None = None,
    ) -> Plan | JoinedPlan:
        """Return the plan of a reduction: its chunks, and the task of each. Nothing is read; parameters are those of `run`."""
        return self._planned(reduction, axis, skipna=skipna, by=by, where=where)[0]

    def _planned(
        self,
        reduction: str | Reduction | tuple[str | Reduction, ...],
        axis: Axis,
        *,
        skipna: bool,
        by: By | None,
        where: str | Condition | None,
    ) -> tuple[Plan | JoinedPlan, tuple[Part, ...]]:
        """Return the plan, and the part that each of its files is."""
        given = reduction if isinstance(reduction, (tuple, list)) else (reduction,)
        reductions = tuple(find_reduction(one) for one in given)
        names = [one.name for one in reductions]
        if not names or len(set(names)) < len(names):
            raise ReductionError(f"name each reduction once, and at least one; these are {names}")
        kept, reduced = self._selection.kept, normalize_axes(axis, self.dims)
        axes = tuple(kept[axis] for axis in reduced)
        selection, groups = group_selection(self._selection, grouped_axes(by, reduced, self.dims), self.dims)
        condition = None if where is None else parse_condition(where)
        with at_most(self._settings.workers):
            return self._parts.plan(ReductionRequest(self._variable, selection, reductions, axes, skipna, groups, condition))

    def explain(
        self,
        reduction: str | Reduction | tuple[str | Reduction, ...] = "mean",
        axis: Axis = None,
        *,
        skipna: bool = True,
        by: By | None = None,
        where: str | Condition | None = None,
    ) -> Explanation:
        """Return what a reduction would do, without reading any data: chunks touched, bytes, and what runs where.

        Parameters:
            reduction: As for `run`.
            axis: As for `run`.
            skipna: As for `run`.
            by: As for `run`.
            where: As for `run`.

        Examples:
            >>> print(Active("docs/tas.nc", "tas")[:12].explain("mean"))
            mean of 'tas' in docs/tas.nc
              selected   12 x 18 x 36 = 7,776 numbers (float32)
              chunks     1 of 2 touched, each 12 x 18 x 36
            ...
        """
        work, parts = self._planned(reduction, axis, skipna=skipna, by=by, where=where)
        with at_most(self._settings.workers):
            return explain(work, lambda file: opened_backends(parts[file]), fallback=self._settings.fallback)

    def run(
        self,
        reduction: str | Reduction | tuple[str | Reduction, ...],
        axis: Axis = None,
        *,
        keepdims: bool = False,
        skipna: bool = True,
        by: By | None = None,
        where: str | Condition | None = None,
    ) -> Result:
        """Compute one reduction, or several in one pass, and return values, count and report.

        Parameters:
            reduction: A name ("mean", "max", …), a `Reduction` of your own, or several of them in a tuple.
            axis: Dimensions to reduce, by number or name; None for all.
            keepdims: Whether reduced dimensions stay, with the length 1.
            skipna: Whether NaN counts as missing. If not, a NaN makes the result NaN.
            by: Groups along reduced dimensions: for each of these, by number or name, the group of every selected position
                (integers from 0; -1 leaves the position out), or `Groups`. The dimension stays in the result, with one place
                for each group; a group without values is masked.
            where: What values have to satisfy: "> 298.15", ">= 273.15 and < 300", "!= 0". The others count as missing.

        Raises:
            ReductionError: There is no such reduction, or it cannot be taken of groups.
            SelectionError: There is no such axis; or `by` or `where` are not what they have to be.
            CorruptChunkError: A chunk is damaged; the message names file, variable, chunk and offset.
            UnsupportedError: Nothing installed can undo one of the variable's filters.
            SourceError: The file cannot be read, or has changed since it was opened.
            SumOverflowError: A sum of integers does not fit into 64 bits.

        Warns:
            FallbackWarning: Chunks were computed locally because the backend could not; the report says why.

        Examples:
            >>> result = Active("docs/tas.nc", "tas").run(("min", "max"), axis="time")
            >>> result.values["max"].shape, result.count.shape
            ((18, 36), (18, 36))
            >>> result.report.where
            {'posix': 2}
            >>> tas, months = Active("docs/tas.nc", "tas"), np.arange(24) % 12
            >>> tas.run("mean", axis=("time", "lat", "lon"), by={"time": months}).value.shape
            (12,)
            >>> tas.run("count", where="> 298.15").value
            np.int64(1824)
        """
        started = time.perf_counter()
        work, parts = self._planned(reduction, axis, skipna=skipna, by=by, where=where)
        aggregator = Aggregator(work)
        with at_most(self._settings.workers), self._bar(len(work)) as progress, _unchanged(parts):
            outcome = run(
                work,
                lambda file: opened_backends(parts[file]),
                aggregator=aggregator,
                workers=self._settings.workers,
                executor=self._settings.executor,
                fallback=self._settings.fallback,
                progress=progress,
            )
        _warn_of(outcome, len(work))
        values, count = aggregator.values(keepdims=keepdims)
        report = Report(
            source=work.variable.uri,
            variable=self.name,
            backend=outcome.backend,
            chunks=len(work),
            where=outcome.where,
            bytes_read=outcome.bytes_read,
            bytes_moved=outcome.bytes_moved,
            cells=math.prod(work.template.selected),
            seconds=time.perf_counter() - started,
            workers=outcome.workers,
            reasons=outcome.reasons,
        )
        kept, ungrouped = self._selection.kept, set(work.request.axes) - {groups.axis for groups in work.request.groups}
        dims = tuple(name for dim, name in zip(kept, self.dims, strict=True) if keepdims or dim not in ungrouped)
        return Result(values, count, dims, report, work, parts[0].source, self.sources)

    def reduce(
        self,
        reduction: str | Reduction | tuple[str | Reduction, ...],
        axis: Axis = None,
        *,
        keepdims: bool = False,
        skipna: bool = True,
        by: By | None = None,
        where: str | Condition | None = None,
    ) -> Any:  # Any: a number, an array, or a mapping of them
        """Return the value of one reduction; of several, computed in one pass, a mapping from name to value.

        Parameters and errors are those of `run`.

        Examples:
            >>> sorted(Active("docs/tas.nc", "tas").reduce(("min", "max", "mean")))
            ['max', 'mean', 'min']
        """
        return self.run(reduction, axis, keepdims=keepdims, skipna=skipna, by=by, where=where).value

    def read(self) -> np.ma.MaskedArray[Any, Any]:
        """Return the selected values themselves: unpacked, missing ones masked, as netCDF4-python gives them.

        Returns:
            A masked array of the selection's shape and `dtype`; chunks are read and decoded in parallel.

        Raises:
            CorruptChunkError: A chunk is damaged.

        Examples:
            >>> Active("docs/tas.nc", "tas")[0, :2, :2].read().shape
            (2, 2)
        """
        values = self.run(READ, (), skipna=False).value
        return np.ma.MaskedArray(np.zeros((), self.dtype), mask=True) if values is np.ma.masked else np.ma.asanyarray(values)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the values as a plain array, NaN where they are missing (integers become floats only if need be)."""
        if copy is False:
            raise ValueError("the values have to be read, which makes a copy")
        masked = self.read()
        array = masked.data
        if np.ma.is_masked(masked):
            array = array.astype(np.result_type(array.dtype, np.float32)) if array.dtype.kind != "f" else array
            array[np.ma.getmaskarray(masked)] = np.nan
        return array if dtype is None else array.astype(dtype)

    @contextmanager
    def _bar(self, chunks: int) -> Iterator[Callable[[int], object] | None]:
        if not self._settings.progress:
            yield None
            return
        try:
            from tqdm.auto import tqdm  # noqa: PLC0415  # optional, and slow to import
        except ImportError:
            raise ConfigurationError(f"progress=True needs tqdm: {to_install('progress')}") from None
        with tqdm(total=chunks, desc=self.name, unit="chunk") as bar:
            yield bar.update

    def __repr__(self) -> str:
        shape = ", ".join(f"{name}: {length}" for name, length in zip(self.dims, self.shape, strict=True))
        part = "" if self._selection == self._parts.whole else " (a selection)"
        return f"<Active {self.name!r} ({shape}) {self.dtype} of {self._parts.files}{part}>"

    def _repr_html_(self) -> str:
        return page(repr(self), chunk_grid_svg(self.plan("count")))


@contextmanager
def _unchanged(parts: Sequence[Part]) -> Iterator[None]:
    """Refuse to mix the metadata of one file with the bytes of another, whether these made an error or a number."""
    try:
        yield
    except CorruptChunkError:
        concurrently(Part.check_unchanged, parts, reads_at_once([part.source for part in parts]))
        raise
    concurrently(Part.check_unchanged, parts, reads_at_once([part.source for part in parts]))


def _warn_of(outcome: Outcome, chunks: int) -> None:
    """Say once a run that chunks were not computed where the user asked."""
    if outcome.reasons:
        why = "; ".join(outcome.reasons)
        message = f"{sum(outcome.reasons.values())} of {chunks} chunks were computed locally, not by {outcome.backend}: {why}"
        warnings.warn(message, FallbackWarning, stacklevel=4)
