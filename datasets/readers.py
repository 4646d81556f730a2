"""What a reader must say, and asking it about many files at once."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Generator

from multimask.tokens import BadSample

AT_ONCE = 4096  # files handed to the threads at a time: bounds memory for millions


@runtime_checkable
class Reader(Protocol):
    """Turns one file into a tokenizer's raw contract. A frozen dataclass; a plug-in.

    suffixes: what its files end in, as a folder is searched. probe: what the header says, as named
    numbers and strings. read: the data; random augmentation draws from the generator, None is the
    deterministic reading. Both raise `BadSample` with one sentence. A reader may also take arrays.
    Of files in a store, one with `takes_bytes = True` gets the bytes (`formats.files.FileBytes`),
    any other a file while it reads. `packs_as` says how `Table.pack` keeps its files where nobody
    says: "encoded", the default, or "arrays". `rereads = True`: it takes what it gave, too.
    """

    @property
    def suffixes(self) -> tuple[str, ...]: ...
    def probe(self, source: Any) -> dict[str, Any]: ...
    def read(self, source: Any, generator: Generator | None = None) -> Any: ...


@runtime_checkable
class Informed(Protocol):
    """A reader that reads better for what its probe once found out, which a table keeps."""

    def read_known(
        self, source: Any, facts: Mapping[str, Any], generator: Generator | None = None
    ) -> Any: ...


@runtime_checkable
class Packed(Protocol):
    """A column's entry that lies in a store."""

    def value(self) -> Any: ...
    def given_to(self, reader: Any) -> AbstractContextManager[Any]: ...


@contextmanager
def usable(source: Any, reader: Reader) -> Iterator[Any]:
    """What the reader can read of a source: itself, or what a store makes of its entry."""
    if isinstance(source, Packed):
        with source.given_to(reader) as given:
            yield given
    else:
        yield source


Readers = Reader | Mapping[str, Reader | None] | None


def ask(
    reader: Reader, files: Sequence[Any], workers: int, full: bool
) -> tuple[dict[str, list[Any]], list[str | None]]:
    """What the reader reports of each file, by name, and what is wrong with it, None if nothing.

    A None among the files is a file that is not there; nothing is said about it. `full` reads the
    data as well. Threads suffice: they wait for disks and decoders, not for Python.
    """

    def look(file: Any) -> tuple[dict[str, Any], str | None]:
        if file is None:
            return {}, None
        try:
            with usable(file, reader) as source:
                report = reader.probe(source)
                if full:
                    reader.read(source)
        except BadSample as error:
            return {}, str(error)
        return report, None

    answers: list[tuple[dict[str, Any], str | None]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(files), AT_ONCE):
            answers += pool.map(look, files[start : start + AT_ONCE])
    names = dict.fromkeys(name for report, _ in answers for name in report)
    reports = {name: [report.get(name) for report, _ in answers] for name in names}
    return reports, [problem for _, problem in answers]


def one_each(
    modalities: Sequence[str], given: Readers, default: Reader | None
) -> dict[str, Reader | None]:
    """A reader for each modality, from one for all or a mapping; the default where none is given.

    Raises: ValueError for a reader of a modality that there is not.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(modalities, given or default)
    if strange := set(given) - set(modalities):
        raise ValueError(
            f"a reader is given for {min(strange)!r}, but the modalities are {sorted(modalities)}."
        )
    return {name: given.get(name) or default for name in modalities}
