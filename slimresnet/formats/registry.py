"""Every format there is. A module of this package that has `FORMATS` is found by its place in the folder."""

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

import slimresnet.formats
from slimresnet.formats.format import ExportedFormat, ExportError, Format, Runnable
from slimresnet.formats.trained import ModelError


@cache
def formats() -> tuple[Format, ...]:
    """All formats, in the order of their modules' names."""
    package = slimresnet.formats
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [import_module(f"{package.__name__}.{name}") for name in names]
    return tuple(each for module in modules for each in getattr(module, "FORMATS", ()))


def exported_formats() -> list[ExportedFormat]:
    """The formats with a file that export.py makes."""
    return [each for each in formats() if isinstance(each, ExportedFormat)]


def backend_choices() -> list[str]:
    """What `--backend` takes, `torch` first."""
    return sorted({each.backend for each in formats()}, key=lambda name: (name != "torch", name))


def format_choices() -> list[str]:
    """What `--format` takes."""
    return sorted({each.format for each in exported_formats()})


def quantize_choices() -> list[str]:
    """What `--quantize` takes."""
    return sorted({each.precision for each in formats() if each.is_quantized})


def find_format(backend: str, *, quantized: bool = False) -> Format:
    """
    The format that `--backend` and `--quantized` name.

    Raises:
        ModelError: there is none.
    """
    for each in formats():
        if (each.backend, each.is_quantized) == (backend, quantized):
            return each
    if backend not in backend_choices():
        raise ModelError(f"--backend must be one of {', '.join(backend_choices())}, got {backend}.")
    able = sorted({each.backend for each in formats() if each.is_quantized})
    raise ModelError(f"--quantized is for --backend {' and '.join(able)}, not for {backend}.")


def open_network(folder: Path, backend: str, *, quantized: bool = False, trust_remote_code: bool = False) -> Runnable:
    """
    The network of a trained folder, or of one that export.py made.

    Args:
        backend: one of `backend_choices`; all but `torch` read an exported file.
        quantized: whether the backend runs its quantised file.
        trust_remote_code: whether the user trusts who made the folder, as `torch_export` needs, whose file holds
            pickles; all other files of a folder are data.

    Raises:
        ModelError: the folder has no such file or needs trust, the file does not load, or a package is missing.
    """
    return find_format(backend, quantized=quantized).open_network(folder, trust_remote_code=trust_remote_code)


def formats_of(file: str) -> list[ExportedFormat]:
    """The formats whose file it is: one for each program that runs the file."""
    return [each for each in exported_formats() if each.file == file]


def exported_files() -> list[str]:
    """Paths, in a trained folder, of the files that export.py makes."""
    return list(dict.fromkeys(each.file for each in exported_formats()))


def scored_file(figure: str) -> str | None:
    """The exported file that a figure, or a file of figures, tells of by its name; None where it tells of none."""
    by_length = sorted(exported_formats(), key=lambda each: len(each.scored_as), reverse=True)
    return next((each.file for each in by_length if f"_{each.scored_as}_" in figure), None)


def formats_to_write(format: str, quantize: str | None = None) -> list[ExportedFormat]:
    """
    What export.py makes: the file of a format in float32, then the one that is quantised from it, if one is asked for.

    Raises:
        ExportError: there is no such format, or it has no such quantisation.
    """
    if format not in format_choices():
        raise ExportError(f"--format must be one of {', '.join(format_choices())}, got {format}.")
    written = [each for each in exported_formats() if each.write]
    able = [each.format for each in written if each.precision == quantize]
    if quantize and not able:
        raise ExportError(f"--quantize must be one of {', '.join(quantize_choices())}, got {quantize}.")
    if quantize and format not in able:
        raise ExportError(f"--quantize is for --format {' and '.join(able)}, not for {format}: leave one of them out.")
    wanted = [each for each in written if each.format == format and each.precision in ("float32", quantize)]
    return sorted(wanted, key=lambda each: each.is_quantized)
