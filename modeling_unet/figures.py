"""Figures of a slice in words: numbers with their units, as the page and the report show them.

Each figure is a list of its value and of notes to it; where the size of a pixel is known, mm come first.
"""

from .comparison import Comparison
from .segmentation import Segmentation, TumorClass


def slice_figures(segmentation: Segmentation) -> dict[str, list[str]]:
    """Area and longest diameter of the tumour."""
    areas = [f"{segmentation.area_px:,} px", f"{segmentation.area_percent:.2f} % of the slice"]
    diameters = [f"{segmentation.longest_diameter_px or 0:.1f} px"]
    if segmentation.spacing:
        areas.insert(0, f"{segmentation.area_mm2:,.0f} mm²")
        diameters.insert(0, f"{segmentation.longest_diameter_mm or 0:.1f} mm")
    return {"Area": areas, "Longest diameter": diameters}


def class_areas(segmentation: Segmentation) -> list[str]:
    """The area of each of several classes, or that it is not found: pieces that are too small are no lesions."""
    return [_class_area(one) for one in segmentation.classes]


def _class_area(one: TumorClass) -> str:
    area = f"{one.area_px:,} px" if one.area_mm2 is None else f"{one.area_mm2:,.0f} mm²"
    if one.lesions:
        return area
    return f"not found ({area})" if one.area_px else "not found"


def distances(comparison: Comparison) -> list[str]:
    """How far the outlines lie apart (HD95)."""
    if comparison.hd95_px is None:
        return ["undefined", "one of the masks is empty"]
    in_px = [f"{comparison.hd95_px:.1f} px"]
    return in_px if comparison.hd95_mm is None else [f"{comparison.hd95_mm:.1f} mm", *in_px]
