"""Slow imports, made at the first use: for modules that `understudy plan` and `--help` load as well."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pandas
    import zarr as zarr
    from scipy import ndimage as ndimage
else:

    class _Lazy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            module = importlib.import_module(self.__name__)
            self.__dict__.update(module.__dict__)
            return getattr(module, name)

    pandas, zarr, ndimage = _Lazy("pandas"), _Lazy("zarr"), _Lazy("scipy.ndimage")
