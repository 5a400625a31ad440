"""ByzFL's rules and attacks, to compare with, without its package's ``__init__``.

That one imports its benchmark, and so torchvision, whose wheels load only beside torch's CUDA
build.
"""

import importlib
import importlib.util
import sys
import types

_found = importlib.util.find_spec("byzfl")
assert _found is not None, "byzfl is in the test extra"
_package = types.ModuleType("byzfl")
_package.__path__ = list(_found.submodule_search_locations or ())
sys.modules.setdefault("byzfl", _package)

aggregators = importlib.import_module("byzfl.aggregators.aggregators")
preaggregators = importlib.import_module("byzfl.aggregators.preaggregators")
attacks = importlib.import_module("byzfl.attacks.attacks")
