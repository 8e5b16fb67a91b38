"""Figures of a slice in words: numbers with their units, as the page and the report show them.

Each figure is a list of its value and of notes to it; where the size of a pixel is known, mm come first.
"""

from collections.abc import Sequence

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


def describe_profile(areas_px: Sequence[int], voxel_ml: float | None) -> str:
    """Where along a volume its tumour lies, and in which slice most of it.

    Args:
        areas_px: of the tumour in all slices, in their order.
        voxel_ml: volume of a voxel in mL; None if it is not known.
    """
    within = [index for index, area in enumerate(areas_px) if area]
    if not within:
        return f"No tumour in any of {len(areas_px)} slices."
    largest = max(areas_px)
    size = f"{largest:,} px" if voxel_ml is None else f"{largest * voxel_ml:.2f} mL"
    first, last = within[0] + 1, within[-1] + 1
    place = f"Tumour in slice {first}" if first == last else f"Tumour from slice {first} to {last}"
    return f"{place} of {len(areas_px)}; most in slice {list(areas_px).index(largest) + 1}: {size}."
