"""Names, faults, shares and durations as people read them; files keep keys and plain numbers."""

import math

DISPLAY = {
    "progan": "Progressive GAN",
    "stylegan1": "StyleGAN 1",
    "stylegan2": "StyleGAN 2",
    "stylegan3": "StyleGAN 3",
    "diffusion": "Diffusion",
    "unet": "U-Net",
    "swin": "Swin",
}

FAULTS = {  # of a generator's training that its samples show
    "collapsed": "its samples look all alike",
    "empty annotation": "none of its samples has an annotation, though real slices do",
    "rare annotation": "less than a quarter as many of its samples have an annotation as real slices do",
}


def display_name(key: str) -> str:
    """What the reader of a table calls a generator or segmenter; a name that the user chose stays as it is."""
    return DISPLAY.get(key, key)


def percent(share: float | None, digits: int | None = None, space: str = " ") -> str:
    """A share as a percentage with `digits` after the point (None: as many as a rate needs); a dash for None and NaN.

    Example:
        >>> percent(0.015), percent(0.0004), percent(0.99), percent(0.5, 1), percent(None)
        ('1.5 %', '0.04 %', '99 %', '50.0 %', '–')
    """
    if share is None or math.isnan(share):
        return "–"
    value = 100 * share
    if math.isinf(value):
        return "∞"
    if digits is None:
        digits = 0 if value == 0 or value >= 20 or abs(value - round(value)) < 0.005 else 1 if value >= 0.95 else 2
    return f"{value:.{digits}f}{space}%"


def size(count: float) -> str:
    """Bytes in a unit that leaves one digit before the point.

    Example:
        >>> size(883e6), size(2.1e10), size(3400), size(12)
        ('883.0 MB', '21.0 GB', '3.4 kB', '12 bytes')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float | None) -> str:
    """A time span in two units; a dash for None, NaN and infinity.

    Example:
        >>> duration(12.3), duration(200), duration(7500), duration(273600)
        ('12 s', '3 min 20 s', '2 h 05 min', '3 d 4 h')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
