"""The colours of the pages, in light and dark, against the contrast that WCAG 2 asks for."""

import re
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "carrara" / "bench"
SHEETS = {"site": BENCH / "site" / "assets" / "site.css", "report": BENCH / "report" / "report.html"}
TEXT = ("ink", "soft", "accent", "good", "bad", "published")
GRAPHICS = ("bar", "published", "good", "bad", "accent", "blue")
GROUNDS = ("paper", "card", "tint")


def schemes(text):
    """Return the colours by name of the light and of the dark scheme."""
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)
    )
    return {"light": light, "dark": light | dark}


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_graphics_stand_out(sheet, scheme):
    colours = schemes(SHEETS[sheet].read_text())[scheme]
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    faults = {
        (name, ground): round(contrast(colours[name], colours[ground]), 2)
        for names, least in ((TEXT, 4.5), (GRAPHICS, 3.0))
        for name in names
        for ground in GROUNDS
        if name in colours and contrast(colours[name], colours[ground]) < least
    }
    assert not faults
