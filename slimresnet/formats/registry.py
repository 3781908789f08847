"""Every format there is. A module of this package that has `FORMATS` is found by its place in the folder."""

from functools import cache

from slimresnet.discovery import modules_of
from slimresnet.formats.format import ExportedFormat, ExportError, Format
from slimresnet.formats.trained import ModelError


@cache
def formats() -> tuple[Format, ...]:
    """All formats, in the order of their modules' names."""
    return tuple(each for module in modules_of("slimresnet.formats") for each in getattr(module, "FORMATS", ()))


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
        ModelError: the backend is unknown, or has no quantised format.
    """
    for each in formats():
        if (each.backend, each.is_quantized) == (backend, quantized):
            return each
    if backend not in backend_choices():
        raise ModelError(f"--backend must be one of {', '.join(backend_choices())}, got {backend}.")
    able = sorted({each.backend for each in formats() if each.is_quantized})
    raise ModelError(f"--quantized is for --backend {' and '.join(able)}, not for {backend}.")


def formats_of(file: str) -> list[ExportedFormat]:
    """The formats with this file: one for each program that runs the file."""
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
