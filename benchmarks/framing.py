"""How much of a mask is kept when a slice comes as people have it: python -m benchmarks.framing --data_dir DATA

    slice → PERTURBATIONS[kind] → picture with its true mask → segmenter with framing "none" and "auto" → Dice

For each kind the table has the mean Dice of the plain slices, of the pictures as they are, and framed; `kept` is the last
by the first. `found` is the share of pictures whose frames hold every head whole and are not far larger. Pictures differ
in place, size, colours, words and light, always in the same way for the same slice. With `--sheet FILE.png` they are
drawn with their frames.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from modeling_unet import TumorSegmenter, read_image, read_mask
from modeling_unet.framing import find_frames
from modeling_unet.image_processing_unet import to_grayscale
from train.data.manifest import read_manifest

from .measuring import SHIPPED_MODEL, print_table, write_json


