"""The target layers, built from a kernel spec, and the table of forms."""

from ceconv_convert.modules.circular import CircularConv3d, ColorStackConv3d
from ceconv_convert.modules.copying import copy_model
from ceconv_convert.modules.forms import AUTO, FORMS, Form, form_named
from ceconv_convert.modules.replace import replace_modules
from ceconv_convert.modules.target import TargetLayer
from ceconv_convert.modules.wrappers import unwrapped, wrapper_prefix

CIRCULAR = (CircularConv3d, ColorStackConv3d)

__all__ = [
    "AUTO",
    "CIRCULAR",
    "FORMS",
    "Form",
    "TargetLayer",
    "copy_model",
    "form_named",
    "replace_modules",
    "unwrapped",
    "wrapper_prefix",
]
