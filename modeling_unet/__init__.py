"""Brain-tumour segmentation on contrast-enhanced T1 MRI slices: a U-Net as a `transformers` model.

`TumorSegmenter` goes from a picture to a measured overlay; `UNetForSemanticSegmentation` and `UNetImageProcessor` are
the parts for those who build on them. Importing the package registers both with the `Auto…` classes.

Not a medical device: for research and education.
"""

from importlib import import_module
from importlib.util import find_spec

import torch
import transformers
from packaging.version import Version


MINIMUM_TRANSFORMERS = "5.18"
if Version(transformers.__version__) < Version(MINIMUM_TRANSFORMERS):
    raise ImportError(
        f"brain-tumor-unet needs transformers >= {MINIMUM_TRANSFORMERS} and found {transformers.__version__}; "
        f'run: pip install "transformers>={MINIMUM_TRANSFORMERS}"'
    )

if find_spec("torchvision"):  # transformers imports it if it is there; its own error hides the cause
    try:
        import_module("torchvision.transforms.v2")
    except Exception as error:
        raise ImportError(
            f"the installed torchvision does not fit torch {torch.__version__} ({error}); "
            "run: pip uninstall torchvision (this package does without it), or: pip install --upgrade torch torchvision"
        ) from error

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation  # noqa: E402

from .configuration_unet import UNetConfig  # noqa: E402
from .image_processing_unet import (  # noqa: E402
    InvalidImageError,
    Picture,
    UNetImageProcessor,
    read_image,
    read_mask,
    read_pages,
    read_picture,
)
from .modeling_unet import UNetForSemanticSegmentation, UNetModel  # noqa: E402
from .segmentation import Lesion, Segmentation  # noqa: E402
from .segmenter import TumorSegmenter  # noqa: E402


AutoConfig.register(UNetConfig.model_type, UNetConfig)
AutoModel.register(UNetConfig, UNetModel)
AutoModelForSemanticSegmentation.register(UNetConfig, UNetForSemanticSegmentation)
AutoImageProcessor.register(UNetConfig, image_processor_classes={"pil": UNetImageProcessor})

__all__ = [
    "InvalidImageError",
    "Lesion",
    "Picture",
    "Segmentation",
    "TumorSegmenter",
    "UNetConfig",
    "UNetForSemanticSegmentation",
    "UNetImageProcessor",
    "UNetModel",
    "read_image",
    "read_mask",
    "read_pages",
    "read_picture",
]
